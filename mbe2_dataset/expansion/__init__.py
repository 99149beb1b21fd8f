"""Visual expansion of training products in two stages: a clean subject, then views of it (MOON2.0, section 5)."""

from .classical import ClassicalExtractor
from .diffusion import DiffusersEditor
from .editors import EditError, EditorUnavailable, ImageEditor
from .endpoint import EndpointEditor
from .expand import Expansion, View, expand
from .rembg_extractor import RembgExtractor
from .segmentation_extractor import SegmentationExtractor
from .subject import Subject, SubjectExtractor
from .views import KINDS, apply_view, make_view

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
