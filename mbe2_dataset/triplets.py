"""Training triplets: query, positive, hard negative (MOON2.0, sections 1 and 6; how they are found is our choice)."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from .augment import augmented_images, enriched_title, provenance
from .catalogue import CatalogueError, Row
from .queries import draw_modality, make_query
from .seeding import rng_for

# How often the query of a listing is made from another listing of its group, if there is one.
OTHER_LISTING_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows make a triplet. `key` is the id of the listing the triplet was planned for."""

    key: str
    source: Row
    other: Row | None
    positive: Row
    negative: Row
    negative_kind: str
    modality: str
    false_positive: bool


class _Groups:
    """The listings of one split by category and group, to draw from."""

    def __init__(self, rows: list[Row]) -> None:
        self.listings: dict[str, list[Row]] = defaultdict(list)
        by_path: dict[tuple[str, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            self.listings[row.group_id].append(row)
            for depth in range(len(row.category) + 1):
                by_path[row.category[:depth]][row.group_id].append(row)
        self._by_path = {path: (list(groups), groups) for path, groups in by_path.items()}

    def draw(self, path: tuple[str, ...], excluded: set[str], rng: np.random.Generator) -> Row | None:
        """A listing below `path` of a group that is not excluded; None if there is none."""
        names, groups = self._by_path[path]
        if len(names) == sum(name in groups for name in excluded):
            return None
        # At least one name is allowed and only a few are not, so this ends soon.
        while True:
            name = names[rng.integers(len(names))]
            if name not in excluded:
                return groups[name][rng.integers(len(groups[name]))]


def plan_triplets(
    rows: list[Row], query_mix: tuple[float, float, float], false_positive_rate: float, seed: int
) -> list[Plan]:
    """One plan for each row of a split, in the order of the rows.

    Raises:
        CatalogueError: the split has one group only, so that nothing could be a negative.
    """
    groups = _Groups(rows)
    return [_plan(row, groups, query_mix, false_positive_rate, seed) for row in rows]


def _plan(
    row: Row, groups: _Groups, query_mix: tuple[float, float, float], false_positive_rate: float, seed: int
) -> Plan:
    rng = rng_for(seed, "triplet", row.id)
    others = [listing for listing in groups.listings[row.group_id] if listing.id != row.id]
    other = others[rng.integers(len(others))] if others else None
    source = other if other is not None and rng.random() < OTHER_LISTING_SHARE else row
    stranger = None
    if rng.random() < false_positive_rate:
        stranger = groups.draw(row.category, {row.group_id}, rng)
    positive = stranger or row
    negative, kind = _negative(row, {row.group_id, positive.group_id}, groups, rng)
    modality = draw_modality(query_mix, seed, row.id)
    return Plan(row.id, source, other, positive, negative, kind, modality, stranger is not None)


def _negative(row: Row, excluded: set[str], groups: _Groups, rng: np.random.Generator) -> tuple[Row, str]:
    for depth in range(len(row.category), -1, -1):
        negative = groups.draw(row.category[:depth], excluded, rng)
        if negative is not None:
            kind = "random" if depth == 0 else "same_leaf" if depth == len(row.category) else "same_parent"
            return negative, kind
    raise CatalogueError(
        f"The split '{row.split}' has no possible negative for '{row.id}': it needs a row of another group."
    )


def triplet_record(plan: Plan, augmented: int, seed: int) -> dict[str, object]:
    """The published row (schema.TRIPLETS) of a plan, with `augmented` changed views for each product."""
    query = make_query(plan.source, plan.other, {plan.positive.images[0].sha256}, plan.modality, plan.key, seed)
    record: dict[str, object] = {
        "query_id": f"{plan.key}-query",
        "query_text": query.text,
        "query_image": query.image and query.image.as_record(),
        "query_modality": query.modality,
        "query_group_id": plan.source.group_id,
        "positive_category": list(plan.positive.category),
        "negative_kind": plan.negative_kind,
    }
    records = list(query.provenance)
    for role, row in (("positive", plan.positive), ("negative", plan.negative)):
        title, added = enriched_title(row)
        records.append(provenance(f"{role}_enriched_title", row.id, "append_facts", {"added": added}, seed))
        images = augmented_images(row, augmented, seed)
        for number, (_, made) in enumerate(images):
            records.append({**made, "field": f"{role}_augmented_images[{number}]"})
        record |= {
            f"{role}_id": row.id,
            f"{role}_title": row.title,
            f"{role}_enriched_title": title,
            f"{role}_image": row.images[0].as_record(),
            f"{role}_augmented_images": [picture.as_record() for picture, _ in images],
            f"{role}_group_id": row.group_id,
        }
    record["provenance"] = records
    record["noise"] = [
        *(["false_positive"] if plan.false_positive else []),
        *(f"query_source:{noise}" for noise in plan.source.noise),
        *(f"positive:{noise}" for noise in plan.positive.noise),
        *(f"negative:{noise}" for noise in plan.negative.noise),
    ]
    return record
