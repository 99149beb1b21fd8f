"""Measure a service that batches beside one that does not."""

import base64
import io
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from PIL import Image

from common_moon2.cli import UserError
from research.benchmarks.arguments import HttpService
from research.benchmarks.measure import print_table, ratios, spread, time_paired

TOLERANCE = 1e-5
MODEL = "MOON2_BENCHMARK_MODEL"
SERVED = "serving_moon2"
ALONE = "one by one"


def one_by_one():
    """Return an application that embeds each request by itself; uvicorn calls this in the process that serves it."""
    import torch
    from fastapi import FastAPI
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(os.environ[MODEL], trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(os.environ[MODEL], trust_remote_code=True)
    app = FastAPI()

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/embed")
    def embed(products: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
        images = [io.BytesIO(base64.b64decode(one["image"])) if "image" in one else None for one in products]
        inputs = processor([one | {"image": image} for one, image in zip(products, images, strict=True)])
        with torch.inference_mode():
            return {"embeddings": model(**inputs).embeddings.tolist()}

    return app


class Service(NamedTuple):
    """A running service."""

    process: psutil.Process
    port: int

    def processor_seconds(self) -> float:
        """Return what it and its processes have used so far."""
        times = [process.cpu_times() for process in (self.process, *self.process.children(recursive=True))]
        return sum(used.user + used.system for used in times)


@contextmanager
def running(name: str, model: str) -> Iterator[Service]:
    """Start a service; give it when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = ["serving_moon2", "serve", "--model", model, "--device", "cpu"]
    if name == ALONE:
        words = ["uvicorn", "--factory", "research.benchmarks.http_service:one_by_one", "--log-level", "warning"]
    environment = os.environ | {MODEL: model, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-m", *words, "--port", port], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        while True:
            if process.poll() is not None:
                raise UserError(f"The service '{name}' has ended; its message is above.")
            try:
                connection = HTTPConnection("127.0.0.1", int(port))
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.2)
        yield Service(psutil.Process(process.pid), int(port))
    finally:
        process.terminate()
        process.wait()


def bodies(kind: str, count: int) -> list[bytes]:
    """Return requests with a title, a title and an image, or eight titles."""
    found = []
    for number in range(count):
        title = f"blue ceramic mug with a wooden handle, 350 ml, number {number}"
        products = [{"text": title}] * (8 if kind == "8 titles" else 1)
        if kind == "title and image":
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).resize((224, 224)).save(file, "JPEG")
            products = [{"text": title, "image": base64.b64encode(file.getvalue()).decode()}]
        found.append(json.dumps(products).encode())
    return found


def ask(port: int, requests: list[bytes], clients: int) -> list[list[list[float]]]:
    """Return the answers to all requests, which `clients` threads share."""
    turns, answers = itertools.count(), [None] * len(requests)

    def client(_: int) -> None:
        connection = HTTPConnection("127.0.0.1", port)
        while (turn := next(turns)) < len(requests):
            connection.request("POST", "/embed", requests[turn], {"Content-Type": "application/json"})
            answers[turn] = json.loads(connection.getresponse().read())["embeddings"]

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return answers


def http_service(told: HttpService) -> dict:
    """Print requests per second, and the processor time of each."""
    with ExitStack() as stack:
        services = {name: stack.enter_context(running(name, told.model)) for name in (ALONE, SERVED)}
        per_second, cpu = ([f"{name}, {what}" for name in services] for what in ("per second", "CPU ms"))
        return print_table(
            ["a request", "clients", *per_second, "times as many", *cpu],
            (row for kind in ("title", "title and image", "8 titles") for row in rows(kind, services, told)),
            "Medians, and in brackets the range of the rounds",
        )


def rows(kind: str, services: dict[str, Service], told: HttpService) -> Iterator[list[str]]:
    requests = bodies(kind, told.requests)
    alone, served = (ask(service.port, requests[:20], 8) for service in services.values())
    np.testing.assert_allclose(served, alone, atol=TOLERANCE, rtol=0)
    for clients in told.clients:
        used = {name: [] for name in services}

        def call(name: str, clients: int = clients, used: dict = used) -> None:
            before = services[name].processor_seconds()
            ask(services[name].port, requests, clients)
            used[name].append(1000 * (services[name].processor_seconds() - before) / len(requests))

        seconds = time_paired({name: partial(call, name) for name in services}, told.repeats)
        rates = [f"{len(requests) / statistics.median(own):.1f}" for own in seconds.values()]
        work = [f"{statistics.median(own[1:]):.1f}" for own in used.values()]  # without the warm-up
        yield [kind, str(clients), *rates, spread(ratios(seconds[ALONE], seconds[SERVED])), *work]
