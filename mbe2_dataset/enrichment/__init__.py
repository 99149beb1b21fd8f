"""Textual enrichment (MOON2.0, section 5): entities, a writer behind one interface, and a guard.

`learn_gazetteer(rows)`, then `enrich(row, gazetteer, writer)` for each training product. `LocalWriter` is in `.local`,
which imports torch.
"""

from .budget import Budget, BudgetExceeded
from .endpoint import EndpointWriter
from .enrich import Enrichment, EnrichmentCounts, count, enrich
from .entities import Entity, extract_entities
from .estimate import Estimate, estimate
from .gazetteer import Gazetteer, learn_gazetteer
from .guard import Rejection, Verdict, check_support
from .template import TemplateWriter
from .writers import Draft, Refusal, TitleWriter, Usage, WriterError

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
