"""Batches: every row once, no product twice, of one kind and similar length where asked, the same in every process."""

import logging
import time
from collections import Counter

import datasets
import numpy as np
import pytest

from training_moon2.arguments import BatchArguments
from training_moon2.batches import Facts, TripletSampler, arrange
from training_moon2.triplets import TripletDataset, load_triplets

PLAIN = BatchArguments()


def facts(positive, negative, group=lambda listing: listing // 3, category=None, modality=None, length=None) -> Facts:
    """Facts of triplets of the given listings, three of which are a group."""
    positive, negative = np.asarray(positive), np.asarray(negative)
    ones = np.ones(len(positive), dtype=np.int64)
    return Facts(
        products=np.stack([positive, negative, group(positive), group(negative)], axis=1),
        category=-ones if category is None else np.asarray(category),
        modality=ones if modality is None else np.asarray(modality),
        length=ones if length is None else np.asarray(length),
    )


def catalogue(rows: int, listings: int, categories: int = 5, seed: int = 0) -> Facts:
    """Random triplets whose negative is of the positive's category and another group."""
    random = np.random.default_rng(seed)
    positive = random.integers(0, listings, rows)
    negative = (positive + 3 * categories * random.integers(1, listings // (3 * categories), rows)) % listings
    return facts(
        positive,
        negative,
        category=positive // 3 % categories,
        modality=random.integers(1, 4, rows),
        length=random.integers(5, 400, rows),
    )


def twice(facts: Facts, order, size: int) -> int:
    """How many rows share a product or group with an earlier row of their batch."""
    found = 0
    for start in range(0, len(order), size):
        seen = set()
        for positive, negative, positive_group, negative_group in facts.products[order[start : start + size]].tolist():
            mine = {(0, positive), (0, negative), (1, positive_group), (1, negative_group)}
            found += not seen.isdisjoint(mine)
            seen |= mine
    return found


def is_permutation(order, count: int) -> bool:
    return sorted(order) == list(range(count))


@pytest.mark.parametrize("size", [1, 2, 16, 50])
@pytest.mark.parametrize(
    "batches",
    [
        PLAIN,
        BatchArguments(batch_window=4),
        BatchArguments(batch_category=True),
        BatchArguments(batch_category=True, batch_modality=True, batch_window=3),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 799, 800])
def test_every_row_comes_once_and_no_product_twice_in_a_batch(count, batches, size):
    rows = catalogue(count, 2400)
    order, whole, repeated = arrange(rows, size, batches, np.random.default_rng(3))
    assert is_permutation(order.tolist(), count)
    assert repeated == 0 and twice(rows, order, size) == 0
    assert whole == count - count % size
    if count > 1 and size > 2:
        assert twice(rows, np.random.default_rng(3).permutation(count), size) > 0


def test_listings_of_one_group_do_not_meet_nor_do_negatives_with_positives():
    """Rows 0, 1, 2 and 4 are all of group 0, as positive or negative, and row 3 has the negative of row 0."""
    rows = facts([0, 0, 1, 9, 30], [9, 30, 60, 90, 2])
    for seed in range(5):
        order, whole, repeated = arrange(rows, 2, PLAIN, np.random.default_rng(seed))
        assert is_permutation(order.tolist(), 5) and (whole, repeated) == (2, 2)
        assert 3 in order[:2] and 0 not in order[:2], "only row 3 goes with another one, and not with row 0"
    # One id, though of two groups.
    products = np.array([[7, 50, 100, 150], [8, 51, 101, 151], [7, 52, 102, 152]])
    order, whole, repeated = arrange(
        rows._replace(**{name: value[:3] for name, value in rows._asdict().items()} | {"products": products}),
        2,
        PLAIN,
        np.random.default_rng(0),
    )
    assert (whole, repeated) == (2, 0) and 1 in order[:2], "rows 0 and 2 have one id, though not one group"


@pytest.mark.parametrize("seed", range(5))
def test_a_product_with_as_many_triplets_as_there_are_batches_is_in_each(seed):
    """The hardest case that can be: two products must be in every one of 20 batches, and a negative in nearly all."""
    positive = [0] * 20 + [3] * 20 + list(range(30, 30 + 3 * 120, 3))
    negative = list(range(3000, 3000 + 3 * 160, 3))
    negative[100:119] = [9] * 19
    rows = facts(positive, negative)
    order, whole, repeated = arrange(rows, 8, PLAIN, np.random.default_rng(seed))
    assert (whole, repeated) == (160, 0) and twice(rows, order, 8) == 0


def test_a_product_with_too_many_triplets_comes_last_and_is_told_once(caplog):
    rows = triplet_rows(40, positive=lambda row: "hot" if row < 25 else f"p{row}")
    sampler = TripletSampler(TripletDataset(rows), 8, PLAIN, seed=0)
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            sampler.set_epoch(epoch)
            order = list(sampler)
            assert is_permutation(order, 40)
            first = order[:16]
            assert all(len([row for row in first[start : start + 8] if row < 25]) == 1 for start in (0, 8))
            assert all(row < 25 for row in order[18:]), "what is too many comes at the end"
    (record,) = caplog.records
    # Two batches of a hot triplet and seven others, then one other with a hot one; 22 are too many.
    assert "22 triplets share a batch" in record.getMessage()


def triplet_rows(count: int, positive=lambda row: f"p{row}", **columns) -> datasets.Dataset:
    """Rows as `load_triplets` gives them, without images."""
    rows = [
        {
            "query_id": f"q{row}",
            "query_text": f"query {row}",
            "query_image": None,
            "positive_id": positive(row),
            "positive_group_id": f"group of {positive(row)}",
            "positive_title": "title " * (row % 7),
            "negative_id": f"n{row}",
            "negative_group_id": f"group of n{row}",
            "negative_title": "title",
            **{name: value(row) for name, value in columns.items()},
        }
        for row in range(count)
    ]
    return datasets.Dataset.from_list(rows)


@pytest.fixture(scope="module")
def rows(mbe2) -> datasets.Dataset:
    return load_triplets(mbe2, "train")


def sampled(rows, size: int = 8, batches: BatchArguments = PLAIN, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = TripletSampler(TripletDataset(rows), size, batches, seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(rows)
    return list(sampler)


def test_the_order_depends_on_seed_and_epoch_only(rows):
    order = sampled(rows, seed=1, epoch=2)
    assert is_permutation(order, len(rows)) and order != sorted(order)
    assert sampled(rows, seed=1, epoch=2) == order
    assert sampled(rows, seed=1, epoch=3) != order != sampled(rows, seed=2, epoch=2)
    sampler = TripletSampler(TripletDataset(rows), 8, PLAIN, seed=1)
    sampler.set_epoch(2)
    assert list(sampler) == list(sampler) == order


def test_products_of_a_data_set_do_not_meet(rows):
    order = sampled(rows, size=4)
    columns = ["positive_id", "negative_id", "positive_group_id", "negative_group_id"]
    table = rows.select_columns(columns).to_list()
    for start in range(0, len(order), 4):
        seen = set()
        for row in order[start : start + 4]:
            ids = {("id", table[row][name]) for name in columns[:2]}
            mine = ids | {("group", table[row][name]) for name in columns[2:]}
            assert seen.isdisjoint(mine)
            seen |= mine


def test_the_order_follows_the_rows_and_not_how_they_are_stored(rows):
    """A selection has an index over its table; a filtered or shuffled set may be used for training as well."""
    picked = [5, 70, 3, 44, 45, 46, 47, 10, 11, 12]
    selection = rows.select(picked)
    copy = datasets.Dataset.from_list([selection[index] for index in range(len(picked))], features=rows.features)
    batches = BatchArguments(batch_window=2)
    assert sampled(selection, 3, batches) == sampled(copy, 3, batches)


def test_batches_of_one_category():
    paths = [["A", "B"], ["A", "C"], ["A"]]
    rows = triplet_rows(70, positive_category=lambda row: paths[row % 3])
    order = sampled(rows, 4, BatchArguments(batch_category=True))
    of_one = [len({row % 3 for row in order[start : start + 4]}) == 1 for start in range(0, 70, 4)]
    assert of_one == [True] * 16 + [False] * 2, "24, 23 and 23 rows give 6, 5 and 5 batches"
    plain = sampled(rows, 4)
    assert sum(len({row % 3 for row in plain[start : start + 4]}) == 1 for start in range(0, 70, 4)) < 5


def test_every_whole_batch_that_a_category_can_fill_is_made():
    rows = catalogue(3000, 4500)
    order, *_ = arrange(rows, 16, BatchArguments(batch_category=True), np.random.default_rng(0))
    kinds = [set(rows.category[order[start : start + 16]]) for start in range(0, 3000, 16)]
    assert sum(len(kind) == 1 for kind in kinds) >= 0.97 * sum(count // 16 for count in Counter(rows.category).values())
    order, *_ = arrange(rows, 16, BatchArguments(batch_category=True, batch_modality=True), np.random.default_rng(0))
    both = list(zip(rows.category.tolist(), rows.modality.tolist(), strict=True))
    kinds = [{both[row] for row in order[start : start + 16]} for start in range(0, 3000, 16)]
    assert sum(len(kind) == 1 for kind in kinds) >= 0.97 * sum(count // 16 for count in Counter(both).values())
    firsts = [next(iter(kind)) for kind in kinds if len(kind) == 1]
    assert firsts != sorted(firsts), "in random order"


def test_rows_of_an_unknown_category_are_not_taken_for_one(rows):
    random = np.random.default_rng(0)
    unknown = catalogue(600, 3000)._replace(category=np.where(random.random(600) < 0.5, -1, 0))
    order, *_ = arrange(unknown, 16, BatchArguments(batch_category=True), random)
    known = unknown.category[order] == 0
    assert known[: known.sum() - known.sum() % 16].all()
    few = triplet_rows(60, positive_category=lambda row: [["A", "B"], ["A", "C"], [], None][row % 4])
    order = sampled(few, 5, BatchArguments(batch_category=True))
    kinds = [{row % 4 for row in order[start : start + 5]} for start in range(0, 60, 5)]
    assert sorted(kinds[:6], key=sorted) == [{0}] * 3 + [{1}] * 3, "the whole path counts"


def test_batches_of_one_query_modality(rows):
    order = sampled(rows, 4, BatchArguments(batch_modality=True))
    modality = rows["query_modality"]
    kinds = [{modality[row] for row in order[start : start + 4]} for start in range(0, len(order), 4)]
    of_one = [len(kind) == 1 for kind in kinds]
    assert of_one == sorted(of_one, reverse=True)
    assert sum(of_one) >= sum(count // 4 for count in Counter(modality).values()) - 2
    assert set().union(*kinds[: sum(of_one)]) == {"text", "image", "mixed"}


def test_a_window_makes_batches_of_similar_length_in_random_order():
    rows = catalogue(6400, 6000)

    def padded(batches: BatchArguments) -> tuple[float, np.ndarray]:
        order, *_ = arrange(rows, 16, batches, np.random.default_rng(0))
        lengths = rows.length[order].reshape(-1, 16)
        return (lengths.max(1) * 16).sum() / lengths.sum(), lengths.max(1)

    (plain, _), (some, _), (more, longest) = (padded(BatchArguments(batch_window=n)) for n in (1, 4, 50))
    assert plain > 1.8 and some < 1.35 and more < 1.05
    # Neighbours in time are not neighbours in length.
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.2


def test_the_length_is_that_of_all_texts():
    rows = triplet_rows(
        64,
        query_text=lambda row: None if row < 16 else "x" * (100 * (row < 32)),
        positive_title=lambda row: "x" * (200 * (32 <= row < 48)),
        negative_title=lambda row: "红" * (100 * (row >= 48)),
    )
    order = sampled(rows, 16, BatchArguments(batch_window=4))
    assert sorted(sorted(order[start : start + 16]) for start in range(0, 64, 16)) == [
        list(range(start, start + 16)) for start in range(0, 64, 16)
    ]


def test_a_missing_category_column_is_named(rows):
    old = rows.remove_columns("positive_category")
    sampled(old)
    with pytest.raises(ValueError, match="column positive_category.*mbe2_dataset build"):
        sampled(old, batches=BatchArguments(batch_category=True))


def test_a_window_counts_batches():
    with pytest.raises(ValueError, match="batch_window is 0"):
        BatchArguments(batch_window=0)


def test_many_rows_take_little_time():
    """A hundred thousand; a million take ten times as long. The bound is loose, it is for what is not linear."""
    rows = catalogue(100_000, 60_000, categories=50)
    popular = rows.products.copy()
    popular[:30_000, [0, 2]] = -5  # of the first 30,000 rows all have the same positive
    start = time.process_time()
    for products in (rows.products, popular):
        arrange(rows._replace(products=products), 64, BatchArguments(batch_category=True), np.random.default_rng(0))
    assert time.process_time() - start < 15
