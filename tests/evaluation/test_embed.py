"""Batches: order, padding, and which item an error names."""

from io import BytesIO

import pytest
import torch

from common_moon2.cli import UserError
from conftest import mixed_products, picture, tiny_model, tiny_processor
from evaluation.models.embed import embed


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def run(model, processor, products, batch_size=2, workers=0):
    lengths = [len(product.get("text") or "") for product in products]
    return embed(model, processor, products, lengths, lambda index: f"item number {index}", batch_size, workers=workers)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_the_order_of_the_products_is_kept(model, processor, batch_size):
    products = mixed_products()
    with torch.no_grad():
        one_by_one = torch.cat([model(**processor([product])).embeddings for product in products])
    vectors = run(model, processor, products, batch_size)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, one_by_one, atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(products)))


def test_half_precision_weights_give_float32_vectors(processor):
    assert run(tiny_model().bfloat16(), processor, mixed_products()).dtype == torch.float32


def test_no_products_give_no_vectors(model, processor):
    assert run(model, processor, []).shape == (0, 0)


def test_workers_change_nothing_but_the_time(model, processor):
    torch.set_num_threads(2)
    try:
        products = mixed_products()
        with_workers, without = run(model, processor, products, workers=2), run(model, processor, products)
        torch.testing.assert_close(with_workers, without, atol=1e-6, rtol=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("position", [0, 3, 5])
def test_an_unreadable_picture_is_named(model, processor, position, workers):
    file = BytesIO()
    picture(30, 30).save(file, "JPEG")
    products = mixed_products()
    products[position] = {"text": "mug", "image": {"bytes": file.getvalue()[:300], "path": "mug.jpg"}}
    with pytest.raises(UserError, match=f"item number {position} cannot be prepared: .*cannot be read"):
        run(model, processor, products, batch_size=6, workers=workers)


def test_a_vector_that_is_not_finite_is_named(processor):
    model = tiny_model()
    red = processor.tokenizer("red", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[red] = float("nan")
    products = [{"text": "blue shirt"}, {"text": "red shirt"}, {"text": "blue"}]
    with pytest.raises(UserError, match="item number 1 is not finite"):
        run(model, processor, products, batch_size=3)
