"""The built-in catalogue: drawn products with known truth and known noise."""

from mbe2_dataset.synthetic.catalogue import (
    IMAGE_ONLY,
    TEXT_ONLY,
    Product,
    SyntheticSource,
    synthetic_photo,
    synthetic_product,
    synthetic_rows,
)

__all__ = [
    "IMAGE_ONLY",
    "TEXT_ONLY",
    "Product",
    "SyntheticSource",
    "synthetic_photo",
    "synthetic_product",
    "synthetic_rows",
]
