"""Make records of a catalogue of the rows of a table, whose columns are bound, and merge the rows of one product."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path

from mbe2_dataset.catalogue.columns import LANGUAGES, Binding, Source, rank
from mbe2_dataset.catalogue.store import Item
from mbe2_dataset.catalogue.tables import SPLIT_NAMES
from mbe2_dataset.catalogue.values import (
    PICTURE_FILE,
    UNDECIDED,
    Reading,
    as_attributes,
    as_category,
    as_pictures,
    as_price,
    as_text,
    as_words,
    decide,
    measured,
    unpacked,
)

# What people read; of ids and groups not a character is changed.
WORDS = ("title", "description", "brand")
# What a product can do without: an unreadable cell is left empty, and named.
OPTIONAL = {"description", "brand", "category", "attributes", "price"}
# The methods of `Reader` that read a cell; any other is text.
READS = {"images": "_pictures", "attributes": "_attribute", "price": "_price", "category": "_category"}
# What a variant has of its own, and does not take from its parent.
OWN = {"id", "group_id", "parent_id", "split", "noise"}

NAMES_OF_LANGUAGE = ("language_tag", "@language", "language", "lang", "locale")
NAMES_OF_TEXT = ("value", "@value", "text", "name", "label", "title")
CODE = re.compile(rf"(?:{LANGUAGES})(?:[_-]\w{{2,4}})?", re.IGNORECASE)


def value_at(row: Mapping[str, object], path: str) -> object:
    """Return the cell of a column, or what a path like 'offers.price' leads to in its JSON."""
    if path in row or "." not in path:
        return row.get(path)
    head, *keys = path.split(".")
    value = unpacked(row.get(head))
    for key in keys:
        value = _into(value, key.split("|"))
    return value


def _into(value: object, keys: Sequence[str]) -> object:
    if isinstance(value, (list, tuple)):
        found = (_into(entry, keys) for entry in value)
        flat = [inner for entry in found for inner in (entry if isinstance(entry, list) else [entry])]
        return [inner for inner in flat if inner is not None]
    if not isinstance(value, dict):
        return value  # a brand is often a word where it may be an object
    found = [value[key] for key in keys if value.get(key) not in (None, "", [])]
    if found and all(isinstance(entry, (list, tuple)) for entry in found):
        # the columns of a list of structures, as Parquet and `datasets` write them
        return [next((entry for entry in entries if entry), None) for entries in zip_longest(*found)]
    return found[0] if found else None


def by_language(value: dict) -> bool:
    """Tell whether the keys of a structure are languages."""
    return bool(value) and all(CODE.fullmatch(str(key)) for key in value)


def spoken(value: object, languages: Sequence[str]) -> object:
    """Return what a structure of JSON says in the first of the languages that it has, else in its own first one.

    Structures are {"language": ..., "value": ...}, lists of these, {"en": ..., "de": ...} and {"name": ...}. Any other
    value is returned as it is.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = unpacked(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(entry, dict) for entry in value):
        tags = [next((str(entry[name]) for name in NAMES_OF_LANGUAGE if entry.get(name)), "") for entry in value]
        best = min(tags, key=lambda tag: rank(tag, languages))  # the first of the best
        said = [spoken(entry, languages) for entry, tag in zip(value, tags, strict=True) if tag == best]
        return said[0] if len(said) == 1 else said
    if isinstance(value, dict) and value:
        if by_language(value):
            return value[min(value, key=lambda key: (not value[key], rank(key, languages)))]
        return next((value[name] for name in NAMES_OF_TEXT if isinstance(value.get(name), (str, int, float))), value)
    return value


def is_empty(value: object) -> bool:
    """Tell whether a cell holds nothing, not even an empty structure."""
    return (
        value is None
        or (isinstance(value, (str, list, dict, tuple)) and not value)
        or (isinstance(value, str) and value.isspace())
    )


@dataclass(slots=True)
class Reader:
    """Makes records of the rows of one table.

    `readings` say how cells of columns are read; `languages` are the wanted ones; `keys` lead to paths of a second
    table; `names` are the last cells of columns that name attributes, which later rows of a product leave out.
    """

    binding: Binding
    readings: dict[str, Reading]
    languages: Sequence[str] = ()
    files: "PictureFiles | None" = None
    keys: Mapping[str, str] = field(default_factory=dict)
    names: dict[str, object] = field(default_factory=dict)

    def item(self, where: str, row: Mapping[str, object], continues: bool = False) -> Item:
        """Return a row in the columns of a catalogue, with what was changed and what cannot be read.

        Raises:
            ValueError: a cell that a product needs has no clear meaning; the message names the column.
        """
        changes: Counter[str] = Counter()
        faults: list[tuple[str, str]] = []
        columns = self.binding.continued if continues else self.binding.columns
        record = {ours: self._read(ours, row, sources, changes, faults) for ours, sources in columns.items()}
        if columns.get("images") is None and self.files is not None and record.get("id") and not continues:
            record["images"] = [{"path": path} for path in self.files.named(record["id"])]
        if "split" in record:
            record["split"] = SPLIT_NAMES.get((record["split"] or "").lower(), record["split"])
        return Item(where, record, changes, tuple(faults))

    def identity(self, row: Mapping[str, object]) -> str | None:
        """Return the id of a row; None if it has none, or one that cannot be read, which its record will say."""
        try:
            return self._read("id", row, self.binding.columns["id"], Counter(), [])
        except ValueError:
            return None

    def _read(
        self, ours: str, row: Mapping[str, object], sources: Sequence[Source], changes: Counter, faults: list
    ) -> object:
        levels = ours == "category" and len(sources) > 1
        read = getattr(self, "_text" if levels else READS.get(ours, "_text"))
        found = []
        for source in sources:
            name, value = self._cell(row, source)
            if ours in ("noise", "translations"):
                return value or []
            try:
                found.append(read(source, name, value, ours=ours, row=row, changes=changes))
            except ValueError as error:
                if ours not in OPTIONAL:
                    raise ValueError(f"column {name!r}: {error}") from error
                faults.append((name, str(error)))
        if ours == "images":
            unique: dict[object, dict] = {}
            for number, picture in enumerate(chain.from_iterable(found)):
                is_here = picture.get("bytes") is not None
                unique.setdefault(number if is_here else picture.get("path") or picture.get("url"), picture)
            return list(unique.values())
        if ours == "attributes":
            return list({(pair["name"], pair["value"]): pair for pair in chain.from_iterable(found)}.values())
        if ours == "price":
            return next((price for price in found if price is not None), None)
        if ours == "category" and not levels:
            return found[0] if found else []
        texts = list(filter(None, found))
        return texts if ours == "category" else " ".join(texts) or None

    @staticmethod
    def _cell(row: Mapping[str, object], source: Source) -> tuple[str, object]:
        """Return the first column of a source that has a value, and the value."""
        for name in source.columns:
            value = name if source.kind == "files" else value_at(row, name)
            if not is_empty(value):
                return name, value
        return source.columns[0], None

    def _text(self, source: Source, name: str, value: object, ours: str, changes: Counter, **_) -> str | None:
        value = spoken(value, self.languages)
        if isinstance(value, (list, tuple)):
            told = [as_text(spoken(entry, self.languages)) for entry in value]
            value = " ".join(dict.fromkeys(filter(None, told)))
        if ours == "description" and self.binding.layout and isinstance(value, str):
            for debris, instead in self.binding.layout.debris:
                value = re.sub(debris, instead, value)
        if ours in WORDS or ours == "category":
            return as_words(value, changes, ours, ours != "description")
        return as_text(value)

    def _category(self, source: Source, name: str, value: object, changes: Counter, **_) -> list[str]:
        value = as_paths(spoken(value, self.languages), name)
        if source.split is not None and isinstance(value, str):
            value = [[piece] for piece in value.split(source.split)]
        path = as_category(value, self.readings.get(name, UNDECIDED), changes)
        if self.binding.layout and path and all(map(str.isdecimal, path)) and not name.endswith("id"):
            changes["category: a number without a name left out"] += 1
            return []
        return path

    def _attribute(
        self, source: Source, name: str, value: object, row: Mapping[str, object], changes: Counter, **_
    ) -> list[dict]:
        label = source.label
        if source.names:
            label = as_words(value_at(row, source.names[0])) or self.names.get(source.names[0])
            self.names[source.names[0]] = label
            if label is None:
                return []
        if source.kind == "pairs":
            value = unpacked(value)
            if isinstance(value, dict) and len(value) == 1 and isinstance(inner := next(iter(value.values())), list):
                value = inner if all(isinstance(entry, dict) for entry in inner) else value
            elif isinstance(value, dict) and {"name", "value"} <= set(value):
                value = [value]
        if source.kind == "named":
            value = spoken(measured(value), self.languages)
        elif isinstance(value, (dict, list, tuple)):
            value = self._in_language(value)
        if source.pattern is not None:
            value = re.findall(source.pattern, str(value or ""))
        if source.split is not None and isinstance(value, str):
            value = [piece.replace("\\", "") for piece in re.split(rf"(?<!\\){source.split}", value)]
        found = as_attributes(value, label, self.readings.get(name, UNDECIDED), changes)
        nothing = self.binding.layout.nothing if self.binding.layout else ()
        return [pair for pair in found if pair["value"] not in nothing]

    def _in_language(self, value: object) -> object:
        """Return attributes with what {"en": ..., "de": ...} says in the wanted language instead of it."""
        if isinstance(value, (list, tuple)):
            return [self._in_language(entry) if isinstance(entry, dict) else entry for entry in value]
        return {
            label: spoken(inner, self.languages) if isinstance(inner, dict) and by_language(inner) else inner
            for label, inner in value.items()
        }

    def _price(self, source: Source, name: str, value: object, changes: Counter, **_) -> float | None:
        prices = value if isinstance(value, (list, tuple)) else [value]
        read = (as_price(entry, self.readings.get(name, UNDECIDED), changes) for entry in prices)
        return next((price for price in read if price is not None), None)

    def _pictures(self, source: Source, name: str, value: object, row: Mapping[str, object], **_) -> list[dict]:
        if source.kind == "files":
            fields = {**row, "id": self.identity(row)}
            is_whole = not any(is_empty(fields[field]) for field in re.findall(r"{([^}:]+)", name))
            found = [{"path": name.format_map(fields)}] if is_whole else []
        else:
            found = as_pictures(value)
        for place, picture in enumerate(found):
            if picture.get("bytes") is None and "path" in picture:
                path = self.keys.get(picture["path"], picture["path"])
                found[place] = {"path": self.files.find(path) if self.files else path}
        return found


def as_paths(value: object, name: str) -> object:
    """Return the paths of a list that a path into JSON led to as lines; another list is the levels of one path."""
    if "." in name and isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value):
        return "\n".join(value)
    return value


def readings(binding: Binding, sample: Sequence[Mapping[str, object]], languages: Sequence[str]) -> dict[str, Reading]:
    """Return how columns are read, decided from a sample of their cells."""
    found = {}
    for kind in ("category", "attributes", "price"):
        sources = [source for mapping in (binding.columns, binding.continued) for source in mapping.get(kind, ())]
        if kind == "category" and len(sources) > 1:
            continue
        for source in sources:
            for name in source.columns if source.kind in ("value", "pairs") else ():
                cells = [value for row in sample if not is_empty(value := value_at(row, name))]
                if kind == "category":
                    cells = [as_paths(spoken(cell, languages), name) for cell in cells]
                found[name] = decide(kind, cells)
    return found


def merged(first: Item, more: Item) -> Item:
    """Return a product with what a later row has besides: what it lacks, further images and attributes."""
    record = {**more.record, **{name: value for name, value in first.record.items() if not is_empty(value)}}
    pictures = [*(first.record.get("images") or ()), *(more.record.get("images") or ())]
    if pictures:
        record["images"] = list({_place(picture): picture for picture in reversed(pictures)}.values())[::-1]
    pairs = [*(first.record.get("attributes") or ()), *(more.record.get("attributes") or ())]
    if pairs:
        record["attributes"] = list({(pair["name"], pair["value"]): pair for pair in pairs}.values())
    return Item(first.where, record, first.changes + more.changes, (*first.faults, *more.faults))


def _place(picture: Mapping[str, object]) -> object:
    return picture.get("bytes") or picture.get("path") or picture.get("url")


def inherited(variant: Item, parent: Item) -> Item:
    """Return a variant with what it lacks from its parent, whose group it is in."""
    given = {name: value for name, value in parent.record.items() if name not in OWN and not is_empty(value)}
    record = {**variant.record, **{name: value for name, value in given.items() if is_empty(variant.record.get(name))}}
    own = {pair["name"].casefold() for pair in variant.record.get("attributes") or ()}
    more = [pair for pair in given.get("attributes", ()) if pair["name"].casefold() not in own]
    if own and more:
        record["attributes"] = [*variant.record["attributes"], *more]
    return Item(variant.where, record, variant.changes, variant.faults)


class PictureFiles:
    """The files of images in a folder, found by what tables say of them.

    A folder is gone through once, when a path does not lead to a file or no column holds images. The names of its
    files are then held in memory. Paths begin in the folder or in one of `folders`; `by_id` is an example of an image
    that is named by an id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = f"{folder.absolute()}{os.sep}"
        self.folders: list[str] = []
        self.by_id: str | None = None

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for place, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if PICTURE_FILE.search(name):
                    path = os.path.relpath(os.path.join(place, name), self.folder).replace(os.sep, "/")
                    found.setdefault(name.rpartition(".")[0], []).append(path)
        return found

    @cached_property
    def _numbered(self) -> dict[str, list[str]]:
        """Return stem without its number -> paths: `7_1.jpg` and `7_2.jpg` are images of 7."""
        found: dict[str, list[tuple[int, str]]] = {}
        for stem, paths in self._by_stem.items():
            if match := re.fullmatch(r"(.+)[_-](\d{1,3})", stem):
                found.setdefault(match[1], []).extend((int(match[2]), path) for path in paths)
        return {stem: [path for _, path in sorted(those)] for stem, those in found.items()}

    def named(self, identity: str) -> list[str]:
        """Return the images that are named by an id, alone or with a number after it."""
        if self.by_id is None:
            return []
        return [*self._by_stem.get(identity, ())[:1], *self._numbered.get(identity, ())]

    def learn_ids(self, ids: Sequence[str]) -> bool:
        """Look whether images are named by ids, as at least half of the given ones tell."""
        self.by_id = ""
        found = [paths[0] for identity in ids if (paths := self.named(identity))]
        self.by_id = found[0] if 2 * len(found) >= len(ids) > 0 else None
        return self.by_id is not None

    def learn_folders(self, paths: Iterable[str]) -> None:
        """Look in which folders the files of some paths lie; nothing is looked for where all are there."""
        for path in dict.fromkeys(map(self._relative, paths)):
            if os.path.exists(self.folder / path) or any(
                os.path.exists(self.folder / place / path) for place in self.folders
            ):
                continue
            stem = path.rpartition("/")[2]
            stem = stem.rpartition(".")[0] if PICTURE_FILE.search(stem) else stem
            for found in self._by_stem.get(stem, ()):
                if found.endswith(f"/{path}") or (
                    found.rpartition(".")[0].endswith(path) and not PICTURE_FILE.search(path)
                ):
                    place = found[: found.rindex(path)].rstrip("/")
                    self.folders += [place] if place not in self.folders else []
                    break

    def _relative(self, path: str) -> str:
        if "\\" in path and not os.path.exists(f"{self._root}{path}"):
            path = path.replace("\\", "/")
        if path.startswith("/") and not path.startswith(self._root):
            return path.lstrip("/")  # shops write paths below the folder of their media like this
        return path

    def find(self, path: str) -> str:
        """Return where a file lies below the folder; the path itself if no file is known."""
        path = self._relative(path)
        if not self.folders:
            return path
        for place in ("", *self.folders):
            at = f"{place}/{path}" if place else path
            if os.path.isfile(f"{self._root}{at}"):
                return at
        if not PICTURE_FILE.search(path):
            stem = path.rpartition("/")[2]
            return next(
                (found for found in self._by_stem.get(stem, ()) if found.rpartition(".")[0].endswith(path)), path
            )
        return path
