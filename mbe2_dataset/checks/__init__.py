"""Looks for faults in a published data set, and shows it on a page."""

from mbe2_dataset.checks.check import CheckError, CheckReport, check_dataset, local_folder
from mbe2_dataset.checks.findings import LEVELS, LeakageError, catalogue_facts, check_leakage
from mbe2_dataset.checks.page import write_report

__all__ = [
    "LEVELS",
    "CheckError",
    "CheckReport",
    "LeakageError",
    "catalogue_facts",
    "check_dataset",
    "check_leakage",
    "local_folder",
    "write_report",
]
