"""What the method's forward costs: three views of every product, and the mixture of experts."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextMLP

from configuration_moon2 import Moon2Config
from modeling_moon2 import Moon2Model, Moon2SparseMoeBlock
from processing_moon2 import Moon2Processor
from research.benchmarks import arguments
from research.benchmarks.measure import ROOT, print_table, ratios, spread, time_paired
from training_moon2.collator import TripletCollator
from training_moon2.dry_run import grouped_mm_flops
from training_moon2.experts import NAME as SORTED_ROWS
from training_moon2.figures import VIEWS
from training_moon2.model import scratch_model, scratch_processor
from training_moon2.passes import Items, role_views
from training_moon2.triplets import ROLES

RECIPES = {"tiny": ROOT / "recipes" / "tiny.yaml", "100m": Path(__file__).parent / "100m.yaml"}
IMPLEMENTATIONS = ("grouped_mm", "eager", SORTED_ROWS)  # the last is what `Moon2Trainer` uses on a CPU
# All titles have one length, and all passes as many items: the ways shall differ in what they compute, not in padding.
TITLE_TOKENS = 24


def build(name: str, seed: int) -> tuple[Moon2Model, Moon2Processor]:
    """Return an untrained model and its processor."""
    torch.manual_seed(seed)
    recipe = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
    titles = (title(np.random.default_rng((seed, index)), words=10) for index in range(2000))
    architecture = recipe["architecture"]
    processor = scratch_processor(titles, architecture, recipe["vocab_size"], recipe["max_pixels"])
    experts = {name: recipe[name] for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")}
    return scratch_model(architecture, processor.tokenizer, **experts), processor


@contextmanager
def model_folder(given: str | None, seed: int) -> Iterator[str]:
    """Give the folder of a model: the one that was named, or an untrained one of the demo's size."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        for part in build("tiny", seed):
            part.save_pretrained(folder)
        yield folder


def title(random: np.random.Generator, words: int) -> str:
    """Return invented words."""
    syllables = ("ba", "cor", "del", "fin", "gra", "lo", "mir", "nu", "pes", "tal")
    return " ".join("".join(random.choice(syllables, random.integers(1, 4))) for _ in range(words))


def triplets(count: int, pixels: int, seed: int) -> list[dict]:
    """Return triplets whose query, positive and negative all have a title and an image."""
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


class SeparateViews(TripletCollator):
    """Triplets as a naive loop has them: each view of each role by itself, `chunk` items at a time, in given order."""

    def __call__(self, triplets: list[dict]) -> dict:
        batch = super().__call__(triplets)
        for index, role in enumerate(ROLES):
            products = [triplet[role] for triplet in triplets]
            batch["passes"][role] = {
                view: [
                    dict(self.processor([{name: product[name] for name in names} for product in chunk]))
                    for chunk in (products[start : start + self.chunk] for start in range(0, len(products), self.chunk))
                ]
                for view, names in VIEWS.items()
            }
            for offset, kind in enumerate(("pictures", "texts")):
                batch["rows"][role][kind] = torch.arange(len(products)) + (2 * index + offset) * len(products)
        return batch

    def _items(self, triplets: list[dict]) -> Iterator:
        return iter(())  # nothing shares a pass with another view


class Views:
    """The three ways to get all nine embeddings (B, D) of a batch of triplets, by (role, view)."""

    def __init__(self, model: Moon2Model, processor: Moon2Processor, rows: list[dict]):
        self.model = model
        processor.max_text_length = TITLE_TOKENS
        self.batch = TripletCollator(processor, chunk=len(rows))(rows)
        passes = SeparateViews(processor, chunk=len(rows))(rows)["passes"]
        self.separate = {(role, view): passes[role][view][0] for role in ROLES for view in VIEWS}

    def nine_forwards(self) -> dict:
        """Embed every view of every role in a forward of its own."""
        return {key: self.model(**features).embeddings for key, features in self.separate.items()}

    def vision_once(self) -> dict:
        """Read the image-only view in a pass of its own, with the visual tokens of the multimodal one."""
        self.model.image_view_is_prefix = False
        try:
            return self.prefix_reuse()
        finally:
            self.model.image_view_is_prefix = True

    def prefix_reuse(self) -> dict:
        """Read the image-only view as the prefix of the multimodal one, as in training."""
        passes = [features for kind in self.batch["passes"].values() for features in kind]
        outputs = [Items.of(self.model(**features), features) for features in passes]
        items = Items(*map(torch.cat, zip(*outputs, strict=True)))
        roles = {role: role_views(items, self.batch["rows"][role]) for role in ROLES}
        return {(role, view): getattr(roles[role], view).embeddings for role in ROLES for view in VIEWS}


@torch.no_grad()
def operations(model: Moon2Model, views: Views) -> list[float]:
    """Return the multiply-adds of one forward: nine forwards, vision once, prefix reuse."""
    attention, found = model.config._attn_implementation, []
    model.set_attn_implementation("eager")  # torch does not count those of its own attention on a CPU
    experts = {torch.ops.aten._grouped_mm: grouped_mm_flops}
    for way in (views.nine_forwards, views.vision_once, views.prefix_reuse):
        with FlopCounterMode(display=False, custom_mapping=experts) as counter:
            way()
        found.append(counter.get_total_flops() / 2)
    model.set_attn_implementation(attention)
    return found


def three_views(options: arguments.ThreeViews) -> dict:
    """Print how many times faster than nine forwards the other ways are."""
    rows = (
        row
        for name in options.models
        for dtype in options.dtypes
        for row in compare_views(name, getattr(torch, dtype), options)
    )
    header = ["", "vision once", "allowed", "of the gain", "prefix", "allowed", "of the gain"]
    title = f"Times faster than nine forwards: median (range) of the rounds, seed {options.seed}"
    return print_table(header, rows, title)


def compare_views(name: str, dtype: torch.dtype, options: arguments.ThreeViews) -> Iterator[list[str]]:
    """Yield the rows of the table for one model and type of weights."""
    count, repeats = (32, 7) if name == "tiny" else (2, 3)
    count, repeats = options.triplets or count, options.repeats or repeats
    model, processor = build(name, options.seed)
    side = processor.image_processor.size["longest_edge"]
    views = Views(model.eval(), processor, triplets(count, side, options.seed))
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


def moe_block(options: arguments.MoeBlock) -> dict:
    """Print how many times the dense layer's seconds the block takes."""
    settings = [(*size, tokens) for size in options.sizes for tokens in options.tokens]
    rows = (compare_blocks(*setting, options.repeats, options.seed) for setting in settings)
    header = ["", *(f"{what}, {name}" for what in ("forward", "training") for name in IMPLEMENTATIONS)]
    return print_table(header, rows, f"Times the dense layer's: median (range) of the rounds, seed {options.seed}")


def build_block(hidden_size: int, intermediate_size: int, implementation: str | None, seed: int) -> torch.nn.Module:
    """Return the dense layer (`None`), or the block that replaces it."""
    torch.manual_seed(seed)
    text_config = {"hidden_size": hidden_size, "intermediate_size": intermediate_size}
    vlm_config = AutoConfig.for_model("qwen3_vl", text_config=text_config)
    dense = Qwen3VLTextMLP(vlm_config.text_config)
    if implementation is None:
        return dense
    half = intermediate_size // 2
    config = Moon2Config(vlm_config=vlm_config, moe_intermediate_size=half, experts_implementation=implementation)
    block = Moon2SparseMoeBlock(config, dense)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=hidden_size**-0.5)
    return block


def compare_blocks(hidden_size: int, intermediate_size: int, tokens: int, repeats: int, seed: int) -> list[str]:
    """Return one row of the table."""
    modules = {name: build_block(hidden_size, intermediate_size, name, seed) for name in (None, *IMPLEMENTATIONS)}
    states = torch.randn(1, tokens, hidden_size, requires_grad=True)
    gradient = torch.randn(1, tokens, hidden_size)
    with torch.no_grad():  # several ways to run the same experts
        for name in IMPLEMENTATIONS:
            torch.testing.assert_close(modules["eager"](states), modules[name](states), atol=1e-4, rtol=1e-4)

    def forward(module):
        with torch.no_grad():
            module(states)

    def train(module):
        module.zero_grad()
        states.grad = None
        module(states).backward(gradient)

    cells = []
    for step in (forward, train):
        # Few tokens take well under a millisecond: many times in a row, then.
        times = max(1, 4096 // tokens)

        def several(module, step=step, times=times):
            for _ in range(times):
                step(module)

        calls = {name: lambda module=module: several(module) for name, module in modules.items()}
        seconds = time_paired(calls, repeats)
        cells += [spread(ratios(seconds[name], seconds[None])) for name in IMPLEMENTATIONS]
    return [f"{hidden_size} x {intermediate_size}, {tokens} tokens", *cells]
