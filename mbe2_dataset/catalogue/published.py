"""Products of published data sets that are no tables of products: files of triplets, and Fashion200K."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from mbe2_dataset.catalogue.columns import CATALOGUE_NAMES, Binding, Columns, find_columns, sources_of
from mbe2_dataset.catalogue.products import ProductSource
from mbe2_dataset.catalogue.records import Reader
from mbe2_dataset.catalogue.search_log import NEGATIVE, POSITIVE, Event, query_key
from mbe2_dataset.catalogue.store import Item, Problem
from mbe2_dataset.catalogue.tables import SPLIT_NAMES, files_fingerprint, selected_rows
from mbe2_dataset.catalogue.values import as_pictures, as_text
from mbe2_dataset.errors import CatalogueError

# The authors' MBE2.0 and other files with one query, positive and negative to a row (MOON2.0, section 6). We do not
# know the column names of the published files; those that are not found need a mapping like `positive_title=...`.
ROLES = {"positive": ("positive_", "pos_"), "negative": ("negative_", "neg_")}
QUERY_NAMES = {
    "query_id": ("query_id", "qid"),
    "query_text": ("query_text", "query", "query_title", "search_query", "keyword"),
    "query_image": ("query_image", "query_images", "query_image_url", "query_img"),
    "split": ("split",),
}
PRODUCT_COLUMNS = tuple(name for name in CATALOGUE_NAMES if name not in ("split", "noise", "translations"))


class TripletSource(ProductSource):
    """The positives and negatives of a file of triplets, each product once. `events` are its queries.

    A product without an id column has a hash of its title and first image as its id. It has the split of the triplet
    in which it is first.

    `columns` say which of theirs hold query_id, query_text, query_image, and the columns of a catalogue after positive_
    and negative_.
    """

    names = QUERY_NAMES | {
        f"{role}_{ours}": tuple(prefix + name for prefix in prefixes for name in CATALOGUE_NAMES[ours])
        for role, prefixes in ROLES.items()
        for ours in PRODUCT_COLUMNS
    }
    needed = ("positive_title", "positive_images")

    def __iter__(self) -> Iterator[Item | Problem]:
        seen = set()
        for where, row, _, readers, split in self._triplets():
            if isinstance(row, Problem):
                yield row
                continue
            for role, reader in readers.items():
                try:
                    item = _product(f"the {role} of {where}", row, reader)
                except ValueError as error:
                    yield Problem(f"the {role} of {where}", None, str(error))
                    continue
                if item is not None and item.record["id"] not in seen:
                    seen.add(item.record["id"])
                    item.record.update({"split": split} if split else {})
                    yield item

    def events(self) -> Iterator[Event | Problem]:
        """Yield what each query says about its positive and its negative."""
        for where, row, columns, readers, split in self._triplets():
            if isinstance(row, Problem):
                yield row
                continue
            try:
                query = {name: [row[column] for column in columns.get(name, ())][:1] for name in QUERY_NAMES}
                text = next(map(as_text, query["query_text"]), None)
                image = next((picture for value in query["query_image"] for picture in as_pictures(value)), None)
                key = next(map(as_text, query["query_id"]), None) or query_key(text, image)
                products = {role: _product(where, row, reader) for role, reader in readers.items()}
            except ValueError as error:
                yield Problem(where, None, str(error))
                continue
            for role, state in (("positive", POSITIVE), ("negative", NEGATIVE)):
                if products[role] is not None:
                    yield Event(where, key, text, image, products[role].record["id"], state, split=split)

    def _triplets(self) -> Iterator[tuple[str, dict | Problem, Columns, dict[str, Reader], str | None]]:
        """Yield where a row is, the row, its table's columns and readers for each role, and its split."""
        tables = list(self.tables)
        named = len([table for table in tables if table.split]) > 1
        for table in tables:
            columns = find_columns(table.columns, self.columns, self.names, self.needed, table.name)
            split = SPLIT_NAMES.get((table.split or "").lower()) if named else None
            readers = {role: _reader_of(role, columns) for role in ROLES}
            wanted = [name for theirs in columns.values() for name in theirs]
            for where, row in selected_rows(table, wanted, self.only):
                if isinstance(row, dict) and "split" in columns:
                    said = as_text(row[columns["split"][0]])
                    split = SPLIT_NAMES.get((said or "").lower(), said)
                yield where, row, columns, readers, split


def _reader_of(role: str, columns: Columns) -> Reader:
    own = {ours.removeprefix(f"{role}_"): theirs for ours, theirs in columns.items() if ours.startswith(f"{role}_")}
    return Reader(Binding(columns={ours: tuple(sources_of(ours, theirs, ())) for ours, theirs in own.items()}), {})


def _product(where: str, row: Mapping[str, object], reader: Reader) -> Item | None:
    """Return one product of a triplet; None if the row has no such product."""
    item = reader.item(where, row)
    record = item.record
    if not record.get("title") and not record.get("images"):
        return None
    if not record.get("id"):
        picture = next(iter(record.get("images") or ()), {})
        content = picture.get("bytes") or str(picture.get("url") or picture.get("path")).encode()
        title = (record.get("title") or "").encode()
        record["id"] = hashlib.blake2b(title + b"\0" + content, digest_size=12).hexdigest()
    return item


LABELS = re.compile(r"(?P<kind>.+)_(?P<split>train|test)_detect_all\.txt")


class Fashion200K:
    """The products of Fashion200K (Han et al., ICCV 2017): those with the same id in the path are one.

    `labels/<category>_<train|test>_detect_all.txt` has lines of image path, detection score and description between
    tabs; a path is `women/<category>/<subcategory>/<product id>/<product id>_<n>.jpeg`. So say the project's README and
    its users' code; we have not seen the data. The first description of a product is its title.

    Raises:
        CatalogueError: the folder has no label files; the message says what it has.
    """

    name = "fashion200k"

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Tell whether a folder has the label files."""
        return any(LABELS.fullmatch(path.name) for path in Path(folder).glob("labels/*.txt"))

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        labels = self.folder / "labels"
        self.files = [path for path in sorted(labels.glob("*.txt")) if LABELS.fullmatch(path.name)]
        if not self.files:
            shown = labels if labels.is_dir() else self.folder
            found = ", ".join(sorted(path.name for path in shown.glob("*"))[:20]) or "nothing"
            raise CatalogueError(
                f"{folder} is no copy of Fashion200K: it lacks labels/*_train_detect_all.txt and "
                f"labels/*_test_detect_all.txt; {'it' if shown == self.folder else 'labels'} has: {found}."
            )

    def __iter__(self) -> Iterator[Item | Problem]:
        for path in self.files:
            split = LABELS.fullmatch(path.name)["split"]
            # 200,000 lines in ten files: small enough to bring a product's images together in memory.
            try:
                lines = filter(str.strip, path.read_text(encoding="utf-8").splitlines())
            except (OSError, UnicodeError) as error:
                raise CatalogueError(f"{path} cannot be read: {error}") from error
            products: dict[str, Item] = {}
            for number, line in enumerate(lines):
                where = f"row {number} of labels/{path.name}"
                fields = line.split("\t")
                place = PurePosixPath(fields[0])
                if len(fields) != 3 or len(place.parts) < 3:
                    yield Problem(where, None, "it is not 'women/.../<id>/<file>', a score and a description with tabs")
                    continue
                name, text = place.parent.name, fields[2].strip()
                category = [level.replace("_", " ") for level in place.parts[:-2]]
                record = {"id": name, "title": text, "category": category, "images": [], "split": split}
                item = products.setdefault(name, Item(where, record | {"group_id": name, "description": None}))
                item.record["images"].append({"path": place.as_posix()})
                told = item.record["description"]
                if text not in (item.record["title"], *(told or "").split("\n")):
                    item.record["description"] = f"{told}\n{text}" if told else text
            yield from products.values()

    def fingerprint(self) -> str:
        """Return what changes with the files."""
        return files_fingerprint(self.folder)
