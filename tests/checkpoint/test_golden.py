"""Golden vectors: a library that silently changes tokens, pixels or attention fails here, by name.

The tokenizer and the expected figures are stored in `golden/`. The weights come from NumPy's legacy generator, whose
numbers never change. After a deliberate change of ours, `PYTHONPATH=.:tests python tests/checkpoint/test_golden.py`
writes the figures anew.
"""

import functools
import json
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from conftest import tiny_model, tiny_processor
from processing_moon2 import Moon2Processor

FOLDER = Path(__file__).parent / "golden"
FAMILIES = ("qwen3_vl", "smolvlm", "paligemma")
SEED, SCALE = 20260, 0.05
# Pillow 13 rounds a few resized pixels to the next of 256 levels, here 2 / 255, which moves vectors by up to 8e-5.
PIXELS, VECTORS = (0.008, 2e-4) if int(PIL.__version__.split(".")[0]) >= 13 else (1e-3, 2e-5)
TOLERANCE = {"tokens": 0, "pixels": PIXELS, "vectors": VECTORS, "image vectors": VECTORS}


def photo(width: int, height: int) -> np.ndarray:
    """Draw waves of colour: smooth, with edges, and the same everywhere."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / (4 + c)) * np.cos(y / (6 - c)) * ((x + y) % 17 > 4) for c in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


PRODUCTS = [
    {"text": "red striped mug 350 ml <|image_pad|>"},
    {"image": photo(90, 60)},
    {"text": "红色条纹马克杯", "image": photo(40, 64)},
    {"text": "blue cotton shirt", "image": [photo(50, 20), photo(33, 33)], "instruction": "find the product"},
]


def golden_processor(family: str) -> Moon2Processor:
    """Return the processor of a family with the stored tokenizer."""
    made = tiny_processor(family)
    marks = [made.image_token, "<|vision_start|>", "<|vision_end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(FOLDER / "tokenizer.json"), pad_token="<|pad|>", additional_special_tokens=marks
    )
    around = dict(image_token=made.image_token, image_start=made.image_start, image_end=made.image_end)
    return Moon2Processor(made.image_processor, tokenizer, **around, image_seq_length=made.image_seq_length)


def golden_model(family: str):
    """Return a model whose every weight is drawn by NumPy, in the order of their names."""
    model, generator = tiny_model(family), np.random.RandomState(SEED)
    with torch.no_grad():
        for _, weight in sorted(model.state_dict().items()):
            if weight.is_floating_point():
                values = generator.standard_normal(weight.numel()).astype(np.float32).reshape(weight.shape)
                near = 1.0 if weight.ndim == 1 else 0.0  # norms scale by about one
                weight.copy_(torch.from_numpy(near + SCALE * values))
    return model


@functools.cache
def figures(family: str) -> dict:
    """Return what is stored of a family: ids, some pixels, and the vectors."""
    inputs = golden_processor(family)(PRODUCTS)
    with torch.no_grad():
        output = golden_model(family)(**inputs)
    return {
        "tokens": [
            row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ],
        "pixels": inputs["pixel_values"].flatten()[::97].tolist(),
        "vectors": output.embeddings.tolist(),
        "image vectors": output.image_embeddings[output.has_image].tolist(),
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("what", TOLERANCE)
def test_golden(family, what):
    expected = json.loads((FOLDER / f"{family}.json").read_text(encoding="utf-8"))
    if TOLERANCE[what] == 0:
        assert figures(family)[what] == expected[what], f"the {what} of {family} have changed"
    else:
        difference = np.abs(np.array(figures(family)[what]) - np.array(expected[what])).max()
        assert difference <= TOLERANCE[what], f"the {what} of {family} differ by up to {difference:.2g}"


if __name__ == "__main__":
    for name in FAMILIES:
        (FOLDER / f"{name}.json").write_text(json.dumps(figures(name)) + "\n", encoding="utf-8")
