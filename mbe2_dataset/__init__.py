"""MBE2.0-format data for MOON2.0: a product catalogue becomes training triplets and a retrieval benchmark.

`python -m mbe2_dataset build --help` is the way in; the names below are for use from Python.
"""

from mbe2_dataset.build import BuildOptions, OutputError, build_dataset
from mbe2_dataset.catalogue.pictures import Picture
from mbe2_dataset.catalogue.store import CatalogueError, Row, read_catalogue
from mbe2_dataset.checks import LeakageError
from mbe2_dataset.output.card import Origin
from mbe2_dataset.synthetic import IMAGE_ONLY, TEXT_ONLY, Product, synthetic_photo, synthetic_product, synthetic_rows

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
