"""Scores encoders of products on MBE2.0-format benchmarks, searches whole catalogues, and draws what a model sees."""
