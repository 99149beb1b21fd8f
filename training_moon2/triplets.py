"""Triplets on their way to the model: data set rows -> query, positive and negative products."""

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from inspect import signature

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets.exceptions import DatasetsError

from training_moon2.arguments import CATEGORY, BatchArguments, TripletError, triplets_folder
from training_moon2.batches import Facts, arrange, tell_repeated

FALSE_POSITIVE = "false_positive"  # in the column `noise`
ROLES = ("query", "positive", "negative")
REQUIRED = {
    "query_id", "query_text", "query_image",
    *(f"{role}_{name}" for role in ROLES[1:] for name in ("id", "title", "image", "group_id")),
}  # fmt: skip
# From so many files at once a stream is read for shuffling.
MIXED_FILES = 10


def load_triplets(
    dataset: str, split: str, streaming: bool = False, refresh: bool = True
) -> datasets.Dataset | datasets.IterableDataset:
    """Load one split of the triplets of an MBE2.0-format folder or Hub id.

    Args:
        streaming: read the files row by row as they are needed, instead of copying all to the cache first.
        refresh: read a folder anew. Of the processes of one machine one should, and the others afterwards reuse what
            it has put into the cache.

    Raises:
        TripletError: there is no such data set or split, or it lacks a column.
    """
    folder = triplets_folder(dataset)
    try:
        if streaming:
            rows = _open_stream(dataset, split)
            is_empty = next(iter(rows.decode(False)), None) is None
        else:
            builder = datasets.load_dataset_builder(dataset, "triplets")
            if folder is not None and refresh:
                # datasets does not notice that a local Parquet file has changed: it would serve the old rows of its
                # cache, or expect the old columns and count.
                shutil.rmtree(builder.cache_dir, ignore_errors=True)
                builder = datasets.load_dataset_builder(dataset, "triplets")
            builder.download_and_prepare()
            rows = builder.as_dataset(split)
            is_empty = not len(rows)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise TripletError(f"The {split} triplets of {dataset} cannot be read: {reason}") from error
    missing = sorted(REQUIRED - set(rows.column_names))
    if missing:
        raise TripletError(
            f"The triplets of {dataset} lack the columns {', '.join(missing)}; found: {', '.join(rows.column_names)}."
        )
    if is_empty:
        raise TripletError(f"The {split} split of {dataset} has no triplets.")
    return rows


def _open_stream(dataset: str, split: str) -> datasets.IterableDataset:
    """Return the rows, and in their `info.download_checksums` the names and sizes of the files, which datasets leaves
    out."""
    # Nothing is copied there, but a cache that is not empty may hold the columns that a folder used to have.
    with tempfile.TemporaryDirectory() as empty:
        builder = datasets.load_dataset_builder(dataset, "triplets", cache_dir=empty)
        rows = builder.as_streaming_dataset(split=split)
    rows.info.download_checksums = {}
    for file in builder.config.data_files[split]:
        system, path = fsspec.core.url_to_fs(file)
        name = file.removeprefix(builder.base_path).strip("/")
        rows.info.download_checksums[name] = {"num_bytes": system.size(path), "checksum": None}
    return rows


def fingerprint(rows: datasets.Dataset | datasets.IterableDataset) -> str:
    """Return a hex digest of what `load_triplets` gave, wherever it lies and however it was cached.

    Of images only the lengths in bytes are read, so that millions of rows take seconds. Of a stream only the columns
    and the names and sizes of its files are, so that nothing has to be downloaded.
    """
    digest = hashlib.blake2b(repr(sorted(rows.features.items())).encode(), digest_size=16)
    if isinstance(rows, datasets.IterableDataset):
        digest.update(repr(sorted((rows.info.download_checksums or {}).items())).encode())
        return digest.hexdigest()
    parts = {}
    for table in rows.with_format("arrow").iter(1000):
        for name in table.column_names:
            for chunk in table.column(name).chunks:
                _absorb(chunk, name, parts)
    for name, part in sorted(parts.items()):
        digest.update(name.encode() + part.digest())
    return digest.hexdigest()


def _absorb(values: pa.Array, name: str, parts: dict[str, "hashlib._Hash"]):
    """Add the values to the digests of the parts that a column consists of. Each part has a digest of its own, so that
    it does not matter where a table is cut."""

    def add(part: str, content: np.ndarray | pa.Buffer):
        parts.setdefault(f"{name}.{part}", hashlib.blake2b(digest_size=16)).update(content)

    add("present", values.is_valid().to_numpy(zero_copy_only=False))
    if pa.types.is_struct(values.type):
        fields = [field.name for field in values.type]
        children = dict(zip(fields, values.flatten(), strict=True))
        if set(fields) == {"bytes", "path"}:
            add("length", pc.binary_length(children["bytes"]).fill_null(-1).to_numpy(zero_copy_only=False))
            return
        for field, child in children.items():
            _absorb(child, f"{name}.{field}", parts)
    elif pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        add("length", pc.list_value_length(values).fill_null(-1).to_numpy(zero_copy_only=False))
        _absorb(values.flatten(), f"{name}.item", parts)
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        add("length", pc.binary_length(values).fill_null(-1).to_numpy(zero_copy_only=False))
        add("text", "".join(values.drop_null().to_pylist()).encode())
    else:
        add("value", values.drop_null().to_numpy(zero_copy_only=False))


class _Triplets:
    """What `TripletDataset` and `TripletStream` share: from a row to products.

    What is drawn depends on seed, epoch and the ids of the row only, so that workers, streams and resumed runs draw the
    same.

    Args:
        enriched_title_probability, augmented_image_probability: how often a product shows its enriched title, and its
            augmented images (co-augmentation, MOON2.0 section 5; the probabilities are our choice).
        seed: another one gives other draws.
        coaugmentation: "replace" for an enriched title and one augmented image in the place of a product's own, "add"
            for the enriched title and all augmented images after them, which is how the paper counts the positions of
            an item.
    """

    def __init__(
        self,
        enriched_title_probability: float = 0.0,
        augmented_image_probability: float = 0.0,
        seed: int = 0,
        coaugmentation: str = "replace",
    ):
        self.enriched_title_probability = enriched_title_probability
        self.augmented_image_probability = augmented_image_probability
        self.seed = seed
        self.adds = coaugmentation == "add"
        # Shared memory: workers that live on from one epoch to the next have a copy of everything else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int):
        """Change what is drawn; the trainer calls it."""
        self._epoch.fill_(epoch)

    def triplet(self, row: dict) -> dict:
        """Return the products of one row, whose images are encoded: the processor decodes those that are shown."""
        for name in ("query_id", *(f"{role}_{kind}" for role in ROLES[1:] for kind in ("id", "group_id"))):
            if row[name] is None:
                raise TripletError(f"Triplet {row['query_id']} has no {name}; every triplet needs one.")
        key = stable_key("\x1f".join((row["query_id"], row["positive_id"], row["negative_id"])))
        random = np.random.default_rng((self.seed, self._epoch.item(), key % 2**64))
        triplet = {
            "query_id": row["query_id"],
            "query": {"text": row["query_text"], "image": row["query_image"]},
            "positive_name": row["positive_id"],
            # Whether the positive is known to be a wrong one; None where the data set does not say.
            "false_positive": None if row.get("noise") is None else FALSE_POSITIVE in row["noise"],
        }
        for role in ROLES[1:]:
            # Both numbers are drawn whatever the row holds: one row's luck must not depend on its fields.
            title_draw, image_draw, which = random.random(3)
            text, image = row[f"{role}_title"], row[f"{role}_image"]
            enriched, augmented = row.get(f"{role}_enriched_title"), row.get(f"{role}_augmented_images")
            if enriched and title_draw < self.enriched_title_probability:
                text = f"{text}\n{enriched}" if self.adds and text else enriched
            if augmented and image_draw < self.augmented_image_probability:
                own = [] if image is None else [image]
                image = own + augmented if self.adds else augmented[int(which * len(augmented))]
            triplet[role] = {"text": text, "image": image}
            triplet[f"{role}_id"] = stable_key(row[f"{role}_id"])
            triplet[f"{role}_group"] = stable_key(row[f"{role}_group_id"])
        return triplet


class TripletDataset(_Triplets, torch.utils.data.Dataset):
    """Rows of `load_triplets` as query, positive and negative products.

    Args:
        rows: the triplets, read whole.
        shown, named: what a product shows, as `_Triplets` takes it.
        false_positive_share: so many triplets, the same in every epoch, get the positive of some other triplet: planted
            mistakes, for looking at what the dynamic sample filter makes of them.

    Raises:
        TripletError: augmented images shall be shown, but no row has any.
    """

    def __init__(self, rows: datasets.Dataset, *shown, false_positive_share: float = 0.0, **named):
        super().__init__(*shown, **named)
        views = (f"{role}_augmented_images" for role in ROLES[1:])
        lengths = (pc.list_value_length(rows.data.column(name)) for name in views if name in rows.column_names)
        if self.augmented_image_probability and not any(pc.max(length).as_py() for length in lengths):
            raise TripletError(
                f"augmented_image_probability is {self.augmented_image_probability}, but the data set has no augmented "
                "images: build it with --augmented_images 1, or set the probability to 0."
            )
        self.rows = rows.with_format("arrow")
        self.false_positive_share = false_positive_share

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        (row,) = self.rows[index].to_pylist()
        if self.false_positive_share:
            random = np.random.default_rng((self.seed, index))
            planted = random.random() < self.false_positive_share
            (other,) = self.rows[int(random.integers(len(self)))].to_pylist()
            planted = planted and other["positive_group_id"] != row["positive_group_id"]
            if planted:
                row |= {name: value for name, value in other.items() if name.startswith("positive_")}
            row["noise"] = [FALSE_POSITIVE] * (planted or FALSE_POSITIVE in (row.get("noise") or []))
        return self.triplet(row)


class TripletStream(_Triplets, torch.utils.data.IterableDataset):
    """The same triplets from a stream, shuffled within a buffer; every `batch_size` of them make a batch.

    Batches are made as by `TripletSampler`, but within `batch_window` batches' worth of rows (at least two, so that a
    product that comes twice can wait for the next batch). In workers each reads files of its own. Every process gets
    the same triplets in the same order; of each batch it takes its part (accelerate's IterableDatasetShard).

    Args:
        rows: a stream of triplets.
        shown, named: what a product shows, as `_Triplets` takes it.
        batch_size: triplets of a batch, of all processes together.
        batches: what the triplets of a batch shall have in common.
        buffer_size: so many rows are held in memory to shuffle them.
        passes: so many times all rows, each time in another order; `None`: for ever. (The Trainer does not count the
            passes of a stream: a run that is resumed has to find its place by reading on from the start.)

    Raises:
        ValueError: batches of one category are asked for, but the stream knows none; or datasets is older than 5.0.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        *shown,
        batch_size: int = 1,
        batches: BatchArguments | None = None,
        buffer_size: int = 1000,
        passes: int | None = None,
        **named,
    ):
        super().__init__(*shown, **named)
        self.batch_size = batch_size
        self.passes = passes
        self.batches = batches or BatchArguments()
        self.batches.check(rows.column_names)
        if "max_buffer_input_shards" not in signature(rows.shuffle).parameters:
            raise ValueError("streaming needs datasets 5.0 or newer, which mixes the rows of several files.")
        files = min(MIXED_FILES, rows.num_shards)
        self.rows = rows.decode(False).shuffle(seed=self.seed, buffer_size=buffer_size, max_buffer_input_shards=files)
        self._told = False

    def __iter__(self) -> Iterator[dict]:
        random = np.random.default_rng((self.seed, self._epoch.item()))
        window = max(2, self.batches.batch_window) * self.batch_size
        held, is_over = [], False
        stream = self._read()
        while not is_over:
            held += itertools.islice(stream, window - len(held))
            is_over = len(held) < window
            if not held:
                break
            arranged = arrange(_facts(held), self.batch_size, self.batches, random)
            # What made no whole batch waits for the next window, unless nothing did: then it would wait for ever.
            ready = arranged.whole if arranged.whole and not is_over else len(held)
            if ready == len(held) and arranged.repeated and not self._told:
                self._told = True
                tell_repeated(arranged.repeated)
            for place in arranged.order[:ready]:
                yield self.triplet(held[place])
            held = [held[place] for place in arranged.order[ready:]]

    def _read(self) -> Iterator[dict]:
        try:
            for epoch in itertools.count() if self.passes is None else range(self.passes):
                self._epoch = torch.tensor(epoch)  # of this worker alone: others may be in another pass
                self.rows.set_epoch(epoch)
                empty = True
                for row in self.rows:
                    empty = False
                    yield row
                if empty:  # more workers than files
                    return
        except (OSError, pa.ArrowInvalid) as error:
            reason = str(error).strip().splitlines()[0]
            raise TripletError(f"The stream of triplets broke off: {reason}") from error


def _facts(rows: list[dict]) -> Facts:
    """Return what `arrange` needs to know of rows."""
    paths = ["\x1f".join(row.get(CATEGORY) or ()) for row in rows]
    category = np.unique(paths, return_inverse=True)[1]
    names = [f"{role}_{kind}" for kind in ("id", "group_id") for role in ROLES[1:]]
    texts = ("query_text", "positive_title", "negative_title")
    return Facts(
        products=np.array([[stable_key(row[name] or "") for name in names] for row in rows]),
        category=np.where([not path for path in paths], -1, category),
        modality=np.array([(row["query_text"] is not None) + 2 * (row["query_image"] is not None) for row in rows]),
        length=np.array([sum(len((row[name] or "").encode()) for name in texts) for row in rows]),
    )


def stable_key(identifier: str) -> int:
    """Return a 64-bit integer for an id: the same in every process, so that ids can be compared as tensors across
    ranks."""
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "big", signed=True)
