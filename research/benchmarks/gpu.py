"""What a GPU has to show: that it computes what the CPU does, and how fast it is. `research/gpu.sh` runs it."""

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from torch.utils.benchmark import Timer
from transformers import AutoConfig
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from common_moon2.machine import peak_memory
from configuration_moon2 import IMAGE, TEXT, Moon2Config
from loss_moon2 import Moon2Loss, Products
from modeling_moon2 import Moon2Model
from research.benchmarks import arguments
from research.benchmarks.measure import print_table, run_apart
from research.benchmarks.model import TITLE_TOKENS, build, triplets
from research.benchmarks.training import PIXELS, by_trainer
from training_moon2.collator import TripletCollator
from training_moon2.passes import Items, role_views
from training_moon2.triplets import ROLES

STEPS = "research.benchmarks.gpu:steps"
PASSED = ("equal", "not installed")
# The largest difference that passes: of an embedding's numbers, and of losses and gradients as a share.
ALLOWED = {"float32": 1e-4, "bf16": 1e-3, "loss": 1e-2, "gradient": 1e-2}
SHAPES = yaml.safe_load(Path(__file__).with_name("shapes.yaml").read_text(encoding="utf-8"))
# What of the dense feed-forward layer an expert is as wide as, experts, and how many are used for a token.
KINDS = {
    "dense": (1.0, 1, 1),
    "4 half-width experts, 2 used": (0.5, 4, 2),
    "4 experts that are copies, 2 used": (1.0, 4, 2),
}


def gpu(options: arguments.Gpu) -> dict:
    """Print the tables that are asked for; "failed" tells whether a difference is too large, or a way cannot be run."""
    torch.backends.cudnn.allow_tf32 = False
    facts = {}
    for part in options.parts:
        if part == "agreement":
            header = ["", "largest difference", "allowed", ""]
            facts[part] = print_table(header, agreement(options), f"{device_of(options)} against CPU and itself")
            facts["failed"] = any(row[-1] not in PASSED for row in facts[part]["rows"])
        else:
            header = ["", "parameters, M", "tokens/s", "triplets/s", "training, peak GB", "images/s"]
            name = "tiny" if options.smoke else "Qwen3-VL-2B"
            title = f"{name}-shaped random model in bf16 on {device_of(options)}"
            facts[part] = print_table(header, throughput(options, name), title)
        print()
    return facts


def device_of(options: arguments.Gpu) -> str:
    """Return the name of the device."""
    return torch.cuda.get_device_name() if options.device == "cuda" else "CPU"


def agreement(options: arguments.Gpu) -> Iterator[list[str]]:
    """Yield a row for each comparison."""
    count = 4 if options.smoke else 32
    model, processor = build("tiny", options.seed)
    processor.max_text_length = TITLE_TOKENS
    batch = TripletCollator(processor)(triplets(count, PIXELS, options.seed))
    passes = [features for kind in batch["passes"].values() for features in kind]

    @torch.no_grad()
    def vectors(model: Moon2Model, bf16: bool = False) -> torch.Tensor:
        model.eval()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            found = [model(**{name: value.to(model.device) for name, value in part.items()}) for part in passes]
        return torch.cat([part.embeddings for part in found]).float().cpu()

    def row(what: str, one: torch.Tensor, other: torch.Tensor, kind: str) -> list[str]:
        difference, allowed = (one - other).abs().max().item(), ALLOWED[kind]
        return [what, f"{difference:.1e}", f"{allowed:.0e}", "equal" if difference <= allowed else "DIFFERS"]

    expected, expected_bf16 = vectors(model), vectors(model, bf16=True)
    model.to(options.device)
    yield row("vectors in float32", vectors(model), expected, "float32")
    yield row("vectors in bf16", vectors(model, bf16=True), expected_bf16, "bf16")
    for experts in ("eager", "grouped_mm"):
        model.set_experts_implementation(experts)
        yield row(f"experts: {experts}", vectors(model), expected, "float32")
    for attention in ("eager", "sdpa", "flash_attention_2"):
        if attention.startswith("flash") and (options.device == "cpu" or not importlib.util.find_spec("flash_attn")):
            yield [f"attention: {attention}", "-", "-", "not installed"]
            continue
        model.set_attn_implementation(attention)
        bf16 = attention.startswith("flash")
        of_cpu, kind = (expected_bf16, "bf16") if bf16 else (expected, "float32")
        yield row(f"attention: {attention}", vectors(model, bf16), of_cpu, kind)

    number, size = (3, 4) if options.smoke else (20, 16)
    told = (number, size, options.seed)
    reference = run_apart(STEPS, "plain", "cpu", *told)
    ways = {
        f"losses of {number} steps": ("plain", 1),
        "the same with activation checkpointing": ("checkpointing", 1),
        "the same with GradCache": ("ours", 1),
        "the same by two ranks on one device": ("plain", 2),
    }
    for what, (way, ranks) in ways.items():
        try:
            found = run_apart(STEPS, way, options.device, *told, processes=ranks)
        except subprocess.CalledProcessError as error:
            yield [what, "-", "-", f"cannot be run (exit code {error.returncode})"]
            continue
        losses, others = (torch.tensor(one["losses"]) for one in (found, reference))
        yield row(what, losses / others, torch.ones_like(others), "loss")
        norm = torch.tensor([found["gradient"] / reference["gradient"]])
        yield row(f"{what}: norm of the first gradient", norm, torch.ones(1), "gradient")


def steps(way: str, device: str, count: int, size: int, seed: int) -> dict:
    """Return the losses of some steps, and the norm of the first gradient; in one of several processes if need be.

    Args:
        way: "plain", "ours" (with GradCache) or "checkpointing".
        size: triplets of a batch.
    """
    torch.backends.cudnn.allow_tf32 = False
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1:
        os.environ["LOCAL_RANK"] = "0"  # all ranks share one device, which NCCL would refuse
    model, processor = build("tiny", seed)
    processor.max_text_length = TITLE_TOKENS
    if way == "checkpointing":
        model.gradient_checkpointing_enable()
    with tempfile.TemporaryDirectory() as folder:
        options = {"use_cpu": device == "cpu", "ddp_backend": "gloo" if ranks > 1 else None}
        made = by_trainer("ours" if way == "ours" else "plain", model, processor, 8, folder, **options)
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=1e-3)
    losses, gradient = [], None
    for step in range(count):
        losses.append(made.backward(made.prepare(triplets(size, PIXELS, seed + step)[rank::ranks])))
        if gradient is None:
            gradients = [weight.grad for weight in made.model.parameters() if weight.grad is not None]
            gradient = torch.nn.utils.get_total_norm(gradients).item()
        optimizer.step()
        optimizer.zero_grad()
    return {"losses": losses, "gradient": gradient}


def throughput(options: arguments.Gpu, name: str) -> Iterator[list[str]]:
    """Yield a row for each kind of feed-forward layer: a training step of the whole method, and embedding images."""
    side, length, count = (SHAPES[name][part] for part in ("side", "length", "triplets"))
    for kind, (width, experts, used) in KINDS.items():
        torch.manual_seed(options.seed)
        config = moon2_config(name, width, num_experts=experts, num_experts_per_tok=used)
        with torch.device(options.device):
            model = Moon2Model(config).to(torch.bfloat16)
        model.gradient_checkpointing_enable()
        both = inputs(config, 3 * count, side, length, options.device)
        alone = inputs(config, 3 * count, 0, length, options.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

        def step(model=model, both=both, alone=alone, optimizer=optimizer):
            method_loss(model.train(), both, alone).backward()
            optimizer.step()
            optimizer.zero_grad()

        images = inputs(config, 2 * count, side, 0, options.device)

        @torch.no_grad()
        def embed(model=model, images=images):
            model.eval()(**images)

        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rounds = 1 if options.smoke else 3
        seconds, embedding = (
            Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads()).timeit(rounds).mean
            for call in (step, embed)
        )
        memory = peak_memory()
        tokens = both["input_ids"].numel() + alone["input_ids"].numel()
        yield [
            kind,
            f"{model.num_parameters() / 1e6:,.0f}",
            f"{tokens / seconds:,.0f}",
            f"{count / seconds:,.2f}",
            f"{(memory['gpu'] or memory['process']) / 1e9:.1f}",
            f"{2 * count / embedding:,.1f}",
        ]
        del model, optimizer, step, embed
        if options.device == "cuda":
            torch.cuda.empty_cache()


def moon2_config(name: str, width: float = 0.5, shape: dict | None = None, **experts: int) -> Moon2Config:
    """Return the configuration of a shape in `SHAPES`, or of another one, with experts of `width` times its layers'."""
    vlm_config = AutoConfig.for_model("qwen3_vl", **(shape or SHAPES[name])["config"])
    inner = vlm_config.text_config.intermediate_size
    return Moon2Config(vlm_config=vlm_config, moe_intermediate_size=int(width * inner), **experts)


def inputs(config: Moon2Config, count: int, side: int, length: int, device: str) -> dict[str, torch.Tensor]:
    """Return model inputs of random items, as the processor gives them: an image of side x side tokens, then a text."""
    visual, vision = side**2, config.vlm_config.vision_config
    image = [2] + [1] * visual + [3] if side else []
    texts = torch.randint(4, config.get_text_config().vocab_size, (count, length))
    ids = torch.cat([torch.tensor(image, dtype=torch.long).expand(count, -1), texts], dim=1)
    types = torch.tensor([IMAGE] * len(image) + [TEXT] * length).expand(count, -1)
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_types": types}
    if side:
        grid = torch.tensor([1, 2 * side, 2 * side])
        numbers = 3 * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.randn(count * grid.prod().item(), numbers, dtype=torch.bfloat16)
        found |= {"pixel_values": pixels, "image_grid_thw": grid.expand(count, -1)}
    return {name: value.contiguous().to(device) for name, value in found.items()}


def method_loss(model: Moon2Model, both: dict, alone: dict) -> torch.Tensor:
    """Return the method's loss of triplets whose items all have an image and a text: queries, positives, negatives."""
    items = [Items.of(model(**features), features) for features in (both, alone)]
    items = Items(*map(torch.cat, zip(*items, strict=True)))
    count = len(both["input_ids"]) // 3
    places = torch.arange(count, device=model.device)
    roles = [
        role_views(items, {"pictures": places + index * count, "texts": places + (3 + index) * count})
        for index in range(len(ROLES))
    ]
    keys = [places, places + count, places, places + count]
    logits, config = tuple(items.router_logits.unbind(1)), model.config
    aux = load_balancing_loss_func(logits, config.num_experts, config.num_experts_per_tok)
    return Moon2Loss()(
        roles[0], Products(*roles[1:], *keys), model.dual_alignment.weight, model.config.objectives, aux, 0.5
    ).loss
