"""`python -m mbe2_dataset check` and `push`, as a user types them."""

import json
from pathlib import Path

import pytest
from hub_server import hub as hub
from hub_server import run_python

from conftest import change, cut_picture
from mbe2_dataset.__main__ import main


def test_check_prints_and_writes_what_it_found(mbe2, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["check", mbe2, "--report", str(page), "--samples", "3", "--num_proc", "1"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "0 error" in said and f"the report is in {page}" in said
    assert page.read_text(encoding="utf-8").count("data:image/jpeg;base64,") > 3
    assert main([*words, "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["rows"]["corpus"]["test"] > 0 and "0 error" in found.err


def test_check_fails_where_something_is_wrong(mbe2, tmp_path, capsys):
    assert main(["check", change(mbe2, tmp_path / "mbe2", cut_picture), "--num_proc", "1"]) == 1
    assert "cannot be decoded" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["check", "nowhere"], "There is no data set folder nowhere"),
        (["push", "nowhere", "--repo", "user/x"], "nowhere"),
        (["push", "nowhere", "--repo", "not a repo"], "not a repo"),
        (["push", "nowhere", "--repo", "not a repo", "--dry_run"], "not a repo"),
        (["bild"], "did you mean build?"),
        ([], "give a command: build, check, push"),
        (["check"], "required: dataset"),
        (["push", "x"], "required: --repo"),
    ],
)
def test_wrong_words_are_answered_in_a_sentence(words, said, capsys):
    assert main(words) == 2
    message = capsys.readouterr().err.split("error: ")[-1]
    assert said in message and message.count("\n") == 1


def test_what_would_be_pushed_is_listed(mbe2, capsys):
    words = ["push", mbe2, "--repo", "user/pushed", "--dry-run", "--num_proc", "1"]
    assert main(words) == 0
    assert "README.md" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["dry_run"] and plan["files"]["README.md"] == (Path(mbe2) / "README.md").stat().st_size


def test_push_and_push_again(hub, mbe2, tmp_path):
    words = ["-m", "mbe2_dataset", "push", mbe2, "--repo", "user/pushed", "--tag", "v1", "--private", "--num_proc", "1"]
    first = run_python(words, hub, home=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "uploaded" in first.stdout and 'load_dataset("user/pushed", revision="v1")' in first.stdout
    again = run_python(words, hub, home=tmp_path)
    assert again.returncode == 0 and "nothing was new" in again.stdout, again.stderr
    refused = run_python(words, hub, home=tmp_path, token="hf_wrong")
    assert refused.returncode == 2 and refused.stderr.splitlines()[-1].startswith("error: ")
    assert "hf_wrong" not in refused.stderr
