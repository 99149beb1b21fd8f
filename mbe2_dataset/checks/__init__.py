"""Looks for faults in a published data set, and shows it on a page."""
