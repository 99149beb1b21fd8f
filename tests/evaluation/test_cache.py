"""Vectors on disk: used again only for the same encoder and contents, and whole or not there."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from common_moon2.cli import UserError
from evaluation.measure.evaluate import label_products
from evaluation.vectors.catalogue import VectorCache
from evaluation.vectors.store import write_shard

TEXTS = [chr(97 + index) * (index % 4 + 1) for index in range(10)]
EXPECTED = torch.tensor([[len(text), ord(text[0]), 1, 2] for text in TEXTS]).float()


class Counting:
    """An encoder of text lengths and first letters that keeps what it saw, and dies after `fatal` texts."""

    name, revision, kind, dimension, views = "counting", None, "test", 4, frozenset("t")
    parameters, dtype, note = 0, "float32", ""

    def __init__(self, fingerprint: str = "a", prompts=(None, None), fatal: int | None = None):
        self.fingerprint, self.prompts, self.fatal, self.seen = fingerprint, prompts, fatal, []

    def prompt(self, role: str) -> str | None:
        return self.prompts[role == "document"]

    def encode(self, products, batch_size=64, workers=0, role="document", description=""):
        if self.fatal is not None and len(self.seen) >= self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        texts = [product["text"] for product in products]
        self.seen += texts
        return torch.tensor([[len(text), ord(text[0]), 1, 2] for text in texts]).float()


def embed(folder: Path, encoder, texts=TEXTS, **options) -> torch.Tensor:
    return VectorCache(folder, shard=3).embed(encoder, label_products(texts), "t", **options)


def test_nothing_is_embedded_twice(tmp_path):
    encoder = Counting()
    for _ in range(2):
        torch.testing.assert_close(embed(tmp_path, encoder), EXPECTED, atol=0, rtol=0)
    assert sorted(encoder.seen) == sorted(TEXTS)
    names = [file.name for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(names) == [*(f"0000{shard}.parquet" for shard in range(4)), "run.json"]


@pytest.mark.parametrize("what", ["fingerprint", "contents", "order"])
def test_other_vectors_are_never_taken(tmp_path, what):
    embed(tmp_path, Counting())
    encoder = Counting(fingerprint="b" if what == "fingerprint" else "a")
    texts = TEXTS[:-1] + ["zz"] if what == "contents" else TEXTS[::-1] if what == "order" else TEXTS
    vectors = embed(tmp_path, encoder, texts)
    assert vectors[:, 0].tolist() == [len(text) for text in texts]
    assert len(encoder.seen) == len(TEXTS)


def test_a_role_matters_only_where_its_prompt_does(tmp_path):
    same, different = Counting(), Counting(prompts=("find", None))
    for encoder in (same, different):
        embed(tmp_path, encoder, role="document")
        embed(tmp_path, encoder, role="query")
    assert (len(same.seen), len(different.seen)) == (10, 10)  # the second finds the first's documents


@pytest.mark.parametrize("calls", [0, 3, 6, 9])
def test_a_killed_run_goes_on_where_it_was(tmp_path, calls):
    child = os.fork()
    if child == 0:
        embed(tmp_path / "cache", Counting(fatal=calls))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    encoder = Counting()
    torch.testing.assert_close(embed(tmp_path / "cache", encoder), EXPECTED, atol=0, rtol=0)
    assert len(encoder.seen) == 10 - calls


def test_half_a_file_is_no_shard(tmp_path):
    """What a run leaves that is killed while it writes."""
    embed(tmp_path, Counting())
    (shard,) = tmp_path.glob("*/shards/00001.parquet")
    content = shard.read_bytes()
    shard.rename(shard.with_name(".00001.parquet.77-7.part")).write_bytes(content[:-5])
    encoder = Counting()
    torch.testing.assert_close(embed(tmp_path, encoder), EXPECTED, atol=0, rtol=0)
    assert len(encoder.seen) == 3


def test_a_damaged_shard_is_refused_and_named(tmp_path):
    embed(tmp_path, Counting())
    (shard,) = tmp_path.glob("*/shards/00001.parquet")
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UserError, match="00001.parquet cannot be read: delete the folder"):
        embed(tmp_path, Counting())
    write_shard(shard, ["0", "1"], np.zeros((2, 4), np.float32))
    with pytest.raises(UserError, match="are not .3, 4. float32"):
        embed(tmp_path, Counting())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        embed(tmp_path / "file", Counting())
