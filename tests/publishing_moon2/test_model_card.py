"""The model card says what the run and the evaluation wrote down, no more; its snippets run; the Hub can read it."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub_server import hub as hub
from hub_server import run_python
from huggingface_hub import ModelCard

from common_moon2.cli import UserError
from conftest import picture, tiny_model, tiny_processor
from evaluation.__main__ import main
from publishing_moon2.arguments import PushArguments
from publishing_moon2.model_card import is_untouched, model_card

REVISION = "0123456789" * 4
STATE = {
    "global_step": 320,
    "epoch": 2.5,
    "log_history": [
        {"step": 300, "loss": 1.0} | {f"expert_{z}_{kind}": 0.25 for z in range(4) for kind in ("t", "i", "mm")},
        {"step": 320, "loss": 1.0} | {f"expert_{z}_t": (0.4, 0.3, 0.2, 0.1)[z] for z in range(4)},
        {"step": 320, "train_runtime": 3.0},
    ],
}
RUN = {
    "triplets": 3780,
    "fingerprint": "0123456789abcdef" * 2,
    "processes": 4,
    "hardware": {"cpu": "A CPU", "cores": 2, "gpu": None},
    "versions": {"python": "3.11", "torch": "2.13"},
}
RECIPE = {"model": None, "dataset": "/srv/data/mbe2", "learning_rate": 5e-4, "seed": 7, "hub_token": "<HUB_TOKEN>"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "moon2"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def results(folder, mbe2) -> dict:
    """Of the harness itself."""
    output = folder.parent / "results"
    options = ["--dims", "64,16", "--precisions", "float32,binary", "--cache", str(folder.parent / "cache")]
    assert main(["--model", str(folder), "--dataset", mbe2, "--output", str(output), "--seed", "3", *options]) == 0
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def card_of(folder: Path, results: dict | None = None, revision: str | None = REVISION, **options) -> str:
    """The card of user/moon2; `options` are those of the command, or what the Hub knows of the model's origin."""
    origin = {name: options.pop(name) for name in ("base_model", "dataset") if name in options}
    return model_card(PushArguments(model=folder, repo="user/moon2", **options), results, revision, **origin)


def headings(card: str) -> list[str]:
    return re.findall(r"^## (.*)$", card, re.MULTILINE)


def facts(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_without_a_run_and_an_evaluation_nothing_is_claimed_of_them(folder):
    card = card_of(folder)
    assert headings(card) == ["Use", "Model", "Limits and risks", "Licence", "Citation"]
    assert "No evaluation is published with these weights." in card
    assert "has not been stated" in card and "trained as in" not in card
    found = facts(card)
    assert set(found) == {"library_name", "pipeline_tag", "tags"}
    model = tiny_model()
    assert f"| parameters | {model.num_parameters():,} |" in card
    assert f"| parameters active for a token | {model.num_active_parameters():,} |" in card
    assert "| dimensions of a vector | 64 |" in card and "4, of which a token takes 2" in card


def test_the_run_is_quoted(folder, tmp_path):
    run = tmp_path / "moon2"
    shutil.copytree(folder, run)
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (run / "trainer_state.json").write_text(json.dumps(STATE))
    (run / "run.json").write_text(json.dumps(RUN))
    card = card_of(run)
    assert "| steps | 320 |" in card and "| epochs | 2.50 |" in card and "| `learning_rate` | 0.0005 |" in card
    assert "| data | mbe2, 3,780 triplets, fingerprint `0123456789abcdef` |" in card and "| took | 3 s |" in card
    assert "| start | from nothing |" in card and "| on | A CPU, 2 cores, 4 processes |" in card
    assert "| with | python 3.11, torch 2.13 |" in card
    assert "hub_token" not in card and "/srv" not in card, "no token, and no folder of a machine"
    (whole,) = re.findall(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert yaml.safe_load(whole) == {"dataset": "mbe2", "learning_rate": 5e-4, "seed": 7}
    assert "at training step 320" in card and "| text | 40.0 | 30.0 | 20.0 | 10.0 |" in card
    assert "images alone" not in card, "that step had none"
    linked = card_of(run, dataset="user/mbe2", base_model="user/base")
    assert "[user/mbe2](https://huggingface.co/datasets/user/mbe2)" in linked
    assert facts(linked)["datasets"] == ["user/mbe2"] and facts(linked)["base_model"] == "user/base"


def test_every_figure_is_one_of_the_results(folder, results):
    card = card_of(folder, results)
    assert headings(card)[2:5] == ["Results", "Fewer dimensions and bits", "Speed"]
    row = results["retrieval"]["i2mm"]
    low, high = row["intervals"]["recall@10"]
    assert f"{100 * row['metrics']['recall@10']:.2f} [{100 * low:.2f}, {100 * high:.2f}]" in card
    assert f"{100 * results['classification']['metrics']['f1']:.2f}" in card
    assert "- seed of the bootstrap: 3" in card and results["run"]["hardware"]["cpu"] in card
    assert f"{results['run']['embedding']['items_per_second']:,} items per second" in card
    peak = results["run"]["embedding"]["peak_memory"]["process"]
    assert 1e8 < peak < 1e11 and f"The process took {peak / 1e6:,.0f} MB at its peak" in card
    (command,) = re.findall(r"- command: `(.*)`", card)
    assert str(folder.parent) not in command, "no folders of a machine"
    (small,) = [found for found in results["compression"] if (found["dimension"], found["precision"]) == (16, "binary")]
    assert f"| 16 | binary | 2 | {100 * small['retrieval']['t2mm']['metrics']['recall@10']:.2f} [" in card


def test_the_hub_reads_the_same_figures(folder, results):
    """By the validation of huggingface_hub's own card classes, back and forth."""
    text = card_of(folder, results, dataset="user/mbe2", license="apache-2.0")
    card = ModelCard(text, ignore_metadata_errors=False)
    assert card.data.library_name == "transformers" and card.data.license == "apache-2.0"
    found = {result.metric_name: result for result in card.data.eval_results}
    assert len(found) == len(card.data.eval_results), "each has a name of its own"
    for direction, row in results["retrieval"].items():
        for metric, name in (("recall@10", "Recall@10"), ("mrr", "MRR"), ("ndcg@10", "nDCG@10")):
            result = found[f"{name}, {direction.replace('2', '→')}"]
            assert result.metric_value == pytest.approx(row["metrics"][metric], abs=1e-6)
            assert (result.dataset_type, result.task_type) == ("mbe2", "image-text-retrieval")
    assert found["Category, accuracy"].metric_value == pytest.approx(
        results["classification"]["metrics"]["accuracy"], abs=1e-6
    )


def test_figures_and_licence(folder):
    card = card_of(
        folder, revision=None, license="other", license_name="shop-only", license_link="https://example.org/l",
        heatmap=Path("any.png"),
    )  # fmt: skip
    assert "![Attention](figures/heatmap.png)" in card and "[shop-only](https://example.org/l)" in card
    assert (facts(card)["license"], facts(card)["license_name"]) == ("other", "shop-only")
    for wrong in ({"license": "other"}, {"license_name": "x"}, {"license": "mit", "license_link": "https://x"}):
        with pytest.raises(UserError, match="--license"):
            PushArguments(model=folder, repo="user/moon2", **wrong)


def test_what_a_card_has_not_is_said_beforehand(folder, results, tmp_path, capsys):
    """And the figures that lie in the folder of results are found there."""
    call = ["push", "--dry_run", "--model", str(folder), "--repo", "user/moon2"]
    assert main(call) == 0
    said = capsys.readouterr().out.split("The card has not:")[1]
    assert said.count("\n- ") == 5
    shutil.copytree(folder.parent / "results", tmp_path / "results")
    (tmp_path / "results" / "plots").mkdir()
    for name in ("heatmap.png", "plots/usage.png"):
        picture(20, 20).save(tmp_path / "results" / name)
    assert main([*call, "--results", str(tmp_path / "results"), "--license", "mit"]) == 0
    said = capsys.readouterr().out
    assert "The card has not:" not in said
    for figure in ("heatmap", "expert_usage"):
        assert f"](figures/{figure}.png)" in said and re.search(
            rf"^ +[\d,]+  figures/{figure}.png$", said, re.MULTILINE
        )


def test_a_change_by_hand_shows(folder):
    card = card_of(folder)
    assert is_untouched(card)
    assert not is_untouched(card.replace("mug", "jug")) and not is_untouched("# By hand\n") and not is_untouched("")


def test_a_broken_recipe_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "moon2")
    (tmp_path / "moon2" / "recipe.yaml").write_text("a: [")
    with pytest.raises(UserError, match="recipe.yaml cannot be read"):
        card_of(tmp_path / "moon2")


def test_the_snippets_run(hub, folder, results, tmp_path):
    """All three as they stand in the card of a pushed model, in a directory that has an image and a catalogue; and
    the Hub's own check of the card."""
    picture(40, 30).save(tmp_path / "mug.jpg")
    photo = (tmp_path / "mug.jpg").read_bytes()
    rows = {"id": ["a", "b"], "text": ["Blue mug", None], "image": [None, {"bytes": photo, "path": "mug.jpg"}]}
    pq.write_table(pa.table(rows), tmp_path / "products.parquet")
    hub.add_folder("user/moon2", folder, kind="model")
    (revision,) = hub.repositories["model", "user/moon2"].commits
    card = card_of(folder, results, revision)
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 2 and card.count(revision) == 3, "each of the three ways names the commit"
    (command,) = re.findall(r"```bash\n(python .*?)```", card, re.DOTALL)
    check = "from huggingface_hub import ModelCard\nModelCard.load('README.md').validate()\n"
    agree = "import numpy as np\nassert np.abs(encoder.encode(products) - vectors.numpy()).max() <= 1e-5\n"
    done = run_python("\n".join([*snippets, agree, check]), hub, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tensor(") == 2 and hub.requests("POST", "/api/validate-yaml")
    words = command.replace("\\\n", " ").split()
    done = run_python(words[1:], hub, home=tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "vectors" / "manifest.json").read_text())["vectors"] == 2
