"""Find which column of other people's tables holds what: by a known layout, by its name, or by its cells."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mbe2_dataset.catalogue.values import NAMES, PICTURE_FILE, TAG, read_yaml
from mbe2_dataset.errors import CatalogueError

# Our name -> the columns it is read from; none: it is not read at all.
Columns = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value of a product is read from: the first of `columns` that has a value.

    A "named" value is an attribute whose name is in the columns `names`, or is `label`; "pairs" are names and values in
    one cell; "files" are paths such as `images/{id}.jpg`, which are no columns. `pattern` finds pairs that are written
    in an unusual way, and `split` separates several values.
    """

    columns: tuple[str, ...]
    kind: Literal["value", "pairs", "named", "files"] = "value"
    names: tuple[str, ...] = ()
    label: str | None = None
    pattern: str | None = None
    split: str | None = None


# A column, or several of which the first that has a value counts; or attributes.
Part = tuple[str, ...] | Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a known kind of table is laid out: an entry of `layouts.yaml`, which says what the fields mean."""

    name: str = ""
    about: str = ""
    proof: tuple[Part, ...] = ()
    columns: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    merged: bool = False
    begins: tuple[str, tuple[str, ...]] | None = None
    continued: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    parent: tuple[str, ...] = ()
    parent_keys: tuple[str, ...] = ()
    children: tuple[str, str] | None = None
    views: tuple[str, ...] = ()
    products: tuple[str, str] | None = None
    nothing: tuple[str, ...] = ()
    debris: tuple[tuple[str, str], ...] = ()
    pictures: tuple[str, str] | None = None
    log: Mapping | None = None


def _part(told: str | list | dict) -> Part:
    """Return what YAML holds as a part of a layout."""
    if not isinstance(told, dict):
        return (told,) if isinstance(told, str) else tuple(told)
    fields = {name: told[name] for name in ("pattern", "split") if name in told}
    names = _part(told["names"]) if "names" in told else ()
    kind = "pairs" if "pairs" in told else "named" if names else "value"
    return Source(_part(told.get("pairs") or told["values"]), kind, names, **fields)


def _layout(name: str, told: dict) -> Layout:
    fields: dict = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    for mapping in told.keys() & {"columns", "continued"}:
        fields[mapping] = {ours: tuple(map(_part, those)) for ours, those in told[mapping].items()}
    return Layout(**fields | {"name": name, "proof": tuple(map(_part, told["proof"]))})


LAYOUTS = {name: _layout(name, told) for name, told in read_yaml("layouts.yaml").items()}

# Usual names, the likeliest first, as `folded` writes them.
CATALOGUE_NAMES = {ours: tuple(names.split()) for ours, names in NAMES["catalogue"].items()}
LOG_NAMES = {ours: tuple(names.split()) for ours, names in NAMES["log"].items()}
PARENT_NAMES = tuple(NAMES["parent"].split())
ATTRIBUTE_NAMES = set(NAMES["attributes"].split())
QUALIFIERS = {ours: words.split() for ours, words in NAMES["qualified"].items()}
OPTION = re.compile(rf"(?:{'|'.join(NAMES['options'].split())})\s*[:：]\s*(?P<name>\S.*)", re.IGNORECASE)
NAMED_LEVELS = {name: level for level, names in NAMES["levels"].items() for name in names.split()}
FURTHER, CATEGORY_LEVELS, NAMES_OF_PAIRS, NAMES_BEFORE_NUMBERS = (
    re.compile("|".join(those)) for those in NAMES["patterns"].values()
)
ENDS_OF_PAIRS = ("value", "values", "wert", "werte", "option", "options")
LANGUAGES = "en|de|fr|es|it|nl|pl|pt|ru|zh|ja|ko|sv|da|cs|tr|ar|fi|hu|ro|uk|el"
LANGUAGE = re.compile(rf"(?P<name>.+?)[\s_.\-(\[<:]+(?P<code>(?:{LANGUAGES})(?:[_-][a-z]{{2}})?)[)\]>]?", re.IGNORECASE)


def folded(name: str) -> str:
    """Return a column's name without what programs write differently: case, accents, blanks, dots and hyphens."""
    name = unicodedata.normalize("NFKD", name.strip().casefold()).replace("’", "'")
    name = "".join(letter for letter in name if not unicodedata.combining(letter) or letter > "\u3000")
    name = unicodedata.normalize("NFC", name).removeprefix("g:")
    return re.sub(r"[\s.\-_/]+", "_", name).strip("_*#: ")


def _bare(name: str) -> str:
    """Return the folded name without words in brackets at its end: 'Image URLs (x,y,z)' is 'image_urls'."""
    return folded(re.sub(r"\s*[(\[][^()\[\]]*[)\]]\s*$", "", name)) or folded(name)


def _in_words(name: str) -> str:
    """Return the folded name with its words apart: 'productType' is 'product_type'."""
    return folded(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name))


def parse_columns(pairs: Iterable[str]) -> Columns:
    """Return what each of our columns is read from, of pairs like `["id=sku", "images=front,back", "price="]`.

    Raises:
        CatalogueError: a pair is not of the form ours=theirs.
    """
    columns: Columns = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours.strip():
            raise CatalogueError(f"{pair!r} is not of the form ours=theirs, like title=product_name.")
        columns[ours.strip()] = tuple(name.strip() for name in theirs.split(",") if name.strip())
    return columns


def find_columns(
    found: Sequence[str],
    given: Mapping[str, tuple[str, ...]],
    names: Mapping[str, Sequence[str]],
    needed: Iterable[str],
    table: str,
    languages: Sequence[str] = (),
) -> Columns:
    """Map our columns to those of `found` that they are read from: as `given`, else the first that has a usual name.

    `names` are the usual ones of each of ours. Of columns like `name_de` and `name_en` the one in the first of
    `languages` is taken.

    Raises:
        CatalogueError: a needed column was not found, or `given` names one that is not there.
    """
    for ours, theirs in given.items():
        if ours not in names:
            raise CatalogueError(f"A mapping has no column {ours!r}; it may have: {', '.join(names)}.")
        for name in theirs:
            named = [field for field in re.findall(r"{([^}:]*)", name) if field != "id"]
            if (named or "{" not in name) and not all(_is_in(field, found) for field in named or [name]):
                raise CatalogueError(
                    f"{table} has no column {name!r}, from which {ours!r} is to be read; it has: {_listed(found)}."
                )
            if ours == "images" and "{" in name:
                try:
                    name.format_map(dict.fromkeys([*named, "id"], ""))
                except (ValueError, LookupError, AttributeError) as error:
                    raise CatalogueError(f"{name!r} is no pattern ({error}); one is like images/{{id}}.jpg.") from error
    columns = {ours: tuple(theirs) for ours, theirs in given.items()}
    taken = {name for theirs in columns.values() for name in theirs}
    by_usual_name = _by_usual_name([name for name in found if name not in taken], languages)
    for ours, usual in names.items():
        if ours not in columns:
            ends = ("", *(f"_{word}" for word in QUALIFIERS.get(ours, ())))
            theirs = next(
                (by_usual_name[name + end] for end in ends for name in usual if name + end in by_usual_name), None
            )
            if theirs is not None:
                columns[ours] = (theirs,)
            if ours == "category" and (levels := _category_levels(by_usual_name)):
                if theirs is None or 0 in levels or 1 in levels:
                    levels = levels if theirs is None or len(levels) > 1 else {0: theirs}
                else:  # 'category' above 'sub_category'
                    levels = {0: theirs, **levels}
                columns[ours] = tuple(levels[level] for level in sorted(levels))
    missing = [ours for ours in needed if not columns.get(ours)]
    if missing:
        raise CatalogueError(lacks(table, missing, found))
    return {ours: theirs for ours, theirs in columns.items() if theirs}


def lacks(table: str, missing: Sequence[str], found: Sequence[str]) -> str:
    """Return the message for columns that were not found."""
    example = " ".join(f"{ours}=COLUMN" for ours in missing)
    return (
        f"{table} has no column that is known to hold {' or '.join(missing)}; it has: {_listed(found)}. Say which "
        f"column does, with --columns {example}."
    )


def _listed(found: Sequence[str]) -> str:
    return ", ".join(map(repr, found)) or "none"


def _is_in(name: str, found: Sequence[str]) -> bool:
    return name in found or ("." in name and name.split(".", 1)[0] in found)


def _by_usual_name(found: Sequence[str], languages: Sequence[str]) -> dict[str, str]:
    """Return folded name -> column; the whole name counts before one without brackets or language."""
    known: dict[str, str] = {}
    for name in found:
        known.setdefault(folded(name), name)
    spoken: dict[str, list[tuple[int, int, str]]] = {}
    for place, name in enumerate(found):
        if match := LANGUAGE.fullmatch(name.strip()):
            spoken.setdefault(folded(match["name"]), []).append((rank(match["code"], languages), place, name))
    known = {usual: min(those)[2] for usual, those in spoken.items()} | known
    for form in (_bare, _in_words):
        for name in found:
            known.setdefault(form(name), name)
    return known


def rank(code: str, languages: Sequence[str]) -> int:
    """Return the place of a language among the wanted ones; 'en' also wants 'en_US'."""
    code = code.casefold().replace("-", "_")
    wanted = [language.casefold().replace("-", "_") for language in languages]
    fits = (place for place, language in enumerate(wanted) if code == language or code.split("_")[0] == language)
    return next(fits, len(wanted))


def _category_levels(by_usual_name: Mapping[str, str]) -> dict[int, str]:
    """Return level -> column of those that are called levels."""
    levels = {}
    for usual, name in by_usual_name.items():
        match = CATEGORY_LEVELS.fullmatch(usual)
        level = int(match.group(1) or match.group(2)) if match else NAMED_LEVELS.get(usual)
        if level is not None:
            levels.setdefault(level, name)
    return levels


# What the columns of a table are


class NoProductsError(CatalogueError):
    """A table that has neither titles nor images."""


class NoIdError(CatalogueError):
    """A table that has all that products need but ids; and what was guessed of it."""

    def __init__(self, message: str, guesses: Sequence[str]) -> None:
        super().__init__(message)
        self.guesses = guesses


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding(Layout):
    """What the columns of one table are: a layout in the table's own names, and the known one that it follows, if any.

    `wanted` are the columns that are read, `left` the others, and `guesses` say what was taken for what by its cells.
    """

    wanted: Sequence[str] = ()
    layout: Layout | None = None
    guesses: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class Header:
    """The names of a table's columns, which are found however they are written."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._folded = {folded(name): name for name in reversed(self.names)}

    def column(self, name: str) -> str | None:
        """Return the table's own name of a column, or the path into its JSON; None if it has no such column."""
        if name in self.names or name.startswith("__"):
            return name if name in self.names else None  # __parentId is not parentId
        found = self._folded.get(folded(name))
        if found is None and "." in name:
            head, _, rest = name.partition(".")
            found = self._folded.get(folded(head))
            return f"{found}.{rest}" if found else None
        return found

    def numbered(self, pattern: str) -> dict[int, str]:
        """Return number -> column of those that fit a pattern with `{n}` or `*`."""
        written = _pattern(pattern)
        found = {}
        for place, name in enumerate(self.names):
            if match := written.fullmatch(folded(name)):
                found.setdefault(int(match[1]) if written.groups else place, name)
        return dict(sorted(found.items()))

    def sources(self, part: Part) -> list[Source]:
        """Return what a part of a layout is in this table; nothing if the table has no such column."""
        if isinstance(part, Source) and part.names:
            names, values = ({n: name for each in reversed(those) for n, name in self.numbered(each).items()}
                             for those in (part.names, part.columns))  # fmt: skip
            return [replace(part, columns=(values[n],), names=(names[n],)) for n in sorted(values) if n in names]
        if isinstance(part, Source):
            column = self.column(part.columns[0])
            return [replace(part, columns=(column,))] if column else []
        if any("{n}" in name or "*" in name for name in part):
            found = next((those for name in part if (those := self.numbered(name))), {})
            return [Source((name,)) for name in found.values()]
        columns = tuple(dict.fromkeys(column for name in part if (column := self.column(name))))
        return [Source(columns)] if columns else []

    def heads(self, names: Iterable[str]) -> list[str]:
        """Return the columns of names that may be paths, each once, in the order of the table."""
        wanted = {name if name in self.names else name.split(".", 1)[0] for name in names}
        return [name for name in self.names if name in wanted]


def _pattern(pattern: str) -> re.Pattern:
    written = re.escape(folded(pattern.replace("{n}", "§n§").replace("*", "§§")))
    return re.compile(written.replace("§n§", r"(\d+)").replace("§§", ".*"))


def recognise(names: Sequence[str]) -> Layout | None:
    """Return the layout that a table's columns prove, the one with the most proof; None if there is none."""
    header = Header(names)
    proven = [layout for layout in LAYOUTS.values() if all(map(header.sources, layout.proof))]
    return max(proven, key=lambda layout: len(layout.proof), default=None)


def bind(
    names: Sequence[str],
    sample: Sequence[Mapping[str, object]],
    given: Mapping[str, tuple[str, ...]],
    layout: Layout | None,
    table: str,
    languages: Sequence[str] = (),
) -> Binding:
    """Decide what the columns of a table are: as `given`, as the layout has them, by their names, or by their cells.

    Raises:
        CatalogueError: a given column is not there, it has no id or title, or several columns may be one.
    """
    header = Header(names)
    own = find_columns(names, given, {**CATALOGUE_NAMES, "parent": PARENT_NAMES}, (), table, languages)
    guesses: list[str] = []
    continued: dict[str, tuple[Source, ...]] = {}
    if layout is not None:
        own = {
            ours: theirs for ours, theirs in own.items() if ours in given or ours in ("split", "noise", "translations")
        }
        columns, continued = _of_layout(header, layout.columns), _of_layout(header, layout.continued)
    else:
        if "attributes" not in given:
            usual, known = own.get("attributes", ()), set(CATALOGUE_NAMES["attributes"])
            taken = {name for theirs in own.values() for name in theirs}
            forms = {name: {folded(name), _bare(name), _in_words(name)} for name in names if name not in taken}
            own["attributes"] = tuple(
                name
                for name in (*usual, *(name for name in forms if forms[name] & known))
                if folded(name) in ("attributes", "attribute") or _holds_pairs(row.get(name) for row in sample)
            )
            if not own["attributes"]:
                del own["attributes"]
        _leave_sparse_id(own, sample, given, guesses)
        own = _by_cells(own, names, sample, given, guesses, table)
        _leave_numbers(own, sample, given, guesses)
        columns = {}
    parent = own.pop("parent", ())
    for ours, theirs in own.items():
        is_pairs = ours == "attributes" and ours not in given
        columns[ours] = tuple(
            (Source((name,), "pairs") for name in theirs) if is_pairs else sources_of(ours, theirs, sample)
        )
    columns = {ours: sources for ours, sources in columns.items() if ours not in given or given[ours]}
    if layout is None and "attributes" not in given:
        used = {name for sources in columns.values() for source in sources for name in source.columns}
        columns["attributes"] = (*columns.get("attributes", ()), *_attribute_columns(header, used))
        if not columns["attributes"]:
            del columns["attributes"]
    missing = [ours for ours in ("id", "title", "images") if not columns.get(ours)]
    if {"title", "images"} <= set(missing) and "images" not in given:
        raise NoProductsError(lacks(table, missing, names))
    if missing == ["id"] and layout is None and "id" not in given and len(sample) >= LEAST_ROWS:
        raise NoIdError(lacks(table, missing, names), guesses)
    if set(missing) - {"images"}:  # files may be named by ids, but there are none
        raise CatalogueError(lacks(table, missing, names))

    record = layout or Layout()
    special = {
        name: tuple(dict.fromkeys(column for part in parts if (column := header.column(part))))
        for name in ("parent", "order", "views", "begins", "children", "products")
        for told in [getattr(record, name) or ()]
        for parts in [told[:1] if name in ("begins", "children", "products") else told]
    }
    special["parent"] = parent or special["parent"]
    if layout is None and "group_id" in columns:
        special["parent"] = ()  # it says itself which rows belong together
    keys = tuple(key for written in record.parent_keys if (key := _known_key(header, written)))
    of_keys = re.findall(r"{(.+?)}", " ".join(keys))
    sources = [source for mapping in (columns, continued) for those in mapping.values() for source in those]
    patterns = [name for source in sources if source.kind == "files" for path in source.columns
                for name in re.findall(r"{([^}:]+)", path) if name in names]  # fmt: skip
    read = [name for source in sources if source.kind != "files" for name in (*source.columns, *source.names)]
    special_names = [name for those in special.values() for name in those]
    wanted = header.heads([*read, *special_names, *patterns, *(of_keys if special["parent"] else ())])
    left = tuple(name for name in names if name not in header.heads([*read, *special_names, *patterns]))
    bound = {"columns": columns, "continued": continued, "parent_keys": keys, **special}
    return Binding(**bound, wanted=wanted, layout=layout, guesses=tuple(guesses), left=left)


def _known_key(header: Header, written: str) -> str | None:
    """Return what names a parent, with the table's own columns; None if the table lacks one."""
    names = {name: header.column(name) for name in re.findall(r"{(.+?)}", written)}
    return re.sub(r"{(.+?)}", lambda match: f"{{{names[match[1]]}}}", written) if all(names.values()) else None


def _of_layout(header: Header, columns: Mapping[str, tuple[Part, ...]]) -> dict[str, tuple[Source, ...]]:
    bound = {}
    for ours, of_layout in columns.items():
        sources = [source for part in of_layout for source in header.sources(part)]
        if ours == "attributes":
            sources = [_labelled(source) if source.kind == "value" else source for source in sources]
        if sources:
            bound[ours] = tuple(sources)
    return bound


def _labelled(source: Source) -> Source:
    """Return an attribute with the name of its column, which is 'Gender' of 'Google Shopping / Gender'."""
    label = re.sub(r"\s*\(.*\)$|\.name$", "", source.columns[0].rpartition(" / ")[2]).strip()
    return replace(source, kind="named", label=label)


def sources_of(ours: str, theirs: tuple[str, ...], sample: Sequence[Mapping[str, object]]) -> Iterator[Source]:
    """Yield the parts of one of our columns, each a column of theirs; some rows tell attributes from values of one."""
    for name in theirs:
        if ours == "images" and "{" in name:
            yield Source((name,), "files")
        elif ours != "attributes":
            yield Source((name,))
        elif len(theirs) > 1 or not _holds_pairs(row.get(name) for row in sample):
            yield Source((name,), "named", label=name)
        else:
            yield Source((name,), "pairs")


def _holds_pairs(cells: Iterable[object]) -> bool:
    """Tell whether attributes of several names are in a column: one cell is a structure, or has 'name: value'."""
    known = [cell for cell in cells if cell not in (None, "", [])]
    listed = [entry for cell in known for entry in (cell if isinstance(cell, list) else [cell])]
    return not known or any(
        not isinstance(cell, str) or cell.lstrip()[:1] in ("{", "[") or re.search(r".[:：=]", cell) for cell in listed
    )


def _attribute_columns(header: Header, used: set[str]) -> Iterator[Source]:
    """Yield attributes by the names of their columns, and those named by cells: VARIATION 1 NAME and VALUES."""
    free = [name for name in header.names if name not in used]
    by_name = {folded(name): name for name in free}
    for name in free:
        if match := NAMES_OF_PAIRS.fullmatch(folded(name)):
            start = f"{match['before']}{match['n']}{match['after']}"
            ends = (f"{start}{joint}{end}" for end in ENDS_OF_PAIRS for joint in ("_", ""))
            values = next((by_name[key] for key in (*ends, start) if key in by_name), None)
        elif match := NAMES_BEFORE_NUMBERS.fullmatch(folded(name)):  # 'Option Name 1' beside 'Option Value 1'
            ends = (f"{match['before']}_{end}_{match['n']}" for end in ENDS_OF_PAIRS)
            values = next((by_name[key] for key in ends if key in by_name), None)
        if match:
            if values:
                several = "," if re.search(r"(?:values|werte|options)$", folded(values)) else None
                yield Source((values,), "named", (name,), split=several)
                used |= {values, name}
        elif match := OPTION.fullmatch(name):
            yield Source((name,), "named", label=match["name"])
        elif ATTRIBUTE_NAMES & {folded(name), _bare(name)}:
            yield Source((name,), "named", label=name)


# What cells say

URL = re.compile(r"(?:https?:)?//\S+", re.IGNORECASE)
PICTURE_ADDRESS = re.compile(r"//.*(?:\.(?:jpe?g|png|webp|gif|avif)\b|/ima?ge?s?/|/photo|image|format=)", re.IGNORECASE)
AMOUNTS = re.compile(r"[€$£¥]?\s?\d[\d.,' ]*[.,]\d\d\s?(?:€|\$|£|zł|kr|[A-Z]{3})?|[€$£¥]\s?\d+|\d+\s?(?:€|EUR|USD)")
PATH = re.compile(r"\S\s*[>»›]\s*\S|\S / \S")
NAMES_OF_IDS = re.compile(
    r"(?:^|_)(?:id|nr|no|num|code|key|sku|ref|artnr|art|item)(?:_|$)|nummer|number", re.IGNORECASE
)
LONGEST_TITLE = 150
# Fewer rows do not tell an id or a title by their cells.
LEAST_ROWS = 5


def looks_like_pictures(cells: Iterable[object]) -> bool:
    """Tell whether most cells that hold something hold images: bytes, names of files, or addresses of such."""
    known = [cell for cell in cells if cell not in (None, "", [], ())]
    return bool(known) and sum(map(_is_picture, known)) >= 0.8 * len(known)


def _is_picture(cell: object) -> bool:
    if isinstance(cell, bytes):
        return True
    if isinstance(cell, dict):
        return cell.get("bytes") is not None or any(map(_is_picture, filter(None, cell.values())))
    if isinstance(cell, (list, tuple)):
        return any(map(_is_picture, cell))
    pieces = [piece.strip(" \"'[]") for piece in re.split(r"[|;,\n]", str(cell)) if piece.strip()]
    return any(PICTURE_FILE.search(piece) or PICTURE_ADDRESS.search(piece) for piece in pieces)


def _by_cells(
    own: Columns,
    names: Sequence[str],
    sample: Sequence[Mapping[str, object]],
    given: Mapping[str, tuple[str, ...]],
    guesses: list[str],
    table: str,
) -> Columns:
    """Add to the columns that were found by their names those that can be told by their cells."""
    own = dict(own)
    cells = {name: [row.get(name) for row in sample if row.get(name) not in (None, "", [])] for name in names}
    taken = {name for theirs in own.values() for name in theirs}

    def guess(ours: str, theirs: tuple[str, ...], why: str) -> None:
        own[ours] = theirs
        taken.update(theirs)
        guesses.append(f"{ours} from {', '.join(map(repr, theirs))}: {why}")

    if "images" not in given:
        pictures = [name for name in names if looks_like_pictures(cells[name])]
        main = own.get("images", ())
        if main and cells[main[0]] and not looks_like_pictures(cells[main[0]]) and pictures:
            main = ()
            own.pop("images")
        if not main and (free := tuple(name for name in pictures if name not in taken)):
            guess("images", _as_numbered(free), "cells are names of image files or addresses of images")
        if main := own.get("images", ()):
            own["images"] = (*main, *_further_images(main[0], names, cells, taken))
            taken.update(own["images"])
    plain = [name for name in names if name not in taken and cells[name]]
    plain = [name for name in plain if all(isinstance(cell, (str, int, float)) for cell in cells[name])]
    texts = {name: list(map(str, cells[name])) for name in plain}
    texts = {name: those for name, those in texts.items() if not any(map(URL.match, those))}
    telling = len(sample) >= LEAST_ROWS
    if "id" not in own and "id" not in given and telling:
        unique = [name for name, those in texts.items() if len(those) == len(sample) == len(set(those)) > 0
                  and max(map(len, those)) <= 64 and sum(" " in text for text in those) * 10 <= len(those)
                  and not all(map(AMOUNTS.fullmatch, those))]  # fmt: skip
        likely = [name for name in unique if NAMES_OF_IDS.search(folded(name))] or unique
        if len(likely) > 1 and likely[0] != names[0]:
            raise CatalogueError(_ambiguous(table, "id", likely))
        if likely:
            guess("id", (likely[0],), "its cells are short, none is empty, and all differ")
    if "title" not in own and "title" not in given and telling:
        titles = {}
        for name, those in texts.items():
            lengths, worded = [len(text) for text in those], sum(any(map(str.isalpha, text)) for text in those)
            whole = sum(" " in text.strip() or not text.isascii() for text in those)
            mean = sum(lengths) / len(lengths)
            is_text = 4 <= mean <= LONGEST_TITLE and worded >= 0.9 * len(those) >= 0.8 * len(sample)
            if name not in taken and is_text and 2 * min(whole, len(set(those))) >= len(those):
                titles[name] = mean
        ordered = sorted(titles, key=titles.__getitem__, reverse=True)
        if len(ordered) > 1 and titles[ordered[1]] > 0.7 * titles[ordered[0]]:
            raise CatalogueError(_ambiguous(table, "title", ordered[:2]))
        if ordered:
            guess("title", (ordered[0],), "the longest of its short texts, which mostly differ")
    free = {name: those for name, those in texts.items() if name not in taken}
    if "category" not in own and "category" not in given:
        trees = [name for name, those in free.items()
                 if not any(map(TAG.search, those)) and len(set(those)) <= max(1, len(those) // 2)
                 and 2 * sum(bool(PATH.search(text)) for text in those) >= len(those)]  # fmt: skip
        if len(trees) == 1:
            guess("category", (trees[0],), "its cells are paths that occur again and again")
    if "price" not in own and "price" not in given:
        amounts = [name for name, those in free.items() if name not in taken and all(map(AMOUNTS.fullmatch, those))]
        if len(amounts) == 1:
            guess("price", (amounts[0],), "its cells are amounts")
    return own


def _leave_sparse_id(own: Columns, sample: Sequence[Mapping], given: Mapping, guesses: list[str]) -> None:
    """Take a column for no id that many products have no value in."""
    if "id" in given or "id" not in own or "title" not in own or len(sample) < LEAST_ROWS:
        return
    (name,), (title, *_) = own["id"], own["title"]
    titled = [row for row in sample if row.get(title)]
    empty = sum(row.get(name) in (None, "") for row in titled)
    if 5 * empty > len(titled):
        del own["id"]
        guesses.append(f"{name!r} is not the id: {empty} of the first {len(titled)} products have none")


def _leave_numbers(own: Columns, sample: Sequence[Mapping], given: Mapping, guesses: list[str]) -> None:
    """Take a column of numbers for no category: numbers are no names, and would be taken for words."""
    if "category" in given or len(own.get("category", ())) != 1:
        return
    (name,) = own["category"]
    cells = [text for row in sample if (text := str(row.get(name) if row.get(name) is not None else "").strip())]
    if cells and all(re.fullmatch(r"[\d\s,;|]+", cell) for cell in cells):
        del own["category"]
        guesses.append(f"{name!r} is not the category: it holds numbers such as {cells[0]} (--columns category={name})")


def _ambiguous(table: str, ours: str, names: Sequence[str]) -> str:
    return (
        f"{table}: the {ours} of its products may be in {' or '.join(map(repr, names))}, and no name says which. Say "
        f"it, for example with --columns {ours}={names[0]}."
    )


def _further_images(main: str, names: Sequence[str], cells: Mapping[str, list], taken: set[str]) -> list[str]:
    """Return the columns of further images: numbered as the main one is, or called additional, gallery ..."""
    stem = re.sub(r"_?\d+_?", "", folded(main))
    found = []
    for name in names:
        usual = _bare(name)
        numbered = re.search(r"\d", usual) and re.sub(r"_?\d+_?", "", usual) == stem
        if (
            name not in taken
            and (numbered or FURTHER.fullmatch(usual))
            and (not cells[name] or looks_like_pictures(cells[name]))
        ):
            found.append(name)
    return list(_as_numbered(found))


def _as_numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Return names in the order of the table, but those with numbers in the order of these."""
    numbers = {name: int(digits[-1]) if (digits := re.findall(r"\d+", name)) else 0 for name in names}
    return tuple(sorted(names, key=numbers.__getitem__))
