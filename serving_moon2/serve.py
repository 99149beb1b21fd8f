"""The command `serve`: its options, and how the service starts and stops."""

import os
import signal
import socket
from dataclasses import dataclass
from typing import Literal

from common_moon2.cli import UserError, whole
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


def serve(arguments: ServeArguments) -> dict:
    """Serve until SIGINT or SIGTERM; requests that have arrived are still answered.

    Raises:
        ValueError, OSError: an option is out of range, there is no such model or device, or the port is taken.
    """
    socket.create_server((arguments.host, arguments.port)).close()  # LitServe would say it after the model is loaded
    from serving_moon2.service import build_server

    server, own = build_server(arguments), os.getpid()

    def stop(*_) -> None:
        if os.getpid() == own:  # the processes of LitServe inherit this, and are ended by LitServe
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    address = f"http://{arguments.host}:{arguments.port}/embed"
    print(f"Loading {arguments.model}; then POST {address}", flush=True)
    try:
        server.run(arguments.host, arguments.port, 1, log_level="warning", generate_client_file=False)
    except (RuntimeError, EOFError) as error:
        raise UserError("The process with the model has ended; the log above says why.") from error
    return {"model": arguments.model, "address": address}
