"""The curves of a training run: every figure is on the panel it belongs to, and what is not there is not drawn."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from common_moon2.cli import UserError
from evaluation.__main__ import main
from evaluation.show.curves import COLORS, Log, curves_figure

OBJECTIVES = ("t2mm", "i2mm", "mm2mm", "t2i", "i2t")
ARROWS = ["t→mm", "i→mm", "mm→mm", "t→i", "i→t"]
EXPERTS = range(3)


def training_line(step: int) -> dict:
    """Figures that are all different, so that none can pass for another."""
    names = ["loss", "grad_norm", "learning_rate", *(f"loss_{name}" for name in OBJECTIVES)]
    names += [*(f"omega_{name}" for name in OBJECTIVES), "omega_sum", "loss_sparsity", "phi", "kept_share"]
    names += ["positive_similarity", "negative_similarity", "similarity_margin"]
    names += [f"expert_{expert}_{composition}" for expert in EXPERTS for composition in ("t", "i", "mm")]
    names += ["tokens_per_second", "triplets_per_second", "filter_precision", "filter_recall", "refused_steps"]
    figures = {name: (place + 1 + step / 1000) / 100 for place, name in enumerate(names)}
    counts = [0] * 10
    counts[step // 10] = 3
    counts[9] = 1
    return {"step": step, "epoch": step / 100} | figures | {"phi_histogram": counts}


def evaluation_line(step: int) -> dict:
    names = ["eval_loss", *(f"eval_recall_{name}" for name in OBJECTIVES), "eval_recall_mean"]
    return {"step": step, "epoch": step / 100} | {name: place / 10 + step / 1000 for place, name in enumerate(names)}


# An evaluation comes between, and a line at the end that has no figures to draw.
LINES = [training_line(10), training_line(20), evaluation_line(20), training_line(30), {"step": 30, "train_loss": 2.0}]


SHORT = [{"step": step, "loss": 1 / step} for step in (1, 2)]


def written(folder: Path, lines: list[dict], rest: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + rest, encoding="utf-8")
    return folder


def panels(folder: Path) -> dict[tuple[str, str], Axes]:
    """The axes by the title of their cell and the label of their y axis; the colour bar is not among them."""
    found, title = {}, ""
    for axes in curves_figure(Log(folder), "moon2").axes:
        if axes.get_label() != "<colorbar>":
            title = axes.get_title(loc="left") or title
            found[title, axes.get_ylabel()] = axes
    return found


def curves(axes: Axes) -> dict[str, tuple[list, list]]:
    """Legend -> (steps, values); "" for a curve that the axis explains."""
    labels = axes.get_legend_handles_labels()[1]
    shown = [text.get_text() for text in axes.get_legend().texts] if axes.get_legend() else []
    assert shown == labels
    found = {}
    for line in axes.lines:
        name = "" if line.get_label().startswith("_") else line.get_label()
        found[name] = (list(line.get_xdata()), list(line.get_ydata()))
    return found


def logged(name: str, steps=(10, 20, 30)) -> tuple[list, list]:
    line = evaluation_line if name.startswith("eval_") else training_line
    return list(steps), [line(step)[name] for step in steps]


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> dict[tuple[str, str], Axes]:
    return panels(written(tmp_path_factory.mktemp("run"), LINES))


def without(*prefixes: str) -> list[dict]:
    return [{name: value for name, value in line.items() if not name.startswith(prefixes)} for line in LINES]


def test_every_figure_is_on_its_panel(everything):
    drawn = {place: curves(axes) for place, axes in everything.items()}
    even = {"even": ([0, 1], [1 / 3, 1 / 3])}
    by_objective = dict(zip(ARROWS, OBJECTIVES, strict=True))
    expected = {
        ("Losses", "loss (nats)"): {arrow: logged(f"loss_{name}") for arrow, name in by_objective.items()}
        | {"total": logged("loss"), "validation": logged("eval_loss", [20])},
        ("Omega, the weights of the objectives", "weight"): {
            arrow: logged(f"omega_{name}") for arrow, name in by_objective.items()
        },
        ("Omega, the weights of the objectives", "sum"): {"": logged("omega_sum")},
        ("Similarity of query and product", "cosine"): {
            "positive": logged("positive_similarity"),
            "negative": logged("negative_similarity"),
            "margin": logged("similarity_margin"),
        },
        ("Sample filter: phi and what it keeps", "phi"): {},
        ("Sample filter: phi and what it keeps", "share kept"): {"": logged("kept_share")},
        ("Filter against known false positives", "share"): {
            "precision": logged("filter_precision"),
            "recall": logged("filter_recall"),
        },
        ("Retrieval on the validation sample", "Recall@10 (share)"): {
            arrow: logged(f"eval_recall_{name}", [20]) for arrow, name in by_objective.items()
        }
        | {"mean": logged("eval_recall_mean", [20])},
        ("Steps of the optimizer", "gradient norm"): {"": logged("grad_norm")},
        ("Steps of the optimizer", "learning rate"): {"": logged("learning_rate")},
        ("Throughput", "tokens/s"): {"": logged("tokens_per_second")},
        ("Throughput", "triplets/s"): {"": logged("triplets_per_second")},
        ("Refused since start or resumption", "steps"): {"": logged("refused_steps")},
    }
    for composition, words in (("t", "text"), ("i", "image"), ("mm", "text and image")):
        experts = {str(expert): logged(f"expert_{expert}_{composition}") for expert in EXPERTS}
        expected["Experts used for " + words, "share of routing"] = experts | even
    assert drawn == expected


def test_the_histogram_is_a_column_of_shares_for_each_log(tmp_path):
    lines = [training_line(10), training_line(20), training_line(50)]
    lines[2]["phi_histogram"] = [0] * 10  # phi was not finite
    (mesh,) = panels(written(tmp_path, lines))["Sample filter: phi and what it keeps", "phi"].collections
    edges = mesh.get_coordinates()
    np.testing.assert_allclose(edges[0, :, 0], [0, 10, 20, 50])
    np.testing.assert_allclose(edges[:, 0, 1], np.arange(11) / 10)
    shares = np.zeros((10, 2))
    shares[1, 0] = shares[2, 1] = 0.75
    shares[9] = 0.25
    np.testing.assert_allclose(mesh.get_array()[:, :2], shares)
    assert np.ma.getmaskarray(mesh.get_array())[:, 2].all()


@pytest.mark.parametrize(
    ("prefixes", "missing"),
    [
        (["eval_"], {"Retrieval on the validation sample"}),
        (["filter_"], {"Filter against known false positives"}),
        (["refused_"], {"Refused since start or resumption"}),
        (["expert_0_i", "expert_1_i", "expert_2_i"], {"Experts used for image"}),
        (["phi_histogram", "kept_share"], {"Sample filter: phi and what it keeps"}),
        (["phi_histogram"], set()),
        (["loss", "eval_loss"], {"Losses"}),
        (["omega_sum"], set()),
    ],
)
def test_what_is_not_logged_is_not_drawn(everything, tmp_path, prefixes, missing):
    fewer = panels(written(tmp_path, without(*prefixes)))
    assert {title for title, _ in everything} - {title for title, _ in fewer} == missing
    assert len(fewer) < len(everything)
    assert all(axes.has_data() for axes in fewer.values())


def test_an_objective_keeps_its_colour_where_others_are_absent(tmp_path):
    axes = panels(written(tmp_path, without("loss_t2mm", "loss_i2mm")))["Losses", "loss (nats)"]
    assert list(curves(axes)) == ["mm→mm", "t→i", "i→t", "total", "validation"]
    assert axes.lines[0].get_color() == COLORS[2]


def test_experts_beyond_the_colours_differ_in_style(tmp_path):
    lines = [{"step": step} | {f"expert_{expert}_t": 1 / 16 for expert in range(16)} for step in (1, 2)]
    axes = panels(written(tmp_path, lines))["Experts used for text", "share of routing"]
    assert list(curves(axes)) == [*map(str, range(16)), "even"]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 17


def test_an_objective_may_be_absent_from_some_logs_and_a_value_not_finite(tmp_path):
    lines = [training_line(step) for step in (10, 20, 30)]
    del lines[1]["loss_i2t"]
    lines[1]["grad_norm"] = math.inf
    for line in lines:
        line["omega_sum"] = math.nan
    drawn = panels(written(tmp_path, lines))
    assert curves(drawn["Losses", "loss (nats)"])["i→t"] == logged("loss_i2t", [10, 30])
    steps, norms = curves(drawn["Steps of the optimizer", "gradient norm"])[""]
    assert steps == [10, 20, 30] and math.isnan(norms[1]) and math.isfinite(norms[2])
    assert ("Omega, the weights of the objectives", "sum") not in drawn


def test_of_steps_done_again_the_later_figures_count(tmp_path):
    again = training_line(20) | {"loss": 7.0}
    axes = panels(written(tmp_path, [*LINES, again]))["Losses", "loss (nats)"]
    assert curves(axes)["total"] == ([10, 20, 30], [training_line(10)["loss"], 7.0, training_line(30)["loss"]])


@pytest.mark.parametrize("rest", ['{"step": 40, "loss": 9', '{"step": 40, "name": "\udce7', ""])
def test_a_last_line_that_was_cut_short_is_dropped(tmp_path, rest):
    folder = written(tmp_path, LINES)
    with open(folder / "log.jsonl", "ab") as file:
        file.write(rest.encode("utf-8", "surrogateescape"))
    assert [entry["step"] for entry in Log(folder).entries] == [10, 20, 20, 30, 30]


def test_a_last_line_that_only_lacks_its_end_counts(tmp_path):
    assert Log(written(tmp_path, LINES, json.dumps(training_line(40)))).entries[-1] == training_line(40)


@pytest.mark.parametrize("bad", ['{"step": 40, "lo{"step": 50}', "", "[1]", "null", '{"loss": 1.0}', '{"step": "4"}'])
def test_any_other_line_that_is_not_a_log_is_named(tmp_path, bad):
    """In the middle, and at the end: a line that ends is not one that was cut short."""
    for after in ("", json.dumps(training_line(60)) + "\n"):
        folder = written(tmp_path, LINES[:2], bad + "\n" + after)
        with pytest.raises(UserError, match=r"log\.jsonl, line 3, is not a JSON object with a step\."):
            Log(folder)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("loss", "low", r"line 2: loss is 'low', not a number\."),
        ("kept_share", None, r"line 2: kept_share is None, not a number\."),
        ("expert_1_mm", True, r"line 2: expert_1_mm is True, not a number\."),
        ("phi_histogram", [1, 2], r"line 2: phi_histogram is \[1, 2\], not a list of 10 numbers\."),
        ("phi_histogram", ["1"] * 10, r"line 2: phi_histogram is \['1', .*\], not a list of 10 numbers\."),
    ],
)
def test_a_figure_that_is_none_is_named(tmp_path, name, value, sentence):
    folder = written(tmp_path, [LINES[0], training_line(20) | {name: value}])
    with pytest.raises(UserError, match=sentence):
        curves_figure(Log(folder), "moon2")


def test_the_command_writes_one_png_and_names_it(tmp_path, capsys, monkeypatch):
    folder = written(tmp_path / "my $run_1$", SHORT)
    assert main(["curves", str(folder), "--output", str(tmp_path / "run.PNG")]) == 0
    assert capsys.readouterr().out == f"The curves are in {tmp_path / 'run.PNG'}\n"
    picture = Image.open(tmp_path / "run.PNG")
    assert picture.format == "PNG" and picture.width > 500
    monkeypatch.chdir(tmp_path)
    assert main(["curves", str(folder)]) == 0
    assert np.array_equal(np.asarray(Image.open("curves.png")), np.asarray(picture))


def test_the_title_names_the_run(tmp_path):
    figure = curves_figure(Log(written(tmp_path, LINES)), "my $run$")
    assert figure.get_suptitle() == "my $run$, 30 steps"
    assert not figure._suptitle.get_parse_math()


def test_user_errors(tmp_path, capsys):
    def refused(run: Path, output: Path = tmp_path / "curves.png") -> str:
        assert main(["curves", str(run), "--output", str(output)]) == 2
        assert not output.is_file()
        return capsys.readouterr().err

    nowhere, empty = tmp_path / "nowhere", tmp_path / "empty"
    empty.mkdir()
    what = "give the output folder of a training run."
    assert refused(nowhere) == f"error: There is no folder {nowhere}; {what}\n"
    assert refused(empty) == f"error: {empty} has no log.jsonl; {what}\n"
    for rest in ("", '{"step"'):
        log = written(empty, [], rest) / "log.jsonl"
        assert refused(empty) == f"error: {log} has no complete line: the run has logged nothing yet.\n"
    written(empty, [{"step": 3, "train_loss": 2.0}])
    assert refused(empty) == f"error: {log} has none of the figures that a training logs; there is nothing to draw.\n"
    log.unlink()
    log.mkdir()
    assert refused(empty) == f"error: {log} cannot be read: Is a directory.\n"
    run = written(tmp_path / "run", SHORT)
    output = nowhere / "curves.png"
    assert refused(run, output) == f"error: --output {output}: there is no folder {nowhere}; make it first.\n"
    output = tmp_path / "curves.pdf"
    assert refused(run, output) == f"error: --output {output} must end in .png: that is what is written.\n"
    output = tmp_path / "folder.png"
    output.mkdir()
    assert refused(run, output) == f"error: The curves cannot be written to {output}: Is a directory.\n"


def test_without_matplotlib_the_package_to_install_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "evaluation.show.curves")
    assert main(["curves", str(tmp_path)]) == 2
    assert "matplotlib is not installed: pip install 'moon2[eval]'" in capsys.readouterr().err
