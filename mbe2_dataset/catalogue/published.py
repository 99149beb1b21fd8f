"""Fashion200K (Han et al., ICCV 2017) as its authors publish it.

`labels/<category>_<train|test>_detect_all.txt` has lines of picture path, detection score and description between
tabs; a path is `women/<category>/<subcategory>/<product id>/<product id>_<n>.jpeg` below the same folder. The
project's README and its users' code say so; the data themselves were not at hand.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from mbe2_dataset.catalogue.columns import find_columns
from mbe2_dataset.catalogue.products import product_record
from mbe2_dataset.catalogue.records import Item, Problem
from mbe2_dataset.catalogue.store import CatalogueError
from mbe2_dataset.catalogue.tables import LocalTables, files_fingerprint

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


LABELS = re.compile(r"(?P<kind>.+)_(?P<split>train|test)_detect_all\.txt")


class Fashion200K:
    """The products of Fashion200K: those with the same id in the path are one, with several pictures.

    The description of its first picture is the title; other ones, if there are any, are its description.

    Raises:
        CatalogueError: the folder has no label files; the message says what it has.
    """

    name = "fashion200k"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        labels = self.folder / "labels"
        self.files = [path for path in sorted(labels.glob("*.txt")) if LABELS.fullmatch(path.name)]
        if not self.files:
            found = sorted(path.name for path in (labels if labels.is_dir() else self.folder).glob("*"))[:20]
            raise CatalogueError(
                f"{folder} is no copy of Fashion200K: it lacks labels/*_train_detect_all.txt and "
                f"labels/*_test_detect_all.txt; {'labels' if labels.is_dir() else 'it'} has: "
                f"{', '.join(found) or 'nothing'}."
            )

    def __iter__(self) -> Iterator[Item | Problem]:
        for path in self.files:
            # 200,000 lines in ten files: small enough to bring a product's pictures together in memory.
            products: dict[str, Item] = {}
            for number, line in enumerate(_lines(path)):
                where = f"row {number} of labels/{path.name}"
                fields = line.split("\t")
                place = PurePosixPath(fields[0])
                if len(fields) != 3 or len(place.parts) < 3:
                    yield Problem(where, None, "it is not 'women/.../<id>/<file>', a score and a description with tabs")
                    continue
                self._add(products, where, place, fields[2].strip(), LABELS.fullmatch(path.name)["split"])
            yield from products.values()

    def fingerprint(self) -> str:
        return files_fingerprint(self.folder)

    @staticmethod
    def _add(products: dict[str, Item], where: str, place: PurePosixPath, text: str, split: str) -> None:
        name = place.parent.name
        item = products.get(name)
        if item is None:
            levels = place.parts[:-2]
            category = [level.replace("_", " ") for level in levels]
            record = {"id": name, "title": text, "category": category, "images": [], "split": split, "group_id": name}
            item = products[name] = Item(where, record | {"description": None})
        item.record["images"].append({"path": place.as_posix()})
        told = item.record["description"]
        if text not in (item.record["title"], *(told or "").split("\n")):
            item.record["description"] = f"{told}\n{text}" if told else text


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from (line.rstrip("\r\n") for line in file if line.strip())
    except (OSError, UnicodeError) as error:
        raise CatalogueError(f"{path} cannot be read: {error}") from error
