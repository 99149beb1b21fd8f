"""What is sent to the server -> what vLLM's engine takes, by way of `Moon2Processor`: one template, the same limits of
images and text, and no word of a title becomes a special token."""

import hashlib
from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature
from urllib3.util import parse_url
from vllm import PoolingParams, envs
from vllm.connections import global_http_connection
from vllm.inputs.engine import MultiModalInput, mm_input
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange
from vllm.plugins.io_processors.interface import IOProcessor
from vllm.renderers.base import BaseRenderer
from vllm.utils.async_utils import make_async

from serving_moon2.requests import image_places, marked_ids, prepare, read_chat
from serving_moon2.vllm_model import load_processor

MOST_PRODUCTS = 256  # in one request to /pooling
MOST_BYTES = 32 * 2**20  # of one image that is fetched


class Moon2Renderer(BaseRenderer):
    """Render plain texts, chat messages and product dicts; other templates, token ids and cuts are refused."""

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self.processor = load_processor(self.model_config.model, self.model_config.revision)
        self.vocab_size = self.model_config.get_vocab_size()
        self.most_images = self.mm_processor.info.allowed_mm_limits["image"] if self.mm_processor else 0
        self.tokenize_prompt_async = make_async(self.tokenize_prompt, executor=self._executor)

    def render_messages(self, messages: list[dict], params) -> tuple[list, dict]:
        if params.chat_template is not None:
            raise ValueError("A Moon2 has one template: leave chat_template out, of the request and of the server.")
        return [], {"prompt": "", "product": read_chat(messages)}

    def tokenize_prompt(self, prompt: dict, params) -> dict:
        """Turn a plain text or a product into token ids, and its images into what the model takes.

        Raises:
            ValueError: it cannot be prepared, or is too long; the message says why.
        """
        if "product" not in prompt and prompt.keys() != {"prompt"}:
            raise ValueError("Token ids are not taken: send texts or chat messages, or products to /pooling.")
        product = prompt.get("product", {"text": prompt["prompt"]})
        features = prepare(self.processor, product, prompt.get("index", 0), self.most_images, self._fetch)
        ids = marked_ids(features, self.vocab_size)
        tokens = params.apply_post_tokenization(self.tokenizer, {"prompt_token_ids": ids})
        if len(tokens["prompt_token_ids"]) != len(ids):
            raise ValueError(
                f"Truncation and padding would change what is pooled of these {len(ids)} tokens: leave them out."
            )
        return tokens | ({"multi_modal_data": {"image": features}} if "pixel_values" in features else {})

    def _fetch(self, address: str) -> bytes:
        """Download an image from a host in --allowed-media-domains; a redirect, which could lead elsewhere, fails."""
        url = parse_url(address)
        if url.host not in (self.model_config.allowed_media_domains or ()):
            raise ValueError(f"{url.host} is not in this server's --allowed-media-domains: send the image in base64.")
        options = {"timeout": envs.VLLM_IMAGE_FETCH_TIMEOUT, "max_bytes": MOST_BYTES}
        try:
            return global_http_connection.get_bytes(url.url, allow_redirects=False, **options)
        except (OSError, ValueError) as error:
            raise ValueError(f"the image cannot be had from {url.host} ({type(error).__name__}).") from error

    def _process_multimodal(
        self, prompt, mm_data, mm_uuids, mm_processor_kwargs, media_io_kwargs=None, *, skip_mm_cache=False
    ) -> MultiModalInput:
        """Hand over what the processor made of the images; vLLM's own code would prepare them anew."""
        if mm_processor_kwargs:
            raise ValueError("The checkpoint's own settings of images hold: leave mm_processor_kwargs out.")
        features = mm_data["image"]
        pixels, grids = features["pixel_values"], features["image_grid_thw"]
        patches = grids.prod(-1)
        fields = {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", patches),
            "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }
        items = MultiModalKwargsItems.from_hf_inputs(BatchFeature({name: features[name] for name in fields}), fields)
        parts = zip(pixels.split(patches.tolist()), grids, strict=True)
        hashes = [hashlib.sha256(b"".join(part.numpy().tobytes() for part in image)).hexdigest() for image in parts]
        places = [PlaceholderRange(*place) for place in image_places(prompt, features, self.processor)]
        return mm_input(prompt, items, {"image": hashes}, {"image": places})

    def validate_token_ids(self, token_ids: Sequence[int], *, parameter: str | None = None) -> None:
        """As in vLLM, to which an instruction's ids would be out of the vocabulary."""
        super().validate_token_ids([token % self.vocab_size for token in token_ids], parameter=parameter)


class Moon2IOProcessor(IOProcessor):
    """Take product dicts at /pooling: `{"data": {"text": ..., "image": ..., "instruction": ...}}`, or a list of them.

    The answer's `data` has one vector for each.
    """

    def parse_data(self, data: Any) -> list:
        products = data if isinstance(data, list) else [data]
        if not 1 <= len(products) <= MOST_PRODUCTS:
            raise ValueError(f"There are {len(products)} products; send 1 to {MOST_PRODUCTS}.")
        return products

    def pre_process(self, prompt: list, request_id: str | None = None, **kwargs) -> list[dict]:
        return [{"prompt": "", "product": product, "index": index} for index, product in enumerate(prompt)]

    def merge_pooling_params(self, params: PoolingParams | None = None) -> PoolingParams:
        params = params or PoolingParams()
        params.task = "embed"
        return params

    def post_process(self, model_output: Sequence, request_id: str | None = None, **kwargs) -> list[list[float]]:
        return [output.outputs.data.tolist() for output in model_output]
