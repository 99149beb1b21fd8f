"""Files and folders are complete or absent, whoever is killed, and whoever writes at the same time."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common_moon2.files import replace_folder, sha256_of, staged, sync_tree, write_json, write_text

ROOT = Path(__file__).parents[2]
# Writes half of a file, or all of it, and is killed before the file gets its name.
KILLED = """
import os, signal, sys
from pathlib import Path
from common_moon2.files import staged
with staged(Path(sys.argv[1])) as temporary:
    temporary.write_text("half a file")
    os.kill(os.getpid(), signal.SIGKILL)
"""
WRITERS = """
import sys
from pathlib import Path
from common_moon2.files import write_text
for _ in range(50):
    write_text(Path(sys.argv[1]), sys.argv[2] * 100_000)
"""


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path):
    file = tmp_path / "made" / "report.txt"
    with staged(file) as temporary:
        temporary.write_text("half")
        assert not file.exists() and temporary.parent == file.parent, "a rename within one folder is atomic"
        temporary.write_text("whole")
    assert file.read_text() == "whole" and list(file.parent.iterdir()) == [file]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "report.txt"
    write_text(file, "before")
    with pytest.raises(ZeroDivisionError), staged(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]
    with pytest.raises(FileNotFoundError), staged(file):
        pass  # nothing was written
    assert file.read_text() == "before"


@pytest.mark.parametrize("there", [None, "before"])
def test_a_kill_between_write_and_rename_leaves_no_half_file(tmp_path, there):
    file = tmp_path / "report.txt"
    if there:
        file.write_text(there)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], cwd=ROOT)
    assert killed.returncode < 0
    assert (file.read_text() if file.exists() else None) == there
    write_text(file, "whole")
    assert file.read_text() == "whole", "what the killed process left is in nobody's way"


def test_processes_that_write_the_same_file_leave_one_whole_file(tmp_path):
    file = tmp_path / "report.txt"
    writers = [subprocess.Popen([sys.executable, "-c", WRITERS, str(file), letter], cwd=ROOT) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if file.exists():
            text = file.read_text()
            assert len(text) == 100_000 and len(set(text)) == 1
            seen.add(text[0])
    assert [writer.returncode for writer in writers] == [0, 0] and seen <= set("ab")
    assert list(tmp_path.iterdir()) == [file]


def test_threads_that_write_the_same_file_leave_one_whole_file(tmp_path):
    file = tmp_path / "facts.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_json(file, [number] * 5000), range(40)))
    assert len(set(json.loads(file.read_text()))) == 1 and list(tmp_path.iterdir()) == [file]


def test_json_is_for_people_and_ends_in_a_line(tmp_path):
    file = tmp_path / "facts.json"
    write_json(file, {"name": "杯", "share": 0.5})
    assert file.read_text(encoding="utf-8") == '{\n  "name": "杯",\n  "share": 0.5\n}\n'
    write_json(file, {"b": 1, "a": 2}, indent=None, sort_keys=True)
    assert file.read_text() == '{"a": 2, "b": 1}\n'
    with pytest.raises(ValueError):
        write_json(file, float("nan"), allow_nan=False)
    assert file.read_text() == '{"a": 2, "b": 1}\n'


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    staging, target = tmp_path / "staging", tmp_path / "data"
    for text in ("first", "second"):
        (staging / "inner").mkdir(parents=True)
        (staging / "inner" / f"{text}.txt").write_text(text)
        replace_folder(staging, target)
        assert [path.name for path in (target / "inner").iterdir()] == [f"{text}.txt"]
        assert list(tmp_path.iterdir()) == [target]


def test_everything_in_a_folder_is_synced(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    sync_tree(tmp_path)
    places = [tmp_path / "a" / "b" / "file", tmp_path / "a", tmp_path / "a" / "b", tmp_path]
    assert synced[0] == str(places[0]) and synced[-1] == str(tmp_path), "files before the folders that name them"
    assert sorted(synced) == sorted(map(str, places))


def test_the_sha256_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
