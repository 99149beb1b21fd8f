"""Visual expansion of training products in two stages: a clean subject, then views of it (MOON2.0, section 5)."""

from mbe2_dataset.coaugmentation.pictures.classical import ClassicalExtractor
from mbe2_dataset.coaugmentation.pictures.editors import (
    DiffusersEditor,
    EditError,
    EditorUnavailable,
    EndpointEditor,
    ImageEditor,
)
from mbe2_dataset.coaugmentation.pictures.expand import Expansion, View, expand
from mbe2_dataset.coaugmentation.pictures.extractors import RembgExtractor, SegmentationExtractor
from mbe2_dataset.coaugmentation.pictures.subject import Subject, SubjectExtractor
from mbe2_dataset.coaugmentation.pictures.views import KINDS, apply_view, make_view

__all__ = [
    "KINDS",
    "ClassicalExtractor",
    "DiffusersEditor",
    "EditError",
    "EditorUnavailable",
    "EndpointEditor",
    "Expansion",
    "ImageEditor",
    "RembgExtractor",
    "SegmentationExtractor",
    "Subject",
    "SubjectExtractor",
    "View",
    "apply_view",
    "expand",
    "make_view",
]
