"""The model that a recipe starts from, and what it becomes at the end."""

from pathlib import Path

from torch import nn
from transformers import AutoConfig

from configuration_moon2 import Moon2Config
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from training.recipe import ModelArguments
from training.scratch import scratch_model, scratch_processor
from upcycle_moon2 import is_moon2, upcycle

# Loading a tokenizer looks at the model's configuration; of an unknown type it would ask in the terminal for trust.
AutoConfig.register(Moon2Config.model_type, Moon2Config, exist_ok=True)

ADAPTER = "adapter"  # beside the merged model
# Linear layers by the names that the supported families give them; expressions, for both towers share some names.
ATTENTION = r".*(language_model|text_model)\.layers\.\d+\.self_attn\.[qkvo]_proj"
VISION = r".*(visual|vision_tower|vision_model)\..*(attn\.(qkv|proj)|self_attn\.([qkv]|out)_proj)"
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def build_model(arguments: ModelArguments, rows) -> tuple[nn.Module, Moon2Processor]:
    """The model and processor that a recipe asks for.

    Args:
        rows: training triplets; a tokenizer trained from nothing learns from their texts.

    Raises:
        ValueError, OSError: the recipe contradicts itself or the checkpoint, or there is no such checkpoint.
    """
    model, processor = _build(arguments, rows)
    return (model if arguments.lora_rank is None else add_lora(model, arguments)), processor


def _build(arguments: ModelArguments, rows) -> tuple[Moon2Model, Moon2Processor]:
    if arguments.architecture is not None:
        texts = (text for row in rows.select_columns(_texts(rows)) for text in row.values() if text)
        processor = scratch_processor(
            texts, arguments.architecture, arguments.vocab_size or 4096, arguments.max_pixels or 96 * 96
        )
        return scratch_model(arguments.architecture, processor.tokenizer, **arguments.experts()), processor
    if (Path(arguments.model) / "adapter_config.json").is_file():
        raise ValueError(
            f"{arguments.model} is a LoRA adapter, not a model. Name the merged model (train_moon2.py writes it into "
            "the folder above), or merge the two as docs/finetuning.md shows."
        )
    options = {"dtype": arguments.dtype} | ({"revision": arguments.revision} if arguments.revision else {})
    if not is_moon2(arguments.model, **({"revision": arguments.revision} if arguments.revision else {})):
        return upcycle(arguments.model, arguments.max_pixels, **options, **arguments.experts())
    if arguments.max_pixels is not None:
        raise ValueError(f"max_pixels is in the recipe, but {arguments.model} has its own.")
    model = Moon2Model.from_pretrained(arguments.model, **options)
    for name, value in arguments.experts().items():
        if getattr(model.config, name) != value:
            raise ValueError(f"{name} is {value} in the recipe but {getattr(model.config, name)} in {arguments.model}.")
    options.pop("dtype")
    return model, Moon2Processor.from_pretrained(arguments.model, **options)


def _texts(rows) -> list[str]:
    return [name for name in rows.column_names if name.endswith(("_title", "query_text"))]


def add_lora(model: Moon2Model, arguments: ModelArguments) -> nn.Module:
    """The model with LoRA matrices, by PEFT; all but them, the routers and W* is frozen.

    Raises:
        ValueError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("lora_rank needs PEFT: pip install 'moon2[train]'.") from error
    targets = arguments.lora_targets or ["attention", "experts"]
    modules = [expression for name, expression in (("attention", ATTENTION), ("vision", VISION)) if name in targets]
    whole = ["mlp.gate", "dual_alignment"]  # new and random after upcycling, so the adapter has to hold all of them
    if model.config.shared_expert_intermediate_size:
        whole.append("mlp.shared_expert")
    adapter = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha or 2 * arguments.lora_rank,
        target_modules="|".join(modules) or None,
        target_parameters=EXPERTS if "experts" in targets else None,
        modules_to_save=whole,
    )
    return get_peft_model(model, adapter)
