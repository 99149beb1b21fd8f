"""Whether the parts of MOON2.0 earn their place on real products: `python -m study run`, `table` and `plot`."""
