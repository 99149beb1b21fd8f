"""Many threads, one model: every vector is the one that a single thread gets."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from conftest import EACH_FAMILY, mixed_products, picture, tiny_model, tiny_processor

THREADS, ROUNDS = 8, 4
# As "qwen3_vl", and one family in which the image-only view takes a second pass.
KINDS = [("qwen3_vl", "token"), ("qwen3_vl", "composition"), ("paligemma", "token"), ("smolvlm", "composition")]


def requests() -> list[list[dict]]:
    """Batches of every mixture and size, and titles that look like the template's own marks."""
    products = mixed_products()
    marks = {"text": "red <|image_pad|> mug " * 3}
    long = {"text": "blue cotton shirt for women " * 9, "instruction": "find the product " * 9}
    rows = [[product] for product in products] + [products, products[::-1], products[1:4], [marks], [long, marks]]
    return rows + [[{"text": "mug", "image": picture(30 + 8 * step, 40, seed=step)}] for step in range(4)]


def assert_alike_in_threads(function, inputs: list):
    """Calls `function` with every input one after the other, then in threads, and compares the arrays to the bit."""
    expected = [function(item) for item in inputs]
    jobs = [index for turn in range(ROUNDS) for index in np.random.default_rng(turn).permutation(len(inputs))]
    with ThreadPoolExecutor(THREADS) as pool:
        for index, found in zip(jobs, pool.map(lambda index: function(inputs[index]), jobs), strict=True):
            for one, other in zip(found, expected[index], strict=True):
                np.testing.assert_array_equal(one, other)


def decisive(model):
    """A model whose routers tell compositions apart, so that a wrong one shows."""
    for layer in model.vlm.get_decoder().layers:
        if layer.mlp.gate.composition_bias is not None:
            nn.init.normal_(layer.mlp.gate.composition_bias, std=3)
    return model


@pytest.mark.parametrize(("family", "router"), KINDS)
def test_model(family, router):
    model, processor = decisive(tiny_model(family, router=router)), tiny_processor(family)

    def embed(features) -> list[torch.Tensor]:
        with torch.inference_mode():
            output = model(**features)
        return [output.embeddings, output.image_embeddings, output.expert_usage, output.router_logits[-1]]

    assert_alike_in_threads(embed, [processor(products) for products in requests()])


@pytest.mark.parametrize("router", ["token", "composition"])
def test_gradients_with_activation_checkpointing(router):
    """Layers run a second time in the backward pass, while other threads are in their forward."""
    model, processor = decisive(tiny_model(router=router)), tiny_processor()
    model.gradient_checkpointing_enable()
    model.train()
    weights = [model.vlm.get_input_embeddings().weight, model.vlm.get_decoder().layers[0].mlp.gate.weight]

    def gradients(features) -> tuple[torch.Tensor, ...]:
        output = model(**features)
        total = (output.embeddings + output.image_embeddings).square().sum(0).max() + output.expert_usage.max()
        return torch.autograd.grad(total + output.router_logits[1].square().mean(), weights)

    assert_alike_in_threads(gradients, [processor(products) for products in requests()[:6]])


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_processor(family):
    processor = tiny_processor(family)
    processor.max_text_length = 20

    def prepare(products) -> list[torch.Tensor]:
        return list(processor(products).values())

    assert_alike_in_threads(prepare, requests())


def test_processor_beside_others_who_use_its_tokenizer():
    """Whoever tokenizes with other settings meanwhile changes the shared tokenizer's state, and nothing of ours."""
    processor = tiny_processor()
    expected = [list(processor(products).values()) for products in requests()]
    stop = threading.Event()

    def others():
        while not stop.is_set():
            processor.tokenizer("red <|image_pad|> mug", truncation=True, max_length=2, padding="max_length")
            processor.tokenizer("red mug", split_special_tokens=True)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(others)
        try:
            for products, tensors in zip(requests(), expected, strict=True):
                for one, before in zip(processor(products).values(), tensors, strict=True):
                    np.testing.assert_array_equal(one, before)
        finally:
            stop.set()
        other.result()


@pytest.mark.parametrize("router", ["token", "composition"])
def test_sentence_transformers(router, tmp_path):
    decisive(tiny_model(router=router)).save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    encoder = SentenceTransformer(str(tmp_path), trust_remote_code=True)

    def encode(products) -> np.ndarray:
        return encoder.encode(products, show_progress_bar=False)

    plain = [
        [{name: product[name] for name in product if name != "instruction"} for product in row] for row in requests()
    ]
    assert_alike_in_threads(encode, plain)
