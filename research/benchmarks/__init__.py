"""Measure how fast the parts are, as ratios: `python -m research.benchmarks`."""
