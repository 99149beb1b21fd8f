"""Say how a source was understood, before anything long is done with it."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import chain, islice

from tqdm import tqdm

from mbe2_dataset.catalogue.columns import CATALOGUE_NAMES, Source
from mbe2_dataset.catalogue.pictures import picture_place
from mbe2_dataset.catalogue.products import Bound, ProductSource
from mbe2_dataset.catalogue.published import Fashion200K, TripletSource
from mbe2_dataset.catalogue.store import Item, Problem
from mbe2_dataset.errors import CatalogueError

SHOWN_PRODUCTS = 3
SHOWN_LETTERS = 120
SHOWN_PICTURES = 4
SHOWN_TABLES = 8
# If so many of the first products have addresses only, all have.
FIRST_PRODUCTS = 50


@dataclass
class Understood:
    """What was understood of a source; `as_dict()` can be written as JSON.

    `tables_left` hold no products; `products` are the first as they were read; `problems` are the reasons why rows
    cannot be read. There are no `counts` where counting would mean reading all images, or downloading all.
    """

    tables: list[dict] = field(default_factory=list)
    tables_left: list[str] = field(default_factory=list)
    products: list[dict] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """Return it as JSON can hold it."""
        return json.loads(json.dumps(asdict(self), default=str))

    def lines(self) -> list[str]:
        """Return it for a terminal."""
        lines = []
        for table in self.tables[:SHOWN_TABLES]:
            layout, read_as = table["layout"], f" ({table['read_as']})" if table["read_as"] else ""
            about = f"understood as {layout}" if layout else "no known layout: understood by its columns"
            lines.append(f"{table['table']}{read_as}: {about}")
            lines += [f"  {ours:<12}{theirs}" for ours, theirs in table["columns"].items()]
            lines += [f"  guessed: {guess}" for guess in table["guesses"]]
            if table["left"]:
                lines.append(f"  left out    {', '.join(table['left'])}")
        if len(self.tables) > SHOWN_TABLES:
            lines.append(f"and {len(self.tables) - SHOWN_TABLES} more tables")
        if self.tables_left:
            lines.append(f"tables left out: {', '.join(self.tables_left)}")
        for number, product in enumerate(self.products, 1):
            lines.append(f"product {number}: {product['id']}")
            lines += [f"  {name:<12}{told}" for name, told in product.items() if name != "id" and told]
        if self.counts:
            lines.append("counts: " + count_line(self.counts))
        lines += [f"cannot be read ({count:,}): {reason}" for reason, count in self.problems.items()]
        return lines


def count_line(counts: dict[str, int]) -> str:
    """Return counts for a terminal."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def understand(
    source: ProductSource | Fashion200K, limit: int | None = None, allow_urls: bool = False, count_all: bool = False
) -> Understood:
    """Return what was understood of a source: its tables, three products, and counts of all rows.

    Files of images are not read. Where rows hold their images, or must be downloaded, only the first are read.

    With `count_all` all are read in any case, at most `limit`.

    Raises:
        CatalogueError: it is not understood, or its images are addresses and may not be fetched.
    """
    found = Understood()
    in_tables = isinstance(source, ProductSource)
    if in_tables and not isinstance(source, TripletSource):
        found.tables = [_table(bound) for bound in source.bound]
        used = {name for bound in source.bound for name in (bound.table.name, *bound.beside)}
        found.tables_left = [table.name for table in source.tables if table.name not in used]
    elif not in_tables:
        facts = {"format": source.name, "read_as": "utf-8", "split": None, "columns": {}, "guesses": [], "left": []}
        found.tables = [{"table": "labels", "layout": "Fashion200K", **facts}]
    counts: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    items = islice(iter(source), limit)
    first = list(islice(items, FIRST_PRODUCTS))
    products = [item for item in first if isinstance(item, Item)]
    found.products = [_shown(item.record) for item in products[:SHOWN_PRODUCTS]]
    _check_addresses(source, products, allow_urls)
    again = not in_tables or all(table.again for table in source.tables)
    if count_all or (again and not any(map(_holds_images, products))):
        for item in tqdm(chain(first, items), desc=f"look through {source.name}", unit=" products"):
            if isinstance(item, Problem):
                problems[item.reason] += 1
                continue
            record = item.record
            counts["products"] += 1
            counts["without title"] += not record.get("title")
            counts["without image"] += not record.get("images")
            counts["images"] += len(record.get("images") or ())
            counts["addresses of images"] += sum("url" in picture for picture in record.get("images") or ())
            changes.update(item.changes)
            changes.update(f"{column}: unreadable, left empty" for column, _ in item.faults)
        counts["rows that cannot be read"] = problems.total()
        read = source.counts if in_tables else Counter()
        told = {"rows": read["rows"] or counts["products"], **read, **counts, **dict(sorted(changes.items()))}
        found.counts = {name: count for name, count in told.items() if count or name in ("rows", "products")}
        found.problems = dict(problems.most_common(3))
    return found


def _holds_images(item: Item) -> bool:
    return any(picture.get("bytes") is not None for picture in item.record.get("images") or ())


def _check_addresses(source: ProductSource, products: list[Item], allow_urls: bool) -> None:
    pictures = [picture for item in products for picture in item.record.get("images") or ()]
    if pictures and all("url" in picture for picture in pictures) and not allow_urls:
        raise CatalogueError(
            f"The images of {source.name} are addresses, such as {picture_place(pictures[0])}, and are only fetched "
            f"with --allow_urls true. Files of them are read instead if a column, or a pattern like --columns "
            f"images=images/{{id}}.jpg, says where they are."
        )


def _table(bound: Bound) -> dict:
    binding, files = bound.reader.binding, bound.reader.files
    ordered = [ours for ours in CATALOGUE_NAMES if ours in binding.columns]
    columns = {ours: ", ".join(map(_said, binding.columns[ours])) for ours in ordered}
    if "images" not in columns and files is not None and files.by_id:
        columns["images"] = f"files named by the id, such as {files.by_id}"
    if bound.beside:
        columns["images"] += f", through {', '.join(bound.beside)}"
    if "images" in binding.columns and files is not None and any(files.folders):
        columns["images"] += f", below {', '.join(filter(None, files.folders))}"
    if binding.order:
        columns["images"] += f", in the order of {binding.order[0]}"
    if binding.parent or binding.children:
        columns["parent"] = " or ".join((*binding.parent, *binding.children))
    return {
        "table": bound.table.name,
        "layout": binding.layout.about if binding.layout else None,
        "format": binding.layout.name if binding.layout else "table",
        "read_as": bound.table.said,
        "split": bound.split,
        "columns": columns,
        "guesses": list(binding.guesses),
        "left": list(binding.left),
    }


def _said(source: Source) -> str:
    columns = " or ".join(source.columns)
    if source.kind == "named" and source.names:
        return f"{columns} (named by {source.names[0]})"
    return columns


def _shown(record: dict) -> dict:
    """Return a product as one looks at it."""
    pictures = [picture_place(picture) or "an image of the table" for picture in record.get("images") or ()]
    more = [f"and {len(pictures) - SHOWN_PICTURES} more"] if len(pictures) > SHOWN_PICTURES else []
    attributes = "; ".join(f"{pair['name']}: {pair['value']}" for pair in record.get("attributes") or ())
    told = {
        "id": record.get("id"),
        "title": record.get("title"),
        "category": " > ".join(record.get("category") or ()),
        "brand": record.get("brand"),
        "price": record.get("price"),
        "attributes": attributes,
        "images": ", ".join([*pictures[:SHOWN_PICTURES], *more]),
        "group": record.get("group_id"),
        "split": record.get("split"),
        "description": record.get("description"),
    }
    return {name: _short(value) for name, value in told.items()}


def _short(value: object) -> object:
    if not isinstance(value, str):
        return value
    line = " ".join(value.split())
    return line if len(line) <= SHOWN_LETTERS else line[: SHOWN_LETTERS - 1] + "…"
