"""Moon2Model: one embedding for a product from its title, its images or both.

`Moon2Model` takes a vision-language backbone, replaces its feed-forward layers by a modality-driven mixture of experts
(MOON2.0, section 2), runs it, and pools its last layer into the item's own view and its image-only view (section 1).
"""

import inspect
import json
import os
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.integrations.moe import use_experts_implementation
from transformers.utils import ModelOutput, can_return_tuple

try:
    from .backbones_moon2 import family_of
    from .configuration_moon2 import COMPOSITIONS, IMAGE, NOT_POOLED, PICTURE_INPUTS, TEXT, Moon2Config
except ImportError:  # in the repository these files are top-level modules, in a checkpoint they are a package
    from backbones_moon2 import family_of
    from configuration_moon2 import COMPOSITIONS, IMAGE, NOT_POOLED, PICTURE_INPUTS, TEXT, Moon2Config

# From these files sentence-transformers runs the model in its stock module; without them, it would pool anew.
POOLER_OUTPUT = {"method": "forward", "method_output_name": "pooler_output"}
SENTENCE_TRANSFORMERS_FILES = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": POOLER_OUTPUT, "image": POOLER_OUTPUT}
        | {"message": POOLER_OUTPUT | {"format": "structured"}},
        "module_output_name": "sentence_embedding",
        "unpad_inputs": False,  # without padding, `position_types` would be lost
    },
    "config_sentence_transformers.json": {
        "__version__": {"sentence_transformers": "6.2.0"},
        "model_type": "SentenceTransformer",
        "similarity_fn_name": "cosine",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
    },
}


class Routing:
    """What one forward tells its routers, and what they answer. Threads share the modules, so it lives on none of them.

    Attributes:
        composition (`torch.LongTensor` of shape `(B,)`, *optional*): index into `COMPOSITIONS` of each item.
        gates (`list`, *optional*): the routers' outputs, in the order of the layers; `None` once the forward has
            ended, since activation checkpointing then runs the layers a second time.
    """

    def __init__(self, composition: torch.LongTensor | None = None):  # no dataclass, of which FSDP makes copies
        self.composition = composition
        self.gates: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] | None = []


# The routing of the layer that this thread is running.
ROUTING: ContextVar[Routing | None] = ContextVar("moon2_routing", default=None)


class Moon2Router(nn.Module):
    """The gate G = softmax(W_g h) and its top-k, renormalised (section 2).

    With `router="composition"` a bias for the item's modality composition, zero at first, is added to the logits.
    """

    def __init__(self, config: Moon2Config, hidden_size: int, **factory):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.weight = nn.Parameter(torch.empty(config.num_experts, hidden_size, **factory))
        by_composition = config.router == "composition"
        shape = (len(COMPOSITIONS), config.num_experts)
        self.composition_bias = nn.Parameter(torch.empty(shape, **factory)) if by_composition else None

    def forward(
        self, hidden_states: torch.Tensor, composition: torch.LongTensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(tokens, D) -> logits (tokens, Z), weights (tokens, k) that sum to one, expert indices (tokens, k).

        Args:
            composition (`(tokens,)`, with `router="composition"`): index into `COMPOSITIONS` of each token's item.

        Raises:
            ValueError: `router="composition"`, and no composition is given.
        """
        logits = F.linear(hidden_states, self.weight)
        if self.composition_bias is not None:
            if composition is None:
                raise ValueError(
                    'router="composition" must know what each item is made of; call the Moon2Model, not its vlm.'
                )
            logits = logits + self.composition_bias[composition.to(logits.device)]
        weights, indices = logits.softmax(-1, dtype=torch.float32).topk(self.top_k, dim=-1)
        return logits, weights / weights.sum(-1, keepdim=True), indices


@use_experts_implementation
class Moon2Experts(nn.Module):
    """Z gated feed-forward experts, stored as 3-D tensors; `experts_implementation` chooses how they are run."""

    def __init__(self, config: Moon2Config, hidden_size: int, intermediate_size: int, act_fn: nn.Module, **factory):
        super().__init__()
        self.num_experts = config.num_experts
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * intermediate_size, hidden_size, **factory))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden_size, intermediate_size, **factory))
        self.act_fn = act_fn

    def forward(self, hidden_states: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Sum weight_z * f_z(h) over the chosen experts z, one after the other; shapes as in `Moon2Router`."""
        output = torch.zeros_like(hidden_states)
        for expert in range(self.num_experts):
            token, slot = torch.where(indices == expert)
            gate, up = F.linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
            expert_output = F.linear(self.act_fn(gate) * up, self.down_proj[expert])
            output.index_add_(0, token, (expert_output * weights[token, slot, None]).to(output.dtype))
        return output


class AutocastGroupedMM(TorchFunctionMode):
    """Under autocast, runs grouped matrix products in autocast's type: torch's own autocast leaves them out, and the
    experts would be computed in the float32 of their weights."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._grouped_mm:  # what torch.nn.functional.grouped_mm calls
            device, dtype = args[0].device.type, torch.get_autocast_dtype(args[0].device.type)
            # The kernel wants rows of whole 16 bytes; transformers has checked that for the weights' type only.
            rows = {size for matrix in args for size in matrix.shape[-2:][matrix.ndim == 2 :]}
            if torch.is_autocast_enabled(device) and not any(size * dtype.itemsize % 16 for size in rows):
                args = [matrix.to(dtype) for matrix in args]
        return func(*args, **(kwargs or {}))


class Moon2SharedExpert(nn.Module):
    """A gated feed-forward unit that every token passes (`shared_expert_intermediate_size`; our addition)."""

    def __init__(self, hidden_size: int, intermediate_size: int, act_fn: nn.Module, **factory):
        super().__init__()
        self.gate_proj, self.up_proj = (
            nn.Linear(hidden_size, intermediate_size, bias=False, **factory) for _ in range(2)
        )
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False, **factory)
        self.act_fn = act_fn

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class Moon2SparseMoeBlock(nn.Module):
    """Takes the place of one dense feed-forward layer of the backbone (section 2). No token is ever dropped."""

    def __init__(self, config: Moon2Config, dense: nn.Module):
        super().__init__()
        intermediate_size, hidden_size = dense.gate_proj.weight.shape
        factory = {"dtype": dense.gate_proj.weight.dtype, "device": dense.gate_proj.weight.device}
        self.gate = Moon2Router(config, hidden_size, **factory)
        width = config.moe_intermediate_size or intermediate_size
        self.experts = Moon2Experts(config, hidden_size, width, dense.act_fn, **factory)
        shared = config.shared_expert_intermediate_size
        self.shared_expert = Moon2SharedExpert(hidden_size, shared, dense.act_fn, **factory) if shared else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)"""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        routing = ROUTING.get() or Routing()
        composition = routing.composition
        if composition is not None:
            composition = composition.repeat_interleave(hidden_states.shape[1])
        gate = self.gate(tokens, composition)
        if routing.gates is not None:
            routing.gates.append(gate)
        _, weights, indices = gate
        with AutocastGroupedMM() if torch.is_autocast_enabled(tokens.device.type) else nullcontext():
            output = self.experts(tokens, indices, weights.to(tokens.dtype))
        if self.shared_expert is not None:
            output = output + self.shared_expert(tokens)
        return output.reshape(hidden_states.shape)


class Moon2DualAlignment(nn.Module):
    """W* of section 2: how much each expert is for each alignment objective. The losses read `weight`.

    Attributes:
        weight (`nn.Parameter` of shape `(Z, M)`): experts against objectives.
    """

    def __init__(self, config: Moon2Config):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, len(config.objectives)))


def receive_routing(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Take the keyword `routing` from a call of a layer's attention, for the `Moon2SparseMoeBlock` that comes next.

    A forward pre-hook: a decoder layer hands its keywords to its attention but not to its feed-forward part. Unlike a
    hook of the layer itself, this one runs again when activation checkpointing runs the layer's forward again.
    """
    ROUTING.set(kwargs.pop("routing", None))
    return args, kwargs


def gated_unit(layer: nn.Module, index: int) -> nn.Module:
    """Return the dense feed-forward layer that a block replaces.

    Raises:
        ValueError: it does not have the form that experts can take.
    """
    dense = getattr(layer, "mlp", None)
    parts = [getattr(dense, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(part, nn.Linear) and part.bias is None for part in parts) or not hasattr(dense, "act_fn"):
        raise ValueError(
            f"Layer {index} of the backbone has no gated feed-forward unit without "
            f"bias (mlp.gate_proj, up_proj, down_proj, act_fn) but a {type(dense).__name__}; experts cannot replace it."
        )
    return dense


@dataclass
class Moon2Output(ModelOutput):
    """What one forward over B items gives.

    Args:
        embeddings (`torch.FloatTensor` of shape `(B, D)`):
            Each item's own view (text, image, or both): the mean over its positions of the last layer, L2-normalised.
        image_embeddings (`torch.FloatTensor` of shape `(B, D)`):
            The image-only view of the items that have images; zeros in the rows of those that have none.
        has_image (`torch.BoolTensor` of shape `(B,)`):
            Which rows of `image_embeddings` mean something.
        expert_usage (`torch.FloatTensor` of shape `(B, Z)`):
            G~ of section 2: the renormalised top-k gates, averaged over the item's positions and the layers; its
            rows sum to 1.
        image_expert_usage (`torch.FloatTensor` of shape `(B, Z)`):
            The same over the image positions only; zeros where there are none.
        last_hidden_state (`torch.FloatTensor` of shape `(B, L, D)`):
            The backbone's last layer, for the item's own view.
        router_logits (`tuple` of `torch.FloatTensor` of shape `(B * L, Z)`):
            The gates' logits for the item's own view, one for each mixture-of-experts layer, padding included.
        hidden_states (`tuple` of `torch.FloatTensor` of shape `(B, L, D)`, *optional*):
            With `output_hidden_states=True`: the embeddings and every layer.
        attentions (`tuple` of `torch.FloatTensor` of shape `(B, heads, L, L)`, *optional*):
            With `output_attentions=True` and eager attention.
    """

    embeddings: torch.FloatTensor | None = None
    image_embeddings: torch.FloatTensor | None = None
    has_image: torch.BoolTensor | None = None
    expert_usage: torch.FloatTensor | None = None
    image_expert_usage: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    router_logits: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None

    @property
    def pooler_output(self) -> torch.FloatTensor:
        """`embeddings`, under the name that sentence-transformers reads."""
        return self.embeddings


class Moon2PreTrainedModel(PreTrainedModel):
    """Initialisation and loading."""

    config_class = Moon2Config
    base_model_prefix = "moon2"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # A learning rate is small against bf16's spacing, and W* has few numbers.
    _keep_in_fp32_modules_strict = ("dual_alignment",)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, (Moon2Router, Moon2Experts, Moon2DualAlignment)):
            for name, parameter in module.named_parameters(recurse=False):
                if name == "composition_bias":
                    init.zeros_(parameter)
                else:
                    init.normal_(parameter, std=self.config.initializer_range)
        else:
            super()._init_weights(module)

    def initialize_weights(self):
        """Initialise routers and experts here: they sit in a nested model, whose class does not know them."""
        for module in self.modules():
            if isinstance(module, (Moon2Router, Moon2Experts)):
                self._initialize_weights(module)
        super().initialize_weights()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """Load as in transformers, but refuse weights that do not fit exactly.

        Raises:
            ValueError: weights are missing, left over or of another shape; the message names them.
        """
        kwargs["ignore_mismatched_sizes"] = True  # so that they are named below, with all the others
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        check_keys(pretrained_model_name_or_path, cls.__name__, info)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, *args, **kwargs):
        """Save as in transformers, and with the files from which sentence-transformers loads the model."""
        if self.should_save_on_this_rank(is_main_process):
            os.makedirs(save_directory, exist_ok=True)
            for name, content in SENTENCE_TRANSFORMERS_FILES.items():
                path = Path(save_directory, name)
                # sentence-transformers writes its own settings (prompts, say) before it saves the model: they stay.
                if name != "config_sentence_transformers.json" or not path.exists():
                    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    def _get_files_timestamps(self, working_dir: str | os.PathLike) -> dict[str, float]:
        """Without the files above: they are new when `save_pretrained(push_to_hub=True)` asks, and must be uploaded."""
        times = super()._get_files_timestamps(working_dir)
        return {name: time for name, time in times.items() if name not in SENTENCE_TRANSFORMERS_FILES}


class Moon2Model(Moon2PreTrainedModel):
    """A multimodal product encoder: a vision-language backbone with modality-driven experts, pooled to one vector.

    Attributes:
        vlm: the backbone, with `Moon2SparseMoeBlock`s in the chosen decoder layers.
        dual_alignment (`Moon2DualAlignment`): W* of section 2.
        image_view_is_prefix (`bool`): the image-only view is read from the multimodal pass; otherwise it takes a second
            pass of the language model, with the same visual tokens.

    Raises:
        ValueError: the backbone is of an unknown family, or a feed-forward layer is no gated unit.
    """

    def __init__(self, config: Moon2Config, vlm: PreTrainedModel | None = None):
        super().__init__(config)
        family = family_of(config.vlm_config)
        # transformers hands this setting down to the backbone, which has no experts of its own and would refuse it.
        config.vlm_config._experts_implementation = "eager"
        self.vlm = AutoModel.from_config(config.vlm_config) if vlm is None else vlm
        for index in self.moe_layer_indices:
            layer = self._decoder_layers[index]
            layer.mlp = Moon2SparseMoeBlock(config, gated_unit(layer, index))
        for layer in self._decoder_layers:
            layer.self_attn.register_forward_pre_hook(receive_routing, with_kwargs=True)
        self.dual_alignment = Moon2DualAlignment(config)
        self.image_view_is_prefix = family.causal and config.router == "token"
        self._family = family
        self._forward_takes = set(inspect.signature(self.vlm.forward).parameters)  # a set can be pickled
        self.post_init()

    @property
    def _decoder_layers(self) -> nn.ModuleList:
        return self.vlm.get_decoder().layers

    @property
    def moe_layer_indices(self) -> list[int]:
        """Return the indices of the decoder layers that have experts."""
        chosen = self.config.moe_layers
        return list(range(len(self._decoder_layers))) if chosen is None else list(chosen)

    def num_active_parameters(self) -> int:
        """Count the parameters that one token passes: all but the experts that are not chosen."""
        experts = sum(parameter.numel() for name, parameter in self.named_parameters() if ".experts." in name)
        return self.num_parameters() - experts + experts * self.config.num_experts_per_tok // self.config.num_experts

    def get_input_embeddings(self) -> nn.Module:
        return self.vlm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.vlm.set_input_embeddings(value)

    def _set_gradient_checkpointing(self, **kwargs):
        """Switch checkpointing on or off as in transformers, but refuse `use_reentrant=True` with a ValueError."""
        if getattr(kwargs.get("gradient_checkpointing_func"), "keywords", {}).get("use_reentrant"):
            raise ValueError(
                "use_reentrant=True would cut the router's statistics off from the gradient, so that L_aux and omega "
                "would train nothing; leave use_reentrant out, or set it to False."
            )
        super()._set_gradient_checkpointing(**kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor,
        position_types: torch.LongTensor,
        pixel_values: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.BoolTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        **kwargs,
    ) -> Moon2Output:
        """Embed B items; the vision tower sees each image once.

        Image tokens stand first. Where attention is causal and routing is by token, the hidden states of an item's
        image positions do not depend on its text: their mean is the image-only view, and one pass gives both views
        (section 1). Elsewhere the items that have both get a second pass without their text.

        Args:
            input_ids, attention_mask (`(B, L)`): as usual; padding on either side.
            position_types (`(B, L)`): 0 not pooled, 1 image block, 2 text.
            pixel_values, pixel_attention_mask, image_grid_thw: all images of the batch in a row, as
                `Moon2Processor` gives them.
            kwargs: handed to the backbone (`output_attentions`, `output_hidden_states`, ...).

        Raises:
            ValueError: image positions without images, or more positions than the backbone has.
        """
        for name in ("output_attentions", "output_hidden_states"):
            if kwargs.get(name) is None:  # the backbone would ask its own config, which was not told
                kwargs[name] = getattr(self.config, name)
        if not torch.compiler.is_compiling():
            if pixel_values is None and (position_types == IMAGE).any():
                raise ValueError("position_types has image positions, but there are no pixel_values: pass both.")
            longest, most = input_ids.shape[1], getattr(self.config.get_text_config(), "max_position_embeddings", None)
            if most is not None and longest > most:
                raise ValueError(f"An item has {longest} positions; the backbone has {most}. Pass fewer images.")
        pictures = dict(zip(PICTURE_INPUTS, (pixel_values, pixel_attention_mask, image_grid_thw), strict=True))
        pictures = {name: value for name, value in pictures.items() if value is not None}
        # What an exported program gets ready-made (transformers' `accepts_precomputed_kwargs`), see docs/export.md.
        precomputed = {name: kwargs.pop(name) for name in [*kwargs] if name.startswith("image_")}
        visual = self._see(pictures, precomputed) if pictures else {}
        outputs, gates, usage = self._read(input_ids, attention_mask, position_types, visual, **kwargs)

        hidden, own, image = outputs.last_hidden_state, position_types != NOT_POOLED, position_types == IMAGE
        has_image, has_text = image.any(1), (position_types == TEXT).any(1)
        image_embeddings, image_usage = F.normalize(_mean(hidden, image), dim=-1), _mean(usage, image)
        if not self.image_view_is_prefix and (has_image & has_text).any():
            sequences = self._without_text(input_ids, attention_mask, position_types)
            alone, _, usage_alone = self._read(*sequences, visual)
            image_alone = sequences[-1] == IMAGE
            rows = has_image.nonzero().squeeze(1)
            image_view = F.normalize(_mean(alone.last_hidden_state, image_alone), dim=-1)
            image_embeddings = torch.zeros_like(image_embeddings).index_copy(0, rows, image_view)
            image_usage = torch.zeros_like(image_usage).index_copy(0, rows, _mean(usage_alone, image_alone))
        return Moon2Output(
            embeddings=F.normalize(_mean(hidden, own), dim=-1),
            image_embeddings=image_embeddings,
            has_image=has_image,
            expert_usage=_mean(usage, own),
            image_expert_usage=image_usage,
            last_hidden_state=hidden,
            router_logits=tuple(logits for logits, _, _ in gates),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _see(self, pictures: dict[str, torch.Tensor], precomputed: dict[str, torch.Tensor]) -> dict:
        """Turn images into what the backbone's forward takes for them: the visual tokens, made once."""
        if self._family.pictures_in_rows:
            pictures = {name: value[None] for name, value in pictures.items()}
        if "mm_encoder_outputs" not in self._forward_takes:  # transformers before 5.18: every pass sees for itself
            return pictures
        features = self.vlm.get_image_features(**pictures, **precomputed, return_dict=True)
        visual = {"mm_encoder_outputs": {"image": features}}
        # The Qwen-VL families derive a visual token's position from its place in the image.
        return visual | {name: pictures[name] for name in ("image_grid_thw",) if name in pictures}

    def _read(self, input_ids, attention_mask, position_types, visual: dict, **kwargs):
        """Run the language model once.

        Returns:
            the backbone's output, the gates' outputs of every mixture-of-experts layer, and G~ of every position,
            averaged over these layers: (B, L, Z).
        """
        if visual and "mm_token_type_ids" in self._forward_takes:
            kwargs["mm_token_type_ids"] = (input_ids == self.vlm.config.image_token_id).int()
        if not self._family.causal:
            # 0 marks positions that all see each other: here, the whole item, whether or not the batch has padding.
            kwargs["token_type_ids"] = torch.zeros_like(input_ids)
        routing = Routing()
        if self.config.router == "composition":
            has_image, has_text = ((position_types == kind).any(1).long() for kind in (IMAGE, TEXT))
            routing.composition = has_image * (1 + has_text)  # t, i, mm of COMPOSITIONS
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "routing": routing}
        outputs = self.vlm(**inputs, use_cache=False, **visual, **kwargs)
        gates, routing.gates = routing.gates, None
        unused = gates[0][1].new_zeros(input_ids.numel(), self.config.num_experts)  # what no token chose stays zero
        usage = sum(unused.scatter(1, indices, weights) for _, weights, indices in gates) / len(gates)
        return outputs, gates, usage.view(*input_ids.shape, -1)

    def _without_text(self, input_ids, attention_mask, position_types) -> tuple[torch.Tensor, ...]:
        """Return the items that have images, without their text, padded on the right: ids, mask and types, as
        `forward` takes them."""
        rows = (position_types == IMAGE).any(1)
        kept = (attention_mask[rows] != 0) & (position_types[rows] != TEXT)
        no_picture = int(self.vlm.config.image_token_id == 0)  # padding may be any token but this one
        padding = ((input_ids, no_picture), (attention_mask, 0), (position_types, NOT_POOLED))
        return tuple(
            nn.utils.rnn.pad_sequence([row[keep] for row, keep in zip(values[rows], kept, strict=True)], True, value)
            for values, value in padding
        )


def check_keys(checkpoint: str, model: str, info: dict):
    """Refuse weights that do not fit exactly, by name; `info` is what `from_pretrained` says of the loading."""
    wrong = {what: sorted(map(str, info[what])) for what in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        found = "; ".join(f"{what.replace('_', ' ')}: {', '.join(keys)}" for what, keys in wrong.items() if keys)
        raise ValueError(f"The weights in {checkpoint} are not those of a {model} with this config: {found}.")


def _mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (B, L, D) over the positions of a (B, L) mask, in float32; zeros for a row without any."""
    mask = mask.unsqueeze(-1).float()
    return (values.float() * mask).sum(1) / mask.sum(1).clamp(min=1)


Moon2Model.register_for_auto_class("AutoModel")
