"""What must hold for every cell that anybody may write, found by hypothesis."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from mbe2_dataset.catalogue.values import as_attributes, as_price, as_words, category_paths, decide, says_nothing

# Letters, digits and the marks that separate, with what shops leave in their texts.
DIRTY = st.text(st.sampled_from("aBé红7 0.,;:|/>&<=#-'\"\n\t\u200b"), max_size=40) | st.sampled_from(
    ["NULL", "nan", "-", "&amp;amp;", "<p>Mug</p>", "<b", "1.299,00 €", "12-15", "{'a': 1}", "[]", "[1,", "\\N"]
)
NAME = st.from_regex(r"[A-Za-z]{1,8}( [A-Za-z]{1,8})?", fullmatch=True).filter(lambda name: not says_nothing(name))
CELLS = st.lists(DIRTY | st.none() | st.floats() | st.integers(), max_size=8)
QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def read(reader, *arguments):
    """The value, or None where the cell is refused: nothing but a ValueError may come."""
    try:
        return reader(*arguments)
    except ValueError:
        return None


@QUICK
@given(CELLS)
def test_any_cell_is_a_value_or_refused(cells):
    for kind, reader in (("category", category_paths), ("attributes", as_attributes), ("price", as_price)):
        reading = decide(kind, cells)
        for cell in cells:
            if kind == "attributes":
                value = read(reader, cell, None, reading)
                assert value is None or all(pair["name"].strip() and pair["value"].strip() for pair in value)
            else:
                value = read(reader, cell, reading)
            if kind == "price" and value is not None:
                assert value >= 0 and math.isfinite(value)
            if kind == "category" and value is not None:
                assert all(level.strip() and not says_nothing(level) for path in value for level in path)


@QUICK
@given(DIRTY)
def test_a_text_that_was_read_is_read_again_as_it_is(cell):
    text = as_words(cell)
    assert text is None or (as_words(text) == text and not says_nothing(text))


@QUICK
@given(st.lists(st.lists(NAME, min_size=2, max_size=4), min_size=3, max_size=6), st.sampled_from([" > ", " | ", "///"]))
def test_paths_are_read_as_they_were_written(paths, mark):
    cells = [mark.join(path) for path in paths]
    reading = decide("category", cells)
    for path, cell in zip(paths, cells, strict=True):
        assert category_paths(cell, reading) == [path]


@QUICK
@given(
    st.lists(st.lists(st.tuples(NAME, NAME), min_size=2, max_size=4, unique_by=lambda pair: pair[0]), min_size=2),
    st.sampled_from(["; ", "|", "\n"]),
    st.sampled_from([": ", "="]),
)
def test_pairs_are_read_as_they_were_written(products, mark, end):
    cells = [mark.join(f"{name}{end}{value}" for name, value in pairs) for pairs in products]
    reading = decide("attributes", cells)
    for pairs, cell in zip(products, cells, strict=True):
        assert [(pair["name"], pair["value"]) for pair in as_attributes(cell, None, reading)] == pairs


@QUICK
@given(st.lists(st.decimals(1000, 999_999, places=2), min_size=2, max_size=8), st.booleans())
def test_prices_are_read_as_they_were_written(prices, comma):
    cells = [f"{price:,.2f} EUR" for price in prices]
    if comma:
        cells = [cell.translate(str.maketrans(",.", ".,")) for cell in cells]
    reading = decide("price", cells)
    assert [as_price(cell, reading) for cell in cells] == [float(price) for price in prices]
