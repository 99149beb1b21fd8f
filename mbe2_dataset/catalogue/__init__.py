"""Catalogues and search logs: read from anybody's tables, checked and stored."""
