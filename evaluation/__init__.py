"""Scores a Moon2 checkpoint on an MBE2.0-format data set: `python -m evaluation --help`."""
