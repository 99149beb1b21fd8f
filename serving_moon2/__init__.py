"""Serve a Moon2 to other programs: `python -m serving_moon2`, or vLLM.

The functions here are vLLM's entry points. It calls them in every process, whatever the model, so they import little.
"""


def register() -> None:
    """Tell vLLM how to read a Moon2's config.json, which model to run, and who renders what is sent to it."""
    from transformers import AutoConfig
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from serving_moon2.stock import ServedConfig

    class ChooseRenderer(VerifyAndUpdateConfig):
        @staticmethod
        def verify_and_update_model_config(model_config) -> None:
            model_config.tokenizer_mode = "moon2"  # by which vLLM looks up both registries below

    if "Moon2Model" not in ModelRegistry.get_supported_archs():
        AutoConfig.register(ServedConfig.model_type, ServedConfig, exist_ok=True)
        MODELS_CONFIG_MAP["Moon2Model"] = ChooseRenderer
        ModelRegistry.register_model("Moon2Model", "serving_moon2.vllm_model:Moon2ForEmbedding")
        TokenizerRegistry.register("moon2", "vllm.tokenizers.hf", "CachedHfTokenizer")
        RENDERER_REGISTRY.register("moon2", "serving_moon2.vllm_renderer", "Moon2Renderer")


def io_processor() -> str:
    """Return the name of the class that takes product dicts at /pooling."""
    return "serving_moon2.vllm_renderer.Moon2IOProcessor"
