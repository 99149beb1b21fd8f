"""What three views of every product cost: nine forwards, the vision tower once, or the image-only view as a prefix.

    python -m research.benchmarks.three_views [--models tiny 100m] [--dtypes float32 bfloat16] [--triplets 8]

Beside each measured ratio stands the one that the count of floating-point operations allows. All three ways give the
same vectors; that is checked before anything is timed. Models are untrained, titles (24 tokens) and pictures random;
bfloat16 means that the weights are.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from common_moon2.cli import whole
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from research.benchmarks.measure import machine, print_table, ratios, spread, time_paired
from training_moon2.collator import TripletCollator
from training_moon2.model import scratch_model, scratch_processor
from training_moon2.passes import Items, role_views
from training_moon2.triplets import ROLES

VIEWS = ("t", "i", "mm")
# All titles have one length, and all passes as many items: the ways shall differ in what they compute, not in padding.
TITLE_TOKENS = 24
# A Qwen3-VL of about 100 M parameters, with a picture of 256 x 256 for 64 visual tokens.
HUNDRED_MILLION = {
    "architecture": {
        "model_type": "qwen3_vl",
        "text_config": {
            "hidden_size": 640,
            "intermediate_size": 1920,
            "num_hidden_layers": 12,
            "num_attention_heads": 10,
            "num_key_value_heads": 5,
            "head_dim": 64,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 8,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_heads": 8,
            "patch_size": 16,
            "temporal_patch_size": 1,
            "spatial_merge_size": 2,
            "out_hidden_size": 640,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [2, 5],
        },
    },
    "vocab_size": 4096,
    "max_pixels": 256 * 256,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 960,
}


def build(name: str, seed: int) -> tuple[Moon2Model, Moon2Processor]:
    """An untrained model and its processor."""
    torch.manual_seed(seed)
    if name == "tiny":
        path = Path(__file__).parents[2] / "recipes" / "tiny.yaml"
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    else:
        recipe = HUNDRED_MILLION
    titles = (title(np.random.default_rng((seed, index)), words=10) for index in range(2000))
    architecture = recipe["architecture"]
    processor = scratch_processor(titles, architecture, recipe["vocab_size"], recipe["max_pixels"])
    experts = {name: recipe[name] for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")}
    return scratch_model(architecture, processor.tokenizer, **experts), processor


def title(random: np.random.Generator, words: int) -> str:
    """Invented words."""
    syllables = ("ba", "cor", "del", "fin", "gra", "lo", "mir", "nu", "pes", "tal")
    return " ".join("".join(random.choice(syllables, random.integers(1, 4))) for _ in range(words))


def triplets(count: int, pixels: int, seed: int) -> list[dict]:
    """Triplets whose query, positive and negative all have a title and a picture."""
    random = np.random.default_rng(seed)
    side = int(pixels**0.5)

    def product() -> dict:
        picture = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        return {"text": title(random, words=2 * TITLE_TOKENS), "image": Image.fromarray(picture)}

    rows = []
    for index in range(count):
        row = {"query_id": str(index), "positive_name": str(index), "false_positive": None}
        row |= {role: product() for role in ROLES}
        rows.append(row | {f"{role}_{key}": index for role in ROLES[1:] for key in ("id", "group")})
    return rows


class Views:
    """The three ways to get all nine embeddings (B, D) of a batch of triplets, by (role, view)."""

    def __init__(self, model: Moon2Model, processor: Moon2Processor, rows: list[dict]):
        self.model = model
        processor.max_text_length = TITLE_TOKENS
        self.batch = TripletCollator(processor, chunk=len(rows))(rows)
        self.separate = {}
        for role in ROLES:
            products = [row[role] for row in rows]
            parts = {"t": ("text",), "i": ("image",), "mm": ("text", "image")}
            for view, names in parts.items():
                items = [{name: product[name] for name in names} for product in products]
                self.separate[role, view] = dict(processor(items))

    def nine_forwards(self) -> dict:
        """Every view of every role in a forward of its own."""
        return {key: self.model(**features).embeddings for key, features in self.separate.items()}

    def vision_once(self) -> dict:
        """The language model reads the image-only view in a pass of its own, with the visual tokens of the other."""
        self.model.image_view_is_prefix = False
        try:
            return self.prefix_reuse()
        finally:
            self.model.image_view_is_prefix = True

    def prefix_reuse(self) -> dict:
        """As in training: the image-only view is the prefix of the multimodal one."""
        passes = [features for kind in self.batch["passes"].values() for features in kind]
        outputs = [Items.of(self.model(**features), features) for features in passes]
        items = Items(*map(torch.cat, zip(*outputs, strict=True)))
        roles = {role: role_views(items, self.batch["rows"][role]) for role in ROLES}
        return {(role, view): getattr(roles[role], view).embeddings for role in ROLES for view in VIEWS}


def operations(model: Moon2Model, views: Views) -> tuple[float, float, float]:
    """Multiply-adds of one forward: nine forwards, vision once, prefix reuse (the paddings do not count).

    A linear layer takes a multiply-add per weight and token, attention 2 n^2 times its width; of the experts only those
    that are chosen count.
    """
    config, vision = model.config.get_text_config(), model.config.vlm_config.vision_config
    text_weights = sum(p.numel() for p in model.vlm.language_model.layers.parameters() if p.ndim > 1)
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    text_weights += experts * model.config.num_experts_per_tok // model.config.num_experts - experts
    tower = model.vlm.visual
    # The mergers see one token where the blocks see merge_size^2 patches.
    per_patch = sum(p.numel() for part in (tower.blocks, tower.patch_embed) for p in part.parameters() if p.ndim > 1)
    per_token = sum(p.numel() for name, p in tower.named_parameters() if "merger" in name and p.ndim > 1)

    def language(tokens: torch.Tensor) -> float:
        width = config.num_attention_heads * config.head_dim
        return (tokens * text_weights + config.num_hidden_layers * 2 * tokens**2 * width).sum().item()

    def see(patches: torch.Tensor) -> float:
        tokens = patches / vision.spatial_merge_size**2
        attention = vision.depth * 2 * patches**2 * vision.hidden_size
        return (patches * per_patch + tokens * per_token + attention).sum().item()

    lengths = {key: features["attention_mask"].sum(1).double() for key, features in views.separate.items()}
    images = sum(language(lengths[role, "i"]) for role in ROLES)
    towers = sum(see(views.separate[role, "i"]["image_grid_thw"].prod(1).double()) for role in ROLES)
    nine = sum(language(length) for length in lengths.values()) + 2 * towers
    return nine, nine - towers, nine - towers - images


def run(name: str, dtype: torch.dtype, count: int, repeats: int, seed: int) -> Iterator[list[str]]:
    """The rows of the table for one model and precision."""
    model, processor = build(name, seed)
    side = processor.image_processor.size["longest_edge"]
    views = Views(model.eval(), processor, triplets(count, side, seed))
    with torch.no_grad():
        expected = views.nine_forwards()
        for way in (views.vision_once, views.prefix_reuse):
            for key, embeddings in way().items():
                torch.testing.assert_close(embeddings, expected[key], atol=1e-4, rtol=0)
    allowed = operations(model, views)
    model.to(dtype)
    directions = {key: torch.randn_like(value) for key, value in expected.items()}
    ways = {"nine forwards": views.nine_forwards, "vision once": views.vision_once, "prefix": views.prefix_reuse}

    def forward(way):
        with torch.no_grad():
            way()

    def backward(way):
        model.zero_grad()
        sum((value * directions[key]).sum() for key, value in way().items()).backward()

    for what, step in (("forward", forward), ("forward + backward", backward)):
        seconds = time_paired({key: lambda way=way, step=step: step(way) for key, way in ways.items()}, repeats)
        cells = []
        for way, cost in list(zip(ways, allowed, strict=True))[1:]:
            measured, limit = ratios(seconds["nine forwards"], seconds[way]), allowed[0] / cost
            share = (measured[0] - 1) / (limit - 1)
            cells += [spread(measured), f"{limit:.2f}", f"{share:.0%}"]
        yield [f"{name}, {str(dtype).removeprefix('torch.')}, {what}", *cells]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("tiny", "100m"), default=["tiny", "100m"])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--triplets", type=whole(1), help="of a batch; left out: 32 for tiny, 2 for 100m")
    parser.add_argument("--repeats", type=whole(1), help="rounds; left out: 7 for tiny, 3 for 100m")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    counts = {"tiny": options.triplets or 32, "100m": options.triplets or 2}
    repeats = {"tiny": options.repeats or 7, "100m": options.repeats or 3}
    print(f"Times faster than nine forwards: median (range) of the rounds. {machine()}, seed {options.seed}\n")
    header = ["", "vision once", "allowed", "of the gain", "prefix", "allowed", "of the gain"]
    rows = (
        row
        for name in options.models
        for dtype in options.dtypes
        for row in run(name, getattr(torch, dtype), counts[name], repeats[name], options.seed)
    )
    print_table(header, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
