"""Paired timings: every alternative once in each round, so that a slow moment of the machine hits all of them."""

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from tqdm.auto import trange


def time_paired(alternatives: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, after one warm-up of each.

    Args:
        alternatives: what to call, by name.
        repeats: rounds; in each, every alternative is called once.
    """
    for call in alternatives.values():
        call()
    seconds = {name: [] for name in alternatives}
    for _ in trange(repeats, desc="rounds", leave=False):
        for name, call in alternatives.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(numerator: list[float], denominator: list[float]) -> tuple[float, float, float]:
    """Median, lowest and highest of the ratios within a round."""
    values = [one / other for one, other in zip(numerator, denominator, strict=True)]
    return statistics.median(values), min(values), max(values)


def spread(values: tuple[float, float, float]) -> str:
    """A median and its range, for a table."""
    return "{:.2f} ({:.2f}-{:.2f})".format(*values)


def print_table(header: list[str], rows: Iterable[list[str]]):
    """Prints a Markdown table, each row as soon as it is known; the first column is left-aligned."""
    for line in itertools.chain([header, [":--"] + ["--:"] * (len(header) - 1)], rows):
        print("| " + " | ".join(line) + " |", flush=True)


def machine() -> str:
    """The processor, its cores, the threads in use, and torch's version."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    bf16 = any("avx512_bf16" in line or "amx_bf16" in line for line in lines)
    name = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{'with' if bf16 else 'without'} bf16 instructions, torch {torch.__version__}"
    )
