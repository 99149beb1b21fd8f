"""What `transformers.exporters` needs to make a program of a `Moon2Model`: docs/export.md shows the calls."""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.exporters.utils import precompute_export_inputs


class Moon2Program(nn.Module):
    """The part of a `Moon2Model` that an exported program holds: features to embeddings.

    It returns a plain dict, so that the program loads where this code is not installed: `embeddings` and, with
    images, `image_embeddings` and `has_image`, as in `Moon2Output`. A model whose image-only view takes a second pass
    ("composition" router, paligemma) gives `embeddings` only, because that pass has no fixed shapes; there, the
    image-only view of an item is its embedding without its text.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.gives_image_view = model.image_view_is_prefix
        self.model = copy.copy(model)  # with the same weights
        self.model.image_view_is_prefix = True  # the second pass is left out

    def forward(self, **features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs above for `program_inputs`."""
        output = self.model(**features)
        with_image_view = self.gives_image_view and "pixel_values" in features
        names = ["embeddings", *(["image_embeddings", "has_image"] if with_image_view else [])]
        return {name: output[name] for name in names}


def program_inputs(model: PreTrainedModel, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what a program takes: the features, and with a Qwen-VL backbone what no graph can derive from them.

    That is the place of every token and patch, and the bounds of attention between patches. Transformers makes them
    for the parts of a backbone; here they get the names by which `Moon2Model.forward` hands them to these parts.

    Args:
        model: the `Moon2Model`. Its weights are not read: it may be on the meta device.
        features: what `Moon2Processor` gives.

    Raises:
        ValueError: images of different sizes, of which a program would make wrong embeddings.
    """
    inputs = dict(features)
    if "image_grid_thw" not in inputs:
        return inputs
    vision = {"grid_thw": inputs["image_grid_thw"]}
    precompute_export_inputs(model.vlm.visual, vision)
    # The ONNX program has no check of its own: it would let patches of different images attend to each other.
    for name in ("cu_seqlens", "cu_window_seqlens"):
        lengths = vision[name].diff().unique().tolist() if name in vision else []
        if len(lengths) > 1:
            raise ValueError(
                f"An exported program takes images of one size at a time, but attention would be over {lengths} "
                "patches: resize the images of a call to the same size, for Qwen2.5-VL to whole attention windows."
            )
    inputs |= {f"image_{name}": value for name, value in vision.items() if name != "grid_thw" and value is not None}
    language = inputs | {"mm_token_type_ids": (inputs["input_ids"] == model.vlm.config.image_token_id).int()}
    precompute_export_inputs(model.vlm, language)
    return inputs | {"position_ids": language["position_ids"]}
