"""Finding, checking and fingerprinting a checkpoint."""

import json
import shutil

import pytest

from common_moon2.cli import UserError
from conftest import tiny_model, tiny_processor
from evaluation.models.checkpoint import fingerprint, load_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "moon2"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "moon2")


def test_a_folder_is_loaded_ready_to_embed(saved):
    checkpoint = load_checkpoint(str(saved), attn_implementation="eager")
    assert not checkpoint.model.training
    assert checkpoint.revision is None
    assert checkpoint.model(**checkpoint.processor([{"text": "mug"}]), output_attentions=True).attentions is not None


def test_the_fingerprint_follows_what_decides_the_embeddings(saved, copy):
    assert fingerprint(copy) == fingerprint(saved)
    (copy / "README.md").write_text("hello")
    assert fingerprint(copy) == fingerprint(saved)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(copy) != fingerprint(saved)


def broken_config(folder, content):
    (folder / "config.json").write_text(content)


BROKEN = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "is not a model: it has no config.json"),
    "no JSON": (lambda folder: broken_config(folder, "{"), "config.json is not valid JSON"),
    "other model": (lambda folder: broken_config(folder, json.dumps({"model_type": "bert"})), "a 'bert' model"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
    "no processor": (lambda folder: (folder / "processor_config.json").unlink(), "cannot be loaded"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_is_refused(copy, case):
    break_it, message = BROKEN[case]
    break_it(copy)
    with pytest.raises(UserError, match=message):
        load_checkpoint(str(copy))


def test_damaged_weights_are_refused(copy):
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checkpoint(str(copy))


def test_what_is_nowhere_is_refused(saved, tmp_path):
    with pytest.raises(UserError, match="There is no model folder .*nowhere"):
        load_checkpoint(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="neither a folder nor available on the Hub"):
        load_checkpoint("no-one/nothing")
    with pytest.raises(UserError, match="leave out --model_revision"):
        load_checkpoint(str(saved), "main")
