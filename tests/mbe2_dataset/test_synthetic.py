"""The synthetic catalogue tells the truth about itself: what only text, only images, or faults say."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from common_moon2.text import is_unspaced
from mbe2_dataset.catalogue.pictures import decode
from mbe2_dataset.synthetic.catalogue import (
    AUDIENCES,
    BRAND_MARKS,
    CATEGORIES,
    CHINESE,
    CLUTTER_SHARE,
    COLOURS,
    IMAGE_ONLY,
    OTHER_WORDS,
    TEXT_ONLY,
    WRONG_TITLE_SHARE,
    SyntheticSource,
    synthetic_photo,
    synthetic_product,
    synthetic_query,
    synthetic_rows,
)
from mbe2_dataset.synthetic.render import MARKS, PATTERNS, SHAPES, Look, Scene, Viewpoint, render_photo
from mbe2_dataset.triplets.queries import occurrences

SIZES = {"num_products": 300, "num_validation": 16, "num_test": 32}
STRAIGHT = Viewpoint(scale=0.85, shift=(0.0, 0.0), rotation=0.0, mirror=False, perspective=(0.0, 0.0))
STUDIO = Scene("plain", (1.0, 1.0), 0)


@pytest.fixture(scope="module")
def rows():
    # 24 pixels: the words do not depend on the size of the images.
    return synthetic_rows(seed=0, **SIZES, picture_size=24)


def mentions(text, value):
    return next(occurrences(text, value), None) is not None


def truth(row):
    return synthetic_product(int(row.id[1:7]), 0)


def test_a_row_depends_on_seed_and_index_only(rows):
    fewer = synthetic_rows(seed=0, num_products=3, num_validation=16, num_test=32, picture_size=24)
    assert fewer == rows[: len(fewer)]
    assert (
        synthetic_rows(seed=1, num_products=1, num_validation=0, num_test=1, picture_size=24)[0].title != rows[0].title
    )


def test_processes_do_not_change_rows():
    sizes = {"num_products": 3, "num_validation": 1, "num_test": 2, "picture_size": 24}
    assert synthetic_rows(5, **sizes, num_proc=2) == synthetic_rows(5, **sizes)


def test_groups_keep_to_their_split_and_have_one_to_three_listings(rows):
    splits, listings = defaultdict(set), Counter()
    for row in rows:
        splits[row.group_id].add(row.split)
        listings[row.group_id] += 1
    assert Counter(next(iter(found)) for found in splits.values()) == {"train": 300, "validation": 16, "test": 32}
    assert all(len(found) == 1 for found in splits.values())
    assert set(listings.values()) == {1, 2, 3}


def test_no_two_products_are_alike():
    products = [synthetic_product(index, 3) for index in range(20_000)]
    facts = {(product.category, product.brand, *sorted(product.values.items())) for product in products}
    assert len(facts) == 20_000
    values = Counter(product.values["colour"] for product in products)
    assert set(values) == set(COLOURS) and max(values.values()) < 1.2 * min(values.values())


def test_an_index_beyond_the_last_product_is_refused():
    with pytest.raises(ValueError, match="does not exist"):
        synthetic_product(10**9)


def test_titles_state_only_what_text_may_state(rows):
    for row in rows:
        for name in IMAGE_ONLY:
            shown = truth(row).values[name]
            for word in (shown, CHINESE[shown]):
                assert not mentions(row.title, word), (row.title, word)
                assert not mentions(row.description, word), (row.description, word)


def test_every_description_states_what_only_text_can_tell(rows):
    for row in rows:
        values = [value for name, value in truth(row).values.items() if name in TEXT_ONLY]
        assert len(values) == 3
        assert all(mentions(row.description, row.translations.get(value, value)) for value in values)


def test_pictures_show_nothing_of_what_only_text_can_tell():
    """Two products that differ in material, size or audience only have one and the same look."""
    product = synthetic_product(7)
    for name, value in product.values.items():
        other = {
            **product.values,
            name: next(v for v in (*COLOURS, *PATTERNS, *SHAPES[product.category]) if v != value),
        }
        if name in TEXT_ONLY:
            assert type(product)(7, product.category, product.brand, other).look == product.look
    assert {name for name in product.values if name in TEXT_ONLY} == {"material", "size", "audience"}


@pytest.mark.parametrize(
    "change",
    [{"shape": 1}, {"colour": (1, 2, 3)}, {"second_colour": (1, 2, 3)}, {"pattern": "dotted"}, {"mark": "star"}],
)
@pytest.mark.parametrize("category", CATEGORIES)
def test_pictures_show_shape_colours_pattern_and_brand(category, change):
    shapes = list(SHAPES[category])
    look = dict(
        category=category, shape=shapes[0], colour=COLOURS["red"], second_colour=COLOURS["blue"],
        pattern="plain", mark="disc",
    )  # fmt: skip
    other = look | ({"shape": shapes[1]} if "shape" in change else change)
    first, second = (
        np.asarray(render_photo(Look(**drawn), STRAIGHT, STUDIO, 64)[0], dtype=float) for drawn in (look, other)
    )
    assert (np.abs(first - second).max(axis=2) > 40).sum() >= 12  # pixels of 4,096 that clearly differ


def test_every_pattern_and_mark_can_be_told_from_the_others():
    look = dict(category="T-shirt", shape="short-sleeved", colour=COLOURS["red"], second_colour=COLOURS["white"])
    drawn = [Look(**look, pattern=pattern, mark="disc") for pattern in PATTERNS]
    drawn += [Look(**look, pattern="plain", mark=mark) for mark in MARKS[1:]]
    pictures = [np.asarray(render_photo(one, STRAIGHT, STUDIO, 64)[0], dtype=float) for one in drawn]
    for number, first in enumerate(pictures):
        for second in pictures[:number]:
            assert (np.abs(first - second).max(axis=2) > 40).sum() >= 8


def test_mark_is_not_mirrored_with_the_goods():
    look = Look("Watch", "round-faced", COLOURS["red"], COLOURS["blue"], "plain", "chevron")
    sign = {**look.__dict__, "mark": "crescent"}
    mirrored = Viewpoint(scale=0.85, shift=(0.0, 0.0), rotation=0.0, mirror=True, perspective=(0.0, 0.0))
    (straight, _), (turned, _) = (render_photo(Look(**sign), view, STUDIO, 96) for view in (STRAIGHT, mirrored))
    # A round watch is symmetric but for its hands and its mark, which sits below the hands.
    below = (30, 52, 66, 70)
    assert np.array_equal(np.asarray(straight.crop(below)), np.asarray(turned.crop(below)))
    flipped = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert not np.array_equal(np.asarray(straight.crop(below)), np.asarray(flipped.crop(below)))


def test_masks_cover_the_product_and_lie_inside_the_picture():
    for index in range(160):
        image, mask = synthetic_photo(f"p{index:06d}-0", index % 2, size=48)
        assert image.size == (48, 48) and mask.shape == (48, 48) and mask.dtype == bool
        assert 0.03 < mask.mean() < 0.7
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_mask_belongs_to_the_listing_s_picture(rows):
    """Outside the mask, the image does not depend on the colour of the product; inside it does."""
    row = next(row for row in rows if not row.noise)
    image, mask = synthetic_photo(row.id, 0, size=24)
    stored = np.asarray(decode(row.images[0]), dtype=float)
    assert np.abs(stored - np.asarray(image, dtype=float)).mean() < 12  # but for JPEG
    photo = {"viewpoint": STRAIGHT, "scene": STUDIO, "size": 64}
    look = truth(row).look
    (first, mask), (second, _) = (
        render_photo(Look(**{**look.__dict__, "colour": colour, "second_colour": colour}), **photo)
        for colour in ((255, 0, 0), (0, 0, 255))
    )
    different = np.any(np.asarray(first) != np.asarray(second), axis=2)
    edge = np.zeros_like(mask)
    for axis in (0, 1):
        for step in (-1, 1):
            edge |= np.roll(mask, step, axis)
    assert not (different & ~mask & ~edge).any()
    assert (different & mask).sum() > 0.4 * mask.sum()


def test_the_two_photos_of_a_listing_differ(rows):
    assert all(len({picture.sha256 for picture in row.images}) == 2 for row in rows)
    pictures = [picture.sha256 for row in rows for picture in row.images]
    assert len(set(pictures)) == len(pictures)


def test_a_fifth_of_the_listings_is_chinese_with_english_labels(rows):
    chinese = [row for row in rows if row.translations]
    assert 0.14 < len(chinese) / len(rows) < 0.26
    for row in rows:
        assert is_unspaced(row.title) == is_unspaced(row.description) == bool(row.translations)
        assert not is_unspaced("".join([row.brand, *row.category, *(value for _, value in row.attributes)]))
        assert row.category == CATEGORIES[truth(row).category].path and len(row.category) >= 2
        assert row.brand == truth(row).brand
    assert all(" " not in row.title for row in chinese)


def test_rows_have_all_attributes_but_those_of_the_test_only_what_title_or_picture_tells(rows):
    for row in rows:
        values = truth(row).values
        if row.split == "test":
            told = {value for value in values.values() if mentions(row.title, row.translations.get(value, value))}
            values = {name: value for name, value in values.items() if name not in TEXT_ONLY or value in told}
        assert dict(row.attributes) == values
    test = [row for row in rows if row.split == "test"]
    assert 0.3 < sum("audience" in dict(row.attributes) for row in test) / len(test) < 0.7


def test_neither_titles_nor_pictures_are_complete(rows):
    """Each shared or text-only fact is in some titles and missing from others."""
    for name in ("colour", "pattern", "material", "audience", "brand", "category"):
        stated = [
            mentions(row.title, row.translations.get(value, value))
            for row in rows
            for value in [{**truth(row).values, "brand": row.brand, "category": row.category[-1]}[name]]
        ]
        assert 0.3 < sum(stated) / len(stated) < 0.97, name


def test_noise_is_what_was_injected(rows):
    """A title contradicts the truth exactly where its noise says so, and only in train."""
    tables = {"colour": COLOURS, "pattern": PATTERNS, "category": CATEGORIES}
    wrong = 0
    for row in rows:
        facts = {**truth(row).values, "category": row.category[-1]}
        for name, table in tables.items():
            stated = [label for label in table if mentions(row.title, CHINESE[label] if row.translations else label)]
            if f"wrong_title:{name}" in row.noise:
                wrong += 1
                assert row.split == "train" and len(stated) == 1 and stated[0] != facts[name]
            else:
                assert set(stated) <= {facts[name]}, (row.title, facts)
    train = sum(row.split == "train" for row in rows)
    assert 0.5 * WRONG_TITLE_SHARE < wrong / train < 1.7 * WRONG_TITLE_SHARE
    cluttered = [row for row in rows if "cluttered_background" in row.noise]
    assert 0.6 * CLUTTER_SHARE < len(cluttered) / len(rows) < 1.5 * CLUTTER_SHARE
    assert {row.split for row in cluttered} == {"train", "validation", "test"}


def test_clutter_is_seen(rows):
    """Backgrounds have edges where noise says cluttered, and none elsewhere."""

    def roughness(row):
        image, mask = synthetic_photo(row.id, 0, size=48)
        grey = np.asarray(image.convert("L"), dtype=float)
        steps = np.abs(np.diff(grey, axis=1))
        inside = mask | np.roll(mask, 1, 1) | np.roll(mask, -1, 1) | np.roll(mask, 2, 1) | np.roll(mask, -2, 1)
        inside |= np.roll(inside, 1, 0) | np.roll(inside, -1, 0)
        return np.sort(steps[~inside[:, 1:]])[-20]

    cluttered = [roughness(row) for row in rows if "cluttered_background" in row.noise][:15]
    calm = [roughness(row) for row in rows if "cluttered_background" not in row.noise][:15]
    assert min(cluttered) > max(calm)


def test_vocabulary_is_complete_and_unambiguous():
    labels = [
        *COLOURS,
        *PATTERNS,
        *AUDIENCES,
        *BRAND_MARKS,
        *CATEGORIES,
        *(s for shapes in SHAPES.values() for s in shapes),
    ]
    for category in CATEGORIES.values():
        labels += [*category.materials, *category.sizes]
        assert len(category.path) >= 2
    assert set(labels) == set(CHINESE)
    assert set(SHAPES) == set(CATEGORIES) and all(len(shapes) >= 2 for shapes in SHAPES.values())
    for table in (COLOURS, PATTERNS, AUDIENCES, CATEGORIES, BRAND_MARKS):
        words = [CHINESE[label] for label in table]
        # A word inside another would make a title state what it does not.
        assert not [(a, b) for a in words for b in words if a != b and a in b]


def test_shoppers_ask_for_what_is_true_of_the_product_also_in_other_words():
    """Each query names three facts or more; the words for other values of these facts are not in it."""
    in_other_words = misspelt = 0
    for index in range(400):
        product = synthetic_product(index)
        query, named = synthetic_query(product), 0
        for name, table in {
            "category": CATEGORIES,
            "colour": COLOURS,
            "pattern": PATTERNS,
            "brand": BRAND_MARKS,
        }.items():
            true = product.facts()[name]
            for label in table:
                words = [word for stated in (label, CHINESE[label]) for word in (stated, *OTHER_WORDS.get(stated, ()))]
                said = [word for word in words if mentions(query, word)]
                named += bool(said) and label == true
                in_other_words += any(word not in (label, CHINESE[label]) for word in said)
                # The trim's colour is asked for as well.
                assert not said or label in (true, product.values["trim"]), (query, product)
        misspelt += not named
    assert in_other_words > 200
    assert misspelt < 20


def test_the_log_of_the_catalogue_has_a_query_for_each_product(rows):
    events = list(SyntheticSource(0, **SIZES, picture_size=24).events())
    by_id = {row.id: row for row in rows}
    assert {event.query for event in events} == {f"{row.group_id}-asked" for row in rows}
    assert all(by_id[event.item].split == event.split for event in events)
    # Of a test product all rows are right, or others would count as wrong answers.
    assert {event.item for event in events if event.split == "test"} == {r.id for r in rows if r.split == "test"}
    assert len([event for event in events if event.split == "train"]) == SIZES["num_products"]


def test_other_words_stand_for_one_word_each():
    others = [other for words in OTHER_WORDS.values() for other in words]
    labels = {*CHINESE, *CHINESE.values()}
    assert set(OTHER_WORDS) <= labels
    assert len(set(others)) == len(others)
    assert not {other.lower() for other in others} & {label.lower() for label in labels}
