"""Does the attention fall on the product? Measured on the built-in catalogue, where the product's pixels are known."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from evaluation.show.drawing import heat_of
from evaluation.show.heatmap import attention_map, read_photo

PICTURE_SIZE = 96
RESAMPLES = 2000


class OnProduct(NamedTuple):
    """One listing: the share of its photo that the product covers, and the share of the attention that falls on it."""

    id: str
    area: float
    attention: float


def attention_on_products(
    model: PreTrainedModel, processor: ProcessorMixin, count: int, seed: int = 0, layers: int = 2
) -> list[OnProduct]:
    """Looks at the first listing of each of `count` test products (our choice).

    Args:
        model, layers: see `attention_map`; seed: of the catalogue.
    """
    from mbe2_dataset.synthetic.catalogue import (  # the only need of the data builder here
        synthetic_photo,
        synthetic_rows,
    )

    rows = synthetic_rows(seed, num_products=0, num_validation=0, num_test=count, picture_size=PICTURE_SIZE)
    first = {row.group_id: row for row in reversed(rows)}
    found = []
    for row in tqdm([first[group] for group in sorted(first)], desc="attention", unit="product"):
        photo = read_photo(row.images[0].as_record())
        attention = attention_map(model, processor, photo, row.title, layers)
        _, mask = synthetic_photo(row.id, 0, seed, PICTURE_SIZE)
        found.append(OnProduct(row.id, *share_on(attention.patches, attention.region, mask)))
    return found


def share_on(patches: np.ndarray, region: tuple, mask: np.ndarray) -> tuple[float, float]:
    """The mask's share of the area that the grid covers, and its share of the attention there.

    Each cell counts by how much of it the mask covers: nothing is smoothed.

    Args:
        patches: (h, w); region: see `AttentionMap.region`; mask: bool (height, width).
    """
    height, width = mask.shape
    seen = heat_of(np.ones((1, 1)), (width, height), region) > 0
    left, upper, right, lower = (round(edge * (width, height)[axis % 2]) for axis, edge in enumerate(region))
    size = (right - left, lower - upper)
    weights = np.asarray(Image.fromarray(patches.astype(np.float32)).resize(size, Image.Resampling.NEAREST))
    on_photo = np.zeros(mask.shape)
    on_photo[max(upper, 0) : lower, max(left, 0) : right] = weights[: height - max(upper, 0), : width - max(left, 0)]
    return float(mask[seen].mean()), float(on_photo[mask].sum() / on_photo.sum())


def summary(found: list[OnProduct], seed: int = 0) -> dict:
    """Means, and the 95 % bootstrap interval of the mean ratio of attention to area; 1 is what even attention has."""
    ratios = np.array([one.attention / one.area for one in found])
    draws = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(ratios[draws].mean(1), [0.025, 0.975])
    return {
        "products": len(found),
        "area": float(np.mean([one.area for one in found])),
        "attention": float(np.mean([one.attention for one in found])),
        "ratio": float(ratios.mean()),
        "ratio_interval_95": [float(low), float(high)],
        "above_area": float((ratios > 1).mean()),
    }
