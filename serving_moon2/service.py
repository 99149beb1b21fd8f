"""The command `serve`: requests are prepared one by one, and their products embedded together."""

import json
import logging
import os
import signal
import socket
import sys
import time
from queue import Queue
from typing import Annotated, Any

import litserve
import torch
from fastapi import Body
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from litserve.loops.simple_loops import BatchedLoop
from pydantic import PlainValidator
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from transformers import AutoModel, AutoProcessor, BatchFeature

from common_moon2.cli import UserError
from common_moon2.source import find_folder
from serving_moon2.arguments import ServeArguments
from serving_moon2.requests import MAX_TOKENS, NO_JSON, read_products

USUAL_TOKENS = 1024  # of a product; of longer ones fewer make a batch
logger = logging.getLogger("litserve")


def refusal(status: int, sentence: str) -> JSONResponse:
    """Return an answer that says what is wrong, without the whole of a long value."""
    short = sentence if len(sentence) < 500 else f"{sentence[:400]} ... {sentence[-90:]}"
    return JSONResponse({"detail": short}, status, {"Retry-After": "1"} if status == 503 else None)


class BoundedQueue:
    """Answer 503 while `most` requests are being read, waiting or embedded."""

    def __init__(self, app: ASGIApp, most: int):
        self.app, self.most, self.inside = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "POST":
            return await self.app(scope, receive, send)
        if self.inside >= self.most:
            full = refusal(503, f"{self.most} requests are waiting already; try again later.")
            return await full(scope, receive, send)
        self.inside += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.inside -= 1


class WaitingLoop(BatchedLoop):
    """Wait for the first request of a batch; LitServe's own loop polls, which takes a sixth of a core."""

    def get_batch_requests(self, lit_api: litserve.LitAPI, request_queue: Queue, transport: Any) -> tuple[list, list]:
        found = [self.get_request(request_queue, timeout=1)]
        end = time.monotonic() + lit_api.batch_timeout
        while found[-1] and len(found) < lit_api.max_batch_size:
            found.append(self.get_request(request_queue, timeout=max(0, end - time.monotonic())))
        return [(client, uid, body) for client, uid, _, body in filter(None, found)], []


class EmbeddingService(litserve.LitAPI):
    """Embed the products of many requests in one batch; what is wrong with a request stays with that request."""

    def __init__(self, folder: str, arguments: ServeArguments):
        super().__init__(arguments.max_batch_size, arguments.batch_timeout, "/embed", loop=WaitingLoop())
        self.folder, self.arguments = folder, arguments

    def setup(self, device: str):
        """Load the model; called in the process that runs it."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; this one stays for the last answer
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        self.processor = AutoProcessor.from_pretrained(self.folder, trust_remote_code=True)
        model = AutoModel.from_pretrained(self.folder, dtype=self.arguments.dtype, trust_remote_code=True)
        self.model = model.eval().to(device)

    def decode_request(self, request: Annotated[list, Body(), PlainValidator(read_products)]) -> list | JSONResponse:
        """Prepare each product by itself. An error is returned: raised, it would fail the whole batch."""
        if len(request) > self.arguments.max_products:
            return refusal(422, f"There are {len(request)} products; {self.arguments.max_products} are allowed.")
        items = []
        for index, product in enumerate(request):
            try:
                items.append(self.processor(product))
                if items[-1]["input_ids"].shape[1] > MAX_TOKENS:
                    raise ValueError(f"it has more than {MAX_TOKENS:,} tokens.")
            except Exception as error:
                if not isinstance(error, ValueError):
                    logger.exception("A product could not be prepared.")
                return refusal(422, f"Item {index}: {getattr(error, 'problem', error)}")
        return items

    @torch.inference_mode()
    def predict(self, requests: list[list[BatchFeature] | JSONResponse]) -> list[list | JSONResponse]:
        """Embed all products, those of similar length together; return the vectors of each request."""
        items = [item for request in requests if isinstance(request, list) for item in request]
        lengths = [item["input_ids"].shape[1] for item in items]
        left, vectors = sorted(range(len(items)), key=lengths.__getitem__, reverse=True), {}
        while left:
            most = self.arguments.max_batch_size
            batch = left[: max(1, min(most, most * USUAL_TOKENS // lengths[left[0]]))]
            vectors |= zip(batch, self.embed([items[place] for place in batch]), strict=True)
            left = left[len(batch) :]
        ordered = iter(vectors[place] for place in range(len(items)))
        return [[next(ordered) for _ in one] if isinstance(one, list) else one for one in requests]

    def embed(self, items: list[BatchFeature]) -> list[list[float] | None]:
        """Return a vector for each item; None where the model fails, or its numbers are not finite."""
        try:
            vectors = self.model(**self.processor.join(items).to(self.model.device)).embeddings.float().cpu()
            return [vector.tolist() if vector.isfinite().all() else None for vector in vectors]
        except Exception:
            logger.exception("The model fails on a batch of %s.", len(items))
        # Not within `except`, where the error would hold on to the tensors of the batch.
        return [None] if len(items) == 1 else [self.embed([item])[0] for item in items]

    def encode_response(self, output: list[list[float] | None] | JSONResponse) -> JSONResponse:
        """Return the answer to one request."""
        if isinstance(output, JSONResponse):
            return output
        if None in output:
            return refusal(500, f"Item {output.index(None)}: the model fails on it; the server's log says why.")
        return JSONResponse({"embeddings": output})


def build_server(arguments: ServeArguments) -> litserve.LitServer:
    """Return the server with its limits; the model is loaded when it runs.

    Raises:
        UserError: there is no such model or device.
    """
    folder = find_folder("model", arguments.model, arguments.model_revision)
    config = folder / "config.json"
    if not config.is_file() or json.loads(config.read_text(encoding="utf-8")).get("model_type") != "moon2":
        raise UserError(f"{arguments.model} holds no Moon2 model.")
    gpus = 0 if arguments.device == "cpu" else torch.cuda.device_count()
    if arguments.device == "cuda" and not gpus:
        raise UserError("--device cuda: torch finds no GPU.")
    server = litserve.LitServer(
        EmbeddingService(str(folder), arguments),
        accelerator="cuda" if gpus else "cpu",
        devices=gpus or 1,
        workers_per_device=arguments.workers,
        timeout=False,  # the queue is bounded
        max_payload_size=arguments.max_bytes,
        middlewares=[(BoundedQueue, {"most": arguments.max_queue})],
        disable_openapi_url=True,
    )
    # It would block all clients for 0.2 seconds to halve the vectors of 64 products.
    server.app.user_middleware = [one for one in server.app.user_middleware if one.cls is not GZipMiddleware]

    def bad_body(_, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        return refusal(422, str(problem["ctx"]["error"]) if problem["type"] == "value_error" else NO_JSON)

    server.app.add_exception_handler(RequestValidationError, bad_body)
    large = f"The request has more than {arguments.max_bytes:,} bytes."
    server.app.add_exception_handler(413, lambda *_: refusal(413, large))
    return server


def serve(arguments: ServeArguments) -> dict:
    """Serve until SIGINT or SIGTERM; requests that have arrived are still answered.

    Raises:
        ValueError, OSError: an option is out of range, there is no such model or device, or the port is taken.
    """
    socket.create_server((arguments.host, arguments.port)).close()  # LitServe would say it after the model is loaded
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
