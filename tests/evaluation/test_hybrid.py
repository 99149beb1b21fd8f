"""Words and vectors together: the score, how its weight is fitted, the run, and the search of stored vectors."""

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import expit
from test_benchmark import benchmark_rows, write_benchmark

from common_moon2.cli import UserError
from evaluation.__main__ import main
from evaluation.measure.compare import compare_runs
from evaluation.models.bm25 import Bm25
from evaluation.models.encoders import load_encoder
from evaluation.vectors import hybrid
from evaluation.vectors.hybrid import (
    Fusion,
    HybridSearch,
    Weight,
    WordedCorpus,
    as_products,
    as_queries,
    by_rank,
    fit_weight,
    read_fusion,
    weighted,
)
from evaluation.vectors.store import Vectors

TITLES = ["red striped mug", "red mug", "Blue cotton shirt A-17", "红色杯子", "a lamp"]
HALF = Weight(bias=0.0, number=0.0, rare=0.0, use="both", queries=50, mean=0.5)


def unit(count: int, dimension: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dimension, generator=torch.manual_seed(seed)), dim=1)


def test_the_score_is_a_weighted_sum_of_cosine_and_share_of_the_bound():
    bm25, queries = Bm25(TITLES), ["red mug", "shirt A-17", "红杯", "unheard of", None]
    weight = Weight(bias=-1.0, number=2.0, rare=0.5, use="both", queries=50, mean=0.4)
    asked, vectors, corpus = unit(5, seed=1), unit(5), as_products(unit(5), bm25.documents)
    told = as_queries(bm25, asked, queries, [weight] * 5)
    assert told.weights[3] == told.weights[4] == 0, "without a word that is known, vectors alone"
    rare = bm25.rarity(bm25.queries(queries))
    assert rare[1] == pytest.approx(1) and rare[0] < 1
    np.testing.assert_allclose(told.weights[:3], expit(-1 + 2 * np.array([0, 1, 0]) + 0.5 * rare[:3]))
    shares = (told.words @ bm25.documents.T).toarray()
    assert shares.max() <= 1 and shares[0].argmax() == 1 and shares[1].argmax() == 2 and shares[2].argmax() == 3
    expected = (1 - told.weights)[:, None] * (asked @ vectors.T).numpy() + told.weights[:, None] * shares
    np.testing.assert_allclose(weighted(told, corpus), expected, atol=1e-6)


def test_reciprocal_ranks_are_added():
    bm25 = Bm25(TITLES)
    corpus = as_products(torch.eye(5), bm25.documents)
    query = as_queries(bm25, torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]]), ["red mug"], [None])
    found = by_rank(query, corpus)[0].tolist()
    ranks = {4: [1], 3: [2], 2: [3], 1: [4, 1], 0: [5, 2]}  # by vectors, and of the two titles with words by words
    assert found == pytest.approx([sum(1 / (60 + rank) for rank in ranks[row]) for row in range(5)])


def made_up(words_help: bool, vectors_help: bool, queries: int = 60, products: int = 200):
    """Queries of a title's words, or of words that mislead; vectors near their product's, or anywhere."""
    random = np.random.default_rng(0)
    titles = [f"word{row} common{row % 7}" for row in range(products)]
    bm25, corpus = Bm25(titles), unit(products, 16)
    right = random.permutation(products)[:queries]
    texts = [f"word{row if words_help else (row + 1) % products} common{row % 7}" for row in right]
    noise = torch.from_numpy(random.normal(size=(queries, 16))).float()
    asked = torch.nn.functional.normalize((corpus[right] if vectors_help else 0) + 0.1 * noise, dim=1)
    told = as_queries(bm25, asked, texts, [None] * queries)
    return bm25, told, as_products(corpus, bm25.documents), texts, [[row] for row in right.tolist()]


def test_the_weight_follows_what_helps():
    words, vectors = (fit_weight(*made_up(*helps)) for helps in ((True, False), (False, True)))
    assert words.mean > 0.6 and vectors.mean < 0.2
    assert words.queries == 60
    few = made_up(True, True, queries=hybrid.FEWEST - 1)
    assert fit_weight(*few) is None


def test_numbers_may_ask_for_words():
    """Words mislead about colours, and vectors about models: only queries with a number ask for words."""
    random = np.random.default_rng(0)
    products, queries = 240, 120
    hues = [f"{chr(97 + row // 2 % 26)}{chr(97 + row // 52)} hue" for row in range(products)]
    titles = [f"model {row}" if row % 2 else hue for row, hue in enumerate(hues)]
    bm25, corpus = Bm25(titles), unit(products, 16)
    right = random.permutation(products)[:queries]
    texts = [titles[row] if row % 2 else titles[(row + 2) % products] for row in right]
    shown = np.where(right % 2, (right + 2) % products, right)
    noise = torch.from_numpy(random.normal(size=(queries, 16))).float()
    asked = torch.nn.functional.normalize(corpus[shown] + 0.1 * noise, dim=1)
    told = as_queries(bm25, asked, texts, [None] * queries)
    weight = fit_weight(bm25, told, as_products(corpus, bm25.documents), texts, [[row] for row in right.tolist()])
    weights = as_queries(bm25, asked, texts, [weight] * queries).weights
    assert weight.number > 1 and weights[right % 2 == 1].min() > weights[right % 2 == 0].max() + 0.2


def test_a_search_of_words_and_vectors_is_exact():
    random = np.random.default_rng(0)
    words = ["red", "blue", "mug", "cup", "shirt", "lamp", "红", "杯"]
    texts = [" ".join(random.choice(words, 3)) if row % 5 else None for row in range(9000)]  # more than a block
    corpus = Vectors(unit(9000).numpy(), [f"p{row:05d}" for row in random.permutation(9000)], "corpus")
    asked, queries = ["red mug", None, "杯", "lamp lamp"], Vectors(unit(4, seed=1).numpy(), list("abcd"), "queries")
    rows = np.flatnonzero(random.random(9000) < 0.4)
    for chosen in (None, rows):
        worded = WordedCorpus(corpus, texts, chosen)
        for weights in ([HALF] * 4, None):
            found = HybridSearch(worded, asked, weights, threads=2).search(queries, 20)
            told = as_queries(worded.bm25, torch.from_numpy(queries.array), asked, weights or [None] * 4)
            scores = (weighted if weights else by_rank)(told, worded.products()).numpy()
            ties = np.argsort(np.argsort(worded.corpus.ids))
            best = np.stack([np.lexsort((ties, -row))[:20] for row in scores])
            np.testing.assert_array_equal(found.rows, best)
            np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, best, 1))


def test_weights_are_kept_and_found_again(tmp_path):
    fusion = Fusion({"t2mm": HALF}, "judgements", "a model")
    fusion.save(tmp_path / "fusion.json")
    assert read_fusion(tmp_path) == read_fusion(tmp_path / "fusion.json", "a model") == fusion
    assert fusion.sentence() == "t->mm: words count 0.50 on average (50 queries); fitted on judgements"
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="holds no weights of words and vectors"):
        read_fusion(tmp_path / "results.json")
    with pytest.raises(UserError, match="fit them with `python -m evaluation weigh`"):
        read_fusion(tmp_path / "nothing")
    with pytest.raises(UserError, match="fusion.json were fitted for another model, or another state of this one"):
        read_fusion(tmp_path, "another")


@pytest.fixture
def few_suffice(fresh_cache, monkeypatch):
    monkeypatch.setattr(hybrid, "FEWEST", 3)


def evaluated(names: list[str], dataset: str, output: Path) -> None:
    words = [word for name in names for word in ("--model", name)]
    assert main([*words, "--dataset", dataset, "--output", str(output)]) == 0


def test_a_run_of_both_says_what_either_alone_gives(model, tmp_path, few_suffice, capsys):
    """Without validation triplets: each half of the queries has the weights of the other."""
    dataset = str(write_benchmark(tmp_path / "mbe2", benchmark_rows()))
    evaluated([model, "bm25", f"{model}+bm25"], dataset, tmp_path / "results")
    assert "the other half of the queries" in capsys.readouterr().out
    runs = {
        name: json.loads((tmp_path / "results" / name / "results.json").read_text())
        for name in ("moon2", "bm25", "moon2+bm25")
    }
    both = runs["moon2+bm25"]
    assert both["run"]["model"]["name"] == f"{model}+bm25"
    assert both["hybrid"]["directions"].keys() == {"t2mm", "mm2mm", "t2t"}
    for direction in ("t2mm", "t2t"):
        found = both["hybrid"]["directions"][direction]
        assert found["ways"]["vectors"] == runs["moon2"]["retrieval"][direction]
        assert found["ways"]["bm25"]["metrics"] == pytest.approx(runs["bm25"]["retrieval"][direction]["metrics"])
        for name, other in (("vectors", "moon2"), ("bm25", "bm25")):
            paired = compare_runs(tmp_path / "results" / other, tmp_path / "results" / "moon2+bm25")["rows"]
            (row,) = (row for row in paired if (row["task"], row["metric"]) == (direction, "recall@10"))
            test = found["tests"][name]["recall@10"]
            assert test["difference"] == pytest.approx(row["difference"])
            assert test["p_value"] == pytest.approx(row["p_value"])
    for direction in ("i2mm", "t2i", "i2t"):
        assert both["retrieval"][direction] == runs["moon2"]["retrieval"][direction], "no words, nothing changes"
    assert "Vectors and words together" in (tmp_path / "results" / "moon2+bm25" / "results.md").read_text()


@pytest.mark.usefixtures("few_suffice")
def test_weights_come_from_validation_triplets_and_go_to_a_search(model, mbe2, tmp_path, capsys):
    evaluated([f"{model}+bm25"], mbe2, tmp_path / "results")
    fusion = read_fusion(tmp_path / "results")
    assert fusion.source == "the validation triplets" and fusion.weights.keys() >= {"t2mm"}
    embed = ["embed", "--model", model, "--dataset", mbe2, "--output"]
    assert main([*embed, str(tmp_path / "v")]) == 0
    assert main([*embed, str(tmp_path / "q"), "--config", "queries", "--role", "query"]) == 0
    search = ["search", "--queries", str(tmp_path / "q"), "--corpus", str(tmp_path / "v"), "--hybrid"]
    assert main([*search, "--output", str(tmp_path / "h")]) == 2
    assert "fit them with `python -m evaluation weigh`" in capsys.readouterr().err
    words = ["--weights", str(tmp_path / "results"), "--output", str(tmp_path / "h"), "--k", "10"]
    assert main([*search, *words]) == 0
    # What the search finds is what the evaluation scores.
    scored = pq.read_table(tmp_path / "results" / "scores.parquet").to_pylist()
    judged = datasets.load_dataset(mbe2, "qrels", split="test")
    right: dict[str, set] = {}
    for row in judged:
        right.setdefault(row["query-id"], set()).add(row["corpus-id"])
    found: dict[str, set] = {}
    for row in pq.read_table(tmp_path / "h").to_pylist():
        found.setdefault(row["query-id"], set()).add(row["corpus-id"])
    for row in scored:
        if row["task"] in ("t2mm", "mm2mm"):
            share = len(found[row["id"]] & right[row["id"]]) / len(right[row["id"]])
            assert row["recall@10"] == pytest.approx(share)
    # Weights of judgements of one's own.
    weigh = ["weigh", "--queries", str(tmp_path / "q"), "--corpus", str(tmp_path / "v"), "--qrels", mbe2]
    assert main(weigh) == 0
    assert read_fusion(tmp_path / "v").source == mbe2
    assert read_fusion(tmp_path / "v").model == fusion.model == load_encoder(model).fingerprint
    assert "judgements are left out" not in capsys.readouterr().out
    strange = pa.table({"query-id": ["nobody's"], "corpus-id": [judged[0]["corpus-id"]], "score": [1]})
    own = {name: judged[name][:] for name in strange.column_names}
    pq.write_table(pa.concat_tables([pa.table(own), strange]), tmp_path / "more.parquet")
    assert main([*weigh[:-1], str(tmp_path / "more.parquet")]) == 0
    left_out = f"1 of {len(judged) + 1} judgements are left out: {tmp_path / 'q'} lacks their queries"
    assert f'{left_out} (row {len(judged)}: "nobody\'s")' in capsys.readouterr().out
    assert main([*search, "--output", str(tmp_path / "own")]) == 0
    assert main([*search, "rrf", "--output", str(tmp_path / "rrf")]) == 0
    assert "reciprocal-rank fusion" in capsys.readouterr().out
    (tmp_path / "few.csv").write_text("query-id,corpus-id,score\nq,p,1\n")
    assert main([*weigh[:-1], str(tmp_path / "few.csv")]) == 2
    assert "has too few judgements above zero" in capsys.readouterr().err
    (tmp_path / "few.csv").write_text("query-id,corpus-id,score\nq,p,yes\n")
    assert main([*weigh[:-1], str(tmp_path / "few.csv")]) == 2
    assert "Row 0 of " in (problem := capsys.readouterr().err) and "has the score 'yes', which is no number" in problem
    # A direction without weights is not passed over in silence.
    Fusion({"t2mm": fusion.weights["t2mm"]}, "few").save(tmp_path / "v" / "fusion.json")
    assert main([*search, "--output", str(tmp_path / "own")]) == 0
    said = capsys.readouterr().out
    assert "No weights for mm->mm: its queries use vectors alone" in said
    assert "The weights do not say for which model they were fitted" in said
    Fusion(fusion.weights, "an older model", "older").save(tmp_path / "v" / "fusion.json")
    assert main([*search, "--output", str(tmp_path / "own")]) == 2
    assert "were fitted for another model" in capsys.readouterr().err
    # Vectors of another model fit by their size only.
    manifest = tmp_path / "q" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"model_fingerprint": "another"}))
    for command in (weigh, [*search, "--output", str(tmp_path / "own")]):
        assert main(command) == 2
        assert "these are two models, or two states of one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--engine", "faiss", "--hybrid"], "searches vectors alone: leave out --hybrid and --filter"),
        (["--weights", "w.json"], "--weights only means something with --hybrid"),
        (["--engine", "lancedb"], "--location goes with a store as --engine"),
        (["--location", "db"], "--location goes with a store as --engine"),
        (["--engine", "lancedb", "--location", "db", "--hybrid", "rrf"], "--hybrid rrf needs --engine exact"),
        (["--hybrid", "maximum"], "invalid choice: 'maximum'"),
        (["--hybrid", "rrf"], "has vectors only, no texts or columns: give a folder written by `embed`"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, monkeypatch, capsys, options, problem):
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", unit(12).numpy())
    assert main(["search", "--queries", "v.npy", "--corpus", "v.npy", "--output", "h", *options]) == 2
    assert problem in capsys.readouterr().err


def test_too_few_validation_triplets_leave_the_fit_to_the_queries(model, mbe2, tmp_path, monkeypatch, capsys):
    """A set for testing only, as another shop's, has a handful: vectors alone would be worse than words."""
    monkeypatch.setattr(hybrid, "FEWEST", 10_000)
    evaluated([f"{model}+bm25"], mbe2, tmp_path / "few")
    assert "vectors alone: the other half of the queries give fewer than 10000" in " ".join(
        capsys.readouterr().out.split()
    )
    right = hybrid.fit_weight
    calls = []

    def fit(*told):
        calls.append(told)
        monkeypatch.setattr(hybrid, "FEWEST", 10_000 if len(calls) <= 3 else 3)
        return right(*told)

    monkeypatch.setattr("evaluation.measure.hybrid.fit_weight", fit)
    evaluated([f"{model}+bm25"], mbe2, tmp_path / "many")
    assert read_fusion(tmp_path / "many").source == "the other half of the queries"
    assert read_fusion(tmp_path / "many").weights.keys() >= {"t2mm"}
