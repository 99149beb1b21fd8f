"""Entities are what a listing says, in both scripts, and the offline writer turns them into titles."""

import json
import pickle
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation.titles.enrich import Enrichment, enrich
from mbe2_dataset.coaugmentation.titles.entities import extract_entities, learn_gazetteer
from mbe2_dataset.coaugmentation.titles.template import TemplateWriter
from mbe2_dataset.coaugmentation.titles.words import attribute_type, measures, phrase
from mbe2_dataset.synthetic.catalogue import synthetic_rows

FASHION = Path(__file__).parents[2] / "shared" / "data" / "fashion"


def row(title: str, description: str = "", brand: str = "", category: str = "", **attributes: str) -> Row:
    names = {name.replace("_", " "): value for name, value in attributes.items()}
    path = (category,) if category else ()
    return Row("r", title, description, brand or None, path, tuple(names.items()), None, (), "train", "g")


SHOP = [
    row("Acme Shirt", brand="Acme", category="Casual Shirts", material="Cotton", neck="Spread Collar"),
    row("Pepe Jeans Jeans", brand="Pepe Jeans", category="Jeans", strap_material="Leather"),
    row("Nordlicht Dress", brand="Nordlicht", category="Dresses", sleeve_length="Cap Sleeves"),
    row("华为手机壳", brand="华为", category="手机壳", 材质="硅胶", 风格="简约风"),
    row("T恤", category="T恤"),
    row("Tee", category="Tshirts"),
]
GAZETTEER = learn_gazetteer(SHOP, min_count=1)


def facts(product: Row, gazetteer=GAZETTEER) -> set[tuple[str, str]]:
    return {(entity.type, entity.value.casefold()) for entity in extract_entities(product, gazetteer)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mug 350ml or 350 millilitres, 容量350毫升", {("capacity", "350", "ml")}),
        ("1,000 ml bottle of 1.5 Litres", {("capacity", "1000", "ml"), ("capacity", "1.5", "l")}),
        ("Pack of three socks", {("count", "3", "pieces")}),
        ("3-piece set; 三件套; two pairs; 两双装", {("count", "3", "pieces"), ("count", "2", "pieces")}),
        ("20 x 30 cm", {("dimension", "20", "x", "30", "cm")}),
        ("Weight: 2 lbs, 8 oz; 500克", {("weight", "2", "lb"), ("weight", "8", "oz"), ("weight", "500", "g")}),
        ("XL, UK 8 and 42码, 大号", {("size", "xl", "size"), ("size", "uk 8", "size")}
         | {("size", "42码", "size"), ("size", "大号", "size")}),
        ("Size: M", {("size", "m", "size")}),
        ("Size: 450 ml", {("capacity", "450", "ml")}),
        ("80% cotton", {("share", "80", "%")}),
        ("5 in 1 tool, model X200, M for men, version 2.0", set()),
    ],
)  # fmt: skip
def test_measures(text, expected):
    assert {(measure.kind, *measure.key) for measure in measures(text)} == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("T-Shirts", "tshirt"),
        ("Women's", "woman"),
        ("Dresses", "dress"),
        ("COLOR", "colour"),
        ("V-Neck", "vneck"),
        ("Watches", "watch"),
        ("baby", "babies"),
        ("1,000", "1000"),
    ],
)
def test_variants_of_a_word_are_one(one, other):
    assert phrase(one) == phrase(other)


@pytest.mark.parametrize(("one", "other"), [("glasses", "glass"), ("dress", "dre"), ("canvas", "canva"), ("bus", "bu")])
def test_other_words_are_not(one, other):
    assert phrase(one) != phrase(other)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("baseColour", "colour"),
        ("Color", "colour"),
        ("colour_2", "colour"),
        ("颜色", "colour"),
        ("面料", "material"),
        ("Fabric", "material"),
        ("适用人群", "audience"),
        ("Strap Material", "strap material"),
        ("Wash Care", None),
        ("year", None),
    ],
)
def test_attribute_names(name, kind):
    assert attribute_type(name) == kind


def test_everything_that_a_listing_says_and_where():
    product = row(
        "Acme Women's NAVY-BLUE T-Shirt",
        "<p>Soft &amp; light: 80% cotton, round neck.</p> Machine wash with red clothes. Style it with black jeans.",
        brand="Acme",
        category="Tshirts",
        season="Summer",
    )
    found = {entity.type: entity for entity in extract_entities(product, GAZETTEER)}
    assert {kind: entity.value for kind, entity in found.items()} == {
        "audience": "women",
        "colour": "navy blue",
        "type": "Tshirts",
        "brand": "Acme",
        "season": "Summer",
        "material": "Cotton",
        "neck": "round neck",
    }
    start, end = found["colour"].span
    assert product.title[start:end] == "NAVY-BLUE"
    start, end = found["material"].span
    assert product.description[start:end] == "cotton"
    assert [found[kind].source for kind in ("brand", "season", "type")] == ["brand", "attribute", "title"]
    assert found["season"].field == "season"


def test_words_have_their_borders_in_both_scripts():
    assert facts(row("Redwood covered cup")) == set(), "no red, no wood"
    assert facts(row("红色纯棉T恤 女士")) == {
        ("colour", "红色"),
        ("material", "纯棉"),
        ("type", "t恤"),
        ("audience", "女士"),
    }
    assert ("material", "cotton") in facts(row("Blue Cotton恤")), "a change of script is a border"
    assert ("colour", "navy blue") in facts(row("Navy blue bag")), "the longest phrase"
    assert ("colour", "blue") not in facts(row("Navy blue bag"))
    assert facts(row("Navy. Blue bag")) >= {("colour", "navy"), ("colour", "blue")}, "no phrase over a full stop"


def test_a_brand_is_no_type_and_a_title_may_name_a_brand():
    assert facts(row("Pepe Jeans Shirt", brand="Pepe Jeans")) == {("brand", "pepe jeans")}
    assert ("brand", "nordlicht") in facts(row("Nordlicht dress"))
    assert ("brand", "nordlicht") in facts(row("A dress", "Made by Nordlicht."))
    assert ("brand", "nordlicht") not in facts(row("A dress", "It looks like nordlicht at night."))


def test_a_description_is_believed_only_on_what_nothing_else_says():
    product = row("Red shirt", "Comes beside the blue shirt of linen.", material="Wool; Silk")
    assert facts(product) == {("colour", "red"), ("material", "wool"), ("material", "silk")}
    assert ("material", "plastic") not in facts(row("A shoe", "Comes in a plastic box."))
    assert ("material", "plastic") in facts(row("A shoe", "Made of soft plastic."))
    assert ("colour", "blue") in facts(row("A shirt", "In blue. A green one exists."))
    assert ("colour", "green") not in facts(row("A shirt", "In blue. A green one exists."))


def test_what_says_nothing_is_no_entity():
    assert facts(row("Thing", material="NA", size="Regular", warranty="2 years", colour="Blended in")) == set()


def test_a_very_long_description_takes_little_time():
    product = row("Shirt", "<div " * 20_000 + "cotton " * 100_000)
    start = time.process_time()
    extract_entities(product, GAZETTEER)
    assert time.process_time() - start < 0.5


def test_a_gazetteer_is_pruned_pickles_and_has_a_digest():
    twice = [
        row("A", material="Bamboo weave", brand="Solo"),
        row("B", material="Bamboo weave"),
        row("C", neck="Rare neck"),
    ]
    gazetteer = learn_gazetteer(twice)
    assert ("bamboo", "weave") in gazetteer.phrases and ("rare", "neck") not in gazetteer.phrases
    assert ("solo",) in gazetteer.brands, "a brand is one from the first time"
    again = pickle.loads(pickle.dumps(gazetteer))
    assert again == gazetteer and again.digest == gazetteer.digest == learn_gazetteer(twice).digest
    assert learn_gazetteer(twice, min_count=1).digest != gazetteer.digest


TITLES = {
    "in the middle": (
        row("Acme Women Blue T-shirt", material="Cotton", neck="Round Neck", sleeve="Short Sleeves"),
        "Acme Women Blue Cotton T-shirt with Round Neck and Short Sleeves",
    ),
    "adjectives": (row("blue dress", sleeve="Sleeveless", pattern="Striped"), "blue striped sleeveless dress"),
    "first word": (row("Dress by Nordlicht", colour="Red"), "Red Dress by Nordlicht"),
    "type": (row("Nordlicht Aurora", category="Dresses"), "Nordlicht Aurora Dresses"),
    "no type": (row("Aurora", colour="Red", gender="Women"), "Aurora, Red for Women"),
    "amounts": (row("Acme Dress", size="M", capacity="350 ml"), "Acme Dress, 350 ml, Size M"),
    "variants are no news": (row("Women's Check Cottons Dresses", pattern="Checked", material="cotton"), None),
    "half of it is there": (row("Round dress", neck="Round Neck"), None),
    "another value is there": (row("Red dress", colour="Green"), None),
    "trade marks": (row("blue dress", material="Lycra® Soft"), "blue lycra soft dress"),
    "claims": (row("A dress", colour="Best Red", feature="Free Shipping"), None),
    "Chinese": (row("华为手机壳", 材质="硅胶", 颜色="红色", 容量="350毫升"), "华为红色硅胶手机壳 350毫升"),
    "Chinese, foreign values": (row("华为手机壳", material="Silicone", 适用人群="女士"), "华为女士手机壳"),
}  # fmt: skip


@pytest.mark.parametrize("name", TITLES)
def test_titles_of_the_template_writer(name):
    product, expected = TITLES[name]
    result = enrich(product, GAZETTEER, TemplateWriter())
    assert result.title == (expected or product.title), result.rejected
    assert result.kept == (expected is not None)
    assert result.reason == ("" if expected else "nothing added")
    assert enrich(product, GAZETTEER, TemplateWriter()) == result
    assert Enrichment.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.fixture(scope="module")
def catalogue():
    rows = synthetic_rows(num_products=150, num_validation=0, num_test=1, picture_size=16)
    return [product for product in rows if not any("wrong" in noise for noise in product.noise)]


SAID = ("brand", "type", "material", "size", "audience")


@pytest.mark.parametrize("chinese", [False, True], ids=["English", "Chinese"])
def test_hidden_attributes_are_found_in_the_text(catalogue, chinese):
    """Every material, size or capacity and audience stands in the description, as do brand and type."""
    gazetteer = learn_gazetteer(catalogue)
    right, wrong, missed = Counter(), Counter(), Counter()
    for product in catalogue:
        if bool(product.translations) != chinese:
            continue
        hidden = replace(product, attributes=(), brand=None, category=())
        known = {"brand": product.brand, "type": product.category[-1], **dict(product.attributes)}
        known |= {"size": known["capacity"]} if "capacity" in known else {}
        told = [kind for kind in (*SAID, "colour", "pattern") if kind in known]  # of test rows some are not listed
        truth = {kind: phrase(product.translations.get(known[kind], known[kind])) for kind in told}
        found: dict[str, set] = {}
        for entity in extract_entities(hidden, gazetteer):
            found.setdefault("size" if entity.type == "capacity" else entity.type, set()).add(phrase(entity.value))
        for kind, value in truth.items():
            values = found.get(kind, set())
            right[kind] += value in values
            wrong[kind] += len(values - {value})
            # Colour and pattern are told by some titles only.
            missed[kind] += kind in SAID and value not in values
    assert right.keys() == {*SAID, "colour", "pattern"}
    for kind in right:
        precision = right[kind] / (right[kind] + wrong[kind])
        recall = right[kind] / (right[kind] + missed[kind])
        print(f"{kind}: precision {precision:.3f}, recall {recall:.3f}")
        assert precision >= 0.95 and recall >= 0.95, (kind, precision, recall)


def test_the_template_writer_says_only_what_is_true(catalogue):
    gazetteer = learn_gazetteer(catalogue)
    results = [enrich(product, gazetteer, TemplateWriter()) for product in catalogue]
    assert {result.reason for result in results} <= {"", "nothing added"}
    assert sum(result.kept for result in results) > 0.8 * len(catalogue)
    for product, result in zip(catalogue, results, strict=True):
        words = Counter(phrase(result.title))
        repeated = {word for word, number in words.items() if number > max(1, Counter(phrase(product.title))[word])}
        assert not {word for word in repeated if word.isascii() and word.isalpha()}, result.title


def fashion_rows(limit: int) -> list[Row]:
    files = sorted(FASHION.glob("train-*.parquet"))
    if not files:
        pytest.skip("needs ../shared/data/fashion")
    columns = ["id", "title", "description", "brand", "category", "attributes"]
    records = pq.read_table(files[0], columns=columns).slice(0, limit).to_pylist()
    return [
        Row(
            record["id"],
            record["title"],
            record["description"],
            record["brand"],
            tuple(record["category"]),
            tuple((pair["name"], pair["value"]) for pair in record["attributes"]),
            None,
            (),
            "train",
            record["id"],
        )
        for record in records
    ]


def test_real_titles():
    rows = fashion_rows(1500)
    gazetteer = learn_gazetteer(rows)
    start = time.process_time()
    extracted = [extract_entities(product, gazetteer) for product in rows]
    seconds = time.process_time() - start
    print(f"{len(rows) / seconds:,.0f} rows/s")
    assert seconds < 15
    agree = Counter()
    for product, entities in zip(rows, extracted, strict=True):
        attributes = dict(product.attributes)
        said = [phrase(entity.value) for entity in entities if entity.source == "title" and entity.type == "colour"]
        if said and "colour" in attributes:
            agree[phrase(attributes["colour"]) in said] += 1
    print(f"colour of the title is the catalogue's: {agree[True] / agree.total():.3f}")
    assert agree[True] > 0.85 * agree.total()
    results = [enrich(product, gazetteer, TemplateWriter()) for product in rows[:300]]
    refused = Counter(rejection.reason for result in results for rejection in result.rejected)
    print(refused)
    assert sum(result.kept for result in results) > 240 and set(refused) <= {"nothing added", "lost", "repetition"}
