"""The benchmarks run from end to end at their smallest size, and their sums are right. No time is ever asserted."""

import pytest
import torch

from benchmarks import embed_catalogue, measure, moe_block, three_views


def test_ratios_are_taken_within_a_round():
    assert measure.ratios([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == (3.0, 2.0, 4.0)
    assert measure.spread((3.0, 2.0, 4.0)) == "3.00 (2.00-4.00)"
    calls = []
    seconds = measure.time_paired({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2)
    assert calls == list("ababab") and [len(values) for values in seconds.values()] == [2, 2]


def test_three_views_prints_measured_beside_allowed(capsys):
    words = ["--models", "tiny", "--dtypes", "float32", "--triplets", "2", "--repeats", "1"]
    assert three_views.main(words) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| tiny, float32")]
    assert len(table) == 2 and all(line.count("%") == 2 for line in table)


def test_the_count_of_operations_is_that_of_the_layers():
    """Counted by hooks on every linear layer, for one picture and one title, against the closed form."""
    model, processor = three_views.build("tiny", 0)
    model.set_experts_implementation("eager")
    views = three_views.Views(model.eval(), processor, three_views.triplets(1, 96 * 96, 0))
    nine, once, prefix = three_views.operations(model, views)
    counted = {"linear": 0}

    def count(module, inputs, output):
        rows = inputs[0].numel() // inputs[0].shape[-1]
        counted["linear"] += rows * module.weight.numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        views.nine_forwards()
    config, vision = model.config.get_text_config(), model.config.vlm_config.vision_config
    lengths = [features["attention_mask"].sum().item() for features in views.separate.values()]
    patches = [grid.prod().item() for key, features in views.separate.items() if "image_grid_thw" in features
               for grid in features["image_grid_thw"]]  # fmt: skip
    expert = 3 * config.hidden_size * model.config.moe_intermediate_size * model.config.num_experts_per_tok
    router = config.hidden_size * model.config.num_experts
    experts = sum(lengths) * config.num_hidden_layers * (expert + router)
    width = config.num_attention_heads * config.head_dim
    attention = sum(2 * n**2 * width for n in lengths) * config.num_hidden_layers
    attention += sum(2 * n**2 * vision.hidden_size for n in patches) * vision.depth
    embedding = sum(patches) * model.vlm.visual.patch_embed.proj.weight.numel()
    assert nine == pytest.approx(counted["linear"] + experts + attention + embedding, rel=1e-6)
    assert prefix < once < nine


def test_moe_block_prints_a_row_for_each_size(capsys):
    assert moe_block.main(["--sizes", "32x64", "--tokens", "8", "16", "--repeats", "1"]) == 0
    shown = capsys.readouterr().out
    assert "| 32 x 64, 8 tokens |" in shown and "| 32 x 64, 16 tokens |" in shown


def test_the_catalogue_has_every_kind_of_product(tmp_path):
    embed_catalogue.write_pictures(tmp_path, 16, seed=0)
    products = embed_catalogue.catalogue(tmp_path, 200, seed=0)
    kinds = {(product["text"] is None, type(product["image"]).__name__) for product in products}
    assert kinds == {(False, "NoneType"), (True, "str"), (False, "str"), (False, "list")}
    assert products == embed_catalogue.catalogue(tmp_path, 200, seed=0)


@pytest.mark.slow
def test_embed_catalogue_compares_three_ways(capsys):
    assert embed_catalogue.main(["--products", "30", "--side", "40", "--repeats", "1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| ours", "| sen", "| one"))]
    assert len(rows) == 3 and "1.00 (1.00-1.00)" in rows[1]
