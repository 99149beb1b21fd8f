"""The built-in catalogue: drawn products with known truth and known noise."""

from .catalogue import (
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
