"""Measure what the parts of MOON2.0 are worth on real products: `python -m research.study run`, `table`, `plot`."""
