"""A Moon2 with a qwen3_vl backbone, read as the Qwen3-VL-MoE that it is; what is none is refused by name."""

from transformers import Qwen3VLMoeConfig

from configuration_moon2 import Moon2Config

# Fields that each configuration has for itself.
OWN = ("_name_or_path", "architectures", "dtype", "model_type", "transformers_version")


def stock_config(config: Moon2Config) -> Qwen3VLMoeConfig:
    """Return the configuration of the Qwen3-VL-MoE that computes the same hidden states.

    Raises:
        ValueError: there is none, because of the backbone, the router or a shared expert.
    """
    vlm, text = config.vlm_config, config.get_text_config()
    if vlm.model_type != "qwen3_vl":
        raise ValueError(
            f"The backbone is a {vlm.model_type}; only a qwen3_vl with experts is a Qwen3-VL-MoE, which vLLM knows. Serve "
            "this one with transformers or sentence-transformers."
        )
    if config.router != "token":
        raise ValueError(
            f"The router is {config.router!r}, but a Qwen3-VL-MoE routes by the token alone: only router='token' can "
            "be served."
        )
    if config.shared_expert_intermediate_size:
        raise ValueError(
            f"There is a shared expert (shared_expert_intermediate_size is {config.shared_expert_intermediate_size}), "
            "which a Qwen3-VL-MoE does not have: only models without one can be served."
        )
    depth = text.num_hidden_layers
    with_experts = range(depth) if config.moe_layers is None else config.moe_layers
    experts = {
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "moe_intermediate_size": config.moe_intermediate_size or text.intermediate_size,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer in range(depth) if layer not in with_experts],
        "tie_word_embeddings": True,  # an encoder has no output head
    }
    tokens = {name: value for name, value in vlm.to_dict().items() if name.endswith("_token_id")}
    return Qwen3VLMoeConfig(
        text_config=_fields(text) | experts,
        vision_config=_fields(vlm.vision_config),
        architectures=["Qwen3VLMoeForConditionalGeneration"],
        dtype=config.dtype,
        tie_word_embeddings=True,
        **tokens,
    )


def _fields(config) -> dict:
    return {name: value for name, value in config.to_dict().items() if name not in OWN}


class ServedConfig(Qwen3VLMoeConfig):
    """The config.json of a Moon2 as vLLM's Qwen3-VL-MoE layers read it."""

    model_type = "moon2"

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "ServedConfig":
        """Translate the settings of a Moon2.

        Raises:
            ValueError: see `stock_config`.
        """
        if "vlm_config" in config_dict:
            stock = stock_config(Moon2Config.from_dict(config_dict)).to_dict()
            config_dict = stock | {
                "model_type": cls.model_type,
                "architectures": ["Moon2Model"],
                "io_processor_plugin": "moon2",
            }
        return super().from_dict(config_dict, **kwargs)


class RendererChoice:
    """Choose `Moon2Renderer` for every Moon2; vLLM knows renderers by the mode of the tokenizer."""

    @staticmethod
    def verify_and_update_model_config(model_config) -> None:
        model_config.tokenizer_mode = "moon2"

    @staticmethod
    def verify_and_update_config(vllm_config) -> None:
        """Leave all else as it is."""
