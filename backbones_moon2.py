"""What differs between the families of vision-language backbones: all of it is here."""

from typing import Any, NamedTuple


class Family(NamedTuple):
    """What `Moon2Model` must know of a family.

    Attributes:
        causal: no position sees a later one, so that with images first the image-only view is a prefix.
        pictures_in_rows: images are taken as (rows, images, ...) instead of (images, ...).
    """

    causal: bool = True
    pictures_in_rows: bool = False


# By `model_type`. A new family needs a line here, a case in `image_block`, and a tiny configuration in the tests.
BACKBONES = {
    "qwen2_vl": Family(),
    "qwen2_5_vl": Family(),
    "qwen3_vl": Family(),
    "llava": Family(),
    "smolvlm": Family(pictures_in_rows=True),
    "idefics3": Family(pictures_in_rows=True),
    "paligemma": Family(causal=False),
}


def family_of(vlm_config) -> Family:
    """Return the family of a backbone's configuration.

    Raises:
        ValueError: it is not known how such a backbone takes images, or whether its attention is causal.
    """
    if vlm_config.model_type not in BACKBONES:
        raise ValueError(
            f"The backbone is a {vlm_config.model_type}; Moon2Model knows how to use: {', '.join(BACKBONES)}."
        )
    family = BACKBONES[vlm_config.model_type]
    if family.causal and getattr(vlm_config.get_text_config(), "use_bidirectional_attention", None):
        raise ValueError(
            f"The language model of this {vlm_config.model_type} has use_bidirectional_attention=True, with which its "
            "vectors would depend on the padding; only causal ones can be used here."
        )
    return family


def image_block(vlm_config, tokenizer) -> dict[str, Any]:
    """Tell how a family of backbones writes one image in a sequence.

    Returns:
        `image_token`, `image_start`, `image_end` and `image_seq_length` as `Moon2Processor` takes them.
    """
    family = vlm_config.model_type
    token = tokenizer.convert_ids_to_tokens
    block = {"image_token": token(vlm_config.image_token_id)}
    if family.startswith("qwen"):
        return block | {
            "image_start": token(vlm_config.vision_start_token_id),
            "image_end": token(vlm_config.vision_end_token_id),
        }
    vision = vlm_config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    if family in ("smolvlm", "idefics3"):
        around = "<fake_token_around_image>"
        length = patches // vlm_config.scale_factor**2
        return block | {"image_start": f"{around}<global-img>", "image_end": around, "image_seq_length": length}
    if family == "llava":  # a CLIP tower gives a class token, too; the strategy "default" drops the first token
        patches += vision.model_type == "clip_vision_model"
        patches -= vlm_config.vision_feature_select_strategy == "default"
    return block | {"image_start": "", "image_end": "", "image_seq_length": patches}
