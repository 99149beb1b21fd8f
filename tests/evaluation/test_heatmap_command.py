"""Contact sheets and the sanity figure from the command line, and the options that do not go together."""

import argparse
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from conftest import picture, tiny_model, tiny_processor
from evaluation.__main__ import COMMANDS
from evaluation.show import heatmap
from evaluation.tables import benchmark


@pytest.fixture
def corpus(monkeypatch):
    """Three products, the second without an image."""
    features = {"id": datasets.Value("string"), "text": datasets.Value("string"), "image": datasets.Image()}
    pictures = [picture(48, 32, 1), None, picture(32, 48, 2)]
    content = {"id": ["a", "b", "c"], "text": ["red mug", "blue mug", "shirt"], "image": pictures}
    table = datasets.Dataset.from_dict(content, features=datasets.Features(features))
    products = benchmark.Products("corpus", table)
    loaded = argparse.Namespace(corpus=products)
    monkeypatch.setattr(heatmap, "load_benchmark", lambda path, revision: loaded)


def run(*words: str) -> None:
    arguments, _ = COMMANDS["heatmap"].parser("heatmap").read(list(words))
    arguments.check()
    heatmap.draw_heatmap(arguments)


def test_a_contact_sheet(model, corpus, tmp_path):
    words = ["--model", model, "--dataset", "user/mbe2", "--output", str(tmp_path / "sheet.png")]
    run(*words, "--products", "c,a")
    chosen = np.asarray(Image.open(tmp_path / "sheet.png"))
    run(*words, "--count", "2")
    counted = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert chosen.shape == counted.shape and (chosen != counted).any()
    run(*words, "--product", "a", "--words", "0")
    assert Image.open(tmp_path / "sheet.png").width == chosen.shape[1] / 2


def test_photo_and_title_are_enough(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(48, 32, 1).save("p.jpg")
    run("--model", model, "--image", "p.jpg", "--text", "red mug")
    assert Image.open("heatmap.png").format == "PNG"


def test_a_model_with_damaged_weights_draws_nothing(corpus, tmp_path):
    damaged = tiny_model()
    damaged.get_input_embeddings().weight.data.fill_(float("nan"))
    damaged.save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="not finite"):
        run("--model", str(tmp_path / "model"), "--dataset", "user/mbe2", "--output", str(tmp_path / "x.png"))
    assert not (tmp_path / "x.png").exists()


def test_the_sanity_figure(model, tmp_path, capsys):
    run("--model", model, "--sanity", "--count", "2", "--output", str(tmp_path / "sanity.json"))
    content = json.loads((tmp_path / "sanity.json").read_text())
    assert [product["id"].split("-")[0] for product in content["products"]] == ["p000000", "p000001"]
    assert f"{content['summary']['ratio']:.3f}" in capsys.readouterr().out


def test_options_that_do_not_go_together_are_refused(model, corpus, tmp_path):
    words = ["--model", model, "--output", str(tmp_path / "x.png")]
    for extra, message in [
        (["--sanity", "--text", "mug"], "leave out --text"),
        (["--count", "2"], "only mean something with --dataset"),
        (["--dataset", "user/mbe2", "--count", "2", "--product", "a"], "Give one of --product"),
        (["--dataset", "user/mbe2", "--products", "a,b"], "has no product 'b' with title and image"),
        (["--dataset", "user/mbe2", "--output", "x.jpg"], "must end in .png"),
        (["--dataset", "user/mbe2", "--count", "0"], "--count: '0' is not a whole number of at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(*words, *extra)
