"""Checkpoints that are complete or absent.

A checkpoint is written into a staging folder, sealed (every file fsynced, and listed with size and hash in a manifest)
and renamed. A run that is killed at any moment leaves at most a staging folder, which nobody reads.
"""

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from common_moon2.files import sha256_of, sync, sync_tree

MANIFEST, STAGING = "manifest.json", ".unfinished"
SPARE = 64 * 2**20  # bytes; a disk with less counts as full


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read, or belongs to another run; the message says which and what to do."""


@contextmanager
def writing(staged: Path, remove: bool):
    """Guard the writing of a checkpoint.

    Args:
        remove: whether this process clears the staging folder away if it fails.

    Raises:
        CheckpointError: it fails; the message says why.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk: OSError, torch's or safetensors' own error
        folder = staged.parent.parent
        left = shutil.disk_usage(folder).free if folder.is_dir() else None
        # torch says of a full disk only that its writer failed, in terms of its own source.
        full = left is not None and left < SPARE
        reason = f"the disk is full ({left / 2**20:,.0f} MiB left)" if full else str(error)
        if remove:
            shutil.rmtree(staged.parent, ignore_errors=True)
        raise CheckpointError(
            f"{staged.name} cannot be written to {folder}: {reason}. Earlier checkpoints are as they were."
        ) from error


def seal(folder: Path, run: dict):
    """Write the manifest of a folder whose files are all there, and bring everything to the disk.

    Args:
        run: what the checkpoint belongs to, as plain values; `differences` compares it on resuming.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = {"run": run, "files": files}
    manifest["sha256"] = _sha256_of(manifest)
    sync_tree(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def move(staged: Path, target: Path):
    """Rename a sealed folder to its final name, replacing what may be there."""
    if target.exists():  # an incomplete checkpoint of the same step: a complete one would have been resumed from
        shutil.rmtree(target)
    staged.rename(target)
    sync(target.parent)


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint; `None` if every file is as the manifest says."""
    if not (folder / MANIFEST).is_file():
        return f"it has no {MANIFEST}"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = manifest.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {MANIFEST} cannot be read"
    if _sha256_of(manifest) != expected:
        return f"its {MANIFEST} has changed since it was written"
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {entry['size']}"
        if sha256_of(path) != entry["sha256"]:
            return f"{name} has changed since it was written"
    return None


def checkpoints(output_dir: Path) -> list[Path]:
    """List the checkpoint folders of a run, the newest first."""
    steps = {}
    for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if folder.is_dir() and step.isdecimal():
            steps[int(step)] = folder
    return [steps[step] for step in sorted(steps, reverse=True)]


def newest_complete(output_dir: Path) -> tuple[Path | None, list[str]]:
    """Return the checkpoint to resume from, and a sentence for each newer one that was skipped."""
    skipped = []
    for folder in checkpoints(output_dir):
        problem = damage(folder)
        if problem is None:
            return folder, skipped
        skipped.append(f"Skipped {folder}: {problem}.")
    return None, skipped


def differences(checkpoint: Path, run: dict) -> list[str]:
    """Say how a run differs from the one that a checkpoint belongs to, a phrase for each field."""
    recorded = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["run"]
    run = json.loads(json.dumps(run))  # as it would come back from a manifest
    names = sorted(name for name in recorded | run if recorded.get(name) != run.get(name))
    return [f"{name} was {recorded.get(name)} and is {run.get(name)}" for name in names]


def check_writable(folder: Path):
    """Make sure that files can be written, before hours of training.

    Raises:
        CheckpointError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(f"Nothing can be written to output_dir {folder}: {error.strerror}.") from error


def _sha256_of(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
