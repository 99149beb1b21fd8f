"""Moon2Model: one embedding for a product from its title, its pictures or both.

Reading order: `Moon2Router` and `Moon2Experts` are the two halves of `Moon2SparseMoeBlock`, which takes the place of
the feed-forward layer in a vision-language backbone (MOON2.0, section 2); `Moon2Model` runs the backbone once and pools
its last layer into the item's own view and, for free, its image-only view (section 1).
"""

import inspect
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.integrations.moe import use_experts_implementation
from transformers.utils import ModelOutput

try:
    from .configuration_moon2 import IMAGE, NOT_POOLED, Moon2Config
except ImportError:  # in the repository these files are top-level modules, in a checkpoint they are a package
    from configuration_moon2 import IMAGE, NOT_POOLED, Moon2Config

# Backbones whose attention is causal and whose image tokens can stand first, so that the image-only view is a prefix.
SUPPORTED_BACKBONES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "llava")
# Of these, the ones that take pictures as (rows, pictures, ...) instead of (pictures, ...).
PICTURES_IN_ROWS = ("smolvlm", "idefics3")


@dataclass
class Moon2Output(ModelOutput):
    """What one forward over B items gives.

    Args:
        embeddings (`torch.FloatTensor` of shape `(B, D)`):
            Each item's own view (text, image, or both): the mean over its positions of the last layer, L2-normalised.
        image_embeddings (`torch.FloatTensor` of shape `(B, D)`):
            The image-only view of the items that have pictures; zeros in the rows of those that have none.
        has_image (`torch.BoolTensor` of shape `(B,)`):
            Which rows of `image_embeddings` mean something.
        expert_usage (`torch.FloatTensor` of shape `(B, Z)`):
            G~ of section 2: the renormalised top-k gates, averaged over the item's positions and the layers; its
            rows sum to 1.
        image_expert_usage (`torch.FloatTensor` of shape `(B, Z)`):
            The same over the image positions only; zeros where there are none.
        last_hidden_state (`torch.FloatTensor` of shape `(B, L, D)`):
            The backbone's last layer.
        router_logits (`tuple` of `torch.FloatTensor` of shape `(B * L, Z)`):
            The gates' logits, one for each mixture-of-experts layer, padding included.
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
    attentions: tuple[torch.FloatTensor, ...] | None = None

    @property
    def pooler_output(self) -> torch.FloatTensor:
        """`embeddings`, under the name that sentence-transformers reads."""
        return self.embeddings


class Moon2Router(nn.Module):
    """The gate G = softmax(W_g h) and its top-k, renormalised (section 2)."""

    def __init__(self, config: Moon2Config, hidden_size: int, **factory):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.weight = nn.Parameter(torch.empty(config.num_experts, hidden_size, **factory))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(tokens, D) -> logits (tokens, Z), weights (tokens, k) that sum to one, expert indices (tokens, k)."""
        logits = F.linear(hidden_states, self.weight)
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
        """The eager implementation: sum over the chosen experts z of weight_z * f_z(h); shapes as in `Moon2Router`."""
        output = torch.zeros_like(hidden_states)
        for expert in range(self.num_experts):
            token, slot = torch.where(indices == expert)
            gate, up = F.linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
            expert_output = F.linear(self.act_fn(gate) * up, self.down_proj[expert])
            output.index_add_(0, token, (expert_output * weights[token, slot, None]).to(output.dtype))
        return output


class Moon2SparseMoeBlock(nn.Module):
    """Takes the place of one dense feed-forward layer of the backbone (section 2). No token is ever dropped."""

    def __init__(self, config: Moon2Config, dense: nn.Module):
        super().__init__()
        intermediate_size, hidden_size = dense.gate_proj.weight.shape
        factory = {"dtype": dense.gate_proj.weight.dtype, "device": dense.gate_proj.weight.device}
        self.gate = Moon2Router(config, hidden_size, **factory)
        width = config.moe_intermediate_size or intermediate_size
        self.experts = Moon2Experts(config, hidden_size, width, dense.act_fn, **factory)

    @torch.no_grad()
    def upcycle(self, dense: nn.Module):
        """Makes every expert a copy of the dense layer: whatever the router chooses, the block computes what it did."""
        self.experts.gate_up_proj.copy_(torch.cat([dense.gate_proj.weight, dense.up_proj.weight]))
        self.experts.down_proj.copy_(dense.down_proj.weight)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)"""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, weights, indices = self.gate(tokens)
        return self.experts(tokens, indices, weights.to(tokens.dtype)).reshape(hidden_states.shape)


class Moon2PreTrainedModel(PreTrainedModel):
    """Initialisation and loading."""

    config_class = Moon2Config
    base_model_prefix = "moon2"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, (Moon2Router, Moon2Experts, Moon2Model)):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, std=self.config.initializer_range)
        else:
            super()._init_weights(module)

    def initialize_weights(self):
        """Initialises routers and experts here: they sit in a nested model, whose class does not know them."""
        for module in self.modules():
            if isinstance(module, (Moon2Router, Moon2Experts)):
                self._initialize_weights(module)
        super().initialize_weights()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers, but a checkpoint whose weights do not fit exactly is refused.

        Raises:
            ValueError: weights are missing, left over or of another shape; the message names them.
        """
        kwargs["ignore_mismatched_sizes"] = True  # so that they are named below, with all the others
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        wrong = {what: sorted(map(str, info[what])) for what in ("missing_keys", "unexpected_keys", "mismatched_keys")}
        if any(wrong.values()):
            found = "; ".join(f"{what.replace('_', ' ')}: {', '.join(keys)}" for what, keys in wrong.items() if keys)
            raise ValueError(
                f"The weights in {pretrained_model_name_or_path} are not those of a {cls.__name__} with this config: "
                f"{found}."
            )
        return (model, info) if output_loading_info else model


class Moon2Model(Moon2PreTrainedModel):
    """A multimodal product encoder: a vision-language backbone with modality-driven experts, pooled to one vector.

    Attributes:
        vlm: the backbone, with `Moon2SparseMoeBlock`s in the chosen decoder layers.
        dual_alignment (`nn.Parameter` of shape `(Z, M)`): W* of section 2, experts against objectives.

    Raises:
        ValueError: the backbone is of an unknown family, or a feed-forward layer is no gated unit.
    """

    def __init__(self, config: Moon2Config, vlm: PreTrainedModel | None = None):
        super().__init__(config)
        _check_family(config.vlm_config)
        self.vlm = AutoModel.from_config(config.vlm_config) if vlm is None else vlm
        for index in self.moe_layer_indices:
            layer = self._decoder_layers[index]
            layer.mlp = Moon2SparseMoeBlock(config, _gated_unit(config, layer, index))
        self.dual_alignment = nn.Parameter(torch.empty(config.num_experts, len(config.objectives)))
        self._forward_takes = inspect.signature(self.vlm.forward).parameters
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        pretrained_model_name_or_path: str,
        *,
        num_experts: int = 4,
        num_experts_per_tok: int = 2,
        moe_layers: list[int] | None = None,
        objectives: list[str] | None = None,
        **kwargs,
    ) -> "Moon2Model":
        """Upcycles a dense vision-language checkpoint: all experts start as copies of its feed-forward layers, so the
        new model computes the same hidden states as the dense one (our choice, section 2).

        Args:
            pretrained_model_name_or_path: a Hub id or folder of a transformers vision-language model.
            num_experts, num_experts_per_tok, moe_layers, objectives: see `Moon2Config`.
            kwargs: handed to `AutoModel.from_pretrained` (dtype, revision, attn_implementation, ...).
        """
        vlm = AutoModel.from_pretrained(pretrained_model_name_or_path, **kwargs)
        _check_family(vlm.config)
        options = {} if objectives is None else {"objectives": objectives}
        config = Moon2Config(
            vlm_config=vlm.config,
            num_experts=num_experts,
            num_experts_per_tok=num_experts_per_tok,
            moe_layers=moe_layers,
            attn_implementation=vlm.config._attn_implementation,
            **options,
        )
        dense = [layer.mlp for layer in vlm.get_decoder().layers]
        model = cls(config, vlm)
        for index in model.moe_layer_indices:
            model._decoder_layers[index].mlp.upcycle(dense[index])
        return model

    @property
    def _decoder_layers(self) -> nn.ModuleList:
        return self.vlm.get_decoder().layers

    @property
    def moe_layer_indices(self) -> list[int]:
        """The decoder layers that have experts."""
        chosen = self.config.moe_layers
        return list(range(self.config.get_text_config().num_hidden_layers)) if chosen is None else list(chosen)

    def get_input_embeddings(self) -> nn.Module:
        return self.vlm.get_input_embeddings()

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
        """Embeds B items in one pass of the backbone.

        Image tokens stand first and attention is causal, so the hidden states of an item's image positions do not
        depend on its text: their mean is the image-only view (section 1).

        Args:
            input_ids, attention_mask (`(B, L)`): as usual; padding on either side.
            position_types (`(B, L)`): 0 not pooled, 1 image block, 2 text.
            pixel_values, pixel_attention_mask, image_grid_thw: all pictures of the batch in a row, as
                `Moon2Processor` gives them.
            kwargs: handed to the backbone (`output_attentions`, ...).
        """
        pictures = {
            "pixel_values": pixel_values,
            "pixel_attention_mask": pixel_attention_mask,
            "image_grid_thw": image_grid_thw,
        }
        pictures = {name: value for name, value in pictures.items() if value is not None}
        if pictures:
            if self.vlm.config.model_type in PICTURES_IN_ROWS:
                pictures = {name: value[None] for name, value in pictures.items()}
            if "mm_token_type_ids" in self._forward_takes:
                pictures["mm_token_type_ids"] = (input_ids == self.vlm.config.image_token_id).int()

        gates: list[tuple] = []
        routers = [self._decoder_layers[index].mlp.gate for index in self.moe_layer_indices]
        hooks = [router.register_forward_hook(lambda _, __, output: gates.append(output)) for router in routers]
        try:
            outputs = self.vlm(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **pictures, **kwargs
            )
        finally:
            for hook in hooks:
                hook.remove()

        hidden = outputs.last_hidden_state
        usage = sum(_spread(weights, indices, self.config.num_experts) for _, weights, indices in gates) / len(gates)
        usage = usage.view(*input_ids.shape, -1)
        own, image = position_types != NOT_POOLED, position_types == IMAGE
        return Moon2Output(
            embeddings=F.normalize(_mean(hidden, own), dim=-1),
            image_embeddings=F.normalize(_mean(hidden, image), dim=-1),
            has_image=image.any(1),
            expert_usage=_mean(usage, own),
            image_expert_usage=_mean(usage, image),
            last_hidden_state=hidden,
            router_logits=tuple(logits for logits, _, _ in gates),
            attentions=outputs.attentions,
        )


def _check_family(vlm_config):
    """Refuses a backbone for which the image-only view is not known to be a prefix."""
    if vlm_config.model_type not in SUPPORTED_BACKBONES:
        raise ValueError(
            f"The backbone is a {vlm_config.model_type}; Moon2Model needs causal attention with the pictures first, "
            f"which is established for: {', '.join(SUPPORTED_BACKBONES)}."
        )


def _gated_unit(config: Moon2Config, layer: nn.Module, index: int) -> nn.Module:
    """The dense feed-forward layer that a block replaces, if it has the form that experts can take."""
    dense = getattr(layer, "mlp", None)
    parts = [getattr(dense, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(part, nn.Linear) and part.bias is None for part in parts) or not hasattr(dense, "act_fn"):
        raise ValueError(
            f"Layer {index} of the backbone ({config.vlm_config.model_type}) has no gated feed-forward unit without "
            f"bias (mlp.gate_proj, up_proj, down_proj, act_fn) but a {type(dense).__name__}; experts cannot replace it."
        )
    return dense


def _spread(weights: torch.Tensor, indices: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Top-k weights and indices (tokens, k) -> G~ (tokens, Z), zero for the experts that were not chosen."""
    return weights.new_zeros(len(weights), num_experts).scatter(1, indices, weights)


def _mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (B, L, D) over the positions of a (B, L) mask, in float32; zeros for a row without any."""
    mask = mask.unsqueeze(-1).float()
    return (values.float() * mask).sum(1) / mask.sum(1).clamp(min=1)


Moon2Model.register_for_auto_class("AutoModel")
