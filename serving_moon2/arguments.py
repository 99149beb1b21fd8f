"""The options of `python -m serving_moon2`; nothing heavy is imported for them."""

from dataclasses import dataclass
from typing import Literal

from common_moon2.cli import whole
from common_moon2.fields import option


@dataclass
class ServeArguments:
    """Answer products with vectors over HTTP, in batches.

    POST /embed takes a product or a list of them; products of many clients are embedded in one batch. GET /health says
    whether the model is loaded. With LIT_SERVER_API_KEY set, clients must send it as X-API-Key.
    """

    model: str = option(help="A Moon2 checkpoint: folder or Hub id; its code is run.")
    model_revision: str | None = option(None, "Branch, tag or commit of a --model on the Hub.")
    host: Literal["127.0.0.1", "0.0.0.0"] = option("127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines in.")
    port: int = option(8000, "Port to listen at, from 1024 on.", type=whole(1024))
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: all GPUs, or the CPU if there is none.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option("auto", "Of the weights; auto: as stored.")
    workers: int = option(1, "Processes for each device, each with a copy of the model.", type=whole(1))
    max_batch_size: int = option(32, "Products in a forward pass; fewer if they are long.", type=whole(1))
    batch_timeout: float = option(0.0, "Seconds to wait for others to share a batch.")
    max_queue: int = option(128, "Requests at a time; more are answered with 503.", type=whole(1))
    max_products: int = option(64, "Products of a request.", type=whole(1))
    max_bytes: int = option(16 << 20, "Bytes of a request, images in base64.", type=whole(1))


@dataclass
class ConvertArguments:
    """Write a Moon2 as a stock Qwen3-VL-MoE, which transformers and vLLM load without this project's code.

    It computes the same hidden states. Stock servers pool every position, so it takes no instructions. Its chat
    template refuses them, and texts with a word that the tokenizer would take for a special token.
    """

    model: str = option(help="A Moon2 with a qwen3_vl backbone: folder or Hub id.")
    model_revision: str | None = option(None, "Branch, tag or commit of a --model on the Hub.")
    output: str = option(help="The folder to write; it must not exist, or be empty.")
