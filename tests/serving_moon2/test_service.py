"""`python -m serving_moon2 serve`: what it refuses, and what it answers while many clients ask at once."""

import asyncio
import base64
import io
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import torch
from guides import blocks
from PIL import Image
from transformers import AutoModel, AutoProcessor

from conftest import picture, tiny_model, tiny_processor
from serving_moon2.__main__ import main
from serving_moon2.arguments import ServeArguments

pytest.importorskip("litserve")
from serving_moon2 import requests, service

ROOT = Path(__file__).parents[2]
CLIENTS, REQUESTS = 16, 500


def in_base64(image: Image.Image, kind: str = "PNG", keep: int | None = None) -> str:
    """Return an image's file; `keep`: its first bytes only."""
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()[:keep]).decode()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "moon2"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    picture(40, 30).save(folder.parent / "photo123", "PNG")  # its name would be base64
    return folder


@pytest.fixture(scope="module")
def reference(checkpoint):
    """What embeds the products of a request by AutoModel, one at a time."""
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)

    def embed(products: list[dict] | dict) -> np.ndarray:
        vectors = []
        for product in products if isinstance(products, list) else [products]:
            images = product.get("image", [])
            images = [io.BytesIO(base64.b64decode(one)) for one in (images if isinstance(images, list) else [images])]
            with torch.inference_mode():
                vectors.append(model(**processor([product | {"image": images}])).embeddings)
        return torch.cat(vectors).numpy()

    return embed


@pytest.fixture(scope="module")
def api(checkpoint) -> service.EmbeddingService:
    """The service in this process, whose signals stay as they are."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    embedding = service.EmbeddingService(
        str(checkpoint), ServeArguments(model="moon2", max_batch_size=4, max_products=6)
    )
    embedding.setup("cpu")
    for number, handler in kept.items():
        signal.signal(number, handler)
    return embedding


def good_requests() -> list[list[dict] | dict]:
    """Requests of every kind and size."""
    photo, small = in_base64(picture(60, 40)), in_base64(picture(33, 47, seed=1), "JPEG")
    text, marks = {"text": "red striped mug 350 ml"}, {"text": "mug <|image_pad|> " * 20}
    image, both = {"image": photo}, {"text": "蓝色纯棉女士衬衫", "image": small}
    several = {"text": "blue shirt", "image": [photo, small, photo]}
    asked = {"text": "shirt", "image": small, "instruction": "find the product"}
    return [text, [text], [image], [both, text], [several], [asked], [text, image, marks, several, asked, both]]


BAD = {
    "not base64": {"image": "no base64!"},
    "a path in base64": {"image": base64.b64encode(b"/etc/passwd").decode()},
    "a path": {"image": "/etc/passwd"},
    "a path that is base64": {"image": "photo123"},
    "a file address": {"image": "file:///etc/passwd"},
    "an http address": {"image": "http://127.0.0.1/photo.png"},
    "a path in a dict": {"image": {"path": "/etc/passwd"}},
    "nothing": {},
    "an unknown key": {"text": "mug", "colour": "red"},
    "too many pixels": {"image": in_base64(Image.new("1", (10_000, 10_000)))},
    "a truncated file": {"image": in_base64(picture(60, 40), keep=3000)},
    "half an emoji": {"text": "\ud83d"},
    "too long": {"text": "mug " * 6000},
    "too many images": {"image": [in_base64(picture(9, 9))] * 9},
    "no product": 5,
}
# Bodies that are wrong as a whole.
BAD_BODIES = {
    "invalid JSON": (b'[{"text": "mug"', 422),
    "no JSON": (b"mug", 422),
    "too deep": (b"[" * 100_000, 400),
    "deep": (b'{"text": ' + b"[" * 700 + b"]" * 700 + b"}", 422),
    "empty": (b"", 422),
    "no products": (b"[]", 422),
    "too many products": (json.dumps([{"text": "mug"}] * 7).encode(), 422),
    "too large": (json.dumps([{"text": "mug", "image": "A" * 300_000}]).encode(), 413),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_told_with_the_index_of_the_product(kind, api):
    body = [{"text": "mug"}, BAD[kind]]
    try:
        answer = api.decode_request(requests.read_products(body))
    except ValueError as error:
        told = str(error)
    else:
        assert answer.status_code == 422
        told = json.loads(answer.body)["detail"]
    assert told.startswith("Item 1: ") and told.endswith("."), told


def test_a_long_value_is_not_repeated_as_a_whole():
    with pytest.raises(ValueError) as wrong:
        requests.read_products({"text": ["mug"] * 2000 + [5]})
    assert len(str(wrong.value)) > 10_000
    told = json.loads(service.refusal(422, str(wrong.value)).body)["detail"]
    assert told.startswith("Item 0: the text is ['mug'") and told.endswith(", or None.") and len(told) <= 500


def test_no_file_is_opened(api, checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    assert Path("photo123").is_file()
    opened = []
    monkeypatch.setattr("builtins.open", lambda path, *_, **__: opened.append(path))
    answer = api.decode_request(requests.read_products({"image": "photo123"}))
    assert answer.status_code == 422 and b"not a JPEG" in answer.body and not opened
    for image in ("/etc/passwd", "file:///etc/passwd", "http://127.0.0.1/photo.png"):
        with pytest.raises(ValueError, match="Item 0: an image is not base64; .* not opened"):
            requests.read_products({"image": image})


def test_a_batch_has_the_vectors_of_each_product_by_itself(api, reference):
    """Requests with errors among them, more products than a forward pass takes."""
    bad = service.refusal(422, "wrong")
    bodies = good_requests()
    answers = api.predict([bad, *(api.decode_request(requests.read_products(body)) for body in bodies), bad])
    assert api.encode_response(answers[0]) is bad and api.encode_response(answers[-1]) is bad
    for body, vectors in zip(bodies, answers[1:-1], strict=True):
        found = json.loads(api.encode_response(vectors).body)["embeddings"]
        np.testing.assert_allclose(found, reference(body), atol=1e-5, rtol=0)


@pytest.mark.parametrize("failure", ["raises", "is not finite"])
def test_a_product_on_which_the_model_fails_fails_alone(failure, api, reference, monkeypatch):
    forward, poison = api.model.forward, api.processor([{"text": "poison"}])["input_ids"][0, 0]

    def broken(input_ids, **inputs):
        hit = input_ids[:, 0] == poison
        if failure == "raises" and hit.any():
            raise RuntimeError("out of memory")
        output = forward(input_ids=input_ids, **inputs)
        output.embeddings[hit] = torch.nan
        return output

    monkeypatch.setattr(api.model, "forward", broken)
    bodies = [[{"text": "red mug"}], [{"text": "shirt"}, {"text": "poison"}], [{"text": "blue mug"}]]
    answers = api.predict([api.decode_request(requests.read_products(body)) for body in bodies])
    first, second, third = (api.encode_response(answer) for answer in answers)
    assert (first.status_code, second.status_code, third.status_code) == (200, 500, 200)
    assert b"Item 1: the model fails on it" in second.body
    np.testing.assert_allclose(json.loads(third.body)["embeddings"], reference(bodies[2]), atol=1e-5, rtol=0)


def test_long_products_make_smaller_batches(api, monkeypatch):
    sizes = []
    monkeypatch.setattr(service, "USUAL_TOKENS", 10)  # for four products forty tokens
    monkeypatch.setattr(api, "embed", lambda items: sizes.append(len(items)) or [[0.0]] * len(items))
    lengths = [1, 30, 12, 1, 90, 1, 14, 1, 1]
    items = [{"input_ids": torch.ones(1, length)} for length in lengths]
    assert api.predict([items[:4], items[4:]]) == [[[0.0]] * 4, [[0.0]] * 5]
    assert sizes == [1, 1, 2, 4, 1]
    monkeypatch.setattr(service, "MAX_TOKENS", 20)
    refused = api.decode_request(requests.read_products([{"text": "mug"}, {"text": "mug " * 50}]))
    assert b"Item 1: it has more than 20 tokens." in refused.body


def test_a_full_queue_answers_at_once():
    async def scenario() -> list[int]:
        done, codes = asyncio.Event(), []

        async def app(scope, receive, send):
            await done.wait()
            await service.refusal(200, "served")(scope, receive, send)

        async def send(message):
            codes.extend([message["status"]] if "status" in message else [])

        queue = service.BoundedQueue(app, most=2)
        waiting = [asyncio.create_task(queue({"type": "http", "method": "POST"}, None, send)) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert codes == [503] * 3 and queue.inside == 2
        done.set()
        await asyncio.gather(*waiting)
        await queue({"type": "http", "method": "POST"}, None, send)
        assert queue.inside == 0
        return codes

    assert asyncio.run(scenario()) == [503, 503, 503, 200, 200, 200]


def test_mistakes_of_the_user_are_one_sentence(checkpoint, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options, sentence in {
            ("--model", str(checkpoint), "--port", port): "Address already in use",
            ("--model", str(checkpoint), "--port", "70000"): "port must be 0-65535",
            ("--model", "/nowhere"): "There is no model folder /nowhere",
            ("--model", str(checkpoint.parent)): "holds no Moon2 model.",
            ("--model", str(checkpoint), "--device", "cuda"): "--device cuda: torch finds no GPU.",
            ("--model", str(checkpoint), "--max_queue", "0"): "'0' is not a whole number of at least 1",
            ("--model", str(checkpoint), "--batch_timeout", "-1"): "batch_timeout must be",
            ("--model", str(checkpoint), "--max-btach-size", "1"): "did you mean --max_batch_size",
        }.items():
            assert main(["serve", *options]) == 2
            said = capsys.readouterr().err
            assert sentence in said and said.count("\n") == 1 and said.startswith("error: "), said


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom serving_moon2.__main__ import main\ntry:\n    main(['serve', '--help'])\n"
        "except SystemExit:\n    assert not {'torch', 'litserve'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--max_queue" in done.stdout, done.stderr


def ask(connection: HTTPConnection, body: bytes, kind: str = "application/json") -> tuple[int, dict]:
    connection.request("POST", "/embed", body, {"Content-Type": kind})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@contextmanager
def serving(checkpoint: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """Start a server; give its process and port when the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serving_moon2", "serve", "--model", str(checkpoint), "--port", str(port)]
    command += ["--max_products", "6", "--max_bytes", "200000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # In the folder with an image whose name is base64.
    process = subprocess.Popen(command, cwd=checkpoint.parent, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):
            assert process.poll() is None, process.stderr.read()
            try:
                connection = HTTPConnection("127.0.0.1", port)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield process, port
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def port(checkpoint) -> Iterator[int]:
    with serving(checkpoint) as (_, port):
        yield port


@pytest.mark.slow
def test_many_clients(port, reference):
    """A third of the requests are bad; each is refused by itself, and all others get AutoModel's vectors."""
    good = good_requests()
    expected = [reference(body) for body in good]
    bad = {name: (json.dumps([{"text": "mug"}, one]).encode(), 422) for name, one in BAD.items()} | BAD_BODIES
    rng = random.Random(0)
    jobs = [rng.choice(list(bad)) if place % 3 == 0 else rng.randrange(len(good)) for place in range(REQUESTS)]
    rng.shuffle(jobs)
    assert set(bad) <= set(jobs)
    turns = itertools.count()

    def client(_) -> Counter:
        seen, connection = Counter(), HTTPConnection("127.0.0.1", port)
        while (turn := next(turns)) < REQUESTS:
            job = jobs[turn]
            if isinstance(job, str):
                body, status = bad[job]
                code, answer = ask(connection, body)
                assert code == status and answer["detail"].endswith((".", "body")), (job, code, answer)
                assert job in BAD_BODIES or answer["detail"].startswith("Item 1: "), (job, answer)
            else:
                code, answer = ask(connection, json.dumps(good[job]).encode())
                assert code == 200, answer
                np.testing.assert_allclose(answer["embeddings"], expected[job], atol=1e-5, rtol=0)
            seen[code] += 1
        return seen

    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        seen = sum(pool.map(client, range(CLIENTS)), Counter())
    seconds = time.perf_counter() - start
    assert seen.total() == REQUESTS and seen[200] == sum(isinstance(job, int) for job in jobs)
    alone, connection = time.perf_counter(), HTTPConnection("127.0.0.1", port)
    for job in [job for job in jobs if isinstance(job, int)][:100]:
        assert ask(connection, json.dumps(good[job]).encode())[0] == 200
    alone = time.perf_counter() - alone
    print(f"\n{CLIENTS} clients: {REQUESTS / seconds:.0f} requests/s, {dict(seen)}; one client, all good: "
          f"{100 / alone:.0f} requests/s")  # fmt: skip


@pytest.mark.slow
def test_other_routes_and_kinds_of_body(port):
    connection = HTTPConnection("127.0.0.1", port)
    code, answer = ask(connection, b'{"text": "mug"}', "application/x-www-form-urlencoded")
    assert code == 422 and "Content-Type: application/json" in answer["detail"]
    for path, expected in {"/health": 200, "/docs": 404, "/embed": 405, "/../etc/passwd": 404}.items():
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == expected and b"root:" not in answer.read()


@pytest.mark.slow
def test_the_requests_of_the_guide(port, reference, tmp_path):
    picture(60, 80).save(tmp_path / "p.jpg")
    photo = base64.b64encode((tmp_path / "p.jpg").read_bytes()).decode()
    (block,) = [block.text for block in blocks("docs/serving.md") if block.text.startswith("curl")]
    shell = block.replace("localhost:8000", f"127.0.0.1:{port}").replace("curl ", "curl --silent --show-error ")
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    found = [json.loads(answer + "]]}")["embeddings"] for answer in done.stdout.split("]]}")[:-1]]
    asked = {"text": "shirt", "instruction": "find the product"}
    for vectors, body in zip(
        found, ({"text": "red ceramic mug"}, [{"text": "mug", "image": photo}, asked]), strict=True
    ):
        np.testing.assert_allclose(vectors, reference(body), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_it_stops_after_the_last_answer(checkpoint):
    body = json.dumps({"image": in_base64(Image.new("1", (3000, 3000)))}).encode()  # small, and long at work
    with serving(checkpoint) as (process, port):
        connections = [HTTPConnection("127.0.0.1", port) for _ in range(8)]
        for connection in connections:
            connection.request("POST", "/embed", body, {"Content-Type": "application/json"})
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        answers = [connection.getresponse() for connection in connections]
        assert [answer.status for answer in answers] == [200] * len(answers)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port))
