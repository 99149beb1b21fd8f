"""Known layouts of tables: the records of `layouts.yaml`, which says how one is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

# A column, or several of which the first that has a value counts.
Part = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value of a product is read from.

    Attributes:
        columns: the first that has a value counts.
        kind: "value" of one thing; "pairs" of names and values in one cell; "named", a value whose name `names` have;
            "files", paths with fields of the product such as `images/{id}.jpg`, which are no columns.
        names: columns that name an attribute.
        label: the name of an attribute that no column names.
        pattern: a regular expression with groups for name and value, where pairs are written in an unusual way.
        split: what separates several values of an attribute, or several categories of one level.
    """

    columns: tuple[str, ...]
    kind: Literal["value", "pairs", "named", "files"] = "value"
    names: tuple[str, ...] = ()
    label: str | None = None
    pattern: str | None = None
    split: str | None = None


def parts(part: Part) -> tuple[str, ...]:
    """Return the columns of a part."""
    return (part,) if isinstance(part, str) else part


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a kind of table is laid out.

    Attributes:
        name: for `--format`.
        about: for people.
        proof: a table that has one column of each part is laid out so.
        columns: our column -> what it is read from. Several parts are joined: words, levels, pictures, attributes.
        merged: rows of one id are one product; what a later row has besides is added.
        begins: a column and its values in the rows that begin a product; the other rows belong to the one before.
        continued: `columns` of those other rows.
        order: the column by which the pictures of merged rows are sorted.
        parent: the row that a row is a variant of; it gives the group, and what the variant lacks.
        parent_keys: what `parent` may hold of that row, like "id:{ID}".
        children: a column of the parent, and a regular expression that finds the ids of its variants in it.
        views: the column of languages or shops: rows that have one hold translations of the row that has none.
        products: a column and a regular expression for the rows that are products; the others are left out.
        roots: what stands above all categories, and says nothing.
        nothing: values that say nothing.
        debris: in descriptions, regular expressions and what replaces them.
        pictures: of a second table: column of keys, column of paths. The images are keys then.
        log: the tables of judgements.
    """

    name: str
    about: str
    proof: tuple[Part, ...]
    columns: Mapping[str, tuple[Part | Source, ...]]
    merged: bool = False
    begins: tuple[Part, tuple[str, ...]] | None = None
    continued: Mapping[str, tuple[Part | Source, ...]] = field(default_factory=dict)
    order: Part = ()
    parent: Part = ()
    parent_keys: tuple[str, ...] = ()
    children: tuple[str, str] | None = None
    views: Part = ()
    products: tuple[str, str] | None = None
    roots: tuple[str, ...] = ()
    nothing: tuple[str, ...] = ()
    debris: tuple[tuple[str, str], ...] = ()
    pictures: tuple[str, str] | None = None
    log: "LogLayout | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLayout:
    """How the judgements of a published data set are laid out.

    Attributes:
        proof: columns of the table of judgements.
        columns: our column of a search log -> theirs.
        queries: of a second table with the texts: column of ids, column of texts.
    """

    proof: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    queries: tuple[str, str] | None = None


def read_yaml(name: str) -> dict:
    """Read a YAML file beside this module."""
    return yaml.load((Path(__file__).parent / name).read_text(encoding="utf-8"), yaml.CSafeLoader)


def _tuples(told: object) -> object:
    """Return what YAML holds as the fields of `Layout` do: lists as tuples, mappings with pairs or names as sources."""
    if isinstance(told, list):
        return tuple(map(_tuples, told))
    if isinstance(told, dict) and "pairs" in told:
        return Source((told["pairs"],), "pairs", pattern=told.get("pattern"))
    if isinstance(told, dict) and "column" in told:
        return Source((told["column"],), split=told["split"])
    if isinstance(told, dict) and "values" in told:
        return Source(parts(_tuples(told["values"])), "named", parts(_tuples(told["names"])), split=told.get("split"))
    return {name: _tuples(value) for name, value in told.items()} if isinstance(told, dict) else told


def _layout(name: str, told: dict) -> Layout:
    log = LogLayout(**_tuples(told["log"])) if "log" in told else None
    return Layout(name=name, **{**_tuples({key: value for key, value in told.items() if key != "log"}), "log": log})


LAYOUTS = {name: _layout(name, told) for name, told in read_yaml("layouts.yaml").items()}
