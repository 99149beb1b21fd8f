"""Textual enrichment (MOON2.0, section 5): entities, a writer behind one interface, and a guard.

`learn_gazetteer(rows)`, then `enrich(row, gazetteer, writer)` for each training product. `LocalWriter` is in `.local`,
which imports torch.
"""

from mbe2_dataset.coaugmentation.titles.budget import Budget, BudgetExceeded
from mbe2_dataset.coaugmentation.titles.endpoint import EndpointWriter, Estimate, estimate
from mbe2_dataset.coaugmentation.titles.enrich import (
    Draft,
    Enrichment,
    EnrichmentCounts,
    Refusal,
    TitleWriter,
    Usage,
    WriterError,
    count,
    enrich,
)
from mbe2_dataset.coaugmentation.titles.entities import Entity, extract_entities
from mbe2_dataset.coaugmentation.titles.gazetteer import Gazetteer, learn_gazetteer
from mbe2_dataset.coaugmentation.titles.guard import Rejection, Verdict, check_support
from mbe2_dataset.coaugmentation.titles.template import TemplateWriter

__all__ = [
    "Budget",
    "BudgetExceeded",
    "Draft",
    "EndpointWriter",
    "Enrichment",
    "EnrichmentCounts",
    "Entity",
    "Estimate",
    "Gazetteer",
    "Refusal",
    "Rejection",
    "TemplateWriter",
    "TitleWriter",
    "Usage",
    "Verdict",
    "WriterError",
    "check_support",
    "count",
    "enrich",
    "estimate",
    "extract_entities",
    "learn_gazetteer",
]
