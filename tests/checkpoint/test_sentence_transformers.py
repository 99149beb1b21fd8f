"""The same vector everywhere: AutoModel, sentence-transformers, mteb; cut and quantised vectors."""

import json
import os
import re
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, RepoUrl
from huggingface_hub.errors import EntryNotFoundError
from sentence_transformers import SentenceTransformer, quantize_embeddings
from transformers import AutoModel, AutoProcessor

from conftest import OLD_TRANSFORMERS, mixed_products, picture, tiny_model, tiny_processor
from modeling_moon2 import SENTENCE_TRANSFORMERS_FILES
from research.benchmarks.__main__ import main

TOLERANCE = 1e-5
ROOT = Path(__file__).parents[2]
# sentence-transformers has no instruction in an input, but a prompt for all inputs of a call.
PRODUCTS = [product for product in mixed_products() if "instruction" not in product]


@pytest.fixture(scope="module", params=["qwen3_vl"] if OLD_TRANSFORMERS else ["qwen3_vl", "smolvlm"])
def folder(request, tmp_path_factory) -> Path:
    """A checkpoint as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp(request.param) / "moon2"
    tiny_model(request.param).save_pretrained(folder)
    tiny_processor(request.param).save_pretrained(folder)
    return folder


def load(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def encoder(folder) -> SentenceTransformer:
    return load(folder)


@pytest.fixture(scope="module")
def transformers_vectors(folder):
    """Products -> vectors, by AutoModel and AutoProcessor; one product at a time."""
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

    def embed(products: list[dict]) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([model(**processor([product])).embeddings for product in products]).numpy()

    return embed


def assert_same(vectors, expected):
    assert vectors.shape == expected.shape
    assert np.abs(np.asarray(vectors) - np.asarray(expected)).max() <= TOLERANCE


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_same_vectors_for_mixed_products(encoder, transformers_vectors, batch_size):
    expected = transformers_vectors(PRODUCTS)
    assert_same(encoder.encode(PRODUCTS, batch_size=batch_size), expected)
    assert_same(encoder.encode(PRODUCTS[::-1], batch_size=batch_size)[::-1], expected)
    text_last = [dict(sorted(product.items(), reverse=True)) for product in PRODUCTS]
    text_first = [dict(sorted(product.items())) for product in PRODUCTS]
    assert_same(encoder.encode(text_last[:2] + text_first[2:], batch_size=batch_size), expected)


def test_queries_and_documents_are_encoded_alike(encoder, transformers_vectors):
    expected = transformers_vectors(PRODUCTS)
    assert_same(encoder.encode_query(PRODUCTS), expected)
    assert_same(encoder.encode_document(PRODUCTS), expected)


def test_every_form_of_input(encoder, transformers_vectors, tmp_path):
    photo = picture(40, 30)
    photo.save(tmp_path / "mug.png")
    inputs = [
        "red mug",
        photo,
        str(tmp_path / "mug.png"),
        np.asarray(photo),
        {"text": "red mug"},
        {"image": photo},
        {"image": [photo, str(tmp_path / "mug.png")], "text": "red mug"},
        {"text": "red mug", "image": None},
    ]
    products = [
        {"text": "red mug"},
        *[{"image": photo}] * 3,
        {"text": "red mug"},
        {"image": photo},
        {"image": [photo, photo], "text": "red mug"},
        {"text": "red mug"},
    ]
    expected = transformers_vectors(products)
    assert_same(encoder.encode(inputs), expected)
    for one, vector in zip(inputs, expected, strict=True):
        assert_same(encoder.encode(one, show_progress_bar=False), vector)
    tensor = encoder.encode(inputs, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert_same(tensor, expected)


def test_chat_messages(encoder, transformers_vectors):
    parts = [{"type": "text", "text": "red mug"}, {"type": "image", "image": picture(40, 30)}]
    conversation = [{"role": "system", "content": "find"}, {"role": "user", "content": parts}]
    expected = transformers_vectors([{"text": "red mug", "image": picture(40, 30), "instruction": "find"}])
    assert_same(encoder.encode([conversation]), expected)
    assert_same(encoder.encode(conversation), expected[0])
    with pytest.raises(ValueError, match="part of type 'message'"):  # sentence-transformers wraps it once more
        encoder.encode([conversation, "red mug"])


def test_a_prompt_is_the_instruction(encoder, transformers_vectors):
    expected = transformers_vectors([product | {"instruction": "find the product"} for product in PRODUCTS])
    assert np.abs(expected - transformers_vectors(PRODUCTS)).max() > 1e-3, "an instruction must count"
    assert_same(encoder.encode(PRODUCTS, prompt="find the product"), expected)
    encoder.prompts["search"] = "find the product"
    assert_same(encoder.encode(PRODUCTS, prompt_name="search"), expected)
    del encoder.prompts["search"]


def test_max_seq_length_cuts_texts_only(encoder, transformers_vectors):
    long = {"text": "blue " * 40, "image": picture(40, 30)}
    short = transformers_vectors(
        [long | {"text": encoder.tokenizer.decode(encoder.tokenizer(long["text"])["input_ids"][:6])}]
    )
    unlimited = encoder.max_seq_length
    encoder.max_seq_length = 6
    assert_same(encoder.encode([long]), short)
    encoder.max_seq_length = unlimited
    assert_same(encoder.encode([long], processing_kwargs={"text": {"max_length": 6}}), short)
    assert_same(encoder.encode([long]), transformers_vectors([long]))


@pytest.mark.parametrize("folder", ["qwen3_vl"], indirect=True)
def test_a_fresh_process_elsewhere(folder, transformers_vectors, tmp_path):
    """Without the repository on the path, from another working directory."""
    mug = tmp_path / "mug.png"
    picture(40, 30).save(mug)
    products = [{"text": "red mug"}, {"image": str(mug), "text": "红色 mug"}, {"image": [str(mug), str(mug)]}]
    np.save(tmp_path / "expected.npy", transformers_vectors(products))
    script = f"""
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
assert not any(path.rstrip("/") == {os.getcwd()!r} for path in sys.path), sys.path
encoder = SentenceTransformer({str(folder)!r}, trust_remote_code=True, device="cpu")
vectors = encoder.encode(json.loads({json.dumps(products)!r}))
print("largest difference", np.abs(vectors - np.load("expected.npy")).max())
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HOME"] = str(tmp_path / "cache")
    run = fresh.run(["-c", script], environment, tmp_path)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.removeprefix("largest difference")) <= TOLERANCE


def test_mteb_sees_pictures_through_its_wrapper(encoder, transformers_vectors):
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset, Features, Image, Value
    from mteb.models import SentenceTransformerEncoderWrapper
    from torch.utils.data import DataLoader

    products = [{"text": product.get("text"), "image": product.get("image")} for product in PRODUCTS]
    products = [product for product in products if not isinstance(product["image"], list)]
    rows = Dataset.from_list(products, features=Features({"text": Value("string"), "image": Image()}))

    def columns(batch: list[dict]) -> dict[str, list]:
        return {key: [row[key] for row in batch] for key in batch[0]}

    wrapper = SentenceTransformerEncoderWrapper(encoder)
    task = mteb.get_task("Fashion200kI2TRetrieval").metadata
    where = dict(task_metadata=task, hf_split="test", hf_subset="default", show_progress_bar=False)

    both = rows.filter(lambda row: row["text"] is not None and row["image"] is not None)
    plain = wrapper.encode(DataLoader(both, collate_fn=columns), **where)
    assert_same(plain, transformers_vectors([{"text": text} for text in both["text"]]))  # the guide's warning is true

    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})
    for prompt_type in (None, mteb.types.PromptType.query, mteb.types.PromptType.document):
        loader = DataLoader(rows, batch_size=2, collate_fn=columns)
        assert_same(wrapper.encode(loader, **where, prompt_type=prompt_type), transformers_vectors(products))


def test_saved_again_by_sentence_transformers(folder, transformers_vectors, tmp_path):
    encoder = load(folder)
    encoder.prompts["query"] = "find the product"
    encoder.truncate_dim = 24
    encoder.save_pretrained(str(tmp_path / "again"))
    kept = {path.name for path in folder.iterdir()}
    assert kept <= {path.name for path in (tmp_path / "again").iterdir()}

    again = load(tmp_path / "again")
    assert (again.prompts, again.truncate_dim) == (encoder.prompts, 24)
    with again.truncate_embeddings(None):
        assert_same(again.encode(PRODUCTS), transformers_vectors(PRODUCTS))
        prompted = transformers_vectors([product | {"instruction": "find the product"} for product in PRODUCTS])
        assert_same(again.encode_query(PRODUCTS), prompted)
    model = AutoModel.from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "again", trust_remote_code=True)
    with torch.no_grad():
        assert_same(model(**processor(PRODUCTS)).embeddings, transformers_vectors(PRODUCTS))


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["qwen3_vl"], indirect=True)
def test_two_processes(encoder, transformers_vectors):
    pool = encoder.start_multi_process_pool(["cpu", "cpu"])
    try:
        vectors = encoder.encode(PRODUCTS, pool=pool, chunk_size=2)
    finally:
        encoder.stop_multi_process_pool(pool)
    assert_same(vectors, transformers_vectors(PRODUCTS))


def test_cut_vectors(encoder, transformers_vectors):
    full = transformers_vectors(PRODUCTS)
    assert encoder.get_embedding_dimension() == full.shape[1] == 64
    cut = encoder.encode(PRODUCTS, truncate_dim=16)
    assert_same(cut, full[:, :16])
    norms = np.linalg.norm(cut, axis=1)
    assert (norms < 0.9).all(), "sentence-transformers does not renormalise on its own"
    unit = encoder.encode(PRODUCTS, truncate_dim=16, normalize_embeddings=True)
    assert_same(unit, cut / norms[:, None])
    similarity = encoder.similarity(cut, cut)
    assert_same(similarity, unit @ unit.T)
    with encoder.truncate_embeddings(16):
        assert encoder.get_embedding_dimension() == 16


def test_int8_gives_back_each_number_within_a_step(encoder):
    sample = encoder.encode(
        [f"{colour} {thing}" for colour in ("red", "blue", "红色") for thing in ("mug", "shirt", "蓝")]
    )
    vectors = sample[::2]
    quantized = quantize_embeddings(vectors, precision="int8", calibration_embeddings=sample)
    assert quantized.dtype == np.int8 and quantized.shape == vectors.shape
    low, high = sample.min(0), sample.max(0)
    step = (high - low) / 255
    restored = (quantized.astype(np.float32) + 128) * step + low
    assert (np.abs(restored - vectors) <= step * 1.001 + 1e-7).all()
    assert np.array_equal(
        encoder.encode(PRODUCTS, precision="int8"), quantize_embeddings(encoder.encode(PRODUCTS), "int8")
    )


def test_binary_keeps_the_signs(encoder):
    vectors = encoder.encode(PRODUCTS)
    packed = encoder.encode(PRODUCTS, precision="ubinary")
    assert packed.dtype == np.uint8 and packed.shape == (len(PRODUCTS), 8)
    assert np.array_equal(np.unpackbits(packed, axis=1), vectors > 0)
    signed = quantize_embeddings(vectors, precision="binary")
    assert signed.dtype == np.int8 and np.array_equal(signed.astype(int) + 128, packed)


def test_what_save_pretrained_writes(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "helper", is_main_process=False)
    assert not list((tmp_path / "helper").iterdir())
    state = {name: value * 2 for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "main", state_dict=state)
    for name, content in SENTENCE_TRANSFORMERS_FILES.items():
        assert json.loads((tmp_path / "main" / name).read_text(encoding="utf-8")) == content
    loaded = type(model).from_pretrained(tmp_path / "main")
    assert torch.equal(loaded.get_input_embeddings().weight, 2 * model.get_input_embeddings().weight)


def test_a_push_uploads_the_files_too(tmp_path, monkeypatch):
    uploaded = []

    def no_card(*args, **kwargs):
        raise EntryNotFoundError("no README.md")

    monkeypatch.setattr(ModelCard, "load", no_card)
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: RepoUrl(f"https://huggingface.co/{repo_id}"))
    monkeypatch.setattr(HfApi, "create_commit", lambda self, operations, **_: uploaded.append(operations))
    model = tiny_model()
    model.push_to_hub("me/moon2")
    model.save_pretrained(tmp_path / "moon2", push_to_hub=True, repo_id="me/moon2")
    for operations in uploaded:
        names = {operation.path_in_repo for operation in operations}
        assert names >= {"config.json", "model.safetensors", "modeling_moon2.py", *SENTENCE_TRANSFORMERS_FILES}
    assert len(uploaded) == 2


def test_without_trust_in_the_code_the_error_says_what_to_do(folder):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(folder))


@pytest.mark.parametrize(
    "bad, words",
    [
        (("red mug", "blue mug"), "'query'/'document' pair"),
        ("https://example.org/p.jpg", "p.jpg cannot be read: addresses are not fetched"),
        ({"image": "no_such_picture.jpg"}, "no_such_picture.jpg cannot be read"),
        ({"text": "mug", "video": np.zeros((2, 3, 4, 4))}, "video"),
        ({"text": "mug", "instruction": "find"}, "instruction"),
        ("  ", "neither text nor image"),
    ],
)
def test_what_is_no_product_is_refused(encoder, bad, words):
    with pytest.raises(ValueError, match=words):
        encoder.encode(["fine", bad])


@pytest.mark.parametrize("folder", ["qwen3_vl"], indirect=True)
def test_the_benchmark_prints_the_differences(folder, mbe2, capsys):
    assert main(["agreement", "--model", str(folder), "--dataset", mbe2, "--products", "3"]) == 0
    table = capsys.readouterr().out.splitlines()[3:]
    figures = [float(figure) for row in table for figure in re.findall(r"\d\.\de[-+]\d+", row)]
    assert len(figures) >= 9 and max(figures) <= TOLERANCE
    (folder / "modules.json").rename(folder / "hidden.json")
    try:
        assert main(["agreement", "--model", str(folder), "--dataset", mbe2]) == 2
        assert "no modules.json" in capsys.readouterr().err
    finally:
        (folder / "hidden.json").rename(folder / "modules.json")
