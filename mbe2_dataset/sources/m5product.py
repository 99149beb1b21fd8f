"""M5Product (Dong et al., CVPR 2022), as far as its published toolkit and documentation tell its layout.

The toolkit (Xiaodongsuper/M5Product_toolkit) reads one JSON object, item id -> {"title", "pv"}, where `pv` is
'name#:#value#;#name#:#value', and pictures `<images>/<item id>.jpg`; the documentation calls the id `item_id` and the
title `caption`. Whether every release has just these names is not known to us: another table of the set goes through a
column mapping, and what is missing is said with the columns that were found.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..catalogue import CatalogueError
from .columns import find_columns
from .products import product_record
from .records import Item, Problem
from .tables import LocalTables, files_fingerprint

NAMES = {
    "id": ("item_id", "id", "image_id"),
    "title": ("title", "caption", "text"),
    "attributes": ("pv", "table", "property", "attributes"),
    "category": ("category", "cate_name", "label", "cate_id"),
    "split": ("split",),
}


class M5Product:
    """The products of a table of M5Product, one picture for each.

    Args:
        path: the JSON file, or a JSON lines, CSV or Parquet table, or a folder of them. JSON is read as a whole.
        pictures: the folder of `<item id>.jpg`; by default `images` beside the table.
        columns: which columns of theirs hold ours, where they have other names.

    Raises:
        CatalogueError: there is no such table or folder.
    """

    name = "m5product"

    def __init__(
        self,
        path: str | Path,
        pictures: str | Path | None = None,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        encoding: str = "utf-8-sig",
    ) -> None:
        self.tables = LocalTables(path, encoding)
        self.folder = self.tables.folder / "images" if pictures is None else Path(pictures)
        self.columns = dict(columns or {})
        if not self.folder.is_dir():
            raise CatalogueError(
                f"There is no folder {self.folder} with the pictures of M5Product, <item id>.jpg: say where they are "
                f"(--pictures)."
            )

    def __iter__(self) -> Iterator[Item | Problem]:
        for table in self.tables:
            columns = find_columns(table.columns, self.columns, NAMES, ("id", "title"), table.name)
            for where, row in table.read([name for theirs in columns.values() for name in theirs]):
                if isinstance(row, Problem):
                    yield row
                    continue
                try:
                    record = product_record(row, columns)
                except ValueError as error:
                    yield Problem(where, None, str(error))
                    continue
                yield Item(where, {**record, "images": [{"path": f"{record['id']}.jpg"}]})

    def fingerprint(self) -> str:
        return f"{self.tables.fingerprint()} {files_fingerprint(self.folder)} {sorted(self.columns.items())!r}"
