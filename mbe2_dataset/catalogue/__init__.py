"""Where catalogues and search logs come from."""

from mbe2_dataset.catalogue.columns import parse_columns, read_columns
from mbe2_dataset.catalogue.products import ProductSource
from mbe2_dataset.catalogue.published import Fashion200K, M5Product
from mbe2_dataset.catalogue.records import Item, Problem, Source
from mbe2_dataset.catalogue.search_log import Event, LoggedQuery, SearchLog, join_log, log_events
from mbe2_dataset.catalogue.tables import HubTables, LocalTables, Tables
from mbe2_dataset.catalogue.triplet_rows import TripletSource

__all__ = [
    "Event",
    "Fashion200K",
    "HubTables",
    "Item",
    "LocalTables",
    "LoggedQuery",
    "M5Product",
    "Problem",
    "ProductSource",
    "SearchLog",
    "Source",
    "Tables",
    "TripletSource",
    "join_log",
    "log_events",
    "parse_columns",
    "read_columns",
]
