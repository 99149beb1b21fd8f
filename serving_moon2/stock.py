"""A Moon2 with a qwen3_vl backbone, read as the Qwen3-VL-MoE that it is; one that is none is refused by name."""

from transformers import PreTrainedConfig, Qwen3VLMoeConfig

from configuration_moon2 import Moon2Config


def stock_config(config: Moon2Config) -> Qwen3VLMoeConfig:
    """Return the configuration of the Qwen3-VL-MoE that computes the same hidden states.

    Raises:
        ValueError: there is none, because of the backbone, the router or a shared expert.
    """
    vlm, text = config.vlm_config, config.get_text_config()
    problems = {
        f"its backbone is a {vlm.model_type}, not a qwen3_vl": vlm.model_type != "qwen3_vl",
        f"it routes by {config.router}, not by the token alone": config.router != "token",
        "it has a shared expert (shared_expert_intermediate_size)": config.shared_expert_intermediate_size,
    }
    for problem in (problem for problem, found in problems.items() if found):
        raise ValueError(
            f"This Moon2 is no Qwen3-VL-MoE, the form that vLLM knows: {problem}. Serve it with transformers or "
            "sentence-transformers."
        )
    layers = range(text.num_hidden_layers)
    with_experts = layers if config.moe_layers is None else config.moe_layers
    experts = {
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "moe_intermediate_size": config.moe_intermediate_size or text.intermediate_size,
        "norm_topk_prob": True,
        "mlp_only_layers": [layer for layer in layers if layer not in with_experts],
        "tie_word_embeddings": True,  # an encoder has no output head
    }
    return Qwen3VLMoeConfig(
        text_config=_fields(text) | experts,
        vision_config=_fields(vlm.vision_config),
        architectures=["Qwen3VLMoeForConditionalGeneration"],
        dtype=config.dtype,
        tie_word_embeddings=True,
        **{name: value for name, value in _fields(vlm).items() if name.endswith("_token_id")},
    )


def _fields(config: PreTrainedConfig) -> dict:
    own = ("_name_or_path", "architectures", "dtype", "model_type", "transformers_version")
    return {name: value for name, value in config.to_dict().items() if name not in own}


class ServedConfig(Qwen3VLMoeConfig):
    """The config.json of a Moon2, as vLLM's Qwen3-VL-MoE layers read it."""

    model_type = "moon2"

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "ServedConfig":
        """Translate the settings of a Moon2; raises what `stock_config` does."""
        if "vlm_config" in config_dict:
            stock = stock_config(Moon2Config.from_dict(config_dict)).to_dict()
            own = {"model_type": cls.model_type, "architectures": ["Moon2Model"], "io_processor_plugin": "moon2"}
            config_dict = stock | own
        return super().from_dict(config_dict, **kwargs)
