"""Data sets of the Hugging Face Hub, or folders that `datasets.load_dataset` takes, read as they stream in."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import fsspec

from ..catalogue import CatalogueError
from .records import Problem
from .tables import Located, Table, files_fingerprint


class HubTables:
    """The splits of a data set, each a table.

    Args:
        path: `user/name`, or a folder.
        config: one of its configurations.
        split: one split only, also in the syntax of slices of `datasets`.
        revision: a branch, a tag or, to be sure of what is read, a commit.

    Raises:
        CatalogueError: it cannot be loaded; the message says why.
    """

    def __init__(
        self, path: str, config: str | None = None, split: str | None = None, revision: str | None = None
    ) -> None:
        self.path, self.config, self.split, self.revision = path, config, split, revision
        local = Path(path)
        self.folder = local if local.is_dir() else None
        self.name = local.resolve().name if self.folder else path
        try:
            builder = datasets.load_dataset_builder(path, config, revision=revision)
            loaded = datasets.load_dataset(path, config, split=split, revision=revision, streaming=True)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise CatalogueError(
                f"The data set {path!r} (config {config or 'default'}, split {split or 'all'}, revision "
                f"{revision or 'main'}) cannot be loaded: {str(error).splitlines()[0]}"
            ) from error
        self._splits = {None: loaded} if split else dict(loaded)
        self._hash = builder.hash

    def __iter__(self) -> Iterator[Table]:
        for split, dataset in self._splits.items():
            dataset = dataset.decode(False)
            name = f"split {split or self.split} of {self.name}"
            # Streams of CSV and JSON do not know their columns beforehand; pictures are no matter there.
            kinds = dict(dataset.features or dict.fromkeys(next(iter(dataset), {})))
            yield Table(name, list(kinds), lambda wanted, d=dataset, n=name, k=kinds: _rows(d, n, k, wanted), split)

    def fingerprint(self) -> str:
        """Of the files of a folder; of the commit (as `datasets` does) otherwise."""
        options = (self.path, self.config, self.split, self.revision, self._hash)
        return files_fingerprint(self.folder, *options[1:]) if self.folder else repr(options)


def _rows(dataset: datasets.IterableDataset, name: str, kinds: dict, wanted: list[str]) -> Iterator[Located]:
    for number, record in enumerate(dataset.select_columns(wanted)):
        where = f"row {number} of {name}"
        try:
            yield where, {column: _with_bytes(value, kinds[column]) for column, value in record.items()}
        except (OSError, ValueError) as error:
            yield where, Problem(where, None, f"its picture cannot be read: {error}")


def _with_bytes(value: object, kind: object) -> object:
    """The value with the bytes of its pictures, which streams leave in their files."""
    if value is None:
        return None
    if isinstance(kind, datasets.Image) and value.get("bytes") is None:
        with fsspec.open(value["path"], "rb") as file:
            return {"bytes": file.read(), "path": Path(value["path"]).name}
    if isinstance(kind, datasets.List):
        return [_with_bytes(entry, kind.feature) for entry in value]
    return value
