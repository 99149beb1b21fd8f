"""MBE2.0-format data for MOON2.0: a product catalogue becomes training triplets and a retrieval benchmark.

`python -m mbe2_dataset build --help` is the way in; the names below are for use from Python.
"""

from .build import BuildOptions, OutputError, build_dataset
from .card import Origin
from .catalogue import CatalogueError, Row, read_catalogue
from .checks import LeakageError
from .pictures import Picture
from .synthetic import IMAGE_ONLY, TEXT_ONLY, Product, synthetic_photo, synthetic_product, synthetic_rows

__all__ = [
    "IMAGE_ONLY",
    "TEXT_ONLY",
    "BuildOptions",
    "CatalogueError",
    "LeakageError",
    "Origin",
    "OutputError",
    "Picture",
    "Product",
    "Row",
    "build_dataset",
    "read_catalogue",
    "synthetic_photo",
    "synthetic_product",
    "synthetic_rows",
]
