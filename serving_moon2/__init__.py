"""Serve Moon2 checkpoints with vLLM: as they are, by this plugin, or converted (`python -m serving_moon2 convert`).

The functions here are vLLM's entry points. It calls them in every process and for every model, so they import nothing
that is large.
"""


def register() -> None:
    """Tell vLLM how to read a Moon2's config.json, run its model, and render what is sent to it."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    from serving_moon2.stock import RendererChoice, ServedConfig

    if "Moon2Model" in ModelRegistry.get_supported_archs():
        return
    _CONFIG_REGISTRY[ServedConfig.model_type] = ServedConfig
    MODELS_CONFIG_MAP["Moon2Model"] = RendererChoice
    ModelRegistry.register_model("Moon2Model", "serving_moon2.vllm_model:Moon2ForEmbedding")
    TokenizerRegistry.register("moon2", "vllm.tokenizers.hf", "CachedHfTokenizer")
    RENDERER_REGISTRY.register("moon2", "serving_moon2.vllm_renderer", "Moon2Renderer")


def io_processor() -> str:
    """Return the name of the class that takes product dicts at /pooling."""
    return "serving_moon2.vllm_renderer.Moon2IOProcessor"
