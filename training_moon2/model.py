"""The model that a recipe starts from, and what it becomes at the end."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from configuration_moon2 import Moon2Config
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from training_moon2.arguments import ModelArguments
from training_moon2.upcycling import is_moon2, start_experts, upcycle

# Loading a tokenizer looks at the model's configuration; of an unknown type it would ask in the terminal for trust.
AutoConfig.register(Moon2Config.model_type, Moon2Config, exist_ok=True)

ADAPTER = "adapter"  # beside the merged model
# Linear layers by the names that the supported families give them; expressions, for both towers share some names.
ATTENTION = r".*(language_model|text_model)\.layers\.\d+\.self_attn\.[qkvo]_proj"
VISION = r".*(visual|vision_tower|vision_model)\..*(attn\.(qkv|proj)|self_attn\.([qkv]|out)_proj)"
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def build_model(arguments: ModelArguments, rows) -> tuple[nn.Module, Moon2Processor]:
    """Build the model and processor that a recipe asks for.

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
            texts,
            arguments.architecture,
            arguments.vocab_size or 4096,
            arguments.max_pixels or 96 * 96,
            arguments.fold_words,
        )
        return scratch_model(arguments.architecture, processor.tokenizer, **arguments.experts()), processor
    if (Path(arguments.model) / "adapter_config.json").is_file():
        raise ValueError(
            f"{arguments.model} is a LoRA adapter, not a model. Name the merged model (train_moon2.py writes it into "
            "the folder above), or merge the two as docs/finetuning.md shows."
        )
    revision = {"revision": arguments.revision} if arguments.revision else {}
    options = {"dtype": arguments.dtype} | revision
    if not is_moon2(arguments.model, **revision):
        model, processor = upcycle(arguments.model, arguments.max_pixels, **options, **arguments.experts())
        start_experts(model, processor, arguments, rows)
        return model, processor
    if arguments.upcycling or arguments.router_start:
        raise ValueError(f"upcycling and router_start make experts of dense layers, but {arguments.model} has experts.")
    if arguments.max_pixels is not None:
        raise ValueError(f"max_pixels is in the recipe, but {arguments.model} has its own.")
    model = Moon2Model.from_pretrained(arguments.model, **options)
    for name, value in arguments.experts().items():
        if getattr(model.config, name) != value:
            raise ValueError(f"{name} is {value} in the recipe but {getattr(model.config, name)} in {arguments.model}.")
    return model, Moon2Processor.from_pretrained(arguments.model, **revision)


def _texts(rows) -> list[str]:
    return [name for name in rows.column_names if name.endswith(("_title", "query_text"))]


def add_lora(model: Moon2Model, arguments: ModelArguments) -> nn.Module:
    """Return the model with LoRA matrices, by PEFT; all but them, the routers and W* is frozen.

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


# With the usual 0.02 a word is drowned by what attention mixes into it, and a short run hardly learns to read.
EMBEDDING_STD = 0.25
REQUIRED = {
    "text_config": ("hidden_size", "num_hidden_layers"),
    "vision_config": ("patch_size", "spatial_merge_size", "temporal_patch_size", "out_hidden_size"),
}
PAD, IMAGE, IMAGE_START, IMAGE_END = "<|pad|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int, fold_words: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE, which knows every script, since every text is bytes.

    Args:
        fold_words: a word is the same at any place and in any case, and a Chinese character is a word.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=fold_words)
    if fold_words:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        characters = pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([characters, tokenizer.pre_tokenizer])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, IMAGE, IMAGE_START, IMAGE_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, additional_special_tokens=[IMAGE, IMAGE_START, IMAGE_END]
    )


def scratch_processor(
    texts: Iterable[str], architecture: dict, vocab_size: int, max_pixels: int, fold_words: bool = False
) -> Moon2Processor:
    """Make the processor of an untrained Qwen3-VL of the given architecture (a `Qwen3VLConfig` as a dict).

    Args:
        max_pixels: images are scaled, at their own shape, to at most this many pixels.
        fold_words: see `train_tokenizer`.

    Raises:
        ValueError: the architecture is of another family, or lacks a field; the message names it.
    """
    if architecture.get("model_type") != "qwen3_vl":
        raise ValueError(f"architecture.model_type is {architecture.get('model_type')!r}; only 'qwen3_vl' is built in.")
    for part, names in REQUIRED.items():
        missing = [name for name in names if name not in architecture.get(part, {})]
        if missing:
            raise ValueError(f"architecture.{part} lacks {', '.join(missing)}.")
    vision = architecture["vision_config"]
    unit = vision["patch_size"] * vision["spatial_merge_size"]
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=vision["patch_size"],
        merge_size=vision["spatial_merge_size"],
        temporal_patch_size=vision["temporal_patch_size"],
        # Thumbnails are enlarged to about the same count of patches as full photos: one scale for one product.
        size={"shortest_edge": max(unit**2, max_pixels // 2), "longest_edge": max_pixels},
    )
    tokenizer = train_tokenizer(texts, vocab_size, fold_words)
    return Moon2Processor(image_processor, tokenizer, image_token=IMAGE, image_start=IMAGE_START, image_end=IMAGE_END)


def scratch_model(architecture: dict, tokenizer: PreTrainedTokenizerFast, **experts) -> Moon2Model:
    """Make an untrained model of the given architecture, completed with what the tokenizer decides.

    Args:
        experts: `num_experts`, `moe_intermediate_size` and the like, as in `Moon2Config`.
    """
    text_config = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    vlm_config = architecture | {
        "text_config": architecture["text_config"] | text_config,
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids(IMAGE_START),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids(IMAGE_END),
    }
    model = Moon2Model(Moon2Config(vlm_config=vlm_config, **experts))
    nn.init.normal_(model.get_input_embeddings().weight, std=EMBEDDING_STD)
    return model
