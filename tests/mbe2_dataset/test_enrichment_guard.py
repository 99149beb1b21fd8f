"""What an enriched title may gain, and what it may not lose, in both languages."""

import pytest

from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.entities import extract_entities, learn_gazetteer
from mbe2_dataset.coaugmentation.titles.guard import check_support
from mbe2_dataset.coaugmentation.titles.words import claims


def row(title, description, brand, category, attributes) -> Row:
    return Row("r", title, description, brand, (category,), tuple(attributes.items()), None, (), "train", "g")


SHIRT = row(
    "Acme Hudson Blue Shirt AX-200",
    "Made of 80% cotton, with a spread collar and stripes. Pack of two. Pair it with red jeans for women.",
    "Acme",
    "Shirts",
    {"colour": "Blue", "material": "Cotton", "gender": "Men", "size": "M"},
)
BOTTLE = row(
    "泽风水瓶黑色500毫升",
    "泽风水瓶，材质：不锈钢，适合男士。双层保温。搭配红色杯套更好看。",
    "泽风",
    "水瓶",
    {"颜色": "黑色", "材质": "不锈钢", "适用人群": "男士"},
)
OTHERS = [
    row("Gucci Bag", "a soft elegant and breathable bag in coral.", "Gucci", "Bags", {}),
    row("Tommy Hilfiger Bag", "an elegant breathable bag in coral, really soft.", "Tommy Hilfiger", "Bags", {}),
    row("耐克运动鞋", "透气轻便。", "耐克", "运动鞋", {}),
    row("小米水瓶", "透气轻便。", "小米", "水瓶", {}),
]
GAZETTEER = learn_gazetteer([SHIRT, BOTTLE, *OTHERS])


def check(product: Row, title: str, claims=None):
    return check_support(product, extract_entities(product, GAZETTEER), title, GAZETTEER, claims)


def reasons(product: Row, title: str, claims=None) -> set[str]:
    return {rejection.reason for rejection in check(product, title, claims).rejected}


KEPT = [
    (SHIRT, "Acme Hudson Blue Cotton Shirt AX-200 for Men", ("Cotton", "Men")),
    (SHIRT, "Acme Men's Hudson Blue Striped Shirt AX200 with Spread Collar", ("Men's", "Striped", "Spread Collar")),
    (SHIRT, "ACME HUDSON BLUE SHIRT AX-200, Size M", ("M",)),
    (SHIRT, "Acme Hudson Blue Shirt AX-200, 80% Cotton, Pack of 2", ("80", "Cotton", "Pack", "2")),
    (SHIRT, "Acme Hudson Blue Shirts AX-200, two-pack of cotton", ("two-pack", "cotton")),
    (BOTTLE, "泽风男士不锈钢水瓶黑色500ml", ("男士不锈钢", "ml")),
    (BOTTLE, "泽风双层保温水瓶黑色500毫升", ("双层保温",)),
]


@pytest.mark.parametrize(("product", "title", "added"), KEPT)
def test_what_the_listing_says_may_be_added(product, title, added):
    verdict = check(product, title)
    assert verdict.kept, verdict.rejected
    assert verdict.added == added


GAINED = [
    ("Acme Gucci Hudson Blue Shirt AX-200", "brand"),
    ("Acme gucci Hudson Blue Shirt AX-200", "brand"),
    ("Acme Tommy Hilfiger Hudson Blue Shirt AX-200", "brand"),
    ("Acme Zorblax Hudson Blue Shirt AX-200", "name"),
    ("Acme zorblax Hudson Blue Shirt AX-200", "unsupported"),
    ("Acme Hudson Elegant Blue Shirt AX-200", "unsupported"),
    ("Acme Hudson Blue Shirt AX-200 42", "number"),
    ("Acme Hudson Blue Shirt AX-200, three of them", "number"),
    ("Acme Hudson Blue Shirt AX-200 2024", "number"),
    ("Acme Hudson Blue Shirt AX-200 AX-300", "identifier"),
    ("Acme Hudson Blue Shirt AX-200 B07XJ8C8F5", "identifier"),
    ("Acme Hudson Blue Shirt AX-200, 350 ml", "measure"),
    ("Acme Hudson Blue Shirt AX-200, 100% Cotton", "measure"),
    ("Acme Hudson Blue Shirt AX-200, 80 cm", "measure"),
    ("Acme Hudson Blue Shirt AX-200, Size L", "measure"),
    ("Acme Hudson Blue Shirt AX-200, Pack of 3", "measure"),
    ("Best Acme Hudson Blue Shirt AX-200", "claim"),
    ("Acme Hudson Blue Cotton Shirt AX-200 100% Original", "claim"),
    ("Acme Hudson Blue Cotton Shirt AX-200 - Free Shipping", "claim"),
    ("Acme Hudson Blue Cotton Shirt AX-200 #1 bestseller", "claim"),
    ("Premium Acme Hudson Blue Cotton Shirt AX-200", "claim"),
    ("Acme Hudson Blue Cotton Shirt AX-200 for Women", "contradiction"),
    ("Acme Hudson Blue Red Shirt AX-200", "contradiction"),
    ("Acme Hudson Blue Cotton Shirt AX-200 with Red Jeans", "unsupported"),
    ("Acme Hudson Blue Cotton Shirt AX-200 <b>", "markup"),
    ("Acme Hudson Blue Cotton Shirt AX-200 https://x.y", "markup"),
    ("Acme Hudson Blue Cotton Shirt AX-200 🔥", "markup"),
    ("Acme Hudson Blue Cotton Shirt AX-200 Acme™", "markup"),
    ("Acme Hudson Blue Cotton Shirt AX-200\u200b", "markup"),
    ("Acme Hudson Blue Shirt AX-200 cotton cotton cotton", "repetition"),
    ("Acme Hudson Blue Cotton Shirt AX-200 " + "for men " * 40, "length"),
    ("Acme Hudson Blue Shirt AX-200 纯棉衬衫", "unsupported"),
    ("  ", "empty"),
]
LOST = [
    "Hudson Blue Cotton Shirt AX-200",
    "Acme Blue Cotton Shirt AX-200",
    "Acme Hudson Blue Cotton Shirt",
    "Acme Hudson Blue Cotton AX-200",
    "HACKED",
]


@pytest.mark.parametrize(("title", "reason"), GAINED)
def test_nothing_else_may_be_gained(title, reason):
    assert reason in reasons(SHIRT, title)
    assert not check(SHIRT, title).kept


@pytest.mark.parametrize("title", LOST)
def test_what_names_the_product_stays(title):
    assert "lost" in reasons(SHIRT, title)


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("泽风耐克水瓶黑色500毫升", "brand"),
        ("泽风正品不锈钢水瓶黑色500毫升", "claim"),
        ("泽风不锈钢水瓶黑色500毫升包邮", "claim"),
        ("泽风最好的不锈钢水瓶黑色500毫升", "claim"),
        ("泽风不锈钢水瓶黑色500毫升 750毫升", "measure"),
        ("泽风不锈钢水瓶黑色500毫升三件套", "measure"),
        ("泽风不锈钢水瓶黑色500毫升 X9", "identifier"),
        ("泽风女士不锈钢水瓶黑色500毫升", "unsupported"),
        ("泽风红色水瓶黑色500毫升", "unsupported"),
        ("泽风陶瓷水瓶黑色500毫升", "unsupported"),
        ("泽风卡通水瓶黑色500毫升", "unsupported"),
        ("泽风不锈钢黑色500毫升", "lost"),
        ("不锈钢水瓶黑色500毫升", "lost"),
        ("泽风不锈钢水瓶黑色", "lost"),
        ("泽风水瓶黑色500毫升", "nothing added"),
        ("泽风不锈钢水瓶黑色500毫升" + "不锈钢" * 50, "length"),
    ],
)
def test_chinese(title, reason):
    assert reason in reasons(BOTTLE, title), check(BOTTLE, title)


def test_a_picture_supports_ordinary_words_that_are_listed():
    title = "Acme Hudson Blue Shirt AX-200, Breathable with Coral Trim"
    assert reasons(SHIRT, title) == {"unsupported"}
    assert reasons(SHIRT, title, []) == {"unsupported"}, "seen, but not listed"
    verdict = check(SHIRT, title, ["breathable", "coral trim"])
    assert verdict.kept and verdict.added == ("Breathable", "Coral Trim")
    assert check(SHIRT, "Acme Hudson Blue and Red Shirt AX-200", ["red"]).kept, "a colour that only the image shows"
    assert check(BOTTLE, "泽风透气水瓶黑色500毫升", ["透气"]).kept
    assert not check(BOTTLE, "泽风透气水瓶黑色500毫升", ["轻便"]).kept


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("Acme Gucci Hudson Blue Shirt AX-200", "brand"),
        ("Acme Zorblax Hudson Blue Shirt AX-200", "name"),
        ("Acme Hudson Blue Shirt AX-200 77", "number"),
        ("Acme Hudson Blue Shirt AX-200 ZX9", "identifier"),
        ("Acme Hudson Blue Shirt AX-200 Best", "claim"),
        ("Acme Hudson Blue Shirt AX-200 for Women", "contradiction"),
    ],
)
def test_a_picture_supports_nothing_else(title, reason):
    """Whatever an image has written on it: a logo, a price, an instruction."""
    listed = ["Gucci", "Zorblax", "77", "ZX9", "best", "women"]
    assert reason in reasons(SHIRT, title, listed)
    assert "brand" in reasons(BOTTLE, "泽风耐克水瓶黑色500毫升", ["耐克"])


def test_what_the_title_had_already_is_no_gain():
    best = row("Best Foods 12 Mugs ™", "", "Best Foods", "Mugs", {"colour": "Red"})
    assert check(best, "Best Foods 12 Red Mugs ™").kept


@pytest.mark.parametrize("text", ["a genuine leather belt", "to bestow", "wholesaler", "cotton", "优良"])
def test_no_claims(text):
    assert claims(text) == []


def test_words_of_a_title_whose_brand_is_a_word():
    shop = learn_gazetteer([row("And Top", "", "AND", "Tops", {})])
    top = row("And Top", "With lace and a round neck.", "AND", "Tops", {})
    entities = extract_entities(top, shop)
    assert check_support(top, entities, "And Top with Lace and Round Neck", shop).kept
