"""MBE2.0-format data for MOON2.0: a product catalogue becomes training triplets and a retrieval benchmark.

Start with `python -m mbe2_dataset build --help`; the names below are for use from Python.
"""

from importlib import import_module

_MODULES = {
    "BuildOptions": "build",
    "build_dataset": "build",
    "CatalogueError": "errors",
    "LeakageError": "errors",
    "OutputError": "errors",
    "Origin": "card",
    "Picture": "catalogue.pictures",
    "Row": "catalogue.store",
    "read_catalogue": "catalogue.ingest",
    **dict.fromkeys(
        ("IMAGE_ONLY", "TEXT_ONLY", "Product", "synthetic_photo", "synthetic_product", "synthetic_rows"),
        "synthetic.catalogue",
    ),
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
