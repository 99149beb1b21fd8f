"""Checkpoints are complete or absent: what is damaged is noticed, named and skipped; a full disk harms nothing."""

import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from training_moon2.checkpoints import (
    MANIFEST,
    STAGING,
    CheckpointError,
    check_writable,
    checkpoints,
    damage,
    differences,
    move,
    newest_complete,
    seal,
    writing,
)

RUN = {"learning_rate": 1e-3, "lora_targets": ("attention", "experts"), "triplets": "a1b2", "model": None}


def sealed(folder: Path, run: dict | None = None) -> Path:
    """A complete checkpoint with a file of text, one of bytes, an empty one and one in a folder."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "trainer_state.json").write_text('{"global_step": 1}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (folder / "merges.txt").write_bytes(b"")
    (folder / "adapter" / "红色.bin").write_bytes(b"adapter")
    seal(folder, RUN if run is None else run)
    return folder


def test_a_sealed_checkpoint_is_complete_and_lists_every_file(tmp_path):
    folder = sealed(tmp_path / "checkpoint-1")
    assert damage(folder) is None
    listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    assert set(listed) == {"trainer_state.json", "model.safetensors", "merges.txt", "adapter/红色.bin"}
    assert listed["model.safetensors"]["size"] == 2048


def test_every_file_and_folder_is_brought_to_the_disk_and_the_manifest_after_the_files(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("the names of open files are read from /proc")
    monkeypatch.setattr(os, "fsync", note)
    folder = sealed(tmp_path / STAGING / "checkpoint-1")
    files = {"trainer_state.json", "model.safetensors", "merges.txt", "红色.bin"}
    assert set(synced[:-2]) == files | {"adapter", "checkpoint-1"} and synced[-2:] == [MANIFEST, "checkpoint-1"]
    move(folder, tmp_path / "checkpoint-1")
    assert synced[-1] == tmp_path.name, "a rename is lost with the power unless the folder above is synced"


@pytest.mark.parametrize("name", ["model.safetensors", "merges.txt", "adapter/红色.bin"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = sealed(tmp_path / "checkpoint-1")
    (folder / name).unlink()
    assert damage(folder) == f"{name} is missing"


@pytest.mark.parametrize("size", [0, 1, 1024, 2047, 2049])
def test_a_file_of_another_length_is_named_with_both_sizes(tmp_path, size):
    folder = sealed(tmp_path / "checkpoint-1")
    os.truncate(folder / "model.safetensors", size)
    assert damage(folder) == f"model.safetensors has {size} bytes instead of 2048"


@pytest.mark.parametrize("position, bit", [(0, 0), (1000, 3), (2047, 7)])
def test_one_bit_is_enough(tmp_path, position, bit):
    folder = sealed(tmp_path / "checkpoint-1")
    flip(folder / "model.safetensors", position, bit)
    assert damage(folder) == "model.safetensors has changed since it was written"


def flip(path: Path, position: int, bit: int):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_a_checkpoint_without_manifest_was_not_finished(tmp_path):
    folder = sealed(tmp_path / "checkpoint-1")
    (folder / MANIFEST).unlink()
    assert damage(folder) == f"it has no {MANIFEST}"
    assert damage(tmp_path / "checkpoint-2") == f"it has no {MANIFEST}"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\0" * 100, b"\xff\xfe", b"null", b"7", b"[]", b"{}", b'{"run": {}}', b'{"run": {}, "files": null}',
     b'{"run": {}, "files": {"model.safetensors": {"size": 2048}}}', b'{"run": {}, "files": {"model.safetensors": 1}}'],
)  # fmt: skip
def test_an_unreadable_manifest_is_a_reason_and_no_traceback(tmp_path, content):
    folder = sealed(tmp_path / "checkpoint-1")
    (folder / MANIFEST).write_bytes(content)
    assert damage(folder) == f"its {MANIFEST} cannot be read"


def test_a_changed_manifest_is_noticed_wherever_it_changed(tmp_path):
    """Also in what it says about the run: a resumed run must not take one learning rate for another."""
    folder = sealed(tmp_path / "checkpoint-1")
    for position in range((folder / MANIFEST).stat().st_size):
        flip(folder / MANIFEST, position, 0)
        assert damage(folder) is not None, f"byte {position} of the manifest changed"
        flip(folder / MANIFEST, position, 0)
    assert damage(folder) is None


def test_checkpoints_are_ordered_by_step_and_nothing_else_counts(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-100", "checkpoint-1a", "checkpoint-", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-11").write_text("a file", encoding="utf-8")
    (tmp_path / STAGING / "checkpoint-12").mkdir(parents=True)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-10", "checkpoint-9"]
    assert checkpoints(tmp_path / "nowhere") == []


def test_the_newest_complete_one_is_found_and_each_newer_one_has_its_reason(tmp_path):
    folders = {step: sealed(tmp_path / f"checkpoint-{step}") for step in (8, 9, 10, 11, 12)}
    sealed(tmp_path / STAGING / "checkpoint-13")
    (folders[10] / "merges.txt").unlink()
    (folders[11] / MANIFEST).write_text("{", encoding="utf-8")
    flip(folders[12] / "model.safetensors", 5, 2)
    found, skipped = newest_complete(tmp_path)
    assert found == folders[9]
    assert skipped == [
        f"Skipped {folders[12]}: model.safetensors has changed since it was written.",
        f"Skipped {folders[11]}: its {MANIFEST} cannot be read.",
        f"Skipped {folders[10]}: merges.txt is missing.",
    ]


def test_nothing_complete_gives_nothing(tmp_path):
    assert newest_complete(tmp_path) == (None, [])
    (tmp_path / "checkpoint-3").mkdir()
    assert newest_complete(tmp_path) == (None, [f"Skipped {tmp_path / 'checkpoint-3'}: it has no {MANIFEST}."])


def test_differences_name_each_field_with_both_values(tmp_path):
    folder = sealed(tmp_path / "checkpoint-1")
    assert differences(folder, RUN) == [], "a tuple comes back as a list and is the same all the same"
    assert differences(folder, dict(reversed(RUN.items()))) == []
    changed = RUN | {"learning_rate": 2e-3, "lora_targets": ["vision"], "new": 1}
    assert differences(folder, changed) == [
        "learning_rate was 0.001 and is 0.002",
        "lora_targets was ['attention', 'experts'] and is ['vision']",
        "new was None and is 1",
    ]
    assert differences(folder, {name: value for name, value in RUN.items() if name != "triplets"}) == [
        "triplets was a1b2 and is None"
    ]


def test_a_checkpoint_takes_the_place_of_an_incomplete_one_of_the_same_step(tmp_path):
    target = sealed(tmp_path / "checkpoint-2")
    (target / MANIFEST).unlink()
    (target / "left over").write_text("", encoding="utf-8")
    staged = sealed(tmp_path / STAGING / "checkpoint-2")
    move(staged, target)
    assert damage(target) is None and not (target / "left over").exists() and not staged.exists()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("file write failed"), SafetensorError("I/O error")]
)
def test_what_cannot_be_written_is_said_and_cleared_away(tmp_path, error):
    earlier = sealed(tmp_path / "checkpoint-1")
    staged = tmp_path / STAGING / "checkpoint-2"
    staged.mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught, writing(staged, remove=True):
        (staged / "model.safetensors").write_bytes(b"half")
        raise error
    assert str(caught.value) == (
        f"checkpoint-2 cannot be written to {tmp_path}: {error}. Earlier checkpoints are as they were."
    )
    assert not (tmp_path / STAGING).exists() and damage(earlier) is None


def test_only_the_process_that_is_told_to_clears_away_and_other_errors_pass(tmp_path):
    staged = tmp_path / STAGING / "checkpoint-2"
    staged.mkdir(parents=True)
    with pytest.raises(CheckpointError), writing(staged, remove=False):
        raise OSError("from another process")
    assert staged.exists()
    with pytest.raises(KeyboardInterrupt), writing(staged, remove=True):
        raise KeyboardInterrupt


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "new" / "run")
    check_writable(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


@pytest.mark.parametrize("below, reason", [("", "File exists"), ("run", "Not a directory")])
def test_a_folder_that_cannot_be_written_is_named_with_the_reason(tmp_path, below, reason):
    (tmp_path / "file").write_text("", encoding="utf-8")
    folder = tmp_path / "file" / below
    with pytest.raises(CheckpointError, match=f"^Nothing can be written to output_dir {folder}: {reason}.$"):
        check_writable(folder)
