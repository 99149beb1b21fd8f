"""Experts from the layers of a dense model: upcycling, and how its copies become different.

Copies compute the same, so with gates that sum to one the output does not depend on the router: it gets no gradient
from the task, and the optimizer turns rounding errors into full steps. Both ways out are our choice, as the paper does
not say how its experts start.
"""

import itertools
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from backbones_moon2 import family_of, image_block
from configuration_moon2 import Moon2Config
from modeling_moon2 import Moon2Experts, Moon2Model, Moon2SparseMoeBlock, check_keys
from processing_moon2 import Moon2Processor, is_any_size
from training_moon2.arguments import AMOUNTS, EXPERT_FIELDS, ExpertArguments, UpcycleArguments
from training_moon2.triplets import load_triplets

# Our choice: a page of Qwen3-VL costs one token per 32 x 32 pixels, so that an image takes 1024 tokens at most.
MAX_PIXELS = 1024 * 1024
# How many products, and tokens of each layer, the routers' clusters are found in.
PRODUCTS, TOKENS, BATCH = 256, 8192, 16


def model_from_backbone(pretrained_model_name_or_path: str, **kwargs) -> Moon2Model:
    """Upcycle a dense vision-language checkpoint: all experts start as copies of its feed-forward layers, so the new
    model computes the same hidden states as the dense one (our choice, section 2).

    Args:
        pretrained_model_name_or_path: a Hub id or folder of a transformers vision-language model.
        kwargs: `num_experts`, `num_experts_per_tok`, `moe_layers`, `router`, `objectives` as in `Moon2Config`;
            `moe_intermediate_size` (narrower experts share out the dense layer's neurons; such a model does not compute
            what the dense one did and has to be trained first); `shared_expert_intermediate_size` (that expert adds
            nothing at first); `experts_implementation`. All others go to `AutoModel.from_pretrained` (dtype,
            device_map, revision, attn_implementation, ...).

    Raises:
        ValueError: the backbone cannot take experts, its weights do not fit, or an option contradicts it; the message
            says why.
    """
    names = (*EXPERT_FIELDS, "objectives", "experts_implementation")
    chosen = {name: kwargs.pop(name) for name in names if kwargs.get(name) is not None}
    kwargs = {name: value for name, value in kwargs.items() if name not in names}
    kwargs["ignore_mismatched_sizes"] = True  # so that they are named below, with all the others
    vlm, info = AutoModel.from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
    family_of(vlm.config)
    # A checkpoint for generation has an output head, which an encoder does not need.
    info["unexpected_keys"] = {key for key in info["unexpected_keys"] if "lm_head" not in key.split(".")}
    check_keys(pretrained_model_name_or_path, type(vlm).__name__, info)
    chosen["attn_implementation"] = vlm.config._attn_implementation
    dense = [getattr(layer, "mlp", None) for layer in vlm.get_decoder().layers]
    model = Moon2Model(Moon2Config(vlm_config=vlm.config, **chosen), vlm)
    for index in model.moe_layer_indices:
        upcycle_layer(vlm.get_decoder().layers[index].mlp, dense[index])
    return model


@torch.no_grad()
def upcycle_layer(block: Moon2SparseMoeBlock, dense: nn.Module) -> None:
    """Start the experts of a block from the dense layer that it replaces.

    Experts as wide as the layer are copies of it: whatever the router chooses, the block computes what the layer did. A
    narrower expert z gets the next `width` of its neurons, scaled so that the mean over experts that cover all neurons
    evenly is the dense layer; with few experts chosen the block then computes something else.

    Raises:
        ValueError: the experts are wider than the dense layer, or its weights are not in memory.
    """
    experts = block.experts
    width, dense_width = experts.down_proj.shape[-1], dense.down_proj.weight.shape[-1]
    if width > dense_width:
        raise ValueError(f"moe_intermediate_size is {width}, but a dense layer has only {dense_width} neurons.")
    if dense.down_proj.weight.is_meta:
        raise ValueError(
            "device_map offloaded some layers of the backbone; load it without offloading to make experts of them."
        )
    for expert in range(experts.num_experts):
        neurons = (torch.arange(width) + expert * width) % dense_width
        experts.gate_up_proj[expert] = torch.cat([dense.gate_proj.weight[neurons], dense.up_proj.weight[neurons]])
        experts.down_proj[expert] = dense.down_proj.weight[:, neurons] * (dense_width / width)
    if block.shared_expert is not None:
        block.shared_expert.down_proj.weight.zero_()


def processor_from_backbone(
    pretrained_model_name_or_path: str,
    vlm_config: PreTrainedConfig,
    max_pixels: int | None = None,
    revision: str | None = None,
    **kwargs,
) -> Moon2Processor:
    """Make the processor that goes with `model_from_backbone` of the same checkpoint.

    Args:
        max_pixels: the size of an image at most, for backbones that take images at their own shape. It is kept in
            the image processor's settings. `None` means `MAX_PIXELS`, or the checkpoint's bound if that is less.
        revision: branch, tag or commit on the Hub.
        kwargs: further arguments of `Moon2Processor` (`max_text_length`, ...).

    Raises:
        ValueError: `max_pixels` is too small, or given for a backbone that scales all images to one size.
    """
    where = {} if revision is None else {"revision": revision}
    parts = Moon2Processor._get_arguments_from_pretrained(pretrained_model_name_or_path, **where)
    image_processor, tokenizer = parts
    if is_any_size(image_processor):
        size, token = image_processor.size, (image_processor.patch_size * image_processor.merge_size) ** 2
        most = min(size["longest_edge"], MAX_PIXELS) if max_pixels is None else max_pixels
        if most < token:
            raise ValueError(f"max_pixels is {most}; a single visual token takes {token} pixels.")
        # Small images are enlarged, and rounded up to whole tokens: half of the bound leaves room for that.
        image_processor.size = size | {"shortest_edge": min(size["shortest_edge"], most // 2), "longest_edge": most}
    elif max_pixels is not None:
        raise ValueError(f"max_pixels is {max_pixels}, but a {vlm_config.model_type} scales all images to one size.")
    if hasattr(image_processor, "do_image_splitting"):
        image_processor.do_image_splitting = False  # an image is one block of visual tokens, not one for each tile
    positions = getattr(vlm_config.get_text_config(), "max_position_embeddings", None)
    options = image_block(vlm_config, tokenizer) | {"max_positions": positions} | kwargs
    return Moon2Processor(image_processor, tokenizer, **options)


def upcycle(model: str, max_pixels: int | None = None, **options) -> tuple[Moon2Model, Moon2Processor]:
    """Make the model and processor from a dense checkpoint.

    Args:
        model: Hub id or folder.
        max_pixels: see `Moon2Processor`; `None` leaves its default.
        options: as for `model_from_backbone`.

    Raises:
        ValueError, OSError: there is no such checkpoint, or it cannot take experts.
    """
    revision = options.get("revision")
    if is_moon2(model, revision):
        raise ValueError(f"{model} is a Moon2 already; there is nothing to convert.")
    converted = model_from_backbone(model, **options)
    return converted, processor_from_backbone(model, converted.config.vlm_config, max_pixels, revision)


def is_moon2(model: str, revision: str | None = None) -> bool:
    """Tell whether a folder or Hub id holds a Moon2.

    Raises:
        ValueError: there is no such model.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(model, revision=revision)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"The model {model} is neither a folder nor available on the Hub: {reason}") from error
    return config.get("model_type") == Moon2Config.model_type


@torch.no_grad()
def largest_difference(model: Moon2Model, processor: Moon2Processor, dense: str, **options) -> tuple[float, float]:
    """Compare the last hidden states of the converted and of the dense model on a sentence.

    Returns:
        the largest absolute difference, and the largest absolute value of the dense states.
    """
    inputs = processor([{"text": "Red striped ceramic mug, 350 ml"}]).to(model.device)
    ours = model.eval()(**inputs).last_hidden_state.float().cpu()
    vlm = AutoModel.from_pretrained(dense, **options).eval()
    sequence = {name: inputs[name].to(vlm.device) for name in ("input_ids", "attention_mask")}
    theirs = vlm(**sequence).last_hidden_state.float().cpu()
    return (ours - theirs).abs().max().item(), theirs.abs().max().item()


def upcycle_and_save(arguments: UpcycleArguments) -> dict:
    """Convert and save.

    Returns:
        What became of it.

    Raises:
        ValueError, OSError: there is no such checkpoint, it cannot take experts, or the folder cannot be written.
    """
    output = Path(arguments.output_dir)
    names = ("revision", "dtype", "device_map")
    options = {name: value for name, value in asdict(arguments).items() if name in names and value is not None}
    model, processor = upcycle(arguments.model, arguments.max_pixels, **options, **arguments.experts())
    rows = None if arguments.dataset is None else load_triplets(arguments.dataset, "train")
    start_experts(model, processor, arguments, rows)
    facts = {"output_dir": str(output), "model_type": model.config.vlm_config.model_type, "dtype": str(model.dtype)}
    facts |= {"moe_layers": list(model.moe_layer_indices), "parameters": model.num_parameters()}
    facts |= {"active_parameters": model.num_active_parameters()}
    if arguments.verify:
        difference, size = largest_difference(model, processor, arguments.model, **options)
        facts |= {"largest_difference": difference, "largest_state": size}
        print(f"Largest difference of the last hidden states to the dense model: {difference:.1e} (states up to "
              f"{size:.1f}; {model.dtype})")  # fmt: skip
    model.save_pretrained(output)
    processor.save_pretrained(output)
    print(
        f"In {output}/: a {model.config.vlm_config.model_type} with experts in layers "
        f"{', '.join(map(str, model.moe_layer_indices))}; {model.num_parameters() / 1e6:,.1f} M parameters, "
        f"{model.num_active_parameters() / 1e6:,.1f} M active for a token, {model.dtype}."
    )
    width = model.config.moe_intermediate_size
    narrow = width not in (None, model.config.get_text_config().intermediate_size)
    facts["same_function"] = not narrow and arguments.upcycling in (None, "copy")
    facts["expert_distance"] = expert_distance(model)
    if facts["same_function"]:
        print(
            "It computes what the dense model did. Experts that are copies give their routers no gradient: see --help."
        )
    else:
        why = "are narrower than the dense layers" if narrow else f"were made different by {arguments.upcycling}"
        print(f"Its experts {why}: train it before use, it does not compute what they did.")
    return facts


def start_experts(model: Moon2Model, processor: Moon2Processor, arguments: ExpertArguments, rows) -> None:
    """Make the experts of an upcycled model different and point its routers, as far as that is asked for.

    Args:
        rows: triplets, of which some positives are read; not needed unless `router_start` is kmeans.
    """
    if arguments.router_start == "kmeans":
        routers_from_inputs(model, processor, some_products(rows, PRODUCTS))
    upcycling = arguments.upcycling or "copy"
    part_experts(model, upcycling, arguments.upcycling_amount or AMOUNTS[upcycling])


def some_products(rows: Dataset | IterableDataset, count: int) -> list[dict]:
    """Return positives as product dicts, spread evenly over the triplets; of a stream the first ones."""
    names = ["positive_title", "positive_image"]
    if isinstance(rows, IterableDataset):
        found = rows.decode(False).take(count)
    else:
        places = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
        found = rows.select(places).select_columns(names).with_format("arrow")[:].to_pylist()
    return [dict(zip(("text", "image"), (row[name] for name in names), strict=True)) for row in found]


@torch.no_grad()
def part_experts(model: Moon2Model, upcycling: str, amount: float) -> None:
    """Make the experts of every layer different from one another.

    Args:
        upcycling: "noise" adds normal noise of `amount` times the standard deviation of each weight matrix. "drop"
            draws anew the share `amount` of an expert's neurons, others in each expert, from a normal distribution with
            mean and deviation of the matrix (Drop-Upcycling). "copy" changes nothing.
    """
    for experts in (module for module in model.modules() if isinstance(module, Moon2Experts)):
        width = experts.down_proj.shape[-1]
        for expert in range(experts.num_experts if upcycling != "copy" else 0):
            gate, up = experts.gate_up_proj[expert].chunk(2)
            neurons = torch.randperm(width)[: round(amount * width)].to(gate.device)
            # The neurons are rows of the first two matrices and columns of the third.
            for matrix in (gate, up, experts.down_proj[expert].T):
                std, mean = (value.item() for value in torch.std_mean(matrix.float()))
                if upcycling == "noise":
                    matrix += amount * std * torch.randn_like(matrix)
                else:
                    matrix[neurons] = mean + std * torch.randn_like(matrix[neurons])


@torch.no_grad()
def routers_from_inputs(model: Moon2Model, processor: Moon2Processor, products: list[dict]) -> None:
    """Start each router from the directions of its layer's inputs: one cluster of tokens for each expert.

    The rows are the centroids of spherical k-means, less their mean, scaled so that the logits have standard deviation
    1 over the tokens.

    Args:
        products: product dicts, whose tokens are clustered.

    Raises:
        ValueError: they have fewer tokens than there are experts.
    """
    inputs = defaultdict(list)
    was_training = model.training
    model.eval()

    def keep(block: Moon2SparseMoeBlock, args: tuple) -> None:
        inputs[block].append(args[0][own.to(args[0].device)].float().cpu())

    blocks = [module for module in model.modules() if isinstance(module, Moon2SparseMoeBlock)]
    hooks = [block.register_forward_pre_hook(keep) for block in blocks]
    try:
        for start in range(0, len(products), BATCH):
            features = processor(products[start : start + BATCH]).to(model.device)
            own = features["attention_mask"].bool()
            model(**features)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    for block, parts in inputs.items():
        tokens = torch.cat(parts)
        tokens = tokens[torch.linspace(0, len(tokens) - 1, min(TOKENS, len(tokens))).long()]
        count = model.config.num_experts
        if len(tokens) < count:
            raise ValueError(f"router_start: kmeans needs more than {len(tokens)} tokens for {count} experts.")
        directions = nn.functional.normalize(tokens, dim=-1)
        from sklearn.cluster import KMeans  # it takes seconds to import, and few runs start so

        found = KMeans(count, n_init=4, random_state=torch.initial_seed() % 2**32).fit(directions.numpy())
        centroids = torch.from_numpy(found.cluster_centers_)
        rows = centroids - centroids.mean(0)
        rows /= (tokens @ rows.T).std().clamp(min=1e-6)
        block.gate.weight.copy_(rows)


@torch.no_grad()
def expert_distance(model: nn.Module) -> float | None:
    """Return how far experts are from one another: 0 for copies, about 1.4 for independent weights of one size.

    That is the distance of the weights of two experts of a layer over their root mean square norm, a mean over pairs
    and layers. `None` where no layer has several experts.
    """
    distances = []
    for experts in (module for module in model.modules() if isinstance(module, Moon2Experts)):
        flat = [(experts.gate_up_proj[z].flatten(), experts.down_proj[z].flatten()) for z in range(experts.num_experts)]
        norms = [sum(part.float().square().sum() for part in parts) for parts in flat]
        for one, other in itertools.combinations(range(len(flat)), 2):
            square = sum((a - b).float().square().sum() for a, b in zip(flat[one], flat[other], strict=True))
            distances.append((2 * square / (norms[one] + norms[other]).clamp(min=1e-30)).sqrt())
    return torch.stack(distances).mean().item() if distances else None
