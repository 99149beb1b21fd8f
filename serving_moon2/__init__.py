"""Serves a Moon2 to other programs: `python -m serving_moon2`."""
