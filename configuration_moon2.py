"""Moon2Config: a vision-language backbone plus the mixture of experts and the alignment objectives of MOON2.0."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

# The M alignment objectives: three between a query and a product, two inside one product (MOON2.0, section 3).
INTER_OBJECTIVES = ("t2mm", "i2mm", "mm2mm")
INTRA_OBJECTIVES = ("i2t", "t2i")
ROUTERS = ("token", "composition")
# Modality compositions of an item, in the order of the "composition" router's biases: text, image, image and text.
COMPOSITIONS = ("t", "i", "mm")
# What `position_types` says of a position of a sequence; written by Moon2Processor, read by Moon2Model.
NOT_POOLED, IMAGE, TEXT = 0, 1, 2
# What image processors give for images, as far as backbones read it.
PICTURE_INPUTS = ("pixel_values", "pixel_attention_mask", "image_grid_thw")


@strict
class Moon2Config(PreTrainedConfig):
    """Configuration of a `Moon2Model`.

    Nothing about a training run (learning rate, loss weights, margins) lives here.

    Args:
        vlm_config (`PreTrainedConfig` or `dict`):
            Configuration of the backbone: any transformers vision-language model whose decoder layers have a gated
            feed-forward unit. The default is an untrained Qwen3-VL.
        num_experts (`int`, defaults to 4):
            Z, the experts of each mixture-of-experts layer (our choice, where the paper is silent).
        num_experts_per_tok (`int`, defaults to 2):
            Experts chosen for each token (our choice).
        moe_intermediate_size (`int`, *optional*):
            Width of one expert. `None` means the width of the dense feed-forward layer that it replaces.
        shared_expert_intermediate_size (`int`, *optional*):
            Width of an expert that every token passes besides the chosen ones (our addition). `None` means no such
            expert, as in the paper.
        moe_layers (`list[int]`, *optional*):
            Indices of the decoder layers that get experts. `None` means every layer.
        router (`str`, defaults to `"token"`):
            What the gate looks at: `"token"`, the token alone (as the paper writes it), or `"composition"`, the token
            and whether its item is text, image, or both (our option; the image-only view then takes a second pass).
        objectives (`list[str]`):
            Names of the alignment objectives, the columns of the dual-alignment matrix W*.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the normal initialisation of routers, experts and W*.

    Raises:
        ValueError: a field that contradicts another one or the backbone; the message names the field.
    """

    model_type = "moon2"
    sub_configs: ClassVar[dict] = {"vlm_config": AutoConfig}

    vlm_config: dict | PreTrainedConfig | None = None
    num_experts: int = 4
    num_experts_per_tok: int = 2
    moe_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = None
    moe_layers: list[int] | None = None
    router: str = "token"
    objectives: list[str] | tuple[str, ...] = INTER_OBJECTIVES + INTRA_OBJECTIVES
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if not isinstance(self.vlm_config, PreTrainedConfig):
            self.vlm_config = AutoConfig.for_model(**{"model_type": "qwen3_vl"} | (self.vlm_config or {}))
        super().__post_init__(**kwargs)
        self.objectives = list(self.objectives)
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}; it must lie between 1 and num_experts "
                f"({self.num_experts})."
            )
        for name in ("moe_intermediate_size", "shared_expert_intermediate_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive or None.")
        if self.router not in ROUTERS:
            raise ValueError(f"router is {self.router!r}; it must be one of {', '.join(ROUTERS)}.")
        depth = self.get_text_config().num_hidden_layers
        layers = self.moe_layers or []
        if any(not 0 <= layer < depth for layer in layers) or len(set(layers)) < len(layers) or self.moe_layers == []:
            raise ValueError(
                f"moe_layers is {self.moe_layers}; it must name some of the backbone's layers 0 to {depth - 1}, each "
                "once."
            )
        unknown = [name for name in self.objectives if name not in INTER_OBJECTIVES + INTRA_OBJECTIVES]
        if unknown or len(set(self.objectives)) != len(self.objectives) or not self.objectives:
            raise ValueError(
                f"objectives is {self.objectives}; it must list some of "
                f"{list(INTER_OBJECTIVES + INTRA_OBJECTIVES)}, each once."
            )

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        """Return the configuration of the backbone's language model."""
        return self.vlm_config.get_text_config(*args, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Dimension D of an embedding: the width of the backbone's language model."""
        return self.get_text_config().hidden_size


Moon2Config.register_for_auto_class()
