"""Versions, the machine, and the memory that a run took."""

import os
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "transformers", "sentence-transformers", "datasets", "numpy", "scikit-learn")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of installed packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def hardware() -> dict[str, str | int | None]:
    """Return the processor, its cores, the threads in use, the GPU if there is one, and the operating system."""
    import torch  # it takes seconds

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
    }


def peak_memory() -> dict[str, int | None]:
    """Return the most bytes so far, of the process with its libraries ("process") and of tensors on the GPU ("gpu")."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in KiB but there
    return {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "gpu": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def device_name(machine: dict) -> str:
    """Return what `hardware` found in a few words: the GPU, or the processor and its cores."""
    return machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"


def _cpu_name() -> str:
    # platform.processor() is empty or a bare architecture on Linux.
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor()
