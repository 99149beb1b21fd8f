"""The study: its variants are what they claim, it goes on where it was, and its tables say what the results say."""

import dataclasses
import math
import re
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from filelock import FileLock
from test_benchmark import benchmark_rows, write_benchmark

from conftest import TEXTS, picture, tiny_processor
from evaluation.measure.retrieval import Embedded
from evaluation.tables.benchmark import load_benchmark, load_corpus
from processing_moon2 import Moon2Processor
from research.study.__main__ import main
from research.study.arguments import HERE, OneArguments, PackArguments, Place, PlotArguments, StudyError, TableArguments
from research.study.data import has_augmented_images, prepare
from research.study.data import pack as pack_data
from research.study.data import unpack as unpack_data
from research.study.models import TwoTowers, upcycled
from research.study.results import add_result, evaluate_views, pack, read_keys, read_results, unpack
from research.study.runs import BUSY, RememberingCollator, folder_of, missing, run_all, run_one
from research.study.table import area, plot, report, sweep, tradeoff_rows
from research.study.variants import LOSSES, SMOLLM2, choose, read_variants
from test_loss_moon2 import OBJECTIVES, make_batch
from training_moon2.collator import TripletCollator
from training_moon2.model import scratch_model, train_tokenizer
from training_moon2.recipe import read_recipe
from training_moon2.triplets import TripletDataset, load_triplets

VARIANTS = read_variants()
DIRECTIONS = ("t2mm", "i2mm", "mm2mm", "t2i", "i2t")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def full_active(tokenizer, tmp_path_factory) -> int:
    """What one token passes through in `full`."""
    return build(VARIANTS["full"], tokenizer, tmp_path_factory.mktemp("full"))[0].num_active_parameters()


def build(variant, tokenizer, tmp_path):
    """The variant's model with a small vocabulary, and its recipe."""
    start = {} if variant.start is None else {"model": "somewhere"}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(variant.fields() | start | {"output_dir": str(tmp_path)}), encoding="utf-8")
    recipe = read_recipe([str(file)])
    architecture = recipe.model.architecture or VARIANTS["full"].fields()["architecture"]
    return scratch_model(architecture, tokenizer, **recipe.model.experts()), recipe


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.start != SMOLLM2])
def test_every_variant_is_a_recipe_and_a_model(name, tokenizer, full_active, tmp_path):
    variant = VARIANTS[name]
    model, recipe = build(variant, tokenizer, tmp_path)
    LOSSES[variant.loss](**vars(recipe.loss))
    if variant.start is None or name in ("upcycled", "dense_last_third"):  # routers and W* are some thousand numbers
        assert model.num_active_parameters() == pytest.approx(full_active, rel=0.005)
    else:
        assert model.num_active_parameters() > 1.2 * full_active
    times = {"long": 3, "five": 5, "seconds": VARIANTS["dense_seconds"].recipe["max_steps"] / 160}.get(
        name.rpartition("_")[2], 1
    )
    steps = recipe.training.max_steps + (VARIANTS[variant.start].fields()["max_steps"] if variant.start else 0)
    if name not in ("dense_half", "dense_two_thirds"):
        assert steps == VARIANTS["full"].fields()["max_steps"] * times


def test_smollm2_recipes_are_valid(tmp_path):
    for name in ("smollm2_dense", "smollm2_moe"):
        fields = VARIANTS[name].fields() | {"model": "somewhere", "output_dir": str(tmp_path)}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
        model = read_recipe([str(tmp_path / "recipe.yaml")]).model
        assert model.architecture is None and model.max_pixels is None, "its processor knows its size of images"


def test_a_variant_that_is_not_known_is_named(tmp_path):
    with pytest.raises(StudyError, match="no variant fulll"):
        choose(VARIANTS, ["fulll"])
    for entry, words in (
        ({"name": "a", "tier": 1, "changes": "", "why": "", "lr": 1}, "unknown fields"),
        ({"name": "a", "tier": 1, "changes": "", "why": "", "loss": "mse"}, "unknown loss"),
        ({"name": "a", "tier": 1, "changes": "", "why": "", "start": "b"}, "not above it"),
        ({"name": "a", "tier": 1, "changes": "", "why": ""}, "compared with full"),
    ):
        (tmp_path / "v.yaml").write_text(yaml.safe_dump([entry]), encoding="utf-8")
        with pytest.raises(StudyError, match=words):
            read_variants(tmp_path / "v.yaml")


def loss_of(name, batch=None, progress=0.5, dual_alignment=None, objectives=OBJECTIVES, **options):
    query, products, alignment = batch or make_batch()
    alignment = alignment if dual_alignment is None else dual_alignment
    options = {"filter_threshold": 0.0, "objective_weighting": "learned"} | options
    loss = LOSSES[name](**options)
    return loss(query, products, alignment, objectives, torch.tensor(1.0), progress)


@pytest.mark.parametrize("name", ["renormalised", "prior", "late", "uncertainty", "own_view"])
def test_the_parts_of_a_loss_add_up(name):
    output = loss_of(name, aux_loss_weight=0.0, sparsity_loss_weight=0.0)
    weighed = sum(output.omega[key] * value for key, value in output.objective_losses.items())
    omega = torch.stack([output.omega[key] for key in output.objective_losses])
    if name != "uncertainty":
        assert omega.sum() == pytest.approx(1, abs=1e-6)
    if name in ("renormalised", "own_view"):
        assert output.loss == pytest.approx(weighed.item(), abs=1e-6)
    elif name != "uncertainty":
        assert output.loss == pytest.approx((weighed - omega.log().mean()).item(), abs=1e-5)
    else:
        assert output.loss == pytest.approx((weighed - (5 * omega).log().mean()).item(), abs=1e-5)
    full = loss_of(name, aux_loss_weight=0.5, sparsity_loss_weight=0.0)
    assert full.loss - output.loss == pytest.approx(0.5, abs=1e-5), "L_aux counts as in the method's loss"


def test_late_weights_are_even_at_first():
    for progress, even in ((0.1, True), (0.5, False)):
        omega = torch.stack(list(loss_of("late", progress=progress).omega.values()))
        assert bool((omega - 0.2).abs().max() < 1e-6) is even


def test_weights_by_descent_follow_what_is_left_of_each_loss():
    """Training W* alone brings omega to the shares of L_m / log K_m; the rest of the model gets none of it."""
    query, products, alignment = make_batch()
    usage = query.t.usage.clone().requires_grad_()
    query = query._replace(t=query.t._replace(usage=usage))
    alignment = alignment.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([alignment], lr=0.1)
    for _ in range(300):
        output = loss_of("descent", (query, products, alignment), sparsity_loss_weight=0.0)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    both = sum(int((side.i.present & side.t.present).sum()) for side in (products.positive, products.negative))
    candidates = {name: both if name in ("i2t", "t2i") else 2 * len(query.own) for name in OBJECTIVES}
    left = {name: output.objective_losses[name].item() / math.log(candidates[name]) for name in OBJECTIVES}
    for name in OBJECTIVES:
        assert output.omega[name] == pytest.approx(left[name] / sum(left.values()), abs=1e-3)
    assert usage.grad is None
    assert len({round(value, 3) for value in left.values()}) > 1, "there is something to tell apart"


def test_fixed_mixing_is_one_mean_over_the_queries_each_in_its_own_view():
    """Of the six queries one is text, two are images, three are both."""
    batch = make_batch()
    query = batch[0]
    assert [int(view.present.sum()) for view in query[:3]] == [4, 4, 2]
    output = loss_of("own_view", batch, objectives=["t2mm", "i2mm", "mm2mm"])
    counts = {"t2mm": 2, "i2mm": 2, "mm2mm": 2}
    for name, count in counts.items():
        assert output.omega[name] == pytest.approx(count / 6)
    with_all = loss_of("own_view", batch)
    assert with_all.omega["t2mm"] == pytest.approx(3 / 5 * 2 / 6)
    assert with_all.omega["i2t"] == pytest.approx(1 / 5)


@pytest.fixture(scope="module")
def small(tokenizer):
    """A dense model: one expert in each layer."""
    torch.manual_seed(0)
    architecture = VARIANTS["full"].fields()["architecture"]
    experts = dict(num_experts=1, num_experts_per_tok=1, moe_intermediate_size=512)
    return scratch_model(architecture, tokenizer, **experts).eval()


def inputs():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 200, (3, 6), generator=generator)
    mask = torch.tensor([[1] * 6, [1] * 6, [1] * 4 + [0] * 2])
    return {"input_ids": ids, "attention_mask": mask, "position_types": 2 * mask}


@torch.no_grad()
def test_upcycled_copies_compute_what_the_dense_model_does(small):
    wide = upcycled(small, dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=512)).eval()
    torch.testing.assert_close(wide(**inputs()).embeddings, small(**inputs()).embeddings, atol=1e-5, rtol=0)
    narrow = upcycled(small, dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=256))
    assert narrow.num_active_parameters() == pytest.approx(small.num_active_parameters(), rel=0.005)


@torch.no_grad()
def test_two_towers_meet_as_vectors_only(small):
    processor = tiny_processor()
    architecture = VARIANTS["full"].fields()["architecture"]
    architecture["vision_config"] |= {"patch_size": 8, "temporal_patch_size": 2}  # as the tiny processor has it
    torch.manual_seed(1)
    experts = dict(num_experts=1, num_experts_per_tok=1)
    towers = TwoTowers(scratch_model(architecture, processor.tokenizer, **experts).config).eval()
    product = {"text": "red striped mug 350 ml", "image": picture(40, 30, seed=1)}
    parts = [{"text": product["text"]}, {"image": product["image"]}, product]
    output = towers(**processor(parts))
    text, image, both = output.embeddings
    torch.testing.assert_close(both, torch.nn.functional.normalize(text + image, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.image_embeddings[2], image, atol=1e-5, rtol=0)
    assert output.has_image.tolist() == [False, True, True]


def result(variant, seed, key=None, hits=None):
    hits = hits or {direction: np.ones(20) for direction in DIRECTIONS}
    figures = {
        "fingerprint": "f",
        "candidates": 20,
        "retrieval": {one: {"recall@10": float(values.mean())} for one, values in hits.items()},
        "hits": {one: pack(values) for one, values in hits.items()},
        "queries": {one: len(values) for one, values in hits.items()},
        "classification": 0.5,
        "attributes": None,
    }
    log = {"omega_t2mm": 0.2 + seed / 10, "omega_i2t": 0.1, "omega_sum": 0.9 + seed / 10}
    log |= {"expert_0_i": 0.4, "expert_0_t": 0.5, "expert_1_i": 0.7 + seed / 10, "expert_1_t": 0.5}
    return {"variant": variant.name, "key": key or variant.key(), "seed": seed, "steps": 240, "batch": 64} | {
        "sets": {"easy": figures, "hard": figures},
        "training": {"seconds": 60.0 * (1 + seed), "last_log": log},
    }


def put(file, name, seed, **options):
    add_result(file, result(VARIANTS[name], seed, **options))


def place_in(folder):
    return Place(results=folder / "results.parquet", work=folder / "work")


def test_results_are_added_complete_and_by_several_at_once(tmp_path):
    file = tmp_path / "results" / "r.parquet"
    assert read_keys(file) == {}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: put(file, "full", seed), range(8)))
    put(file, "full", 3, key="newer")
    assert read_keys(file) == {("full", seed): "newer" if seed == 3 else VARIANTS["full"].key() for seed in range(8)}
    assert read_results(file, VARIANTS)["full"].by_seed[2] == result(VARIANTS["full"], 2)
    assert [path.name for path in file.parent.iterdir()] == ["r.parquet"]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StudyError, match="r.parquet holds no results of the study"):
        read_keys(file)


@pytest.mark.slow
def test_the_tables_of_the_repository_are_those_of_its_results():
    assert report(TableArguments()) + "\n" == (HERE / "results.md").read_text(encoding="utf-8")


def names(runs):
    return [(variant.name, seed) for variant, seed in runs]


def test_what_is_missing_comes_in_order(tmp_path):
    place = place_in(tmp_path)
    chosen = choose(VARIANTS, ["full", "dense", "omega_learned", "upcycled", "smollm2_dense"])
    put(place.results, "full", 0)
    put(place.results, "dense", 0, key="of an earlier form")
    expected = [("dense", 0), ("full", 1), ("dense", 1), ("omega_learned", 0), ("omega_learned", 1)]
    expected += [("dense_half", 0), ("upcycled", 0), ("dense_half", 1), ("upcycled", 1), ("smollm2_dense", 0)]
    assert names(missing(chosen, VARIANTS, [0, 1], place)) == expected
    # A result of what it starts from is not enough: its model has to be there.
    put(place.results, "dense_half", 0)
    assert ("dense_half", 0) in names(missing(chosen, VARIANTS, [0], place))
    folder = folder_of(place, VARIANTS["dense_half"], 0)
    folder.mkdir(parents=True)
    (folder / "trained.json").write_text("{}")
    assert ("dense_half", 0) not in names(missing(chosen, VARIANTS, [0], place))


def test_runs_go_on_after_a_stop(tmp_path, capsys):
    place = place_in(tmp_path)
    chosen = choose(VARIANTS, ["full", "dense", "inter_only", "no_filter"])
    codes = {"full": 0, "dense": 1, "inter_only": 128 + signal.SIGTERM, "no_filter": 0}
    asked = []

    def fake(variant, seed, end):
        asked.append(variant.name)
        if codes[variant.name] == 0:
            put(place.results, variant.name, seed)
        return codes[variant.name]

    assert run_all(missing(chosen, VARIANTS, [0], place), fake, None) == ["dense-0"]
    assert asked == ["full", "dense", "inter_only"], "nothing is begun after a stop"
    codes |= {"dense": BUSY, "inter_only": 0}
    assert run_all(missing(chosen, VARIANTS, [0], place), fake, None) == []
    assert asked[3:] == ["dense", "inter_only", "no_filter"]
    assert names(missing(chosen, VARIANTS, [0], place)) == [("dense", 0)]
    assert run_all(missing(chosen, VARIANTS, [0], place), fake, time.monotonic()) == [] and len(asked) == 6
    assert "time is up; 1 runs are left" in capsys.readouterr().out


def test_a_run_is_done_by_one_process_only(tmp_path):
    place = place_in(tmp_path)
    folder = folder_of(place, VARIANTS["full"], 0)
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):
        options = OneArguments(name="full", seed=0, results=place.results, work=place.work)
        assert run_one(VARIANTS["full"], options) == BUSY
    assert not place.results.exists()


def test_two_processes_build_the_data_sets_one_after_the_other(tmp_path, monkeypatch):
    begun, released, built = threading.Event(), threading.Event(), []

    def build(catalogue, output, journal, *options):
        if output.name not in built:
            begun.set()
            assert released.wait(60)
            built.append(output.name)

    monkeypatch.setattr("research.study.data._build", build)
    threads = [threading.Thread(target=prepare, args=(tmp_path / "work", {(1, 1, 1)}, tmp_path, None)) for _ in "12"]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    time.sleep(0.2)
    released.set()
    for thread in threads:
        thread.join(60)
    assert built == ["fashion-1-1-1"]


def test_data_sets_of_other_products_are_not_taken_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("research.study.data._build", lambda catalogue, output, *told: output.mkdir(exist_ok=True))
    monkeypatch.setattr("research.study.runs.launch", lambda *told: 0)
    work, one, other = tmp_path / "work", tmp_path / "one", tmp_path / "other"
    for number, folder in enumerate((one, other)):
        folder.mkdir()
        image = {"bytes": (tmp_path / "p.png").read_bytes()} if number else {"bytes": png(tmp_path / "p.png")}
        pq.write_table(pa.table({"id": [str(number)], "images": [[image]]}), folder / "train.parquet")

    def study(*words) -> int:
        told = ["--only", "full", "--seeds", "0", "--work", str(work), "--results", str(tmp_path / "r.parquet")]
        return main(["run", *told, *map(str, words)])

    assert study("--catalogue", one, "--transfer", other) == 0 == study("--catalogue", one, "--transfer", other)
    assert study("--catalogue", one) == 0, "without transfer products"
    for words, named in (
        (("--catalogue", other), f"{work / 'large'} was not built from the products that are in {other} now"),
        (("--catalogue", one, "--transfer", one), f"{work / 'transfer'} was not built from the products"),
        (("--catalogue", other, "--packed", "study.tar.xz"), "leave out --catalogue and --transfer"),
    ):
        assert study(*words) == 2
        assert named in capsys.readouterr().err
    assert study("--catalogue", one, "--transfer", other) == 0, "what is refused changes nothing"
    pq.write_table(pa.table({"id": ["2"], "images": [[image]]}), one / "train.parquet")
    assert study("--catalogue", one) == 2, "the same folder with other products"
    (work / "sources.json").unlink()
    assert study("--catalogue", other) == 2, "nobody knows of which products it is"


def png(path) -> bytes:
    picture(240, 200, seed=1).save(path)
    return path.read_bytes()


def test_a_key_changes_with_what_decides_the_model_only(monkeypatch):
    full, fields = VARIANTS["full"], VARIANTS["full"].fields()
    assert len({variant.key() for variant in VARIANTS.values()}) == len(VARIANTS), "no two variants are the same"
    assert full.key() != full.key(Place(max_steps=4))
    for change, same in (({"save_steps": 1, "logging_steps": 1}, True), ({"learning_rate": 1.0}, False)):
        before = full.key()
        with monkeypatch.context() as patch:
            patch.setattr(type(full), "fields", lambda self, place=None, change=change: fields | change)
            assert (full.key() == before) is same
    start = dataclasses.replace(VARIANTS["dense_half"], recipe=VARIANTS["dense_half"].recipe | {"learning_rate": 1.0})
    before = VARIANTS["upcycled"].key()
    monkeypatch.setattr("research.study.variants.read_variants", lambda: VARIANTS | {"dense_half": start})
    assert VARIANTS["upcycled"].key() != before, "it starts from another model"


def test_hits_are_kept_bit_by_bit():
    hits = (np.random.default_rng(0).random(37) < 0.5).astype(float)
    assert unpack(pack(hits), 37).tolist() == hits.tolist()
    with pytest.raises(ValueError, match="not one bit"):
        pack(np.array([0.5]))


def test_titles_are_asked_for_pictures_and_pictures_for_titles(tmp_path):
    rows = benchmark_rows()
    rows["corpus"][1]["group_id"] = "g0"
    easy = load_benchmark(str(write_benchmark(tmp_path / "own", rows)))
    other = write_benchmark(tmp_path / "other", {"corpus": [rows["corpus"][5] | {"id": "x", "group_id": "x"}]})
    hard = dataclasses.replace(easy, distractors=load_corpus(str(other)))
    titles, pictures = torch.eye(13), torch.eye(13)
    pictures[[0, 1]] = titles[[1, 0]]  # of one group: both right
    pictures[[2, 3]] = titles[[3, 2]]  # of two groups: both wrong
    pictures[12], pictures[4] = titles[4], 0.8 * titles[4] + 0.6 * titles[12]  # title 4 is nearest to the distractor
    candidates = {"t": Embedded(list(range(13)), titles), "i": Embedded(list(range(13)), pictures)}
    for benchmark, rows, right in ((hard, 13, 9), (easy, 12, 10)):
        shown = {view: Embedded(part.rows[:rows], part.vectors[:rows]) for view, part in candidates.items()}
        found, hits = evaluate_views(benchmark, shown)
        assert list(found) == list(hits) == ["t2i", "i2t"] and sorted(hits["t2i"].ids) == sorted(easy.corpus.ids)
        assert (found["t2i"]["queries"], found["t2i"]["candidates"]) == (12, rows - 1)
        assert found["t2i"]["metrics"]["recall@1"] == pytest.approx(right / 12)
        assert found["i2t"]["metrics"]["recall@1"] == pytest.approx(10 / 12), "image 4 is nearest to its title"


def test_the_table_by_hand(tmp_path):
    file = tmp_path / "results.parquet"

    def hits(count):
        return {direction: (np.arange(20) < count).astype(float) for direction in DIRECTIONS}

    put(file, "full", 0, hits=hits(10))
    put(file, "full", 1, hits=hits(12))
    put(file, "dense", 0, hits=hits(4))
    put(file, "no_filter", 0, key="of an earlier form")
    text = report(TableArguments(results=file))
    lines = text.splitlines()
    assert "| MOON2.0 | full | 63.09 |" in text and "| w/o co-augmentation | w/o co-augmentation | 59.69 |" in text
    # 50 and 60 per cent: mean 55, and 12.706 * 7.071 / sqrt(2) = 63.5.
    assert any(line.startswith("| full | 2 | 55.0 ± 63.5 |") and "| 50.0 ± 0.0 | - |" in line for line in lines)
    dense = next(line for line in lines if line.startswith("| w/o modality-driven MoE (") and "| full |" in line)
    assert "| 1 | -30.0 [" in dense and "**" not in dense, "on the seed that both have; one seed is never bold"
    # Both seeds lose 30: sure. One loses 10, the other 50: over queries sure, over seeds not (12.7 * 20 = 254).
    interval = r"\[-?\d+\.\d, -?\d+\.\d\]"
    for counts, expected in (
        ((4, 6), rf"\| 2 \| \*\*-30\.0 {interval} ± 0\.0\*\* \|"),
        ((8, 2), rf"\| 2 \| -30\.0 {interval} ± 254\.1 \|"),
    ):
        for seed, count in enumerate(counts):
            put(file, "dense", seed, hits=hits(count))
        lines = report(TableArguments(results=file)).splitlines()
        row = next(line for line in lines if line.startswith(dense.split("| 1 |")[0]))
        assert re.search(expected, row)
    assert "no_filter" not in read_results(file, VARIANTS), "results of an earlier form do not count"
    put(file, "omega_learned", 0)
    part = report(TableArguments(results=file, tiers=[2], galleries=["hard"]))
    assert "omega learned, as written | full |" in part, "what it is compared with may be of another tier"
    assert "| full | 2 |" not in part and "## Hard" in part and "## Easy" not in part
    assert "| full | 2 | 1.5 | 0.95 | 0.100-0.300 | 0.8000 | 0.5000 | - | - |" in report(TableArguments(results=file))
    of_seed = report(TableArguments(results=file, tiers=[1], seeds=[1]))
    assert "| full | 1 | 60.0 |" in of_seed and "| full | 1 | 2.0 | 1.00 | 0.100-0.300 | 0.8000 |" in of_seed
    for nothing in ({"tiers": [5]}, {"galleries": ["transfer"]}, {"seeds": [7]}):
        with pytest.raises(StudyError, match="There are no such results yet"):
            report(TableArguments(results=file, **nothing))


def test_results_on_different_data_are_not_compared(tmp_path):
    file = tmp_path / "results.parquet"
    put(file, "full", 0)
    other = result(VARIANTS["dense"], 0)
    other["sets"]["hard"]["fingerprint"] = "g"
    add_result(file, other)
    with pytest.raises(StudyError, match="different data"):
        report(TableArguments(results=file))


def test_the_sweep_is_drawn(tmp_path):
    file = tmp_path / "results.parquet"
    with pytest.raises(StudyError, match="no results yet"):
        sweep(file)
    for name in ("full", "joint_moe_10_1_1", "joint_moe_1_10_1", "mixing_1_1_1"):
        put(file, name, 0)
    lines = sweep(file)
    assert list(lines["joint + MoE"]) == [(1, 10, 1), (1, 1, 1), (10, 1, 1)]
    plot(PlotArguments(results=file, output=tmp_path / "fig2.png"))
    assert (tmp_path / "fig2.png").read_bytes().startswith(b"\x89PNG")


def test_every_way_of_training_has_five_mixes():
    mixes = {}
    for variant in VARIANTS.values():
        if variant.curve:
            mixes.setdefault(variant.curve, set()).add(variant.query_mix)
    mends = [mixes.pop(f"joint + {layers}, by queries") for layers in ("MoE", "dense")]
    assert len(mixes) == 3 and all(len(found) == 5 for found in mixes.values())
    assert mends[0] == mends[1] and len(mends[0]) == 3 and mends[0] < mixes["joint + dense"]


def test_errors_are_sentences(tmp_path, capsys):
    assert main(["table", "--results", str(tmp_path / "none.parquet")]) == 2
    assert main(["run", "--only", "nothing"]) == 2
    assert main(["run", "--max_steps", "4"]) == 2
    assert main(["run", "--tiers", "99"]) == main(["run", "--only", "full", "--seeds", "7"]) == 2
    work = ["--work", str(tmp_path), "--results", str(tmp_path / "r.parquet"), "--catalogue", str(tmp_path / "none")]
    assert main(["run", *work]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in errors] == [True] * 6


def test_the_area_is_that_under_the_better_points():
    assert area(np.array([[0.5, 0.5], [0.5, 0.5]])) == pytest.approx(0.25)
    assert area(np.array([[0.2, 0.8], [0.6, 0.4]])) == pytest.approx(0.2 * 0.8 + 0.4 * 0.6, abs=1e-3)
    # A worse point in between takes nothing from what the others reach.
    assert area(np.array([[0.6, 0.4], [0.2, 0.8], [0.3, 0.1]])) > area(np.array([[0.6, 0.4]]))
    assert area(np.array([[0.6, 0.4], [0.1, 0.2]])) == pytest.approx(0.6 * 0.4, abs=1e-3)


def test_the_see_saw_is_compared_with_its_dense_twin(tmp_path):
    def recalls(t, i):
        return {one: (np.arange(100) < 100 * share).astype(float) for one, share in (("t2mm", t), ("i2mm", i))} | {
            one: np.ones(100) for one in ("mm2mm", "t2i", "i2t")
        }

    file = tmp_path / "r.parquet"
    points = {"full": (0.5, 0.5), "joint_moe_10_1_1": (0.7, 0.3), "dense": (0.4, 0.4), "joint_dense_10_1_1": (0.6, 0.2)}
    for name, point in points.items():
        for seed in range(2):
            put(file, name, seed, hits=recalls(*point))
    rows = tradeoff_rows([runs for runs in read_results(file, VARIANTS).values() if runs.variant.curve])
    moe, dense = rows
    expected = [0.5 * 0.5 + 0.2 * 0.4, 0.4 * 0.4 + 0.2 * 0.3]
    assert moe[:3] == ["joint + MoE", "2", "2"] and moe[3] == f"{100 * expected[0]:.1f} ± 0.0"
    assert moe[4] == "joint + dense" and f"{100 * (expected[0] - expected[1]):+.1f} [" in moe[5] and "**" in moe[5]
    difference, low, high = map(float, re.match(r"\*\*(\S+) \[(\S+), (\S+)\]", moe[5]).groups())
    assert 0 < low < difference < high < 3 * difference
    assert dense[4:] == ["-", "-"]
    assert "see-saw" in report(TableArguments(results=file))


def test_data_sets_travel_in_one_file_and_come_out_whole(tmp_path, mbe2, capsys):
    work = tmp_path / "work"
    shutil.copytree(mbe2, work / "fashion-1-1-1")
    with pytest.raises(StudyError, match="more than --max_megabytes"):
        pack_data(PackArguments(output=tmp_path / "study.tar.xz", work=work, max_megabytes=0))
    assert not (tmp_path / "study.tar.xz").exists()
    facts = pack_data(PackArguments(output=tmp_path / "study.tar.xz", work=work))
    plain = sum(file.stat().st_size for file in work.rglob("*.parquet"))
    assert facts["bytes"] < plain / 2, "an image of several rows is stored once"
    assert unpack_data(tmp_path / "study.tar.xz", tmp_path / "other") == ["fashion-1-1-1"]
    for file in work.rglob("*.parquet"):
        assert pq.read_table(tmp_path / "other" / file.relative_to(work)).equals(pq.read_table(file))
    assert not (tmp_path / "other" / "unpacked.part").exists()
    assert unpack_data(tmp_path / "study.tar.xz", tmp_path / "other") == ["fashion-1-1-1"], "it is there"
    facts = tmp_path / "other" / "fashion-1-1-1" / "build.json"
    facts.write_text(facts.read_text(encoding="utf-8").replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(StudyError, match="fashion-1-1-1 is another data set than that of --packed"):
        unpack_data(tmp_path / "study.tar.xz", tmp_path / "other")
    pack_data(PackArguments(output=tmp_path / "less.tar.xz", work=work, no_augmented_images=True))
    unpack_data(tmp_path / "less.tar.xz", tmp_path / "less")
    assert [has_augmented_images(folder / "fashion-1-1-1") for folder in (work, tmp_path / "less")] == [True, False]
    assert len(load_triplets(str(tmp_path / "less" / "fashion-1-1-1"), "train")) > 0, "the columns are there"
    words = ["--packed", str(tmp_path / "less.tar.xz"), "--work", str(tmp_path / "less"), "--max_steps", "1"]
    assert main(["run", *words, "--results", str(tmp_path / "r.parquet"), "--only", "full"]) == 2
    assert "has no augmented images: add --no_augmented_images" in capsys.readouterr().err
    cut = tmp_path / "cut.tar.xz"  # a copy that broke off
    cut.write_bytes((tmp_path / "study.tar.xz").read_bytes()[:-5000])
    with pytest.raises(StudyError, match="or not all of it"):
        unpack_data(cut, tmp_path / "fourth")
    with pytest.raises(StudyError, match="is no file of `pack`"):
        unpack_data(mbe2_file := next(work.rglob("*.parquet")), tmp_path / "third")
    assert mbe2_file.is_file()


def test_runs_side_by_side_wait_for_what_they_start_from():
    begun, done = [], []

    def fake(variant, seed, end):
        begun.append(variant.name)
        if variant.name == "upcycled":
            assert "dense_half" in done
        time.sleep(0.2 if variant.name == "dense_half" else 0.05)
        done.append(variant.name)
        return 0

    runs = [(VARIANTS[name], 0) for name in ("dense_half", "upcycled", "full", "dense")]
    assert run_all(runs, fake, None, processes=3) == [] and sorted(done) == sorted(begun) and len(done) == 4
    assert begun.index("full") < done.index("dense_half") + 2, "others need not wait"


def test_other_devices_and_lengths_are_other_runs(capsys):
    full = VARIANTS["full"]
    fields = full.fields(Place(times=20, device="cuda"))
    assert fields["max_steps"] == 3200 and fields["warmup_steps"] == 600 and fields["bf16"] is True
    assert len({full.key(), full.key(Place(times=20)), full.key(Place(device="cuda"))}) == 3
    assert main(["run", "--device", "cuda"]) == 2
    assert "--device makes no results of the study" in capsys.readouterr().err


def test_what_is_remembered_is_what_would_be_prepared_again(mbe2):
    rows = TripletDataset(load_triplets(mbe2, "train", refresh=False))
    triplets, processor, decoded = [rows[index] for index in range(6)], tiny_processor(), []

    class Counting(Moon2Processor):
        def __call__(self, product, **options):
            decoded.append(product)
            return super().__call__(product, **options)

    plain = TripletCollator(processor)(triplets)
    processor.__class__ = Counting
    collator = RememberingCollator(processor, 64)
    for _ in range(2):
        remembered = collator(triplets)
        for kind, parts in plain["passes"].items():
            for one, other in zip(parts, remembered["passes"][kind], strict=True):
                assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(decoded) == len(collator._made) <= 36, "each product once"
