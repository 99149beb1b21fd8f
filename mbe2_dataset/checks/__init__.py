"""Looks for faults in a published data set, and shows it on a page."""

from .check import CheckError, CheckReport, check_dataset, local_folder
from .findings import LEVELS
from .leakage import LeakageError, catalogue_facts, check_leakage
from .report import write_report

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
