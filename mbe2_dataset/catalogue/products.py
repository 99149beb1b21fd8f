"""Products in tables, of known layouts and of anybody's.

The columns of MBE v1 (`id, doc_title, doc_image, doc_industry_name, doc_cate1_name .. doc_cate4_name,
doc_attributes`; MOON2.0, section 6) are among the usual names, and its attributes among the usual forms.
"""

import re
from array import array
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mbe2_dataset.catalogue.columns import (
    LAYOUTS,
    Binding,
    Columns,
    Header,
    Layout,
    NoIdError,
    NoProductsError,
    bind,
    lacks,
    recognise,
)
from mbe2_dataset.catalogue.records import PictureFiles, Reader, inherited, merged, readings, value_at
from mbe2_dataset.catalogue.store import Item, Problem
from mbe2_dataset.catalogue.tables import ROW, SPLIT_NAMES, Table, Tables, files_fingerprint, numbered, selected_rows
from mbe2_dataset.catalogue.values import as_text
from mbe2_dataset.errors import CatalogueError

# From so many rows a table is understood, or from fewer that hold so many bytes of images.
SAMPLE_ROWS = 2000
SAMPLE_BYTES = 2**25
# In so many of them at most is looked for files of images.
SAMPLE_PICTURES = 200


class Bound(NamedTuple):
    """A table whose columns are known; its rows are read by `reader`, its images' paths from the tables `beside`."""

    table: Table
    reader: Reader
    split: str | None
    beside: tuple[str, ...] = ()


class Run(NamedTuple):
    """Rows that follow one another and are one product, merged; or a problem of a row."""

    key: str | None
    item: Item | Problem
    layout: Layout | None = None
    parents: tuple[str, ...] = ()
    known_as: tuple[str, ...] = ()


class ProductSource:
    """The products of `tables`.

    Rows of one product become one, and variants take from their parents what they lack, as the layout says. In a table
    of no known layout, rows with the same id are merged if their titles do not differ.

    Rows are streamed. Held in memory are: a number for each id, where rows are merged; products whose rows do not
    follow one another; products that are parents; and the paths of a second table of images.

    Args:
        columns: which columns of theirs hold ours, where they are not found (`columns.parse_columns`). Several
            columns for 'category' are its levels; for 'attributes' they are attributes of these names; texts are joined
            by spaces. 'images' may be a path such as `images/{id}.jpg`.
        pictures: the folder in which paths of images begin; by default that of the tables.
        only: column -> value of the rows that are read, e.g. one locale; the others are skipped.
        layout: the name of a known one; "auto": the one that the columns prove; "table": none, but names and cells.
        languages: of values that are in several.

    Raises:
        CatalogueError: when iterated, if a table is not understood; the message lists the columns that it has.
    """

    def __init__(
        self,
        tables: Tables,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        pictures: str | Path | None = None,
        only: Mapping[str, str] | None = None,
        layout: str = "auto",
        languages: Sequence[str] = (),
    ) -> None:
        self.tables = tables
        self.columns = dict(columns or {})
        self.only = dict(only or {})
        self.layout = layout
        self.languages = tuple(languages)
        self.name = tables.name
        self.folder = tables.folder if pictures is None else Path(pictures)
        self.counts: Counter[str] = Counter()
        self._pictures = pictures

    # What the tables are

    @cached_property
    def layouts(self) -> dict[str, Layout | None]:
        """Return table -> its layout. Beside a table of a known layout, those of none are left out."""
        tables = list(self.tables)
        if self.layout == "table":
            return dict.fromkeys(table.name for table in tables)
        if self.layout != "auto":
            known = LAYOUTS[self.layout]
            fits = [table for table in tables if all(map(Header(table.columns).sources, known.columns["id"]))]
            return {table.name: known for table in fits or tables}
        found = {table.name: recognise(table.columns) for table in tables}
        proven = {name: layout for name, layout in found.items() if layout is not None}
        return proven or found

    @cached_property
    def bound(self) -> list[Bound]:
        """Return the tables that hold products, with what their columns are."""
        tables = list(self.tables)
        # A data set with one split says nothing about how to split it.
        named = len([table for table in tables if table.split]) > 1
        files = PictureFiles(self.folder) if self.folder is not None else None
        places = next((layout.pictures for layout in self.layouts.values() if layout and layout.pictures), None)
        beside = [table for table in tables if places and all(map(Header(table.columns).column, places))]
        keys = {key: path for table in beside for key, path in _picture_keys(places, table)}
        found: list[Bound] = []
        others: list[NoProductsError] = []  # beside products they hold other things, which is said
        for table in tables:
            if table.name not in self.layouts:
                continue
            layout = self.layouts[table.name]
            sample = self._sample(table)
            try:
                table, binding = self._bound(table, sample, layout)
            except NoProductsError as error:
                others.append(error)
                continue
            keyed = layout is not None and layout.pictures is not None
            read = readings(binding, sample, self.languages)
            reader = Reader(binding, read, self.languages, files, keys if keyed else {})
            self._learn_pictures(table, reader, sample)
            split = SPLIT_NAMES.get((table.split or "").lower()) if named else None
            found.append(Bound(table, reader, split, tuple(other.name for other in beside if keyed)))
        if not found:
            raise others[0]
        return found

    def _bound(self, table: Table, sample: list[dict], layout: Layout | None) -> tuple[Table, Binding]:
        """Return a table with what its columns are; rows without ids are numbered."""
        try:
            return table, bind(table.columns, sample, self.columns, layout, table.name, self.languages)
        except NoIdError as error:
            table, given = numbered(table), {**self.columns, "id": (ROW,)}
            binding = bind(table.columns, sample, given, layout, table.name, self.languages)
            guess = "id from the number of the row: no column holds one, so it changes where rows are added or sorted"
            return table, replace(binding, guesses=tuple(dict.fromkeys([guess, *error.guesses, *binding.guesses])))

    @staticmethod
    def _sample(table: Table) -> list[dict]:
        rows, size = [], 0
        for _, row in islice(table.read(table.columns), SAMPLE_ROWS):
            if isinstance(row, dict):
                rows.append(row)
                size += sum(map(_image_bytes, row.values()))
            if size > SAMPLE_BYTES:
                break
        return rows

    def _learn_pictures(self, table: Table, reader: Reader, sample: Sequence[dict]) -> None:
        """Find out where the files of images lie, by the rows of the sample."""
        files, binding = reader.files, reader.binding
        if "images" in binding.columns:
            if files is not None:
                files.learn_folders(_paths(reader, sample))
            return
        ids = [text for row in sample[:SAMPLE_PICTURES] if (text := reader.identity(row))]
        if "images" in self.columns or files is None or not files.learn_ids(list(dict.fromkeys(ids))):
            where = ""
            if files and ids:
                where = f" No files in {files.folder} are named by its ids either, such as {ids[0]}.jpg."
            lacking = lacks(table.name, ["images"], table.columns)
            raise CatalogueError(
                f"{lacking}{where} Images in files may be said by a pattern, like "
                "--columns images=images/{id}.jpg, and their folder by --pictures."
            )

    def judgements(self) -> tuple[list[Table], Columns, dict[str, str] | None] | None:
        """Return the tables of judgements beside the products, what their columns are, and query id -> text."""
        log = next((layout.log for layout in self.layouts.values() if layout is not None and layout.log), None)
        judged = [table for table in self.tables if log and all(map(Header(table.columns).column, log["proof"]))]
        if not judged:
            return None
        texts = None
        if wanted := log.get("queries"):
            others = [table for table in self.tables if table not in judged and set(wanted) <= set(table.columns)]
            rows = [row for table in others for _, row in table.read(wanted) if isinstance(row, dict)]
            texts = {as_text(row[wanted[0]]): as_text(row[wanted[1]]) for row in rows}
        return judged, {ours: tuple(theirs) for ours, theirs in log["columns"].items()}, texts

    # From rows to products

    def __iter__(self) -> Iterator[Item | Problem]:
        self.counts = Counter()
        scattered, referred, children = self._ahead
        held, parents = self._hold(scattered, referred) if scattered or referred else ({}, {})
        for run in self._runs(count=True):
            item = run.item
            if isinstance(item, Item) and run.key in scattered:
                item = held.pop(run.key, None)  # all its rows are in the first
                if item is None:
                    self.counts["rows merged"] += 1
                    continue
            if isinstance(item, Problem):
                yield item
                continue
            self.counts["products"] += 1
            yield self._related(item, run, parents, children)

    def _related(self, item: Item, run: Run, parents: Mapping[str, Item], children: Mapping[str, str]) -> Item:
        """Return a product with the group that its parent or its variants give it."""
        names = [*run.parents, *([children[run.key]] if run.key in children else ())]
        parent = next((parents[name] for name in names if name in parents), None)
        record = item.record
        if parent is not None and parent.record["id"] != record["id"]:
            self.counts["variants"] += 1
            item = inherited(item, parent)
            group = parent.record.get("group_id") or parent.record["id"]
            item.record.update({"group_id": group, "parent_id": item.record.get("parent_id") or parent.record["id"]})
        elif any(name in parents for name in run.known_as):
            record["group_id"] = record.get("group_id") or record["id"]
        elif names and names[0] and "group_id" not in record:
            record["group_id"] = names[0]  # its parent is not in the table, but the others of the group name it, too
        if record.get("group_id", "") is None and run.layout is not None:
            del record["group_id"]  # so that products with the same title are found
        return item

    def _rows(self) -> Iterator[tuple[str, dict | Problem, Bound]]:
        for bound in self.bound:
            for where, row in selected_rows(bound.table, bound.reader.binding.wanted, self.only):
                yield where, row, bound

    def _runs(self, count: bool = False, keys: Container[str] | None = None) -> Iterator[Run]:
        """Yield the products, each of the rows that follow one another, and problems after the product before them.

        With `count` it is counted what becomes of the rows; with `keys` only rows that are called so are read.
        """
        counts = self.counts if count else Counter()
        begun: Run | None = None
        pictures: list[tuple[float, int, list]] = []
        problems: list[Run] = []

        def ended() -> Iterator[Run]:
            if begun is not None:
                yield _sorted(begun, pictures)
            yield from problems
            problems.clear()

        for where, row, bound in self._rows():
            counts["rows"] += 1
            reader, binding = bound.reader, bound.reader.binding
            layout = binding.layout
            if isinstance(row, Problem):
                problems.append(Run(None, row))
                continue
            if binding.products and not _fits(layout.products[1], value_at(row, binding.products[0])):
                counts["rows that are no products"] += 1
                continue
            key = reader.identity(row)
            if keys is not None and not any(name in keys for name in (key, *_known_as(binding, key, row))):
                continue
            attached = begun is not None and bool(binding.begins)
            if attached:
                attached = (as_text(value_at(row, binding.begins[0])) or "").casefold() not in layout.begins[1]
            continues = attached or (begun is not None and key is not None and key == begun.key)
            view = as_text(value_at(row, binding.views[0])) if binding.views else None
            if continues and view and not self._is_wanted(view):
                counts["rows in other languages"] += 1
                continue
            if not continues:
                reader.names.clear()
            try:
                item = reader.item(where, row, attached)
            except ValueError as error:
                problems.append(Run(None, Problem(where, key, str(error))))
                continue
            if bound.split is not None:
                item.record.setdefault("split", bound.split)
            if continues and _is_same(layout, begun.item, item):
                counts["rows merged"] += 1
                begun = begun._replace(item=merged(item, begun.item) if view else merged(begun.item, item))
            else:
                yield from ended()
                begun = Run(key, item, layout, _texts(row, binding.parent), _known_as(binding, key, row))
                pictures = []
            if binding.order:
                order = _number(value_at(row, binding.order[0]))
                pictures.append((order, len(pictures), item.record.get("images") or []))
        yield from ended()

    def _is_wanted(self, view: str) -> bool:
        return bool(self.languages) and re.split(r"[_-]", view)[0].casefold() == self.languages[0].casefold()[:2]

    @cached_property
    def _ahead(self) -> tuple[set[str], set[str], dict[str, str]]:
        """Return ids whose rows do not follow one another, names of parents, and child -> parent."""
        scattered: set[str] = set()
        referred: set[str] = set()
        children: dict[str, str] = {}
        seen = array("q")
        for bound in self.bound:
            binding, layout = bound.reader.binding, bound.reader.binding.layout
            last = None
            for key, row in self._named(bound):
                if self._merges(bound) and key is not None and key != last:
                    seen.append(hash(key))
                last = key
                referred.update(_texts(row, binding.parent))
                if binding.children and key is not None:
                    found = re.findall(layout.children[1], as_text(value_at(row, binding.children[0])) or "")
                    children |= dict.fromkeys((name.strip() for name in found), key)
        hashes, counts = np.unique(np.asarray(seen), return_counts=True)
        if len(again := set(hashes[counts > 1].tolist())):
            merging = filter(self._merges, self.bound)
            scattered.update(key for bound in merging for key, _ in self._named(bound) if hash(key) in again)
            scattered.discard(None)
        return scattered, referred | set(children.values()), children

    @staticmethod
    def _merges(bound: Bound) -> bool:
        """Tell whether rows with one id may be one product although others lie between them."""
        layout = bound.reader.binding.layout
        return bool(layout.merged and not bound.reader.binding.begins if layout else bound.table.again)

    def _named(self, bound: Bound) -> Iterator[tuple[str | None, dict]]:
        """Yield ids of rows, and the cells that name other rows; of a table that need not be read ahead, nothing."""
        binding = bound.reader.binding
        if self._merges(bound) or binding.parent or binding.children:
            ids = [name for source in binding.columns["id"] for name in source.columns]
            columns = Header(bound.table.columns).heads([*ids, *binding.parent, *binding.children])
            for _, row in selected_rows(bound.table, columns, self.only):
                if not isinstance(row, Problem):
                    yield bound.reader.identity(row), row

    def _hold(self, scattered: set[str], referred: set[str]) -> tuple[dict[str, Item], dict[str, Item]]:
        """Return the products whose rows are scattered, and what parents are named by -> the parent."""
        held: dict[str, Item] = {}
        parents: dict[str, Item] = {}
        names: dict[str, tuple[str, ...]] = {}
        for run in self._runs(keys=scattered | referred):
            if isinstance(run.item, Problem):
                continue
            if run.key in scattered:
                known = held.get(run.key)
                together = known is not None and _is_same(run.layout, known, run.item)
                if known is None or together:
                    held[run.key] = merged(known, run.item) if together else run.item
                else:
                    scattered.discard(run.key)  # several products of one id, which the catalogue will refuse
                    del held[run.key]
            if hits := [name for name in run.known_as if name in referred]:
                names[run.key] = tuple(hits)
                parents |= dict.fromkeys(hits, run.item)
        for key in scattered & names.keys():
            parents |= dict.fromkeys(names[key], held[key])
        return held, parents

    def fingerprint(self) -> str:
        """Return what changes with the files, the columns and the selection."""
        parts = [self.tables.fingerprint(), repr(sorted(self.columns.items())), repr(sorted(self.only.items()))]
        parts += [repr((self.layout, self.languages))]
        if self._pictures is not None:
            parts.append(files_fingerprint(self.folder))
        return " ".join(parts)


def _picture_keys(places: tuple[str, str], table: Table) -> Iterator[tuple[str, str]]:
    """Yield the keys by which other tables name images, and their paths."""
    key, path = map(Header(table.columns).column, places)
    yield from ((str(row[key]), str(row[path])) for _, row in table.read([key, path]) if isinstance(row, dict))


def _image_bytes(value: object) -> int:
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(len(inner) for inner in value.values() if isinstance(inner, bytes))
    return sum(map(_image_bytes, value)) if isinstance(value, list) else 0


def _texts(row: Mapping[str, object], columns: Sequence[str]) -> tuple[str, ...]:
    values = (value_at(row, name) for name in columns)
    return tuple(text for value in values if not isinstance(value, (list, dict)) and (text := as_text(value)))


def _known_as(binding: Binding, key: str | None, row: Mapping[str, object]) -> tuple[str, ...]:
    """Return what variants may call a row as their parent: its id, and what the layout says."""
    if not binding.parent and not binding.children:
        return ()
    found = [key]
    for written in binding.parent_keys:
        values = {name: as_text(row.get(name)) for name in re.findall(r"{(.+?)}", written)}
        if all(values.values()):
            found.append(re.sub(r"{(.+?)}", lambda match, values=values: values[match[1]], written))
    return tuple(filter(None, found))


def _paths(reader: Reader, sample: Sequence[dict]) -> list[str]:
    """Return the paths of images of some rows, as they are written."""
    found = []
    for row in sample[:SAMPLE_PICTURES]:
        try:
            item = reader.item("", row)
        except ValueError:
            continue
        pictures = item.record.get("images") or ()
        found += [picture["path"] for picture in pictures if "bytes" not in picture and "path" in picture]
    reader.names.clear()
    return found


def _fits(pattern: str, value: object) -> bool:
    return any(re.search(pattern, str(entry or "")) for entry in (value if isinstance(value, list) else [value]))


def _is_same(layout: Layout | None, first: Item, more: Item) -> bool:
    """Tell whether two rows of one id are one product: the layout says so, or their titles do not differ."""
    if layout is not None:
        return layout.merged
    title = more.record.get("title")
    return title is None or title == first.record.get("title")


def _number(value: object) -> float:
    try:
        return float(as_text(value) or "inf")
    except ValueError:
        return float("inf")


def _sorted(run: Run, pictures: list[tuple[float, int, list]]) -> Run:
    """Return a product with its images in the order that its rows give."""
    if len(pictures) > 1 and isinstance(run.item, Item):
        ordered = [picture for _, _, those in sorted(pictures, key=lambda entry: entry[:2]) for picture in those]
        run.item.record["images"] = list({str(picture): picture for picture in ordered}.values())
    return run
