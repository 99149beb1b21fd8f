"""Peers are asked as their cards say: what reaches the model, and tiny random models of the classes that they have."""

import json
from pathlib import Path

import pytest
import torch
from guides import ROOT
from PIL.Image import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from test_encoders import save_siglip
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, AutoTokenizer

from common_moon2.cli import UserError
from conftest import NEEDS_TOWERS, SIGLIP, TEXT, TEXTS, picture, vlm_config
from evaluation.models import encoders
from evaluation.models.encoders import FIND_PRODUCT, PEERS, Peer, SentenceEncoder, load_encoder, peer_of
from training_moon2.model import train_tokenizer

QUERY, BOTH = [{"text": "red mug"}], [{"text": "a mug", "image": picture(40, 30)}]
PHOTO = [{"image": picture(40, 30)}]


class Recorder:
    """In place of a SentenceTransformer: keeps what it is called with, and gives vectors."""

    tokenizer, max_seq_length = None, None

    def __init__(self, prompts: dict[str, str]):
        self.prompts, self.calls = prompts, []

    def eval(self):
        return self

    def supports(self, modality) -> bool:
        return True

    def get_embedding_dimension(self) -> int:
        return 4

    def parameters(self):
        yield torch.zeros(1)

    def encode(self, inputs, batch_size, show_progress_bar, convert_to_tensor, **options) -> torch.Tensor:
        self.calls.append(("encode", shown(inputs), options))
        return torch.ones(len(inputs), 4)

    def encode_query(self, inputs, batch_size, show_progress_bar, convert_to_tensor, **options) -> torch.Tensor:
        self.calls.append(("query", shown(inputs), options))
        return torch.ones(len(inputs), 4)

    def encode_document(self, inputs, batch_size, show_progress_bar, convert_to_tensor, **options) -> torch.Tensor:
        self.calls.append(("document", shown(inputs), options))
        return torch.ones(len(inputs), 4)


def shown(value):
    """What a model is given, an image as "<image>"; of dicts a list of pairs, as their order matters."""
    if isinstance(value, Image):
        return "<image>"
    if isinstance(value, dict):
        return [(name, shown(part)) for name, part in value.items()]
    return type(value)(map(shown, value)) if isinstance(value, (list, tuple)) else value


def asked(name: str, monkeypatch, tmp_path, prompts: dict[str, str] | None = None, **peer) -> list:
    """What reaches a peer for a text query, a product with both, and one with a photo only."""
    recorder = Recorder(prompts or {})
    monkeypatch.setattr(encoders, "_sentence_transformer", lambda folder: recorder)
    (tmp_path / "config.json").write_text("{}")
    known = peer_of(name)
    encoder = SentenceEncoder(tmp_path, name, None, Peer(**vars(known) | peer))
    encoder.encode(QUERY, role="query")
    encoder.encode(BOTH)
    encoder.encode(PHOTO)
    return recorder.calls


def test_qwen3_vl_embedding_has_its_instruction_as_a_prompt_and_the_image_first(monkeypatch, tmp_path):
    size = {"shortest_edge": 4 * 32 * 32, "longest_edge": 1280 * 1440}  # pixels, whatever the names say
    pixels = {"processing_kwargs": {"image": {"size": size}}}
    product = pixels | {"prompt": "Represent the user's input."}
    assert asked("Qwen/Qwen3-VL-Embedding-2B", monkeypatch, tmp_path) == [
        ("encode", [[("text", "red mug")]], pixels | {"prompt": FIND_PRODUCT}),
        ("encode", [[("image", "<image>"), ("text", "a mug")]], product),
        ("encode", [[("image", "<image>")]], product),
    ]


def test_gme_has_an_instruction_for_queries(monkeypatch, tmp_path):
    assert asked("Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", monkeypatch, tmp_path) == [
        ("query", [[("text", "red mug")]], {"prompt": FIND_PRODUCT}),
        ("document", [[("text", "a mug"), ("image", "<image>")]], {}),
        ("document", [[("image", "<image>")]], {}),
    ]


def test_the_guide_has_every_peer():
    page = (ROOT / "docs/benchmark.md").read_text(encoding="utf-8")
    assert [name for name in PEERS if f"`{name}`" not in page] == []


def test_embeddinggemma_has_its_prompts_in_the_text_of_images_too(monkeypatch, tmp_path):
    none = {"prompt": ""}
    assert asked("google/embeddinggemma-2", monkeypatch, tmp_path, {"query": "other", "document": "other"}) == [
        ("query", [[("text", "task: search result | query: red mug")]], none),
        ("document", [[("text", "title: none | text: a mug"), ("image", "<image>")]], none),
        ("document", [[("text", "title: none | text: "), ("image", "<image>")]], none),
    ]


def test_wemm_has_its_instruction_before_the_text_of_queries_and_the_image_first(monkeypatch, tmp_path):
    assert peer_of("tencent/WeMM-Embedding-9B").own_normalizer
    assert asked("tencent/WeMM-Embedding-2B", monkeypatch, tmp_path, own_normalizer=False) == [
        ("query", [[("text", f"{FIND_PRODUCT} red mug")]], {"prompt": ""}),
        ("document", [[("image", "<image>"), ("text", "a mug")]], {}),
        ("document", [[("image", "<image>")]], {}),
    ]


def test_wemm_has_the_normalizer_of_its_tokenizer_file(tmp_path, monkeypatch):
    """transformers builds another one, without a rule that shapes the prompt."""
    folder = Path(save_tiny(tmp_path, "llama", "lasttoken", {}))
    file = folder / "tokenizer.json"
    rules = json.loads(file.read_text(encoding="utf-8")) | {"normalizer": {"type": "Lowercase"}}
    file.write_text(json.dumps(rules), encoding="utf-8")
    load = encoders._sentence_transformer

    def as_transformers_loads_it(folder: Path) -> SentenceTransformer:
        model = load(folder)
        model.tokenizer.backend_tokenizer.normalizer = None
        return model

    monkeypatch.setattr(encoders, "_sentence_transformer", as_transformers_loads_it)
    for own_normalizer in (True, False):
        encoder = SentenceEncoder(folder, "wemm", None, Peer(own_normalizer=own_normalizer))
        loud, quiet = encoder.encode([{"text": "RED mug"}, {"text": "red mug"}])
        assert torch.allclose(loud, quiet, atol=1e-5) == own_normalizer


def test_jina_v5_omni_has_a_task_and_products_as_tuples(monkeypatch, tmp_path):
    document = {"task": "retrieval", "prompt": "Document: "}
    assert asked("jinaai/jina-embeddings-v5-omni-nano", monkeypatch, tmp_path) == [
        ("encode", ["red mug"], {"task": "retrieval", "prompt": "Query: "}),
        ("encode", [("a mug", "<image>")], document),
        ("encode", ["<image>"], document),
    ]


def test_nemotron_has_the_prompts_of_its_files_and_one_image(monkeypatch, tmp_path):
    name, prompts = "nvidia/Nemotron-3.5-Embed-1B-BF16", {"query": "query: ", "document": "passage: "}
    calls = asked(name, monkeypatch, tmp_path, prompts)
    assert [(call, options) for call, _, options in calls] == [
        ("query", {"prompt": "query: "}),
        ("document", {"prompt": "passage: "}),
        ("document", {"prompt": "passage: "}),
    ]
    with pytest.raises(ValueError, match="card asks for prompts of queries and documents, which its files do not have"):
        asked(name, monkeypatch, tmp_path)
    encoder = SentenceEncoder(tmp_path, name, None, Peer(images=1))
    with pytest.raises(UserError, match="product 0 cannot be prepared: this model reads 1 image of a product, not 2."):
        encoder.encode([{"image": [picture(30, 30), picture(30, 30)]}])


@NEEDS_TOWERS
def test_siglip2_reads_lower_case(tmp_path):
    """A copy is known by the name of its folder."""
    titles = [{"text": "Red Striped MUG"}, {"text": "red striped mug"}]
    loud, quiet = load_encoder(save_siglip(tmp_path / "siglip2-so400m-patch16-384")).encode(titles)
    torch.testing.assert_close(loud, quiet)
    plain = load_encoder(save_siglip(tmp_path / "siglip-large-patch16-384"))
    loud, quiet = plain.encode(titles)
    assert plain.kind == "siglip" and not torch.allclose(loud, quiet, atol=1e-3)


def test_a_copy_is_loaded_as_its_original_and_a_moon2_as_what_it_is(model, tmp_path, monkeypatch):
    copy = tmp_path / "Qwen3-VL-Embedding-2B"
    copy.symlink_to(model)
    assert peer_of(str(copy)) == PEERS["Qwen/Qwen3-VL-Embedding-2B"]
    assert peer_of("someone/Qwen3-VL-Embedding-2B") == Peer()
    assert load_encoder(str(copy)).kind == "moon2"
    assert load_encoder(str(copy)).fingerprint == load_encoder(model).fingerprint


def test_what_is_added_to_a_model_is_part_of_its_fingerprint(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(encoders, "_sentence_transformer", lambda folder: Recorder({}))
    names = ("google/embeddinggemma-2", "Qwen/Qwen3-VL-Embedding-2B", "sentence-transformers/other")
    assert len({SentenceEncoder(tmp_path, name, None, peer_of(name)).fingerprint for name in names}) == 3
    as_files_say = {name for name, peer in PEERS.items() if not peer.additions}
    assert as_files_say == {name for name in PEERS if name.startswith(("google/siglip-", "Marqo/", "nvidia/"))}


# As the cards' own: each role's text between marks, images as a placeholder.
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}</>{% endfor %}"
)
MARKS = ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]


def tiny_config(family: str):
    """Tiny configurations of the classes that peers have, as far as their texts need them."""
    if family == "embedding_gemma2":
        sizes = dict(hidden_size_per_layer_input=16, embedding_dim=64, sliding_window=64, global_head_dim=16)
        return AutoConfig.for_model(family, text_config=TEXT | sizes, vision_config=None, audio_config=None)
    if family == "mistral3":
        text = TEXT | {"model_type": "ministral3"}
        return AutoConfig.for_model(family, text_config=text, vision_config=SIGLIP | {"model_type": "pixtral"})
    return AutoConfig.for_model(family, **TEXT) if family == "llama" else vlm_config(family)


def save_tiny(folder: Path, family: str, pooling: str, prompts: dict[str, str]) -> str:
    """A tiny random model as sentence-transformers saves it, without a processor of images."""
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config(family)).save_pretrained(folder / "backbone")
    tokenizer = train_tokenizer(TEXTS * 5, 400)
    if family == "qwen3_vl":
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "backbone")
    backbone = Transformer(str(folder / "backbone"))
    modules = [backbone, Pooling(64, pooling_mode=pooling), Normalize()]
    SentenceTransformer(modules=modules, prompts=prompts).save_pretrained(str(folder / "saved"))
    return str(folder / "saved")


NVIDIA = {"query": "query: ", "document": "passage: "}
QWEN = "<system>{prompt}</><user>red mug</>"


@pytest.mark.parametrize(
    "family, name, pooling, prompts, query, document",
    [
        (
            *("embedding_gemma2", "embeddinggemma-2", "mean", {}),
            *("task: search result | query: red mug", "title: none | text: red mug"),
        ),
        ("mistral3", "Nemotron-3.5-Embed-1B-BF16", "mean", NVIDIA, "query: red mug", "passage: red mug"),
        (
            *("qwen3_vl", "Qwen3-VL-Embedding-2B", "lasttoken", {}),
            *(QWEN.format(prompt=FIND_PRODUCT), QWEN.format(prompt="Represent the user's input.")),
        ),
    ],
)
def test_texts_through_tiny_models_of_the_same_class(
    family, name, pooling, prompts, query, document, tmp_path, monkeypatch
):
    # The processors want torchvision, which texts do not need.
    monkeypatch.setattr("sentence_transformers.base.modules.transformer.AutoProcessor", AutoTokenizer)
    saved = Path(save_tiny(tmp_path, family, pooling, prompts)).rename(tmp_path / name)
    encoder = load_encoder(str(saved))
    assert encoder.peer == peer_of(str(saved)) != Peer()
    model, tokenizer = AutoModel.from_pretrained(saved).eval(), encoder.model.tokenizer
    for role, text in (("query", query), ("document", document)):
        tokens = tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            states = model(**{part: tokens[part] for part in ("input_ids", "attention_mask")}).last_hidden_state
        expected = normalize(states.mean(dim=1) if pooling == "mean" else states[:, -1], dim=-1)
        torch.testing.assert_close(encoder.encode([{"text": "red mug"}], role=role), expected, atol=1e-5, rtol=0)


def test_images_through_a_tiny_qwen3_vl(tmp_path):
    """The image stands before the text, is bounded in pixels, and does not depend on the batch."""
    pytest.importorskip("torchvision")
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    torch.manual_seed(0)
    config, tokenizer = vlm_config("qwen3_vl"), train_tokenizer(TEXTS * 5, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    names = ("image_token_id", "vision_start_token_id", "vision_end_token_id", "video_token_id")
    for name, mark in zip(names, MARKS, strict=True):
        setattr(config, name, tokenizer.convert_tokens_to_ids(mark))
    AutoModel.from_config(config).save_pretrained(tmp_path / "backbone")
    sizes = dict(patch_size=8, merge_size=2, temporal_patch_size=2)
    parts = Qwen2VLImageProcessor(**sizes), tokenizer, Qwen3VLVideoProcessor(**sizes)
    Qwen3VLProcessor(*parts, chat_template=TEMPLATE).save_pretrained(tmp_path / "backbone")
    modules = [Transformer(str(tmp_path / "backbone")), Pooling(64, pooling_mode="lasttoken"), Normalize()]
    SentenceTransformer(modules=modules).save_pretrained(str(tmp_path / "Qwen3-VL-Embedding-2B"))
    encoder = load_encoder(str(tmp_path / "Qwen3-VL-Embedding-2B"))
    photo = picture(64, 64)
    products = [{"text": "red mug"}, {"image": photo}, {"text": "red mug", "image": photo}]
    one_by_one = torch.cat([encoder.encode([product]) for product in products])
    torch.testing.assert_close(encoder.encode(products), one_by_one, atol=1e-5, rtol=0)
    assert encoder.views == {"t", "i", "mm"} and encoder.note == ""
    options = encoder.peer.encode
    seen = encoder.model.preprocess([{"image": photo, "text": "red mug"}], prompt="Find.", **options)
    shown = tokenizer.decode(seen["input_ids"][0])
    assert shown.startswith("<system>Find.</><user><|vision_start|><|image_pad|>") and shown.endswith("red mug</>")
    large = encoder.model.preprocess([{"image": picture(2400, 1600)}], **options)
    assert 0.9 * 1280 * 1440 < len(large["pixel_values"]) * 8 * 8 <= 1280 * 1440
