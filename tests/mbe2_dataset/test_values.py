"""Cells of other people's tables become values: texts without HTML, paths, pairs, prices and images."""

import pickle
from collections import Counter

import pytest

from mbe2_dataset.catalogue.values import (
    as_attributes,
    as_category,
    as_pictures,
    as_price,
    as_text,
    as_words,
    category_paths,
    decide,
)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("Mug &amp; Box &#8211; 12&quot;", 'Mug & Box – 12"'), ("Mug &amp;amp; Box", "Mug & Box"),
        ("<p>A <strong>red</strong> mug.</p><ul><li>Hand<b>made</b></li><li>5 &lt; 6</li></ul>",
         "A red mug.\nHandmade\n5 < 6"),
        ("&lt;p&gt;A&lt;br/&gt;B&lt;/p&gt;", "A\nB"), ("<td>A</td><td>B</td>", "A B"),
        ("<style>p {}</style><script>if (a < b) x()</script>Mug<!-- old -->", "Mug"), ("a&nbsp;b", "a b"),
        ("A <a href='x>y'>mug</a>", "A mug"), ("cut <a href=\"https://x.test/", "cut"),
        *((text, text) for text in ("5 < 6", "I <3 it", "size <M> or <L>", "AT&T", "R&D &copy 2020", "a <b and c")),
    ],
)  # fmt: skip
def test_html_becomes_text_and_nothing_else_changes(given, text):
    changes = Counter()
    assert as_words(given, changes, "description", one_line=False) == text
    assert changes == ({"description: HTML made text": 1} if text != given else {})


def test_titles_are_one_line_without_unseen_characters():
    changes = Counter()
    assert as_words("Mug\nwith\n\ttab", changes, "title") == "Mug with tab"
    assert as_words("A<br>B", changes, "title") == "A B"
    assert as_words("Mug\x01\u200b x\ud83d", changes, "title") == "Mug x"
    assert as_words("می\u200cخواهم 👩\u200d🍳", changes, "title") == "می\u200cخواهم 👩\u200d🍳"
    assert changes == {"title: HTML made text": 1, "title: unseen characters taken out": 1}


@pytest.mark.parametrize(
    "text", ["NULL", "nan", "None", "N/A", "-", "???", "\u200b\u200b", " \x07 ", "&nbsp;", "<p></p>", "..."]
)
def test_what_says_nothing_is_no_text(text):
    changes = Counter()
    assert as_words(text, changes, "title") is None and changes["title: says nothing"] == 1


@pytest.mark.parametrize("text", ["7", "Nanna", "🔥", "蓝色", "A", "None", "No. 1"])
def test_what_says_something_stays(text):
    assert as_words(text, none=False) == text


# The cells of a column, and the paths of the first one, with '~' between levels.
@pytest.mark.parametrize(
    ("cells", "paths"),
    [
        (["A > B > C, A", "A > D, A"], ["A~B~C"]),
        (["Sale, A > B", "A > C", "Sale"], ["A~B", "Sale"]),
        (["Home > Kitchen, Dining > Cups", "Home > Decor"], ["Home~Kitchen, Dining~Cups"]),
        (["Home \\, Garden > Pots, Sale", "Sale"], ["Home , Garden~Pots", "Sale"]),
        (["Default Category/H,Default Category/H/K,Default Category/H/K/M"], ["H~K~M"]),
        (["/Categories/H/K\n/Categories/H", "/Categories/D"], ["H~K"]),
        (["TV - Video/Audio", "Home > Kitchen", "Home > Decor"], ["TV - Video/Audio"]),
        (["Pots/Pans", "Mugs", "Cups", "Bowls"], ["Pots/Pans"]),
        (["Home/Kitchen|Garden", "Garden/Pots", "Garden"], ["Home~Kitchen", "Garden"]),
        (["Home | TV/Video | LED", "Home | Decor"], ["Home~TV/Video~LED"]),
        (["A &gt; B; C &gt; D &gt; E", "A"], ["C~D~E", "A~B"]),
        (['["Clothing >> Women\'s >> Tops"]', '["Clothing >> Men"]'], ["Clothing~Women's~Tops"]),
        ([["A > B", "A", "C"], ["A > D"]], ["A~B", "C"]),
        ([[["A", "B"], ["C"]]], ["A~B", "C"]),
        ([["A", "B"], ["A", "C > D"], ["E"]], ["A~B"]),
        (["Music / AC/DC / Albums", "Music / Other"], ["Music~AC/DC~Albums"]),
        (["Mugs", None, ""], ["Mugs"]),
        (["NULL", "A > B"], []),
    ],
)  # fmt: skip
def test_separators_of_categories_are_decided_by_the_column(cells, paths):
    expected = [path.split("~") for path in paths]
    reading, changes = decide("category", cells), Counter()
    assert category_paths(cells[0], reading) == expected
    assert as_category(cells[0], pickle.loads(pickle.dumps(reading)), changes) == (expected[0] if expected else [])
    assert changes["category: further paths left out"] == max(0, len(expected) - 1)


@pytest.mark.parametrize(
    ("cells", "pairs"),
    [
        (["color=Red,climate=All|Cool", "color=Blue,size=S"], "color=Red climate=All climate=Cool"),
        (["Colour: Red | Size: M, L", "Colour: Blue"], "Colour=Red Size=M, L"),
        (["Care: wash at 30; iron, low", "Care: none; Fit: slim"], "Care=wash at 30; iron, low"),
        (["Colour: Red<br>Size: &lt;M&gt;"], "Colour=Red Size=<M>"),
        ([{"Colour": "A &amp; B", "Rank": {"Mugs": 1}, "Fit": "N/A", "Print": "None"}], "Colour=A & B Print=None"),
        (["link=https://x.test/,size=S"], "link=https://x.test/ size=S"),
    ],
)  # fmt: skip
def test_separators_of_attributes_are_those_that_yield_pairs_everywhere(cells, pairs):
    changes = Counter()
    found = as_attributes(cells[0], None, decide("attributes", cells), changes)
    assert " ".join(f"{pair['name']}={pair['value']}" for pair in found) == pairs
    assert changes["attributes: a structure left out"] == ("Rank" in cells[0])


@pytest.mark.parametrize(
    ("cells", "prices"),
    [
        (["1.299", "9,90", "1.299,00"], [1299, 9.9, 1299]),
        (["1.299 EUR", "2.499 EUR"], [1299, 2499]),
        (["1.299", "899"], [1299, 899]),
        (["1.299", "9.90"], [1.299, 9.9]),
        (["1,299", "9.90"], [1299, 9.9]),
        (["0.995", "1.250"], [0.995, 1.25]),
        (["9.90", "1.299 EUR"], [9.9, None]),
    ],
)  # fmt: skip
def test_the_decimal_mark_is_decided_by_the_column(cells, prices):
    reading = decide("price", cells)
    for cell, price in zip(cells, prices, strict=True):
        if price is None:
            with pytest.raises(ValueError, match="may have three decimals or a thousand"):
                as_price(cell, reading)
        else:
            assert as_price(cell, reading) == price


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("A > B > C", ["A", "B", "C"]), ("Home > Kitchen/Dining", ["Home", "Kitchen/Dining"]), ("A/B", ["A", "B"]),
        ("A|B", ["A", "B"]), (["A", None, " B "], ["A", "B"]), ('["A >> B"]', ["A", "B"]), ("Mugs", ["Mugs"]),
        (None, []), ("", []), ("['A', 'B']", ["A", "B"]),
    ],
)  # fmt: skip
def test_categories(value, expected):
    assert as_category(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"colour": "red", "sizes": ["S", "M"], "none": None}, "colour=red sizes=S sizes=M"),
        ([{"name": "colour", "value": "red"}, {"key": "fit", "value": "slim"}], "colour=red fit=slim"),
        ([["colour", "red"], "fit: slim"], "colour=red fit=slim"),
        ('{"colour": "red"}', "colour=red"),
        ("colour: red; size: 10:20", "colour=red size=10:20"),
        ("colour:red, blue;size=M", "colour=red, blue size=M"),
        ("colour:red, blue, size:M", "colour=red, blue size=M"),
        ("颜色:红色!!!蓝色,,材质:棉,麻", "颜色=红色 颜色=蓝色 材质=棉,麻"),
        ("品牌#:#诺维克#;#颜色#:#红;黑", "品牌=诺维克 颜色=红;黑"),
        ("", ""), (None, ""),
    ],
)  # fmt: skip
def test_attributes(value, expected):
    assert " ".join(f"{pair['name']}={pair['value']}" for pair in as_attributes(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.299,00 €", 1299), ("$1,299.00", 1299), ("1,299", 1299), ("12,5", 12.5), ("1.234.567", 1234567),
        ("￥199元", 199), ("CHF 1'250.50", 1250.5), (5, 5), (None, None), ("", None),
        (float("nan"), None), ("0.99", 0.99), ("1.299 EUR", 1299), ("1.299", 1.299), ("9.90 USD", 9.9),
        ("CHF 1’299.–", 1299), ("12-15", 12), ("$10.00 - $20.00", 10), ("from 9.99", 9.99), ("None", None),
        ("1 299,00 kr", 1299), ("₹1,23,456.00", 123456), ("9.900000", 9.9), ("1234,567", 1234.567), ("10 to 20", 10),
        ("19,-", 19), ("-,99", 0.99), (".50", 0.5), ("１２．９９", 12.99), ("ab 12,99 €", 12.99), ({"amount": 5}, 5),
    ],
)  # fmt: skip
def test_prices(value, expected):
    assert as_price(value) == expected


@pytest.mark.parametrize(
    "value", ["4 - 3", "free", "-3", float("inf"), True, "$-5", "up to 20", "2 for 10", "1.299.00"]
)
def test_what_is_no_price_is_refused(value):
    with pytest.raises(ValueError):
        as_price(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a,b.jpg", [{"path": "a,b.jpg"}]),
        ("a.jpg, b.PNG", [{"path": "a.jpg"}, {"path": "b.PNG"}]),
        ("https://x.test/a,b.jpg", [{"url": "https://x.test/a,b.jpg"}]),
        ('["HTTP://x.test/1", "b.jpg"]', [{"url": "HTTP://x.test/1"}, {"path": "b.jpg"}]),
        ([{"bytes": b"x", "path": "x.jpg"}, b"y"], [{"bytes": b"x", "path": "x.jpg"}, {"bytes": b"y", "path": None}]),
        ({"bytes": None, "path": "a.jpg"}, [{"path": "a.jpg"}]), (None, []), ("", []), ("None", []),
        ("https://x.test/a,b.jpg?w=1,2; https://x.test/c", [{"url": "https://x.test/a,b.jpg?w=1,2"}, {"url": "https://x.test/c"}]),
        ("https://x.test/a;v=1.jpg|//x.test/b;", [{"url": "https://x.test/a;v=1.jpg"}, {"url": "https://x.test/b"}]),
        ("/m/a.jpg,/m/b.avif", [{"path": "/m/a.jpg"}, {"path": "/m/b.avif"}]), ("a;b.jpg", [{"path": "a;b.jpg"}]),
        ("b.jpg, https://x.test/1", [{"path": "b.jpg"}, {"url": "https://x.test/1"}]),
    ],
)  # fmt: skip
def test_pictures(value, expected):
    assert as_pictures(value) == expected


def test_texts():
    assert [as_text(value) for value in (" a ", 7, 7.0, 7.5, "", None, float("nan"))] == ["a", "7", "7", "7.5"] + [
        None
    ] * 3
    with pytest.raises(ValueError, match="a list, not a text"):
        as_text(["a"])
