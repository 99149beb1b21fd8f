"""Triplets on their way to the model: data set rows -> products -> the passes of a training step."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from datasets.exceptions import DatasetsError

from processing_moon2 import Moon2Processor, ProductError

ROLES = ("query", "positive", "negative")
REQUIRED = {
    "query_id", "query_text", "query_image",
    *(f"{role}_{name}" for role in ROLES[1:] for name in ("id", "title", "image", "group_id")),
}  # fmt: skip


class TripletError(ValueError):
    """A triplet, or a whole data set, that cannot be trained on; the message names the data set, row or column."""


def load_triplets(dataset: str, split: str) -> datasets.Dataset:
    """One split of the triplets of an MBE2.0-format folder or Hub id.

    Raises:
        TripletError: there is no such data set or split, or it lacks a column.
    """
    is_folder = Path(dataset).is_dir()
    if not is_folder and (Path(dataset).exists() or dataset.count("/") != 1 or dataset.startswith((".", "/"))):
        raise TripletError(
            f"There is no data set folder {dataset}; build one with 'python -m mbe2_dataset build', or name a data set "
            "on the Hub as user/name."
        )
    if is_folder and not (Path(dataset) / "triplets").is_dir():
        raise TripletError(f"The folder {dataset} has no triplets/ in it; is it an MBE2.0-format data set?")
    try:
        # datasets does not notice that a local Parquet file has changed and would serve the old rows from its cache.
        mode = "force_redownload" if is_folder else None
        rows = datasets.load_dataset(dataset, "triplets", split=split, download_mode=mode)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise TripletError(f"The {split} triplets of {dataset} cannot be read: {reason}") from error
    missing = sorted(REQUIRED - set(rows.column_names))
    if missing:
        raise TripletError(
            f"The triplets of {dataset} lack the columns {', '.join(missing)}; found: {', '.join(rows.column_names)}."
        )
    if not len(rows):
        raise TripletError(f"The {split} split of {dataset} has no triplets.")
    return rows


class TripletDataset(torch.utils.data.Dataset):
    """Rows of `load_triplets` as query, positive and negative products.

    With the given probabilities a product's title is replaced by its enriched title, and its picture by one of its
    augmented ones (co-augmentation, MOON2.0 section 5; the probabilities are our choice). What is drawn depends on
    (seed, epoch, row) only, so that workers and resumed runs draw the same.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        enriched_title_probability: float = 0.0,
        augmented_image_probability: float = 0.0,
        seed: int = 0,
    ):
        self.rows = rows.with_format("arrow")  # pictures stay encoded: the processor decodes those that are shown
        self.enriched_title_probability = enriched_title_probability
        self.augmented_image_probability = augmented_image_probability
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int):
        """Changes what is drawn; the trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        (row,) = self.rows[index].to_pylist()
        random = np.random.default_rng((self.seed, self.epoch, index))
        triplet = {
            "query_id": row["query_id"],
            "query": {"text": row["query_text"], "image": row["query_image"]},
        }
        for role in ROLES[1:]:
            # Both numbers are drawn whatever the row holds: one row's luck must not depend on its fields.
            title_draw, image_draw, which = random.random(3)
            text, image = row[f"{role}_title"], row[f"{role}_image"]
            enriched, augmented = row.get(f"{role}_enriched_title"), row.get(f"{role}_augmented_images")
            if enriched and title_draw < self.enriched_title_probability:
                text = enriched
            if augmented and image_draw < self.augmented_image_probability:
                image = augmented[int(which * len(augmented))]
            triplet[role] = {"text": text, "image": image}
            triplet[f"{role}_id"] = stable_key(row[f"{role}_id"])
            triplet[f"{role}_group"] = stable_key(row[f"{role}_group_id"])
        return triplet


class TripletCollator:
    """B triplets -> model inputs in several passes: items with pictures (for their own and their image-only view),
    then texts alone (for the text view).

    Items of similar length share a pass, which saves most of the padding.

    Args:
        processor: prepares the items.
        items_per_pass: how many items one forward takes at most.

    Returns:
        `passes`: model inputs, one dict for each forward; `rows`: for each role the place of every triplet's item among
        the outputs of all passes, (B,) for `pictures` and for `texts`, -1 where the role has no picture or no text;
        `keys`: product and group keys (B,); `query_ids`: B strings.

    Raises:
        TripletError: a picture or text that the processor refuses; the message names the triplet and role.
    """

    def __init__(self, processor: Moon2Processor, items_per_pass: int = 64):
        self.processor = processor
        self.items_per_pass = items_per_pass

    def __call__(self, triplets: list[dict]) -> dict:
        rows = {role: {kind: torch.full((len(triplets),), -1) for kind in ("pictures", "texts")} for role in ROLES}
        passes, place = [], 0
        for kind in ("pictures", "texts"):
            items = sorted(self._items(triplets, kind), key=lambda item: len((item.product["text"] or "").encode()))
            for item in items:
                rows[item.role][kind][item.row] = place
                place += 1
            for start in range(0, len(items), self.items_per_pass):
                passes.append(self._prepare(items[start : start + self.items_per_pass], triplets))
        return {
            "passes": passes,
            "rows": rows,
            "keys": {
                f"{role}_{kind}": torch.tensor([triplet[f"{role}_{kind}"] for triplet in triplets])
                for role in ROLES[1:]
                for kind in ("id", "group")
            },
            "query_ids": [triplet["query_id"] for triplet in triplets],
        }

    def _items(self, triplets: list[dict], kind: str) -> list["_Item"]:
        """All products that have a picture, as they are, or the texts of all that have one."""
        items = []
        for row, triplet in enumerate(triplets):
            for role in ROLES:
                product = triplet[role]
                if product["text"] is None and product["image"] is None:
                    raise TripletError(f"Triplet {triplet['query_id']}: its {role} has neither text nor image.")
                if kind == "pictures" and product["image"] is not None:
                    items.append(_Item(row, role, product))
                elif kind == "texts" and product["text"] is not None:
                    items.append(_Item(row, role, {"text": product["text"]}))
        return items

    def _prepare(self, items: list["_Item"], triplets: list[dict]) -> dict[str, torch.Tensor]:
        try:
            return dict(self.processor([item.product for item in items]))
        except ProductError as error:
            item = items[error.index]
            query_id = triplets[item.row]["query_id"]
            raise TripletError(f"Triplet {query_id}, its {item.role}: {error.problem}") from error


class _Item(NamedTuple):
    row: int
    role: str
    product: dict


def stable_key(identifier: str) -> int:
    """A 64-bit integer for an id: the same in every process, so that ids can be compared as tensors across ranks."""
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "big", signed=True)
