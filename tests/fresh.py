"""Start Python processes that are as good as fresh ones, without the seconds that importing torch takes.

A server has imported the large libraries once and forks for each process. It has imported nothing that reads the
settings of the Hub (huggingface_hub, transformers, datasets), nothing of this project and nothing of the tests: a
process imports these itself, with the environment that it is given. Where the imports themselves are tested, use
`subprocess`.
"""

import atexit
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

LIBRARIES = (
    "numpy",
    "scipy.stats",
    "scipy.ndimage",
    "PIL.Image",
    "pandas",
    "pyarrow.parquet",
    "torch",
    "torch.utils.data",
    "torch.distributed",
    "torch._dynamo",
    "torch.onnx",
    "sklearn.linear_model",
    "cv2",
    "imagehash",
    "matplotlib.figure",
    "regex",
    "yaml",
    "jinja2",
    "httpx",
    "aiohttp",
    "fastapi",
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(LIBRARIES))
_INSTALLED = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]


def start(
    arguments: list[str],
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    stdout: str = os.devnull,
    stderr: str = os.devnull,
) -> BaseProcess:
    """Start `python` with these arguments, in a process group of its own.

    Args:
        arguments: "-c" and code, "-m" and a module, or a script; then the words for it.
        environment: all of it; `None`: that of this process.
        stdout, stderr: files that are appended to.

    Returns:
        A process with `pid`, `kill`, `join` and `exitcode`.
    """
    environment = dict(os.environ) if environment is None else environment
    process = _CONTEXT.Process(target=_become, args=(arguments, environment, cwd, stdout, stderr))
    process.start()
    return process


def run(
    arguments: list[str], environment: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess:
    """Run `python` with these arguments to its end, as `subprocess.run(capture_output=True, text=True)` does.

    Raises:
        subprocess.TimeoutExpired: it takes longer than `timeout` seconds, and was killed.
    """
    folder = Path(tempfile.mkdtemp(prefix="moon2-fresh-"))
    try:
        stdout, stderr = folder / "stdout", folder / "stderr"
        process = start(arguments, environment, cwd, str(stdout), str(stderr))
        process.join(timeout)
        running = process.exitcode is None
        if running:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        said = [file.read_text(encoding="utf-8") if file.exists() else "" for file in (stdout, stderr)]
        if running:
            raise subprocess.TimeoutExpired(arguments, timeout, *said)
        return subprocess.CompletedProcess(arguments, process.exitcode, *said)
    finally:
        shutil.rmtree(folder)


def _become(arguments: list[str], environment: dict[str, str], cwd: Path | None, stdout: str, stderr: str) -> None:
    """Do in this process, which was just forked, what `python` does with the arguments."""
    os.setsid()
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or ".")
    multiprocessing.set_start_method(None, force=True)  # a process of the server would start its own by a server, too
    kind, *rest = arguments
    sys.argv = rest if kind == "-m" else ["-c", *rest[1:]] if kind == "-c" else arguments
    own = {"-c": "", "-m": os.getcwd()}.get(kind, str(Path(kind).parent))
    sys.path[:] = [own, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *_INSTALLED]
    try:
        if kind == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), vars(main))
        else:
            runpy.run_path(kind, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
