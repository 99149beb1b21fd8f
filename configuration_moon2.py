"""Moon2Config: a vision-language backbone plus the mixture of experts and the alignment objectives of MOON2.0."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# The M alignment objectives: three between a query and a product, two inside one product (MOON2.0, section 3).
INTER_OBJECTIVES = ("t2mm", "i2mm", "mm2mm")
INTRA_OBJECTIVES = ("i2t", "t2i")
# What `position_types` says of a position of a sequence; written by Moon2Processor, read by Moon2Model.
NOT_POOLED, IMAGE, TEXT = 0, 1, 2


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
        moe_layers (`list[int]`, *optional*):
            Indices of the decoder layers that get experts. `None` means every layer.
        objectives (`list[str]`):
            Names of the alignment objectives, the columns of the dual-alignment matrix W*.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the normal initialisation of routers, experts and W*.

    Raises:
        ValueError: a field that contradicts another one or the backbone; the message names the field.
    """

    model_type = "moon2"
    sub_configs_defaults: ClassVar[dict] = {
        "vlm_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3_vl"),
    }

    vlm_config: dict | PreTrainedConfig | None = None
    num_experts: int = 4
    num_experts_per_tok: int = 2
    moe_intermediate_size: int | None = None
    moe_layers: list[int] | None = None
    objectives: list[str] | tuple[str, ...] = INTER_OBJECTIVES + INTRA_OBJECTIVES
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.objectives = list(self.objectives)
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}; it must lie between 1 and num_experts "
                f"({self.num_experts})."
            )
        if self.moe_intermediate_size is not None and self.moe_intermediate_size < 1:
            raise ValueError(f"moe_intermediate_size is {self.moe_intermediate_size}; it must be positive or None.")
        depth = self.get_text_config().num_hidden_layers
        wrong = [layer for layer in self.moe_layers or [] if not 0 <= layer < depth]
        if wrong or self.moe_layers == []:
            raise ValueError(
                f"moe_layers is {self.moe_layers}; it must name at least one of the backbone's layers 0 to {depth - 1}."
            )
        unknown = [name for name in self.objectives if name not in INTER_OBJECTIVES + INTRA_OBJECTIVES]
        if unknown or len(set(self.objectives)) != len(self.objectives) or not self.objectives:
            raise ValueError(
                f"objectives is {self.objectives}; it must list some of "
                f"{list(INTER_OBJECTIVES + INTRA_OBJECTIVES)}, each once."
            )

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        """The configuration of the backbone's language model."""
        return self.vlm_config.get_text_config(*args, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Dimension D of an embedding: the width of the backbone's language model."""
        return self.get_text_config().hidden_size


Moon2Config.register_for_auto_class()
