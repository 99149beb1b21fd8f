"""The model in vLLM's own layers: its Qwen3-VL-MoE under other names of weights, pooled as a Moon2 is.

An instruction is attended to and not pooled. Which tokens are one is said by their ids, to which `Moon2Renderer` adds
the size of the vocabulary.
"""

import functools
from collections.abc import Iterable, Mapping

import torch
from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor
from vllm.model_executor.layers.pooler import DispatchPooler, PoolingParamsUpdate
from vllm.model_executor.layers.pooler.activations import PoolerNormalize
from vllm.model_executor.layers.pooler.seqwise import EmbeddingPoolerHead, SequencePooler, SequencePoolingMethod
from vllm.model_executor.models.interfaces_base import VllmModelForPooling, default_pooling_type
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder, Qwen3VLMultiModalProcessor
from vllm.model_executor.models.qwen3_vl_moe import Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeProcessingInfo
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from processing_moon2 import Moon2Processor
from serving_moon2.requests import MAX_IMAGES


@functools.lru_cache(maxsize=1)
def load_processor(model: str, revision: str | None) -> Moon2Processor:
    """Return the processor of a checkpoint, run by the installed code and not by the checkpoint's own."""
    return Moon2Processor.from_pretrained(model, revision=revision)


class Moon2ProcessingInfo(Qwen3VLMoeProcessingInfo):
    """What vLLM must know of images to reserve memory; `Moon2Renderer` prepares those of requests."""

    def get_hf_processor(self, **kwargs) -> Qwen3VLProcessor:
        processor = load_processor(self.ctx.model_config.model, self.ctx.model_config.revision)
        return Qwen3VLProcessor(processor.image_processor, self.get_tokenizer(), Qwen3VLVideoProcessor())

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": MAX_IMAGES}

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return {}


class MeanOfProduct(SequencePoolingMethod):
    """The mean over the positions of images and text, in float32."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size = vocab_size

    def get_supported_tasks(self) -> set[str]:
        return {"embed"}

    def get_pooling_updates(self, task: str) -> PoolingParamsUpdate:
        return PoolingParamsUpdate(requires_token_ids=True)

    def forward(self, hidden_states: torch.Tensor, pooling_metadata) -> torch.Tensor:
        """(tokens, D) of B items in a row -> (B, D)."""
        cursor = pooling_metadata.get_pooling_cursor()
        if cursor.is_partial_prefill():
            raise RuntimeError("A mean needs all of an item at once: start vLLM without --enable-chunked-prefill.")
        means = []
        items = hidden_states.split(cursor.prompt_lens_cpu.tolist())
        for hidden, ids in zip(items, pooling_metadata.get_prompt_token_ids_cpu(), strict=True):
            own = (ids < self.vocab_size).to(hidden.device, torch.float32)
            means.append(own @ hidden.float() / own.sum())
        return torch.stack(means)


@default_pooling_type(seq_pooling_type="MEAN")  # vLLM then prefills in one piece, and shares no prefixes
@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLMultiModalProcessor, info=Moon2ProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class Moon2ForEmbedding(Qwen3VLMoeForConditionalGeneration, VllmModelForPooling):
    """A Moon2 in vLLM. It generates nothing, so that `--runner pooling` need not be said."""

    is_pooling_model = True
    compute_logits = None
    supports_mm_device_do_normalize = False  # the processor has normalised the pixels
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "vlm.visual.": "visual.",
            "vlm.language_model.": "language_model.model.",
            "dual_alignment.": None,  # of use in training only
        }
    )

    def __init__(self, *, vllm_config, prefix: str = "model"):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.vocab_size = vllm_config.model_config.get_vocab_size()
        head = EmbeddingPoolerHead(head_dtype=torch.float32, activation=PoolerNormalize())
        self.pooler = DispatchPooler({"embed": SequencePooler(MeanOfProduct(self.vocab_size), head)})

    def embed_input_ids(self, input_ids: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return super().embed_input_ids(input_ids % self.vocab_size, *args, **kwargs)

    def forward(self, input_ids: torch.Tensor | None, *args, **kwargs) -> torch.Tensor:
        """As in vLLM. With --limit-mm-per-prompt '{"image": 0}' ids come here that were not embedded yet."""
        return super().forward(None if input_ids is None else input_ids % self.vocab_size, *args, **kwargs)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        # Experts are (experts, out, in) in a Moon2, and (experts, in, out) in the files that vLLM expects.
        turned = ((name, value.transpose(1, 2) if ".mlp.experts." in name else value) for name, value in weights)
        return super().load_weights(turned)
