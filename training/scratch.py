"""A Moon2 that learns from nothing: a tokenizer trained on the catalogue's own text, and an untrained backbone.

For demonstrations and for catalogues of a narrow field; otherwise start from a trained vision-language model.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from configuration_moon2 import Moon2Config
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor

# With the usual 0.02 a word is drowned by what attention mixes into it, and a short run hardly learns to read.
EMBEDDING_STD = 0.25
REQUIRED = {
    "text_config": ("hidden_size", "num_hidden_layers"),
    "vision_config": ("patch_size", "spatial_merge_size", "temporal_patch_size", "out_hidden_size"),
}
PAD, IMAGE, IMAGE_START, IMAGE_END = "<|pad|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE: it knows every script, since every text is bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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


def scratch_processor(texts: Iterable[str], architecture: dict, vocab_size: int, max_pixels: int) -> Moon2Processor:
    """The processor of an untrained Qwen3-VL of the given architecture (a `Qwen3VLConfig` as a dict).

    Args:
        max_pixels: pictures are scaled, at their own shape, to at most this many pixels.

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
    tokenizer = train_tokenizer(texts, vocab_size)
    return Moon2Processor(image_processor, tokenizer, image_token=IMAGE, image_start=IMAGE_START, image_end=IMAGE_END)


def scratch_model(architecture: dict, tokenizer: PreTrainedTokenizerFast, **experts) -> Moon2Model:
    """An untrained model of the given architecture, completed with what the tokenizer decides.

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
