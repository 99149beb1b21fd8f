"""The Markdown: layout, per cent, and what it says where there is no figure."""

from evaluation.measure.evaluate import Evaluation
from evaluation.show.report import sections, side_by_side, summary

METRICS = {"recall@1": 0.25, "recall@5": 0.5, "recall@10": 0.98765, "mrr": 0.4, "ndcg@10": 0.45}
CHANCE = {"recall@1": 0.01, "recall@5": 0.05, "recall@10": 0.1, "mrr": 0.03, "ndcg@10": 0.02}
LABELS = {"accuracy": 0.8, "precision": 0.7, "recall": 0.6, "f1": 0.65, "chance": 0.2, "majority": 0.3}
LABELS["intervals"] = {metric: [LABELS[metric] - 0.1, LABELS[metric] + 0.1] for metric in list(LABELS)[:4]}


def direction(metrics=METRICS, chance=CHANCE, **counts) -> dict:
    left_out = dict.fromkeys(("queries_left_out", "candidates_left_out", "judgements_left_out"), 0)
    intervals = metrics and {name: [value / 2, value] for name, value in metrics.items()}
    found = {"metrics": metrics, "intervals": intervals, "chance": chance}
    return {"queries": 7, "candidates": 100, **left_out, **counts, **found}


def results(**directions) -> dict:
    return {
        "retrieval": {name: direction() for name in ("t2mm", "i2mm", "mm2mm", "t2i", "i2t")} | directions,
        "classification": {"labels": 5, "products": 100, "products_left_out": 0, "metrics": LABELS}
        | {"intervals": LABELS["intervals"]},
        "attributes": {
            "attributes": {"colour": {"products": 90, "values": 4, **LABELS}},
            "attributes_left_out": 0,
            "products_left_out": 0,
            "micro": {"accuracy": 0.5, "chance": 0.25, "majority": 0.4, "intervals": {"accuracy": [0.4, 0.6]}},
            "macro": LABELS,
        },
    }


def row(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_headline_is_recall_at_10_and_accuracy_above_chance():
    text = summary("moon2", results())
    assert row(text, "moon2") == ["moon2", *["98.77"] * 5, "80.00", "50.00"]
    assert row(text, "chance") == ["chance", *["10.00"] * 5, "20.00", "25.00"]
    assert row(text, "majority") == ["majority", *["-"] * 5, "30.00", "40.00"]
    assert row(text, "t->mm") == [
        "t->mm", "7", "100", "25.00 / 1.00", "50.00 / 5.00", "98.77 / 10.00", "40.00 / 3.00",
        "45.00 / 2.00",
    ]  # fmt: skip
    assert "Nothing was left out." in text


def test_a_missing_figure_is_a_dash_and_a_count():
    empty = direction(metrics=None, chance=None, queries=0, candidates=0, candidates_left_out=100)
    text = summary("moon2", results(t2i=empty))
    assert row(text, "moon2")[4] == "-"
    assert row(text, "t->i")[1:4] == ["0", "0", "- / -"]
    assert "- t->i: 0 queries without a relevant candidate, 100 products without this view" in text


def test_label_figures_have_intervals():
    found = sections(results())
    header, rows = found["intervals of the labels"][2:]
    all_four = ["80.00 [70.00, 90.00]", "70.00 [60.00, 80.00]", "60.00 [50.00, 70.00]", "65.00 [55.00, 75.00]"]
    assert header == ["", "accuracy", "macro P", "macro R", "macro F1"]
    assert rows == [
        ["category", *all_four],
        ["attributes, mean over predictions", "50.00 [40.00, 60.00]", "-", "-", "-"],
        ["attributes, mean over attributes", *all_four],
    ]
    assert found["intervals of the attributes"][2:] == (header, [["colour", *all_four]])
    assert list(sections(results() | {"classification": None, "attributes": None})) == ["intervals"]


def test_several_models_have_their_label_figures_side_by_side():
    words = results() | {"classification": None, "attributes": None}
    runs = [
        ({"model": {"name": name, "kind": name, "note": note}, "embedding": {"items_per_second": None}}, found)
        for name, note, found in (
            ("moon2", "", Evaluation(results(), {}, {})),
            ("bm25", "titles only", Evaluation(words, {}, {})),
        )
    ]
    headlines, *parts = side_by_side(runs).split("## ")
    assert row(headlines, "chance")[-2:] == ["20.00", "25.00"]
    assert row(headlines, "majority") == ["majority", *["-"] * 5, "30.00", "40.00"]
    category = next(part for part in parts if part.startswith("Labels: category, with 95 % intervals"))
    assert row(category, "moon2")[1:3] == ["80.00 [70.00, 90.00]", "70.00 [60.00, 80.00]"]
    assert row(category, "bm25")[1:] == ["-"] * 4
    assert row(category, "chance")[1:] == ["20.00", "-", "-", "-"]
    assert row(category, "majority")[1:] == ["30.00", "-", "-", "-"]
    attributes = next(part for part in parts if part.startswith("Labels: attributes, mean over predictions"))
    assert row(attributes, "moon2")[1:] == ["50.00 [40.00, 60.00]", "-", "-", "-"]
    assert "- bm25: titles only." in parts[-1]


def test_every_row_of_a_table_has_the_same_width():
    text = summary("a model with a long name", results())
    table = [line for line in text.splitlines() if line.startswith("|")][:4]
    assert len({len(line) for line in table}) == 1
