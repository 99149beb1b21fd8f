"""Tiny random backbones, processors and images that the tests share; nothing here needs the network."""

import atexit
import filecmp
import gc
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

# Tests must not talk to the Hub, nor find what an earlier run left in the user's cache; read at the first import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="moon2-tests-")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# The models are tiny, and threads that wait for a core which others use cost many times what they gain.
os.environ["OMP_NUM_THREADS"] = "1"
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from browser import CHROMIUM
from filelock import FileLock
from packaging.version import Version
from PIL import Image
from transformers import AutoConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from backbones_moon2 import image_block
from configuration_moon2 import Moon2Config
from mbe2_dataset.__main__ import main as mbe2_main
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from training_moon2.model import train_tokenizer

# Before 5.18 transformers saw images anew in every pass, and loaded some image processors only beside torchvision.
OLD_TRANSFORMERS = Version(transformers.__version__) < Version("5.18")
NEEDS_TOWERS = pytest.mark.skipif(
    OLD_TRANSFORMERS and find_spec("torchvision") is None,
    reason="before transformers 5.18 the image processors of CLIP and SigLIP want torchvision",
)
OLD_DATASETS = Version(datasets.__version__) < Version("5.0")  # without which there is no streaming
TEXTS = ["red striped mug 350 ml", "blue cotton shirt for women", "红色条纹马克杯", "蓝色纯棉女士衬衫"]

TEXT = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=512,
    max_position_embeddings=512,
)
SIGLIP = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
)
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
IMAGE_IDS = dict(image_token_id=1, vision_start_token_id=2, vision_end_token_id=3)


def vlm_config(family: str):
    """A tiny random configuration of one backbone family."""
    qwen_vision = dict(depth=2, num_heads=2, patch_size=8, spatial_merge_size=2, temporal_patch_size=2)
    options = {
        "qwen2_vl": dict(
            text_config=TEXT | {"rope_parameters": MROPE},
            vision_config=qwen_vision | dict(embed_dim=32, hidden_size=64, mlp_ratio=2),
            **IMAGE_IDS,
        ),
        "qwen2_5_vl": dict(
            text_config=TEXT | {"rope_parameters": MROPE},
            vision_config=qwen_vision
            | dict(hidden_size=32, intermediate_size=48, out_hidden_size=64, window_size=32, fullatt_block_indexes=[1]),
            **IMAGE_IDS,
        ),
        "qwen3_vl": dict(
            text_config=TEXT | {"rope_parameters": MROPE | {"mrope_interleaved": True}},
            vision_config=qwen_vision
            | dict(
                hidden_size=32,
                intermediate_size=48,
                out_hidden_size=64,
                num_position_embeddings=64,
                deepstack_visual_indexes=[0],
            ),
            **IMAGE_IDS,
        ),
        "llava": dict(
            text_config=TEXT | {"model_type": "qwen3"},
            vision_config=SIGLIP | {"model_type": "siglip_vision_model"},
            image_token_id=1,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        ),
        "smolvlm": dict(
            text_config=TEXT | {"model_type": "llama"},
            # For transformers 5.20 the tokens of an image must be a multiple of the patch size, as the real ones are.
            vision_config=SIGLIP | {"patch_size": 4},
            image_token_id=1,
            scale_factor=4,
        ),
        "idefics3": dict(
            text_config=TEXT | {"model_type": "llama"}, vision_config=SIGLIP, image_token_id=1, scale_factor=2
        ),
        "paligemma": dict(
            text_config=TEXT | {"model_type": "gemma"},
            vision_config=SIGLIP | {"model_type": "siglip_vision_model"},
            projection_dim=64,
            image_token_id=1,
        ),
    }
    return AutoConfig.for_model(family, **options[family])


FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "smolvlm", "idefics3", "paligemma"]
# One with visual tokens in rows, one of the others, one that attends to both sides; the rest are `make test-slow`.
FAST_FAMILIES = {"qwen3_vl", "smolvlm", "paligemma"}
EACH_FAMILY = [pytest.param(name, marks=() if name in FAST_FAMILIES else pytest.mark.slow) for name in FAMILIES]


def tiny_processor(family: str = "qwen3_vl") -> Moon2Processor:
    """The processor that goes with `tiny_model(family)`."""
    if family.startswith("qwen"):
        size = {"shortest_edge": 256, "longest_edge": 48 * 48}
        image_processor = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size=size)
    elif family in ("llava", "paligemma"):
        image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    else:
        edge = {"longest_edge": 32}
        image_processor = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    tokenizer = train_tokenizer(TEXTS * 5, 400)
    return Moon2Processor(image_processor, tokenizer, **image_block(vlm_config(family), tokenizer))


def tiny_model(family: str = "qwen3_vl", seed: int = 0, **options) -> Moon2Model:
    """An untrained model of one family, in evaluation mode."""
    torch.manual_seed(seed)
    return Moon2Model(Moon2Config(vlm_config=vlm_config(family), **options)).eval()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image of coloured noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mixed_products() -> list[dict]:
    """Every modality: text only (two scripts), image only, both, several images, an instruction."""
    return [
        {"text": "red striped mug 350 ml"},
        {"image": picture(40, 30, seed=1)},
        {"text": "红色条纹马克杯", "image": picture(30, 44, seed=2)},
        {"text": "blue shirt", "image": [picture(50, 20, seed=3), picture(32, 32, seed=4)]},
        {"text": "shirt", "image": picture(36, 36, seed=5), "instruction": "find the product"},
        {"text": "蓝色"},
    ]


def same_bytes(path: Path, other: Path) -> bool:
    """Whether two files are the same; pytest would print where their bytes differ, for minutes where CI is set."""
    return filecmp.cmp(path, other, shallow=False)


@pytest.fixture(scope="session", params=EACH_FAMILY)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def mbe2(tmp_path_factory) -> str:
    """A small data set from the built-in catalogue, which the processes of a run share."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "data" / "mbe2"
    sizes = ["--num_products", "40", "--num_validation", "6", "--num_test", "8", "--picture_size", "40"]
    sizes += ["--num_proc", "1", "--search_log", "none"]
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.parent / "lock"):
        if not folder.exists():
            assert mbe2_main(["build", "--catalogue", "synthetic", "--output", str(folder), *sizes]) == 0
    return str(folder)


def change(folder: str, target: Path, edit) -> str:
    """A copy of a data set with one edited row of its train triplets."""
    shutil.copytree(folder, target)
    (shard,) = (target / "triplets").glob("train-*.parquet")
    table = pq.read_table(shard)
    rows = table.to_pylist()
    edit(rows[3])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    return str(target)


def cut_picture(row: dict):
    """For `change`: leaves only the first hundred bytes of the negative's image."""
    row["negative_image"]["bytes"] = row["negative_image"]["bytes"][:100]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """The folder of a tiny checkpoint, which nobody writes to."""
    folder = tmp_path_factory.mktemp("model") / "moon2"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """Caches of data sets and of vectors in which nothing is yet."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    for module in ("score", "show.page"):
        monkeypatch.setattr(f"evaluation.{module}.DEFAULT_CACHE", tmp_path / "vectors")


@pytest.fixture
def after_demo(mbe2, tmp_path, monkeypatch) -> Path:
    """A working directory with what `make demo` leaves, in small: `moon2` and `mbe2`."""
    tiny_model().save_pretrained(tmp_path / "moon2")
    tiny_processor().save_pretrained(tmp_path / "moon2")
    (tmp_path / "mbe2").symlink_to(mbe2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def chromium():
    """A browser that Playwright drives."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def pytest_collection_finish():
    """Leave what was imported out of every garbage collection from here on: transformers asks for many of them."""
    gc.collect()
    gc.freeze()
