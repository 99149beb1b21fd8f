"""What the paper's data, a training on it and a catalogue of a hundred million products cost, on paper.

Operations and memory are counted on models of the true width and few layers, and go on linearly with the layers. What
was measured is read from the tables of docs/; the rest are assumptions, which are options.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from modeling_moon2 import Moon2Model
from research.benchmarks import arguments
from research.benchmarks.gpu import SHAPES, inputs, moon2_config
from research.benchmarks.measure import ROOT, print_table
from training_moon2.dry_run import grouped_mm_flops

# Bytes of a weight, its gradient and AdamW's two moments, in float32; of a value in bf16.
STATES, BF16 = 16, 2
ITEMS = 3  # of a triplet: query, positive, negative


def scale(options: arguments.Scale) -> dict:
    """Print the three tables."""
    counted = count(options)
    hours = f"{options.gpus} GPUs of {options.teraflops:g} TFLOP/s, of which {options.mfu:.0%} are used"
    title = (
        f"{options.triplets / 1e6:g} M triplets, {options.model}-shaped, {counted['parameters'] / 1e9:.1f} B weights"
    )
    header = ["", "TFLOP a triplet", "hours", "weights and states, GB", "activations, GB", "a GPU, GB"]
    facts = {"training": print_table(header, training(options, counted), f"{title}, {hours}")}
    print()
    header = ["workers", "hours", "of these, on the first machine"]
    facts["data"] = print_table(header, building(options), f"Data of {options.triplets / 1e6:g} M triplets by Ray")
    print()
    title = f"{options.products / 1e6:g} M products"
    facts["catalogue"] = print_table(["", "", "from"], catalogue(options, counted), title)
    return facts


def count(options: arguments.Scale) -> dict[str, float]:
    """Return operations and kept bytes of one product's passes, and sizes of the model.

    A layer's share is the difference that a second one makes.
    """
    shape = SHAPES[options.model]
    text, vision = (shape["config"][name] for name in ("text_config", "vision_config"))
    found = [_counted(options, layers, depth) for layers, depth in ((1, 1), (2, 1), (1, 2))]
    with torch.device("meta"):
        whole = Moon2Model(moon2_config(options.model, 1.0))
    counted = {"parameters": whole.num_parameters(), "width": whole.config.get_text_config().hidden_size}
    times = text["num_hidden_layers"] - 1, vision["depth"] - 1
    for name in found[0]:
        base, layer, block = (one[name] for one in found)
        counted[name] = base + times[0] * (layer - base) + times[1] * (block - base)
        counted[f"{name} of a layer"] = max(layer, block) - base
    tokens, patches = shape["side"] ** 2 + 2 + 2 * shape["length"], 4 * shape["side"] ** 2
    counted["inputs"] = BF16 * (tokens * text["hidden_size"] * (times[0] + 1))
    counted["inputs"] += BF16 * patches * vision["hidden_size"] * (times[1] + 1)
    counted["layer"] = sum(weight.numel() for weight in whole.vlm.language_model.layers[0].parameters())
    return counted


def _counted(options: arguments.Scale, layers: int, depth: int) -> dict[str, float]:
    """Return floating-point operations and bytes that the backward pass needs, of one product's two passes."""
    shape = copy.deepcopy(SHAPES[options.model])
    shape["config"]["text_config"] |= {"num_hidden_layers": layers, "vocab_size": 512}
    shape["config"]["vision_config"] |= {"depth": depth, "deepstack_visual_indexes": [0]}
    config = moon2_config(options.model, 1.0, shape=shape)
    torch.manual_seed(options.seed)
    model = Moon2Model(config)  # in float32, because processors without bf16 instructions take minutes in bf16
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    both, alone = (inputs(config, 1, side, shape["length"], "cpu") for side in (shape["side"], 0))
    both["pixel_values"] = both["pixel_values"].float()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(**both).embeddings, model(**alone).embeddings
    del outputs
    model.set_attn_implementation("eager")  # torch does not count those of its own attention on a CPU
    experts = {torch.ops.aten._grouped_mm: grouped_mm_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=experts) as counter:
        model(**both)
        product = counter.get_total_flops()
        model(**alone)
    return {"product": product, "flops": counter.get_total_flops(), "kept": sum(kept.values()) * BF16 / 4}


def training(options: arguments.Scale, counted: dict[str, float]) -> Iterator[list[str]]:
    """Yield time and memory of each strategy."""
    ways = {
        "DDP": (1, False, False),
        "DDP, checkpointing": (1, True, False),
        f"DDP, checkpointing, GradCache of {options.chunk}": (1, True, True),
        "FSDP": (options.gpus, False, False),
        "FSDP, checkpointing": (options.gpus, True, False),
    }
    for name, (shards, checkpointing, cached) in ways.items():
        # Forward, and twice as much backward; both measures compute the forward once more.
        flops = ITEMS * counted["flops"] * (3 + checkpointing + cached)
        hours = options.triplets * flops / (options.gpus * options.teraflops * 1e12 * options.mfu) / 3600
        states = STATES * counted["parameters"] / shards
        if shards > 1:  # the layer that is computed and the next one are whole
            states += 2 * BF16 * counted["layer"]
        items = options.chunk if cached else ITEMS * options.batch
        activations = items * (counted["inputs"] + counted["kept of a layer"] if checkpointing else counted["kept"])
        sizes = (f"{size / 1e9:.0f}" for size in (states, activations, states + activations))
        yield [name, f"{flops / 1e12:.1f}", f"{hours:.1f}", *sizes]


def building(options: arguments.Scale) -> Iterator[list[str]]:
    """Yield the hours of a build: titles, views and writing on all workers, the rest on the cores of one machine."""
    cells = measured("speed.md", "ms a product", options.build)
    stages = dict(zip(("read", "plan", "titles", "images", "write", "check"), map(float, cells), strict=True))
    hours = {name: value / 1000 * options.triplets / 3600 for name, value in stages.items()}
    first = hours["plan"] + (hours["read"] + hours["check"]) / options.cores
    for workers in options.workers:
        spread = (hours["titles"] + hours["images"] + hours["write"]) / (workers * options.cores)
        yield [str(workers), f"{first + spread:.1f}", f"{first:.1f}"]


def catalogue(options: arguments.Scale, counted: dict[str, float]) -> Iterator[list[str]]:
    """Yield what embedding, storing and searching takes."""
    millions, width = options.products / 1e6, counted["width"]
    seconds = options.products * counted["product"] / (options.teraflops * 1e12 * options.mfu)
    each = f"{counted['product'] / 1e12:.2f} TFLOP a product"
    yield [f"embed, {options.model}-shaped", f"{seconds / 3600:,.0f} GPU hours", each]
    cpu, _, pictures = measured("cost.md", "image", "224 x 224")[1:4]
    yield ["embed, model of the demo", f"{float(cpu) * millions:,.0f} CPU hours", "docs/cost.md, 224 x 224"]
    yield ["images", f"{float(pictures) * millions / 1000:,.1f} TB", "docs/cost.md, 224 x 224"]
    kinds = ((width, "float32", 4), (256, "float32", 4), (256, "int8", 1), (256, "binary", 1 / 8))
    for dimensions, kind, size in kinds:
        yield [f"vectors, {dimensions} x {kind}", f"{options.products * dimensions * size / 1e9:,.0f} GB", "counted"]
    corpus, cells = 636_241, measured("speed.md", "candidates", "636,241")
    seconds = float(cells[1]) / 1000 * options.products / corpus
    yield [
        "exact search, 256 x float32",
        f"{seconds:,.1f} s a query",
        f"docs/speed.md, {corpus:,} candidates, 1 thread",
    ]
    yield ["approximate index", "not measured", "docs/cost.md ends at 100,000 products"]


def measured(page: str, header: str, row: str) -> list[str]:
    """Return the cells after the first of a row in the table of docs/ whose header begins so.

    Raises:
        LookupError: there is none.
    """
    table = False
    for line in (Path(ROOT) / "docs" / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        table = line.startswith("|") and (table or cells[0] == header)
        if table and cells[0] == row:
            return cells[1:]
    raise LookupError(f"docs/{page} has no table '{header}' with a row '{row}'.")
