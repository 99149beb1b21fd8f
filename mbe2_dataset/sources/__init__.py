"""Where catalogues and search logs come from."""

from .columns import parse_columns, read_columns
from .events import Event, log_events
from .fashion200k import Fashion200K
from .hub import HubTables
from .m5product import M5Product
from .products import ProductSource
from .records import Item, Problem, Source
from .search_log import LoggedQuery, SearchLog, join_log
from .tables import LocalTables, Tables
from .triplets import TripletSource

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
