"""Paired timings: every alternative once in each round, so that a slow moment of the machine hits all of them."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from pkgutil import resolve_name

import torch
from tqdm.auto import trange

from common_moon2.machine import hardware

ROOT = Path(__file__).parents[2]


def time_paired(alternatives: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of every call, after one warm-up of each.

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


def run_paired(function: str, ways: Sequence[str], repeats: int, *told) -> dict[str, dict[str, list]]:
    """Return the figures of every way, each round of it in a process of its own.

    Args:
        function: "module:function", as in `run_apart`; it gets the way and what is told.
    """
    runs = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            runs[way].append(run_apart(function, way, *told))
    return {way: columns(found) for way, found in runs.items()}


def columns(runs: list[dict]) -> dict[str, list]:
    """Return the figures of several runs by name."""
    return {name: [run[name] for run in runs] for name in runs[0]}


def run_apart(function: str, *told, processes: int = 1) -> dict:
    """Return what a function gives in a process of its own, or in several that share the threads: that of the first.

    Args:
        function: "module:function".
        told: its arguments, as JSON knows them.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else ()), "-m", "research.benchmarks.measure"]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}
    words = [*command, function, json.dumps(told)]
    run = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def ratios(numerator: list[float], denominator: list[float]) -> tuple[float, float, float]:
    """Return median, lowest and highest of the ratios within a round."""
    return of_rounds([one / other for one, other in zip(numerator, denominator, strict=True)])


def of_rounds(values: list[float]) -> tuple[float, float, float]:
    """Return median, lowest and highest."""
    return statistics.median(values), min(values), max(values)


def spread(values: tuple[float, float, float]) -> str:
    """Return a median and its range, for a table."""
    return "{:.2f} ({:.2f}-{:.2f})".format(*values)


def print_table(header: list[str], rows: Iterable[list[str]], title: str | None = None) -> dict:
    """Print a Markdown table, each row as soon as it is known; the first column is left-aligned.

    Args:
        title: a sentence above it, to which the machine is added.

    Returns:
        The same as facts.
    """
    told = None if title is None else f"{title}; {machine()}"
    print(*([] if told is None else [told, ""]), sep="\n", flush=True)
    shown = []
    for line in itertools.chain([header, [":--"] + ["--:"] * (len(header) - 1)], rows):
        print("| " + " | ".join(line) + " |", flush=True)
        shown.append(line)
    return {"title": told, "header": header, "rows": shown[2:]}


def machine() -> str:
    """Return the processor, its cores, the threads in use, and torch's version."""
    found, cpu = hardware(), Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.is_file() else ""
    bf16 = "with" if "avx512_bf16" in flags or "amx_bf16" in flags else "without"
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads, {bf16} bf16 instructions, "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    figures = resolve_name(sys.argv[1])(*json.loads(sys.argv[2]))
    if int(os.environ.get("RANK", 0)) == 0:
        print(json.dumps(figures), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
