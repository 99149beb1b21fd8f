"""The benchmarks run from end to end at their smallest size, and their sums are right. No time is ever asserted."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from configuration_moon2 import IMAGE
from loss_moon2 import Moon2Loss
from modeling_moon2 import Moon2Model
from research.benchmarks import arguments, catalogue, cost, gpu, measure, model, scale, search, training
from research.benchmarks.__main__ import main
from research.benchmarks.arguments import Training
from research.study.results import read_keys
from training_moon2.dry_run import grouped_mm_flops
from training_moon2.triplets import ROLES


def test_ratios_are_taken_within_a_round():
    assert measure.ratios([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == (3.0, 2.0, 4.0)
    assert measure.spread((3.0, 2.0, 4.0)) == "3.00 (2.00-4.00)"
    calls = []
    seconds = measure.time_paired({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2)
    assert calls == list("ababab") and [len(values) for values in seconds.values()] == [2, 2]


@pytest.mark.slow
def test_three_views_prints_measured_beside_allowed(capsys):
    words = ["--models", "tiny", "--dtypes", "float32", "--triplets", "2", "--repeats", "1"]
    assert main(["three_views", *words]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| tiny, float32")]
    assert len(table) == 2 and all(line.count("%") == 2 for line in table)


def test_the_count_of_operations_is_that_of_the_layers():
    """Counted by hooks on every linear layer, for one image and one title, against the closed form."""
    moon2, processor = model.build("tiny", 0)
    moon2.set_experts_implementation("eager")
    views = model.Views(moon2.eval(), processor, model.triplets(1, 96 * 96, 0))
    nine, once, prefix = model.operations(moon2, views)
    counted = {"linear": 0}

    def count(module, inputs, output):
        rows = inputs[0].numel() // inputs[0].shape[-1]
        counted["linear"] += rows * module.weight.numel()

    for module in moon2.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        views.nine_forwards()
    config, vision = moon2.config.get_text_config(), moon2.config.vlm_config.vision_config
    lengths = [features["attention_mask"].sum().item() for features in views.separate.values()]
    patches = [grid.prod().item() for key, features in views.separate.items() if "image_grid_thw" in features
               for grid in features["image_grid_thw"]]  # fmt: skip
    expert = 3 * config.hidden_size * moon2.config.moe_intermediate_size * moon2.config.num_experts_per_tok
    router = config.hidden_size * moon2.config.num_experts
    experts = sum(lengths) * config.num_hidden_layers * (expert + router)
    width = config.num_attention_heads * config.head_dim
    attention = sum(2 * n**2 * width for n in lengths) * config.num_hidden_layers
    attention += sum(2 * n**2 * vision.hidden_size for n in patches) * vision.depth
    embedding = sum(patches) * moon2.vlm.visual.patch_embed.proj.weight.numel()
    assert nine == pytest.approx(counted["linear"] + experts + attention + embedding, rel=1e-6)
    assert prefix < once < nine


@pytest.mark.slow
def test_moe_block_prints_a_row_for_each_size(capsys):
    assert main(["moe_block", "--sizes", "32x64", "--tokens", "8", "16", "--repeats", "1"]) == 0
    shown = capsys.readouterr().out
    assert "| 32 x 64, 8 tokens |" in shown and "| 32 x 64, 16 tokens |" in shown


def test_the_catalogue_has_every_kind_of_product(tmp_path):
    catalogue.write_pictures(tmp_path, 16, seed=0)
    products = catalogue.catalogue(tmp_path, 200, seed=0)
    kinds = {(product["text"] is None, type(product["image"]).__name__) for product in products}
    assert kinds == {(False, "NoneType"), (True, "str"), (False, "str"), (False, "list")}
    assert products == catalogue.catalogue(tmp_path, 200, seed=0)


@pytest.mark.slow
def test_embed_catalogue_compares_three_ways(capsys):
    assert main(["embed_catalogue", "--products", "30", "--side", "40", "--repeats", "1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| ours", "| sen", "| one"))]
    assert len(rows) == 3 and "1.00 (1.00-1.00)" in rows[1]


@pytest.fixture(scope="module")
def training_ways(tmp_path_factory):
    """Loss and gradients of five triplets, three items at a time, by every way to train."""
    rows = model.triplets(5, training.PIXELS, 0)
    found = {}
    for name in training.WAYS:
        way = training.prepare_way(name, 3, 0, str(tmp_path_factory.mktemp("way")))
        loss = way.backward(way.prepare(rows))
        found[name] = loss, {key.split("model.", 1)[-1]: value.grad for key, value in way.model.named_parameters()}
    return found


def test_nine_forwards_train_as_three_views_do(training_ways):
    loss, gradients = training_ways["ours"]
    for name in ("plain", "naive"):
        other_loss, other = training_ways[name]
        assert other_loss == pytest.approx(loss, abs=1e-4) and other.keys() == gradients.keys()
        for key, value in gradients.items():
            torch.testing.assert_close(other[key], value, atol=1e-4, rtol=1e-3, msg=lambda text, key=key: key + text)


def test_sentence_transformers_trains_every_part(training_ways):
    gradients = training_ways["sentence-transformers"][1]
    for part in ("visual.patch_embed", "visual.merger", "embed_tokens", ".experts.", ".gate."):
        assert any(part in key and value is not None and value.any() for key, value in gradients.items()), part


def test_the_naive_loop_runs_each_view_of_each_role():
    _, processor = model.build("tiny", 0)
    batch = training.SeparateViews(processor, 2)(model.triplets(3, training.PIXELS, 0))
    sizes = [len(features["input_ids"]) for role in ROLES for view in model.VIEWS
             for features in batch["passes"][role][view]]  # fmt: skip
    assert sizes == [2, 1] * 9
    assert sum("pixel_values" in batch["passes"][role][view][0] for role in ROLES for view in model.VIEWS) == 6
    places = torch.cat([place for kinds in batch["rows"].values() for place in kinds.values()])
    assert places.sort().values.tolist() == list(range(18))


def test_memory_counts_what_comes_after():
    earlier = [torch.ones(20_000) for _ in range(4_000)]  # small enough for the heap, which keeps what is freed
    full = training.resident("VmRSS")
    last = earlier.pop()
    del earlier
    before = training.settled_megabytes()
    assert full - before > 150 and last.any()
    kept = torch.ones(2**24)
    freed = torch.ones(2**25)
    del freed
    assert training.resident("VmHWM") - before == pytest.approx(192, abs=8)
    assert training.settled_megabytes() - before == pytest.approx(64, abs=8)
    assert kept.any()


def run_of(loss: float, seconds: float) -> dict:
    """What `training.measure` gives."""
    times = {"preparation": seconds / 4, "step": seconds * 3 / 4, "seconds": seconds}
    return times | {"loss": loss, "inputs_megabytes": 10.0, "megabytes": 100 * seconds}


def test_training_ratios_are_those_of_a_round(monkeypatch):
    seconds = {"ours": 2.0, "plain": 1.0, "naive": 5.0, "sentence-transformers": 3.0}
    losses = {"ours": 1.0, "plain": 1.00005, "naive": 0.99999, "sentence-transformers": 7.0}
    times = lambda _, name, count, *__: run_of(losses[name], seconds[name] * count / 10)  # noqa: E731
    monkeypatch.setattr(measure, "run_apart", times)
    options = Training(triplets=[10, 1000], repeats=2)
    rows = {row[0]: row[1:] for row in training.throughput(options)}
    assert rows["10 triplets, naive"] == [
        "2.0", "2.50 (2.50-2.50)", "2.50 (2.50-2.50)", "25%", "10", "500", "1.00"
    ]  # fmt: skip
    assert rows["1000 triplets, naive"][-1] == "100.00" and "1000 triplets, plain" not in rows
    losses["naive"] = 1.001
    with pytest.raises(RuntimeError, match="different losses"):
        list(training.throughput(options))


def test_two_processes_are_measured_on_the_largest_usual_batch(monkeypatch):
    times = lambda _, name, count, *__, processes: run_of(1.0, count / 16 / processes**0.5)  # noqa: E731
    monkeypatch.setattr(training, "run_apart", times)
    options = Training(triplets=[16, 64, 1024], repeats=1)
    assert [row[0::2] for row in training.processes(options)] == [
        ["64 triplets, 1 process", "1.00 (1.00-1.00)"],
        ["64 triplets, 2 processes", "1.41 (1.41-1.41)"],
    ]


@pytest.mark.slow
def test_safeguards_have_a_row_each():
    rows = list(training.safeguards(Training(triplets=[2], chunk=3, repeats=1)))
    names = ["a step of 2", "plain", "guard", "record", "sealed", "check"]
    assert all(row[0].startswith(name) for row, name in zip(rows, names, strict=True))
    assert float(rows[2][1]) > 0 and float(rows[3][1]) > 0


@pytest.mark.slow
def test_training_prints_every_part(capsys):
    assert main(["training", "--triplets", "3", "--chunk", "2", "--repeats", "1"]) == 0
    shown = capsys.readouterr().out
    assert [shown.count(f"| 3 triplets, {name} |") for name in (*training.WAYS, "2 processes")] == [1] * 5
    assert "| guard |" in shown


@pytest.mark.slow
def test_search_compares_three_ways(capsys):
    pytest.importorskip("faiss")
    words = ["--sizes", "300", "--dimension", "16", "--queries", "20", "--slow_queries", "10", "--k", "3"]
    assert main(["search", *words, "--repeats", "1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 300")]
    assert len(rows) == 3 and all("100.0000%" in row for row in rows)


@pytest.mark.slow
def test_metrics_compare_with_pytrec_eval_and_scipy(capsys, monkeypatch):
    pytest.importorskip("pytrec_eval")
    words = ["--queries", "30", "--candidates", "40", "--dimension", "8", "--repeats", "1"]
    assert main(["metrics", *words]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 30")]
    assert [row.split(":")[0] for row in rows] == ["| 30 x 40", "| 30"]
    monkeypatch.setattr(search, "with_pytrec_eval", lambda *_: dict.fromkeys(search.METRICS, 0.5))
    with pytest.raises(AssertionError, match="recall@1"):
        main(["metrics", *words])


def table_of(capsys) -> list[list[str]]:
    """The cells of the rows that were printed."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_smaller_vectors_find_more_with_rescoring(capsys):
    words = ["--size", "400", "--dimension", "32", "--queries", "20", "--dims", "32", "8", "--factors", "1", "4", "40"]
    assert main(["compression", *words]) == 0
    rows = {(row[0], row[1]): row[2:] for row in table_of(capsys)}
    assert rows["32", "float32"] == ["128", "1.000", "1.000", "1.000"]
    assert [row[0] for row in rows.values()] == ["128", "32", "4", "32", "8", "1"], "bytes"
    for _, *recalls in rows.values():
        assert recalls == sorted(recalls) and recalls[-1] == "1.000", "of all candidates the full vectors find the best"


@pytest.mark.slow
def test_stores_are_compared_with_exact_search(capsys):
    pytest.importorskip("lancedb")
    pytest.importorskip("qdrant_client")
    words = ["--sizes", "1000", "--dimension", "16", "--queries", "3", "--stores", "lancedb", "qdrant"]
    assert main(["stores", *words]) == 0
    rows = table_of(capsys)
    assert [(row[1], row[2]) for row in rows] == [
        (store, fits) for store in ("exact", "lancedb", "qdrant") for fits in ("1 %", "5 %", "20 %", "all")
    ]
    assert {row[3] for row in rows} == {"1.000"}, "without an index they are exact"


def test_benchmarks_refuse_what_they_could_not_measure(capsys):
    assert main(["stores", "--stores", "lancedb", "pgvector+index"]) == 2
    assert "--stores pgvector needs a server: give its address with --postgres" in capsys.readouterr().err
    assert main(["compression", "--asked", "asked.npy"]) == 2
    assert "--asked only means something with --corpus" in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_catalogue_costs_is_counted(capsys):
    assert main(["update_cost", "--products", "400"]) == 0
    assert [row[1] for row in table_of(capsys)] == ["400", "0", "4", "400"], "embedded"
    assert main(["embedding_cost", "--products", "64", "--sides", "0", "40"]) == 0
    rows = table_of(capsys)
    assert [row[0] for row in rows] == ["none", "40 x 40"] and {row[3] for row in rows} == {"0.77"}
    assert "not run" in (rows[0][2], rows[0][5]), "one of the two devices was not measured"


@pytest.mark.slow
def test_small_objects_are_harder_to_find(capsys, tmp_path, monkeypatch):
    for part in model.build("tiny", 0):
        part.save_pretrained(tmp_path)
    assert main(["small_objects", "--model", str(tmp_path), "--products", "12", "--shares", "0.3", "0.05"]) == 0
    rows = table_of(capsys)
    assert [row[0].split(" ")[0] for row in rows] == ["30%", "5%"]
    for row, share in zip(rows, (30, 5), strict=True):
        assert abs(float(row[0].partition("(")[2].rstrip("%)")) - share) < 2, "the share that was drawn"
    # A model for which all photos are the same finds by chance.
    same = {"encode": lambda self, products, **_: torch.ones(len(products), 1), "__init__": lambda self, *_: None}
    monkeypatch.setattr(cost, "load_encoder", type("Blind", (), same))
    assert main(["small_objects", "--model", str(tmp_path), "--products", "40", "--shares", "0.3"]) == 0
    assert [cell.split(" ")[0] for cell in table_of(capsys)[0][1:]] == ["25.0", "25.0"]


def test_a_step_of_the_whole_method_runs_at_any_shape(monkeypatch):
    """The losses of `gpu` are finite, and every weight but those of unused experts gets a gradient."""
    side, length, count = (gpu.SHAPES["tiny"][part] for part in ("side", "length", "triplets"))
    config = gpu.moon2_config("tiny")
    model = Moon2Model(config)
    both = gpu.inputs(config, 3 * count, side, length, "cpu")
    assert (both["position_types"] == IMAGE).sum(1).tolist() == [side**2 + 2] * 3 * count
    both["pixel_values"] = both["pixel_values"].float()
    alone = gpu.inputs(config, 3 * count, 0, length, "cpu")
    loss = gpu.method_loss(model, both, alone)
    loss.backward()
    assert torch.isfinite(loss)
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not [name for name in without if "experts" not in name and "dual_alignment" not in name], without
    roles = []
    monkeypatch.setattr(
        Moon2Loss, "__call__", lambda self, query, products, *told: roles.extend([query, *products[:2]])
    )
    with torch.no_grad(), pytest.raises(AttributeError):  # what is recorded is no loss
        gpu.method_loss(model, both, alone)
    texts = torch.cat([role.t.embeddings for role in roles])
    torch.testing.assert_close(texts, model(**alone).embeddings, atol=1e-5, rtol=0)


def test_the_shape_of_the_large_model_is_that_of_two_billion():
    with torch.device("meta"):
        model = Moon2Model(gpu.moon2_config("Qwen3-VL-2B", 1.0, num_experts=1, num_experts_per_tok=1))
        four = Moon2Model(gpu.moon2_config("Qwen3-VL-2B", 1.0))
    assert 1.9e9 < model.num_parameters() < 2.3e9
    assert four.num_parameters() - model.num_parameters() == pytest.approx(3 * 28 * 3 * 2048 * 6144, rel=0.01)


@pytest.mark.parametrize(
    "verdict, code", [("equal", 0), ("not installed", 0), ("DIFFERS", 1), ("cannot be run (exit code 1)", 1)]
)
def test_a_gpu_that_fails_ends_with_1(monkeypatch, verdict, code):
    monkeypatch.setattr(gpu, "agreement", lambda options: [["one", "0", "1", "equal"], ["other", "-", "-", verdict]])
    assert main(["gpu", "--device", "cpu", "--parts", "agreement"]) == code


@pytest.mark.slow
def test_everything_for_a_gpu_runs_tiny_on_the_cpu(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable}
    words = ["bash", str(measure.ROOT / "research" / "gpu.sh"), "--smoke", str(tmp_path / "out")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DIFFERS" not in done.stdout and "cannot be run" not in done.stdout
    assert "by two ranks on one device" in done.stdout and "4 experts that are copies, 2 used" in done.stdout
    assert set(read_keys(tmp_path / "out" / "results-cpu.parquet")) == {("dense", 0), ("noisy", 0)}


def test_the_script_for_a_gpu_says_how_it_is_called():
    done = subprocess.run(["bash", str(measure.ROOT / "research" / "gpu.sh")], capture_output=True, text=True)
    assert done.returncode == 2 and "research/gpu.sh FOLDER study.tar.xz" in done.stderr


def test_what_is_counted_on_few_layers_is_that_of_the_whole_model(monkeypatch):
    shape = copy.deepcopy(gpu.SHAPES["tiny"])
    shape["config"]["text_config"]["num_hidden_layers"] = 4
    shape["config"]["vision_config"]["depth"] = 3
    monkeypatch.setitem(scale.SHAPES, "tiny", shape)
    counted = scale.count(arguments.Scale(model="tiny"))
    model = Moon2Model(gpu.moon2_config("tiny", 1.0))
    assert counted["parameters"] == model.num_parameters()
    both = gpu.inputs(model.config, 1, shape["side"], shape["length"], "cpu")
    both["pixel_values"] = both["pixel_values"].float()
    model.set_attn_implementation("eager")
    experts = {torch.ops.aten._grouped_mm: grouped_mm_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=experts) as counter:
        model(**both)
    assert counted["product"] == counter.get_total_flops()
    plain, checkpointing, cached, sharded, _ = scale.training(arguments.Scale(model="tiny", triplets=1e15), counted)
    assert float(checkpointing[2]) == pytest.approx(4 / 3 * float(plain[2]), rel=0.01)
    assert float(cached[2]) == pytest.approx(5 / 3 * float(plain[2]), rel=0.01) and sharded[2] == plain[2]


def test_measured_figures_are_read_from_the_docs_they_stand_in():
    assert scale.measured("cost.md", "image", "224 x 224")[1] == "1.98"
    with pytest.raises(LookupError, match="nowhere"):
        scale.measured("cost.md", "image", "nowhere")
    hours = [float(row[1]) for row in scale.building(arguments.Scale(workers=[1, 4, 1000]))]
    first = float(next(scale.building(arguments.Scale()))[2])
    assert hours == sorted(hours, reverse=True) and hours[-1] == pytest.approx(first, abs=0.2)
