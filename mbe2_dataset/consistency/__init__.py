"""How well a picture and a title fit, and what is dropped for it (MOON2.0, section 5)."""

from .histogram import Histogram, histogram
from .scorers import ClipScorer, ConsistencyScorer, SentenceTransformerScorer
from .threshold import Selection, Threshold, apply_threshold

__all__ = [
    "ClipScorer",
    "ConsistencyScorer",
    "Histogram",
    "Selection",
    "SentenceTransformerScorer",
    "Threshold",
    "apply_threshold",
    "histogram",
]
