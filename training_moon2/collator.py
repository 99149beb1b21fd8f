"""From a batch of triplets to the passes of a training step."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from PIL import Image

from configuration_moon2 import TEXT
from processing_moon2 import POSITIONS, Moon2Processor, ProductBatch, ProductError
from training_moon2.arguments import TripletError
from training_moon2.triplets import ROLES

KINDS = ("pictures", "texts")


class TripletCollator:
    """B triplets -> model inputs in several passes: items with images (for their own and their image-only view),
    then texts alone (for the text view).

    Items of similar length share a pass, which saves most of the padding.

    Args:
        processor: prepares the items.
        chunk: what one forward takes at most; an item that is longer alone has a pass of its own.
        unit: what `chunk` counts: "items", or "tokens" (with padding: items times the longest of them).

    Returns:
        `passes`: for "pictures" and for "texts" a list of model inputs, one dict for each forward; `rows`: for each
        role the place of every triplet's item among the outputs of all passes, those with images first, (B,) for
        `pictures` and for `texts`, -1 where the role has no image or no text; `keys`: product and group keys (B,);
        `query_ids`, `positive_ids`: B strings; `false_positives`: B times whether the positive is known to be wrong.

    Raises:
        ValueError: `chunk` or `unit` cannot be.
        TripletError: an image or text that the processor refuses; the message names the triplet and role.
    """

    def __init__(self, processor: Moon2Processor, chunk: int = 64, unit: str = "items"):
        if unit not in ("items", "tokens"):
            raise ValueError(f"unit is {unit!r}; a pass is measured in 'items' or in 'tokens'.")
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; a pass takes at least 1 of the {unit}.")
        self.processor = processor
        self.chunk = chunk
        self.unit = unit
        self._fillers: dict[str, dict[str, torch.Tensor]] = {}

    def __call__(self, triplets: list[dict]) -> dict:
        rows = {role: {kind: torch.full((len(triplets),), -1) for kind in KINDS} for role in ROLES}
        passes, place = {}, 0
        made = list(self._items(triplets))
        for kind in KINDS:
            items = sorted((item for item in made if item.kind == kind), key=lambda item: item.length)
            for item in items:
                rows[item.role][kind][item.row] = place
                place += 1
            passes[kind] = [dict(self.processor.join(batch)) for batch in self._cut(items)]
        return {
            "passes": passes,
            "rows": rows,
            "keys": {
                f"{role}_{kind}": torch.tensor([triplet[f"{role}_{kind}"] for triplet in triplets])
                for role in ROLES[1:]
                for kind in ("id", "group")
            },
            "query_ids": [triplet["query_id"] for triplet in triplets],
            "positive_ids": [triplet["positive_name"] for triplet in triplets],
            "false_positives": [triplet["false_positive"] for triplet in triplets],
        }

    def filler(self, kind: str) -> dict[str, torch.Tensor]:
        """Return a pass of one neutral item: a white image for "pictures", a word for "texts".

        For processes that have fewer passes than others, where all have to take part in each.
        """
        if kind not in self._fillers:
            item = {"image": Image.new("RGB", (32, 32), "white")} if kind == "pictures" else {"text": "item"}
            self._fillers[kind] = dict(self.processor(item))
        return self._fillers[kind]

    def prepare(self, product: dict) -> ProductBatch:
        """Return the model inputs of one product."""
        return self.processor(product)

    def _items(self, triplets: list[dict]) -> Iterator["_Item"]:
        """Return all products that have an image, as they are, and the texts of all that have one."""
        for row, triplet in enumerate(triplets):
            for role in ROLES:
                product = triplet[role]
                if product["text"] is None and product["image"] is None:
                    raise TripletError(f"Triplet {triplet['query_id']}: its {role} has neither text nor image.")
                try:
                    whole = self.prepare(product if product["image"] is not None else {"text": product["text"]})
                    text = None if product["text"] is None else self._text(product, whole)
                except ProductError as error:
                    raise TripletError(f"Triplet {triplet['query_id']}, its {role}: {error.problem}") from error
                parts = {"pictures": None if product["image"] is None else whole, "texts": text}
                for kind, prepared in parts.items():
                    if prepared is not None:
                        yield _Item(row, role, kind, prepared, prepared["input_ids"].shape[1])

    def _text(self, product: dict, whole: ProductBatch) -> ProductBatch:
        """Return the model inputs of a product's text alone, which those of the whole product have in them."""
        own = whole["position_types"] == TEXT
        if own.all():
            return whole
        if not own.any():  # the text is blank, which the processor says
            return self.prepare({"text": product["text"]})
        return ProductBatch({name: whole[name][own][None] for name in POSITIONS})

    def _cut(self, items: list["_Item"]) -> Iterator[list[ProductBatch]]:
        """Make the batches of the passes, from items that are sorted by their length."""
        batch = []
        for item in items:
            cost = item.length if self.unit == "tokens" else 1
            if batch and (len(batch) + 1) * cost > self.chunk:
                yield batch
                batch = []
            batch.append(item.prepared)
        if batch:
            yield batch


class _Item(NamedTuple):
    row: int
    role: str
    kind: str
    prepared: ProductBatch
    length: int
