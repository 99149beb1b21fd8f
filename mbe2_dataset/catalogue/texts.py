"""How a file of text is written: its encoding, what separates its cells, and whether it is a table."""

import codecs
import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import IO, TextIO
from xml.etree import ElementTree

import charset_normalizer

from mbe2_dataset.catalogue.values import NAMES
from mbe2_dataset.errors import CatalogueError

# A description of this length is read, which the csv module would otherwise refuse.
LONGEST_CELL = 2**27
DELIMITERS = ",;\t|"
# In so many lines quotes are looked for that are part of texts.
BARE_LINES = 100_000

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
# One byte is another letter in each of these encodings; the language whose letters explain most of a text tells which.
LETTERS = NAMES["letters"]
OTHER_ENCODINGS = ["gb18030", "cp1250", "cp1251", "cp1253", "cp1254", "shift_jis", "euc_kr", "big5"]
# A letter that is not of English, or a sign before a letter, which in a text of the right encoding is rare.
FOREIGN = re.compile(r"[^\W\d_a-zªºµ]|[^\w\s\x00-\x7f„“”‚‘’‹›«»–—…•·€°×](?=[^\W\d_])")
ALL_KNOWN, MOST_KNOWN = 0.95, 0.4
# Lines with other letters than ASCII tell encodings apart; so many bytes of them are enough.
TELLING_BYTES = 2**16


@contextmanager
def faults_of(path: Path, encoding: str | None = None) -> Iterator[None]:
    """Make a sentence of a fault of the whole file."""
    try:
        yield
    except UnicodeError as error:
        known = (encoding or "utf-8").removesuffix("-sig")
        raise CatalogueError(
            f"{path} is not {known} ({error}): say what it is, for example --encoding gb18030."
        ) from error
    except (OSError, EOFError, csv.Error, ElementTree.ParseError) as error:
        raise CatalogueError(f"{path} cannot be read: {error}") from error


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked if it is packed."""
    return gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb")


def open_text(path: Path, encoding: str) -> TextIO:
    """Open a file for reading as text, its line ends as they are."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline="")


def find_encoding(path: Path) -> str:
    """Return the encoding of a text: by its byte order mark, else UTF-8 if all of it is, else what it looks like."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    telling: list[bytes] = []
    with faults_of(path), open_bytes(path) as file:
        head = file.read(2**12)
        for mark, name in BYTE_ORDER_MARKS.items():
            if head.startswith(mark):
                return name
        if 20 * head.count(0) > len(head):  # UTF-16 has a zero beside each Western letter; a damaged file, a few
            return "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
        try:
            for chunk in chain([head], iter(lambda: file.read(2**20), b"")):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
            return "utf-8-sig"
        except UnicodeDecodeError:
            file.seek(0)
            for line in file:
                if not line.isascii():
                    telling.append(line)
                if sum(map(len, telling)) > TELLING_BYTES:
                    break
    return _looks_like(b"".join(telling))


def _looks_like(content: bytes) -> str:
    likely: dict[str, float] = {}
    for encoding, languages in LETTERS.items():
        try:
            text = content.decode(encoding).lower()
        except UnicodeDecodeError:
            continue
        places = [match.start() for match in FOREIGN.finditer(text)]
        share = max(sum(text[place] in letters for place in places) for letters in languages) / len(places or "1")
        # Words of other scripts are foreign letters throughout; those in Latin letters have single ones.
        runs = sum(after == before + 1 for before, after in pairwise(places))
        if not places or share >= ALL_KNOWN or (share >= MOST_KNOWN and runs * 3 < len(places)):
            likely[encoding] = share if places else 1.0
    if likely:
        return max(likely, key=likely.__getitem__)  # the first of equals
    found = charset_normalizer.from_bytes(content, cp_isolation=OTHER_ENCODINGS).best()
    return found.encoding if found else "utf-8-sig"


def find_delimiter(path: Path, encoding: str) -> str:
    """Return what separates the cells: of the usual separators the one that gives most columns, the same everywhere."""
    with faults_of(path, encoding), open_text(path, encoding) as file:
        lines = list(islice(file, 50))
    csv.field_size_limit(LONGEST_CELL)
    if lines and (said := re.fullmatch(r"sep=(.)\s*", lines[0])):
        return said[1]
    widths = {mark: [len(cells) for cells in csv.reader(lines, delimiter=mark) if cells] or [1] for mark in DELIMITERS}
    first = {mark: rows[0] for mark, rows in widths.items()}
    if max(first.values()) == 1:  # a line of words stands above the names of columns
        first = {mark: max(rows, key=lambda width: width * rows.count(width)) for mark, rows in widths.items()}
    return max(DELIMITERS, key=lambda mark: first[mark] * widths[mark].count(first[mark]) / len(widths[mark]))


def has_bare_quotes(path: Path, encoding: str, delimiter: str) -> bool:
    """Tell whether quotes are part of texts, as in '15" screen': each line is whole, but quotes would join some.

    It is asked of tabs and '|' only; between commas such texts are quoted.
    """
    if delimiter not in "\t|":
        return False
    widths: Counter[int] = Counter()

    def seen(line: str) -> str:
        widths[line.count(delimiter)] += 1
        return line

    with faults_of(path, encoding), open_text(path, encoding) as file:
        lines = map(seen, islice(filter(str.strip, file), BARE_LINES))
        rows = sum(1 for _ in csv.reader(lines, delimiter=delimiter))
    return len(widths) == 1 and rows != widths.total()


def is_text_table(path: Path) -> bool:
    """Tell a table from prose: each of its first lines has the same three cells or more."""
    encoding = find_encoding(path)
    with faults_of(path, encoding), open_text(path, encoding) as file:
        widths = {len(cells) for cells in csv.reader(islice(file, 3), delimiter=find_delimiter(path, encoding))}
    return len(widths) == 1 and widths.pop() >= 3
