"""The demo without its page: catalogue, query, shares, heat-map, and the HTML that is made of them."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Image, Value

from common_moon2.cli import UserError
from conftest import picture, tiny_model, tiny_processor
from demo_moon2 import parts as html
from demo_moon2.catalogue import BOTH, VECTORS, WORDS, Catalogue, Found, open_catalogue
from demo_moon2.parts import heat_panel
from demo_moon2.query import Reader, blend
from evaluation.models.checkpoint import Checkpoint
from evaluation.models.encoders import Moon2Encoder, load_encoder
from evaluation.tables.benchmark import Products
from evaluation.vectors.hybrid import Fusion, Weight


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Moon2Encoder:
    folder = tmp_path_factory.mktemp("demo") / "moon2"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return load_encoder(str(folder))


@pytest.fixture(scope="module")
def reader(encoder) -> Reader:
    return Reader(encoder.checkpoint)


@pytest.fixture(scope="module")
def mixed(mbe2, tmp_path_factory) -> str:
    """The data set with a product without image, one without title, and one without either."""
    folder = tmp_path_factory.mktemp("mixed") / "mbe2"
    shutil.copytree(mbe2, folder)
    (shard,) = (folder / "corpus").glob("test-*.parquet")
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[0]["image"], rows[1]["text"], rows[2]["text"], rows[2]["image"] = None, None, " ", None
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    return str(folder)


@pytest.fixture(scope="module")
def catalogue(encoder, mixed, tmp_path_factory) -> Catalogue:
    return open_catalogue(mixed, encoder, cache=tmp_path_factory.mktemp("cache"))


def small_catalogue(titles: list[str | None], vectors: np.ndarray | None = None) -> Catalogue:
    """Products without images."""
    rows = {"id": [f"p{row}" for row in range(len(titles))], "text": titles, "image": [None] * len(titles)}
    features = Features({"id": Value("string"), "text": Value("string"), "image": Image()})
    products = Products("corpus", Dataset.from_dict(rows, features=features))
    vectors = np.eye(len(titles), 4, dtype=np.float32) if vectors is None else vectors
    return Catalogue(products, vectors, dict.fromkeys(range(len(titles)), "t"))


def test_products_are_found_by_cosine_in_their_richest_view(catalogue, encoder):
    products = catalogue.products
    assert [catalogue.view.get(row) for row in range(4)] == ["t", "i", None, "mm"]
    assert catalogue.left_out == 1 and len(catalogue) == len(products) - 1
    rows = sorted(catalogue.view)
    vectors = encoder.encode([products.product(row, catalogue.view[row]) for row in rows])
    query = torch.nn.functional.normalize(torch.randn(vectors.shape[1], generator=torch.manual_seed(1)), dim=0)
    scores = vectors @ query
    found = catalogue.search(query.numpy(), 5).products
    assert [row for row, _ in found] == [rows[index] for index in scores.argsort(descending=True)[:5]]
    assert [score for _, score in found] == pytest.approx(scores.sort(descending=True).values[:5].tolist(), abs=1e-5)
    assert len(catalogue.search(query.numpy(), 10_000).products) == len(catalogue), "no more than there are"


def test_words_vectors_or_both():
    weight = Weight(bias=0.0, number=0.0, rare=0.0, use="both", queries=50, mean=0.5)
    titles, vectors = ["red mug", "blue mug", "lamp", None], np.eye(4, dtype=np.float32)
    plain = small_catalogue(titles, vectors)
    fused = Catalogue(plain.products, vectors, plain.view, Fusion({"t2mm": weight}, "a test"))
    assert (plain.ways, fused.ways) == ([VECTORS, WORDS], [BOTH, VECTORS, WORDS])
    lamp = vectors[2]
    assert fused.search(lamp, 1, VECTORS, "red mug") == Found([(2, 1.0)], 0.0)
    words = fused.search(lamp, 2, WORDS, "red mug")
    assert [row for row, _ in words.products] == [0, 1] and words.weight > 0.99
    assert [row for row, _ in fused.search(lamp, 3, WORDS, "red").products] == [0, 2, 1], "vectors order the others"
    both = fused.search(lamp, 4, BOTH, "mug")
    assert both.weight == 0.5 and {row for row, _ in both.products[:3]} == {0, 1, 2} and both.products[3] == (3, 0.0)
    for text, view in (("unheard", "t"), (None, "i"), ("red mug", "mm")):  # of mm there are no weights
        assert fused.search(lamp, 1, BOTH, text, view) == Found([(2, 1.0)], 0.0)
    with pytest.raises(UserError, match="no way 'Vectors and words' to search, but Vectors, Words"):
        plain.search(lamp, 1, BOTH, "mug")
    assert small_catalogue([None, "!!"]).ways == [VECTORS], "there are no words"


def test_weights_come_from_the_validation_triplets(encoder, mbe2, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.vectors.hybrid.FEWEST", 3)
    assert open_catalogue(mbe2, encoder, cache=tmp_path).ways[0] == BOTH


def test_a_catalogue_is_embedded_once(encoder, mbe2, tmp_path, monkeypatch):
    first = open_catalogue(mbe2, encoder, cache=tmp_path)

    def no_more(*_, **__):
        raise AssertionError("embedded again")

    monkeypatch.setattr(encoder, "encode", no_more)
    again = open_catalogue(mbe2, encoder, cache=tmp_path)
    query = np.eye(1, encoder.dimension, dtype=np.float32)[0]
    assert again.search(query, 3) == first.search(query, 3)


def test_a_catalogue_that_shows_nothing_is_refused(encoder, tmp_path, monkeypatch):
    empty = small_catalogue(["a"]).products
    empty.texts[0] = None
    monkeypatch.setattr("demo_moon2.catalogue.load_corpus", lambda *_: empty)
    with pytest.raises(UserError, match="No product of mine has a title or an image"):
        open_catalogue("mine", encoder, cache=tmp_path)


def test_a_query_is_what_the_model_makes_of_it(reader, encoder):
    photo = picture(40, 40, seed=3)
    text, image, both = encoder.encode([{"text": "red mug"}, {"image": photo}, {"text": "red mug", "image": photo}])
    cases = [(("red mug", None), "t", text), ((" ", photo), "i", image), (("red mug", photo, 0.5), "mm", both)]
    cases += [(("red mug", photo, 0.0), "mm", text), (("red mug", photo, 1.0), "mm", image)]
    for given, view, expected in cases:
        query = reader.query(*given)
        assert query.view == view and query.cut is None
        assert query.vector == pytest.approx(expected.numpy(), abs=1e-5)
    assert set(query.usage) == {"t", "i", "mm"}
    for view, product in (
        ("t", {"text": "red mug"}),
        ("i", {"image": photo}),
        ("mm", {"text": "red mug", "image": photo}),
    ):
        with torch.no_grad():
            usage = reader.model(**reader.processor([product], return_tensors="pt")).expert_usage[0]
        assert query.usage[view] == pytest.approx(usage.numpy(), abs=1e-5)
        assert query.usage[view].sum() == pytest.approx(1, abs=1e-5)


def test_a_share_leads_from_the_text_to_the_picture():
    torch.manual_seed(0)
    text, both, image = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    shares = [index / 20 for index in range(21)]
    path = torch.stack([blend(text, both, image, share) for share in shares])
    assert torch.allclose(path.norm(dim=1), torch.ones(21))
    assert torch.allclose(path[[0, 10, 20]], torch.stack([text, both, image]))
    assert ((path[:11] @ text).diff() < 0).all() and ((path[10:] @ image).diff() > 0).all()
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="give 0 to 1"):
            blend(text, both, image, share)


def test_a_query_of_nothing_or_of_no_text_is_refused(reader):
    for text in (None, "", "  \n"):
        with pytest.raises(UserError, match="Type what you look for, or add an image"):
            reader.query(text, None)
    with pytest.raises(UserError, match="The query cannot be read: .*valid Unicode"):
        reader.query("half an emoji \ud83d", None)
    with pytest.raises(UserError, match="one side is more than"):
        reader.query(None, picture(900, 2))


def test_a_text_that_is_cut_is_said(encoder):
    processor = tiny_processor()
    processor.max_text_length = 4
    short = Reader(Checkpoint(encoder.checkpoint.model, processor, Path(), None))
    query = short.query("red striped mug 350 ml and blue cotton shirt", None)
    assert query.cut > 4
    assert f"has {query.cut} tokens" in html.query_panel(query, 0.5, 0.0)


def test_a_heat_map_leaves_the_model_as_it_was(reader, catalogue):
    before = reader.query("red mug", None).vector
    row = next(row for row, view in catalogue.view.items() if view == "mm")
    panel = heat_panel(catalogue, reader, row)
    assert panel.count("<img ") == 2 and "an even share" in panel
    words = panel.partition('class="words">')[2]
    assert all(word in words for word in catalogue.title(row).split())
    assert reader.model.config._attn_implementation == "sdpa"
    assert np.array_equal(reader.query("red mug", None).vector, before)


@pytest.mark.parametrize("row", [0, 1, 2, -1, 10_000])
def test_only_products_with_title_and_picture_have_one(reader, catalogue, row):
    with pytest.raises(UserError, match="needs a product of the catalogue with title and image"):
        heat_panel(catalogue, reader, row)


def test_cards_show_what_a_product_has(catalogue):
    shown = html.cards(catalogue, Found([(3, 0.75), (0, 0.5), (1, -0.25)], 0.0))
    full, titled, pictured = shown.split("</li>")[:3]
    assert 'data-row="3"' in full and 'src="data:image/jpeg;base64,' in full and "0.750" in full
    assert "title only" in titled and "no image" in titled and "data-row" not in titled
    assert "image only" in pictured and "width:0.0%" in pictured and "-0.250" in pictured
    assert f"Product {catalogue.products.ids[1]}" in pictured


def test_text_of_others_is_never_html(reader):
    catalogue = small_catalogue(['<script>alert("1")</script>', "ordinary"])
    for shown in (html.cards(catalogue, Found([(0, 1.0)], 0.5)), html.problem("<img src=x>"), html.message("<b>")):
        assert "<script" not in shown and "<img src=x" not in shown and "<b>" not in shown


def test_the_panel_names_the_query_and_every_expert(reader):
    both = html.query_panel(reader.query("red mug", picture(30, 30), 0.25), 0.25, 0.4)
    assert "<strong>text and image</strong>, 25% image; its words count 40%</p>" in both
    assert both.count("<td") == 3 * 4
    text = html.query_panel(reader.query("red mug", None), 0.5, 0.0)
    assert "<strong>text</strong><" in text and text.count("<td") == 4
