"""Columns of a table that are kept beside its vectors, and filters of products by them: category, price, attributes.

A kept column holds numbers, strings or lists of strings. The attributes of MBE2.0-format sets are pairs of a name and a
value: they become strings such as "colour=red".
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common_moon2.cli import UserError
from evaluation.tables.products import Products

# Also those that stores have beside: see `evaluation.stores.records`.
RESERVED = ("id", "vector", "digest", "shows", "text", "version", "words", "terms")
COMPARISONS = {"<=": pc.less_equal, ">=": pc.greater_equal, "<": pc.less, ">": pc.greater, "=": pc.equal}
FILTER = re.compile(r"\s*([^<>=]+?)\s*(<=|>=|<|>|=)\s*(.*?)\s*")


def read_details(products: Products, keep: Sequence[str]) -> pa.Table:
    """Return the columns to keep, (N,) rows.

    Args:
        keep: names; "price:number" reads strings, as CSV files have them, as numbers.

    Raises:
        UserError: there is no such column, it is of another type, or a value is no number.
    """
    columns = {}
    for asked in keep:
        name, _, kind = asked.partition(":")
        if name not in products.dataset.column_names:
            there = ", ".join(products.dataset.column_names)
            raise UserError(f"{products.name} has no column {name!r} to keep; it has: {there}.")
        if name in RESERVED:
            raise UserError(f"--keep {name}: a column of this name is there already; rename it in the table.")
        if kind not in ("", "number"):
            raise UserError(f"--keep {asked}: after a colon there can only be number, as in price:number.")
        values = products.dataset.with_format("arrow")[name]
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values)
        columns[name] = _plain(products, name, values, kind == "number")
    # Without a column a table has no rows, either.
    return pa.table(columns) if columns else pa.table({"": pa.nulls(len(products))}).select([])


def _plain(products: Products, name: str, values: pa.Array, as_number: bool) -> pa.Array:
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = pc.cast(values, pa.float64())
        return pc.if_else(pc.is_nan(numbers), None, numbers)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _numbers(products, name, values.to_pylist()) if as_number else pc.cast(values, pa.string())
    if pa.types.is_boolean(kind):
        return pc.cast(values, pa.string())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_type
        if pa.types.is_string(inner) or pa.types.is_large_string(inner):
            return pc.cast(values, pa.list_(pa.string()))
        if pa.types.is_struct(inner) and {field.name for field in inner} == {"name", "value"}:
            rows = ([f"{pair['name']}={pair['value']}" for pair in row or ()] for row in values.to_pylist())
            return pa.array(list(rows), pa.list_(pa.string()))
    raise UserError(
        f"The column {name!r} of {products.name} holds {kind}; kept are numbers, strings, lists of strings, and lists "
        "of name and value."
    )


def _numbers(products: Products, name: str, texts: list[str | None]) -> pa.Array:
    found = []
    for row, text in enumerate(texts):
        try:
            value = float(text) if text and text.strip() else None
        except ValueError:
            value = np.nan
        if value is not None and not np.isfinite(value):
            raise UserError(
                f"Row {row} of {products.name} (id {products.ids[row]!r}) has {text!r} in the column {name!r}, which "
                "is no number."
            )
        found.append(value)
    return pa.array(found, pa.float64())


class Filter(NamedTuple):
    """A condition on a kept column. Of a list, "=" asks whether it has the value; what is not there fits nothing."""

    column: str
    comparison: str
    value: str | float
    is_list: bool = False

    def mask(self, table: pa.Table) -> np.ndarray:
        """Return (N,) bool: the rows that fit."""
        values = table[self.column].combine_chunks()
        if self.is_list:
            fits = np.zeros(len(values), bool)
            same = pc.fill_null(pc.equal(values.flatten(), self.value), False).to_numpy(zero_copy_only=False)
            fits[pc.list_parent_indices(values).to_numpy()[same]] = True
            return fits
        fits = COMPARISONS[self.comparison](values, self.value)
        return pc.fill_null(fits, False).to_numpy(zero_copy_only=False)


def read_filters(texts: Sequence[str], schema: pa.Schema, name: str) -> list[Filter]:
    """Return filters such as "category=Shoes" or "price<50"; all must fit.

    Args:
        schema: of the kept columns, to tell numbers from words.
        name: what errors call the vectors.

    Raises:
        UserError: a filter cannot be read, its column is not kept, or it does not fit its type.
    """
    found = []
    for text in texts:
        match = FILTER.fullmatch(text)
        if match is None:
            raise UserError(f"--filter {text!r} cannot be read: give COLUMN=VALUE, COLUMN<VALUE or COLUMN>=VALUE.")
        column, comparison, value = match.groups()
        kept = [field for field in schema.names if field not in RESERVED]
        if column not in kept:
            there = ", ".join(kept) or "none"
            raise UserError(
                f"{name} keeps no column {column!r} to filter by (kept: {there}): embed with --keep {column}."
            )
        if pa.types.is_floating(schema.field(column).type):
            try:
                value = float(value)
            except ValueError:
                value = np.nan
            if not np.isfinite(value):
                raise UserError(f"--filter {text!r}: {column} holds numbers, and {match[3]!r} is none.")
        elif comparison != "=":
            raise UserError(
                f"--filter {text!r}: {column} holds words, of which only = can be asked; --keep {column}:number "
                "reads them as numbers."
            )
        found.append(Filter(column, comparison, value, pa.types.is_list(schema.field(column).type)))
    return found
