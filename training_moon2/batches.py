"""Which triplets make a batch: no product twice; if asked, of one category or query modality, and of similar length.

The losses take the other products of a batch for negatives (MOON2.0, section 2), so that batches decide how hard these
are; how batches are made is our choice.
"""

import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from training_moon2.arguments import CATEGORY, BatchArguments

if TYPE_CHECKING:
    from training_moon2.triplets import TripletDataset

logger = logging.getLogger(__name__)

# How many batches' worth of rows that had to wait are looked at for one batch, while there are fresh ones.
REACH = 8
# In how many batches a place is looked for, for a row that fits nowhere at the end.
TRIES = 32


class Facts(NamedTuple):
    """What batches of N triplets are made by.

    products (N, 4): the ids and the groups of positive and negative, as any integers; the places of ids and of groups
    are compared apart. category (N,), -1 where it is not known; modality (N,) of the query; length (N,) of the texts.
    """

    products: np.ndarray
    category: np.ndarray
    modality: np.ndarray
    length: np.ndarray


class Arranged(NamedTuple):
    """The order (N,) of N rows. The first `whole` make whole batches without a product twice, the next ones a part of
    a batch; for the last `repeated` there is no batch left without their products."""

    order: np.ndarray
    whole: int
    repeated: int


def arrange(facts: Facts, batch_size: int, batches: BatchArguments, random: np.random.Generator) -> Arranged:
    """Put N rows into an order whose every `batch_size` rows are a batch.

    First come the batches of one kind, if kinds are asked for, in random order; then, mixed and in random order, what
    is left over of all kinds and the rows whose category is not known.
    """
    count = len(facts.products)
    order = random.permutation(count)
    ids = np.unique(facts.products[:, :2], return_inverse=True)[1].reshape(-1, 2)
    groups = np.unique(facts.products[:, 2:], return_inverse=True)[1].reshape(-1, 2)
    keys = groups + 2 * count
    # Two listings with one id are mostly of one group; if that holds throughout, groups alone say what is the same.
    if len(np.unique(ids * 2 * count + groups)) > ids.max(initial=-1) + 1:
        keys = np.concatenate([ids, keys], axis=1)
    span = batches.batch_window * batch_size

    def sorted_in_windows(rows: np.ndarray) -> np.ndarray:
        if batches.batch_window == 1:
            return rows
        return rows[np.lexsort((facts.length[rows], np.arange(len(rows)) // span))]

    of_a_kind = []
    if batches.batch_category or batches.batch_modality:
        kinds = np.zeros(count, dtype=np.int64)
        if batches.batch_modality:
            kinds += facts.modality
        if batches.batch_category:
            kinds = np.where(facts.category < 0, -1, facts.category * (facts.modality.max(initial=0) + 1) + kinds)
        order = order[np.argsort(kinds[order], kind="stable")]
        parts = np.split(order, np.flatnonzero(np.diff(kinds[order])) + 1)
        left = []
        for rows in parts:
            if len(rows) < batch_size or kinds[rows[0]] < 0:
                left.append(rows)
                continue
            rows = sorted_in_windows(rows)
            filled, waiting = _fill(keys[rows].tolist(), range(len(rows)), batch_size)
            of_a_kind += [rows[batch] for batch in filled]
            left.append(rows[waiting])
        order = random.permutation(np.concatenate(left))
    order = sorted_in_windows(order)
    mixed, part, repeated = _settle(keys[order], batch_size, random)
    shuffled = [[of_a_kind[index] for index in random.permutation(len(of_a_kind))]]
    shuffled += [[order[mixed[index]] for index in random.permutation(len(mixed))]]
    whole = [batch for some in shuffled for batch in some]
    rest = [order[part], order[repeated]]
    return Arranged(np.concatenate(whole + rest), len(whole) * batch_size, len(repeated))


def _fill(keys: list[list[int]], rows: "range | list[int]", size: int) -> tuple[list[list[int]], list[int]]:
    """Whole batches without a key twice, nearly in the order of the rows; and the rows that are left."""
    fresh, waiting, batches = deque(rows), deque(), []
    while len(fresh) + len(waiting) >= size:
        batch, seen = [], set()
        # Without the limit a product that is in most rows would have them all looked at for every batch.
        limit = min(REACH * size, len(waiting)) if fresh else len(waiting)
        for queue, reach in ((waiting, limit), (fresh, len(fresh))):
            for _ in range(reach):
                if len(batch) == size:
                    break
                row = queue.popleft()
                if seen.isdisjoint(keys[row]):
                    batch.append(row)
                    seen.update(keys[row])
                else:
                    waiting.append(row)
        if len(batch) < size:
            waiting.extendleft(reversed(batch))
            break
        batches.append(batch)
    return batches, [*waiting, *fresh]


def _settle(keys: np.ndarray, size: int, random: np.random.Generator) -> tuple[list[list[int]], list[int], list[int]]:
    """Make batches of all rows (N, K) without a key twice, as far as can be.

    Returns:
        whole batches; rows of a last one that is not whole; rows that are in no batch without repeating a product.
    """
    count = len(keys)
    # Every key with the rows that have it, sorted.
    pairs = np.unique(keys * count + np.arange(count)[:, None])
    key, row = np.divmod(pairs, max(count, 1))
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    rank = np.arange(len(pairs)) - np.repeat(starts, np.diff(starts, append=len(pairs)))
    worst = np.zeros(count, dtype=np.int64)
    np.maximum.at(worst, row, rank)
    # A key with more rows than there are batches has too many; without these there are fewer batches, and so on.
    limit = -(-count // size)
    while (fewer := -(-int((worst < limit).sum()) // size)) < limit:
        limit = fewer
    lists = keys.tolist()
    batches, left = _fill(lists, np.flatnonzero(worst < limit).tolist(), size)
    repeated = np.flatnonzero(worst >= limit).tolist()

    batch_of = np.full(count, -1)
    for number, batch in enumerate(batches):
        batch_of[batch] = number
    part, seen = [], set()
    for late in left:
        if not seen.isdisjoint(lists[late]):
            # It takes the place of a row, in a batch without its products, that can take its place here.
            bounds = np.searchsorted(pairs, np.array([[one, one + 1] for one in lists[late]]) * count)
            holding = np.concatenate([batch_of[row[start:end]] for start, end in bounds])
            free = np.setdiff1d(np.arange(len(batches)), holding)
            places = (
                (batches[number], place)
                for number in random.permutation(free)[:TRIES]
                for place, other in enumerate(batches[number])
                if seen.isdisjoint(lists[other])
            )
            batch, place = next(places, (None, 0))
            if batch is None:
                repeated.append(late)
                continue
            batch_of[late], batch_of[batch[place]] = batch_of[batch[place]], -1
            late, batch[place] = batch[place], late
        part.append(late)
        seen.update(lists[late])
        if len(part) == size:
            batch_of[part] = len(batches)
            batches.append(part)
            part, seen = [], set()
    return batches, part, repeated


class TripletSampler(torch.utils.data.Sampler):
    """All rows of a data set in an order whose every `batch_size` rows are a batch, see `arrange`.

    The order is a pure function of (seed, epoch). Where a product has more triplets than there are batches, those that
    are too many come at the end, and their number is told once; the losses do not take them for each other's negatives.

    Args:
        dataset: the triplets; their ids, categories and the lengths of their texts are read here, once.
        batch_size: rows of a batch, of all processes together.
        batches: what the rows of a batch shall have in common.

    Raises:
        ValueError: batches of one category are asked for, but the data set knows none.
    """

    def __init__(self, dataset: "TripletDataset", batch_size: int, batches: BatchArguments, seed: int):
        batches.check(dataset.rows.column_names)
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.epoch = 0
        self._told = False
        self._facts = _read_facts(dataset, batches)

    def set_epoch(self, epoch: int):
        """Choose another order; the trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._facts.products)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        order, _, repeated = arrange(self._facts, self.batch_size, self.batches, random)
        if repeated and not self._told:
            self._told = True
            tell_repeated(repeated)
        return iter(order.tolist())


def tell_repeated(count: int):
    """Print how many triplets are in a batch with another one of the same product."""
    logger.warning(
        "%d triplets share a batch with another triplet of the same product, which has more triplets than there are "
        "batches for it; they come last, and are not each other's negatives. Smaller batches avoid it.",
        count,
    )


def _read_facts(dataset: "TripletDataset", batches: BatchArguments) -> Facts:
    texts = ["query_text", "positive_title", "negative_title"]
    products = ["positive_id", "negative_id", "positive_group_id", "negative_group_id"]
    category = [CATEGORY] if batches.batch_category else []
    table = dataset.rows.select_columns([*texts, "query_image", *products, *category])[:]

    def codes(*columns: pa.ChunkedArray) -> np.ndarray:
        """(N, columns): the same integer for the same string."""
        chunks = [chunk for column in columns for chunk in pc.fill_null(column, "").chunks]
        encoded = pa.chunked_array(chunks, columns[0].type).dictionary_encode().combine_chunks()
        return encoded.indices.to_numpy(zero_copy_only=False).reshape(len(columns), -1).T.astype(np.int64)

    columns = {name: table.column(name) for name in table.column_names}
    paths = np.full(len(table), -1)
    if category:
        known = pc.fill_null(pc.greater(pc.list_value_length(columns[CATEGORY]), 0), False)
        paths = codes(pc.binary_join(columns[CATEGORY], "\x1f"))[:, 0]
        paths = np.where(known.to_numpy(), paths, -1)
    has_text, has_image = (columns[name].is_valid().to_numpy() for name in ("query_text", "query_image"))
    lengths = [pc.fill_null(pc.binary_length(columns[name]), 0).to_numpy() for name in texts]
    return Facts(
        products=np.concatenate([codes(columns[a], columns[b]) for a, b in (products[:2], products[2:])], axis=1),
        category=paths,
        modality=has_text + 2 * has_image.astype(np.int64),
        length=np.sum(lengths, axis=0, dtype=np.int64),
    )
