"""The built-in catalogue: products that never existed, with known truth and known noise, and what shoppers asked for.

Material, size or capacity and audience are told by the text only; shape and trim (the second colour) are shown by the
image only; category, colour, pattern and brand by both, titles leaving some of them out. Shoppers ask for any of it,
often in other words than titles use. All of it depends on (seed, index).
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from PIL import Image

from common_moon2.parallel import in_processes
from mbe2_dataset.catalogue.pictures import encode
from mbe2_dataset.catalogue.search_log import POSITIVE, Event
from mbe2_dataset.catalogue.store import Item, Row
from mbe2_dataset.errors import CatalogueError
from mbe2_dataset.parallel import rng_for, seed_for
from mbe2_dataset.schema import CATALOGUE, OPTIONAL
from mbe2_dataset.synthetic.render import PATTERNS, SHAPES, Colour, Look, Scene, Viewpoint, read_table, render_photo


@dataclass(frozen=True)
class Category:
    """`sizes` are the values of the attribute called `size_name` (size or capacity)."""

    path: tuple[str, ...]
    materials: tuple[str, ...]
    size_name: str
    sizes: tuple[str, ...]


_WORDS = read_table("vocabulary.yaml")
COLOURS: dict[str, Colour] = {name: tuple(colour) for name, colour in _WORDS["colours"].items()}
BRAND_MARKS: dict[str, str] = _WORDS["brands"]
AUDIENCES = tuple(_WORDS["audiences"])
CATEGORIES = {
    name: Category(tuple(path), tuple(materials), size_name, tuple(sizes))
    for name, (path, materials, size_name, sizes) in _WORDS["categories"].items()
}
CHINESE: dict[str, str] = _WORDS["chinese"]
FILLERS: dict[str, list[str]] = _WORDS["fillers"]
TITLE_TEMPLATES: dict[str, list[str]] = _WORDS["titles"]
QUERY_TEMPLATES: dict[str, list[str]] = _WORDS["queries"]
# Word of a title -> what shoppers say instead.
OTHER_WORDS: dict[str, list[str]] = {word: other.split(", ") for word, other in _WORDS["other_words"].items()}

IMAGE_ONLY = ("shape", "trim")
TEXT_ONLY = ("material", "size", "capacity", "audience")

# Of what is drawn and written; another number says that the same seed gives something else now.
VERSION = 2
PHOTOS = 2
MAX_LISTINGS = 3
CHINESE_SHARE = 0.2
WRONG_TITLE_SHARE = 0.05
CLUTTER_SHARE = 0.15
# How often a title mentions a thing; what is left out has to be seen in the image, or is not to be known at all.
MENTIONED = {
    "category": 0.9,
    "brand": 0.8,
    "colour": 0.75,
    "pattern": 0.65,
    "material": 0.6,
    "size": 0.5,
    "audience": 0.5,
    "filler": 0.4,
}
FEWEST_MENTIONS = 3
# The same of a shopper's query, and how often a thing in it is called by another word, or is misspelt.
ASKED = {
    "category": 0.9,
    "colour": 0.75,
    "pattern": 0.5,
    "brand": 0.35,
    "shape": 0.4,
    "trim": 0.35,
    "material": 0.3,
    "size": 0.2,
    "audience": 0.3,
}
FEWEST_ASKED = 3
OTHER_WORD_SHARE = 0.5
MISSPELT_SHARE = 0.03


@dataclass(frozen=True)
class Product:
    """The truth about one product (one group). `values` maps attribute names to English labels."""

    index: int
    category: str
    brand: str
    values: dict[str, str]

    @property
    def group_id(self) -> str:
        """Return the id of the group of its rows."""
        return f"p{self.index:06d}"

    def facts(self) -> dict[str, str]:
        """Return the label of each thing that titles and queries may name."""
        return {"category": self.category, "brand": self.brand} | {
            _slot(name): value for name, value in self.values.items()
        }

    @property
    def look(self) -> Look:
        """Return what images show of it."""
        values = self.values
        return Look(
            category=self.category,
            shape=values["shape"],
            colour=COLOURS[values["colour"]],
            second_colour=COLOURS[values["trim"]],
            pattern=values["pattern"],
            mark=BRAND_MARKS[self.brand],
        )


def synthetic_product(index: int, seed: int = 0) -> Product:
    """Return product number `index`. No two indices give products that agree in everything.

    Raises:
        CatalogueError: there are no more different products.
    """
    categories = list(CATEGORIES)
    category = categories[index % len(categories)]
    facts = CATEGORIES[category]
    choices = {
        "shape": tuple(SHAPES[category]),
        "colour": tuple(COLOURS),
        "trim": tuple(range(1, len(COLOURS))),
        "pattern": PATTERNS,
        "brand": tuple(BRAND_MARKS),
        "material": facts.materials,
        facts.size_name: facts.sizes,
        "audience": AUDIENCES,
    }
    combinations = int(np.prod([len(options) for options in choices.values()]))
    number = index // len(categories)
    if not 0 <= number < combinations:
        raise CatalogueError(
            f"Product {index} does not exist: there are {combinations:,} different ones in {category}."
        )
    code = _permuted(number, combinations, f"{seed}/{category}")
    chosen: dict = {}
    for name, options in choices.items():
        code, position = divmod(code, len(options))
        chosen[name] = options[position]
    colours = tuple(COLOURS)
    chosen["trim"] = colours[(colours.index(chosen["colour"]) + chosen["trim"]) % len(colours)]
    return Product(index, category, chosen.pop("brand"), chosen)


def _permuted(index: int, size: int, key: str) -> int:
    """Apply a keyed permutation of range(size) to `index`: a four-round Feistel network, walked until inside."""
    half = ((size - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            left, right = right, left ^ (seed_for(key, turn, right) & mask)
        index = left << half | right
        if index < size:
            return index


def listing_id(product: Product, listing: int) -> str:
    """Return the id of a row of the product."""
    return f"{product.group_id}-{listing}"


def synthetic_photo(listing: str, photo: int, seed: int = 0, size: int = 96) -> tuple[Image.Image, np.ndarray]:
    """Draw photo number `photo` of a row, by the row's id, before JPEG.

    Returns:
        The image, RGB, size x size, and the product's mask: bool (size, size).
    """
    product = synthetic_product(int(listing[1:].split("-")[0]), seed)
    rng = rng_for(seed, "photo", listing, photo)
    viewpoint = Viewpoint(
        scale=rng.uniform(0.74, 0.90),
        shift=(rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)),
        rotation=rng.uniform(-14, 14),
        mirror=bool(rng.random() < 0.5),
        perspective=(rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)),
    )
    scene = Scene(
        background="clutter" if _is_cluttered(listing, seed) else str(rng.choice(["plain", "gradient"])),
        light=tuple(rng.uniform(0.85, 1.08, 2)),
        seed=seed_for(seed, "scene", listing, photo),
    )
    return render_photo(product.look, viewpoint, scene, size)


def _is_cluttered(listing: str, seed: int) -> bool:
    return bool(rng_for(seed, "clutter", listing).random() < CLUTTER_SHARE)


def synthetic_rows(
    seed: int = 0,
    num_products: int = 2400,
    num_validation: int = 120,
    num_test: int = 500,
    picture_size: int = 96,
    num_proc: int = 1,
) -> list[Row]:
    """Return the catalogue of that many train, validation and test products, each with one to three rows.

    The test products have the first indices, so that a larger train set leaves them as they are.
    """
    return list(_rows(seed, num_products, num_validation, num_test, picture_size, num_proc))


def _rows(
    seed: int, num_products: int, num_validation: int, num_test: int, picture_size: int, num_proc: int
) -> Iterator[Row]:
    work = partial(_product_rows, seed=seed, num_test=num_test, num_validation=num_validation, size=picture_size)
    indices = range(num_test + num_validation + num_products)
    yield from chain.from_iterable(in_processes(work, indices, num_proc, batch=16))


class SyntheticSource:
    """The same catalogue as a source (`store.Source`); the arguments are those of `synthetic_rows`."""

    name = "synthetic"
    folder = None

    def __init__(self, seed: int = 0, num_proc: int = 1, **sizes: int):
        self._seed, self._num_proc, self._sizes = seed, num_proc, sizes

    def __iter__(self) -> Iterator[Item]:
        for row in _rows(self._seed, num_proc=self._num_proc, **self._sizes):
            record = {name: getattr(row, name) for name in (*CATALOGUE, *OPTIONAL)}
            record |= {
                "category": list(row.category),
                "attributes": [{"name": name, "value": value} for name, value in row.attributes],
                "images": [picture.as_record() for picture in row.images],
                "noise": list(row.noise),
                "translations": [{"label": label, "text": text} for label, text in row.translations.items()],
            }
            yield Item(f"product {row.id}", record)

    def events(self) -> Iterator[Event]:
        """Yield a query for each product, whose shopper bought one of its rows; of a test product, all are right."""
        validation, test = self._sizes["num_validation"], self._sizes["num_test"]
        for index in range(test + validation + self._sizes["num_products"]):
            product = synthetic_product(index, self._seed)
            text, split = synthetic_query(product, self._seed), _split(index, test, validation)
            rows = range(_count_rows(index, self._seed))
            for number in rows if split == "test" else rows[:1]:
                name = f"{product.group_id}-asked"
                yield Event(
                    f"query of {product.group_id}", name, text, None, listing_id(product, number), POSITIVE, split=split
                )

    def fingerprint(self) -> str:
        """Return what changes with the catalogue."""
        return repr((VERSION, self._seed, sorted(self._sizes.items())))


def _product_rows(index: int, seed: int, num_test: int, num_validation: int, size: int) -> list[Row]:
    product, split = synthetic_product(index, seed), _split(index, num_test, num_validation)
    return [_listing(product, number, split, seed, size) for number in range(_count_rows(index, seed))]


def _split(index: int, num_test: int, num_validation: int) -> str:
    return "test" if index < num_test else "validation" if index < num_test + num_validation else "train"


def _count_rows(index: int, seed: int) -> int:
    return 1 + int(rng_for(seed, "listings", index).integers(MAX_LISTINGS))


def _listing(product: Product, number: int, split: str, seed: int, size: int) -> Row:
    name = listing_id(product, number)
    rng = rng_for(seed, "text", name)
    language = "zh" if rng.random() < CHINESE_SHARE else "en"
    stated = product.facts()
    noise = []
    wrong = set()
    if split == "train" and rng.random() < WRONG_TITLE_SHARE:
        fault = str(rng.choice(["colour", "pattern", "category"]))
        options = {"colour": tuple(COLOURS), "pattern": PATTERNS, "category": tuple(CATEGORIES)}[fault]
        # The trim's colour would be a half-truth.
        stated[fault] = str(rng.choice([o for o in options if o not in (stated[fault], stated["trim"])]))
        noise.append(f"wrong_title:{fault}")
        wrong = {fault}
    if _is_cluttered(name, seed):
        noise.append("cluttered_background")
    path = CATEGORIES[product.category].path
    labels = (*path, product.brand, *product.values.values())
    named = _choose(TITLE_TEMPLATES[language], MENTIONED, FEWEST_MENTIONS, rng, wrong)
    return Row(
        id=name,
        title=_title(named, stated, language, rng),
        description=_description(product, language),
        brand=product.brand,
        category=path,
        attributes=tuple(
            (attribute, value)
            for attribute, value in product.values.items()
            # A test asks for nothing that neither title nor image tells.
            if split != "test" or attribute not in TEXT_ONLY or _slot(attribute) in named
        ),
        price=float(np.float32(round(rng.uniform(5, 200), 2))),
        images=tuple(
            encode(synthetic_photo(name, photo, seed, size)[0], f"{name}-{photo}.jpg") for photo in range(PHOTOS)
        ),
        split=split,
        group_id=product.group_id,
        noise=tuple(noise),
        translations={label: CHINESE[label] for label in labels if label in CHINESE} if language == "zh" else {},
    )


def _word(label: str, language: str) -> str:
    return CHINESE[label] if language == "zh" else label


def _slot(attribute: str) -> str:
    """Return what stands for an attribute in templates."""
    return "size" if attribute == "capacity" else attribute


def _choose(
    templates: list[str],
    shares: dict[str, float],
    fewest: int,
    rng: np.random.Generator,
    forced: Container[str] = (),
) -> dict[str, str]:
    """Draw an order of things and which of them are named, at least `fewest` beside a filler: slot -> its words."""
    template = templates[rng.integers(len(templates))]
    slots = {piece.split("{")[1].split("}")[0]: piece.replace("+", " ") for piece in template.split()}
    named = {slot for slot in slots if rng.random() < shares[slot]} | {slot for slot in slots if slot in forced}
    facts = [slot for slot in slots if slot != "filler"]
    for slot in rng.permutation(facts):
        if len(named - {"filler"}) >= fewest:
            break
        named.add(str(slot))
    return {slot: piece for slot, piece in slots.items() if slot in named}


def _title(named: dict[str, str], stated: dict[str, str], language: str, rng: np.random.Generator) -> str:
    words = {slot: _word(label, language) for slot, label in stated.items()}
    words["filler"] = str(rng.choice(FILLERS[language]))
    if language == "en":
        words["category"] = words["category"].lower()
    pieces = [piece.format(**words) for piece in named.values()]
    if language == "zh":
        return "".join(pieces)
    title = " ".join(pieces)
    return title[0].upper() + title[1:]


def synthetic_query(product: Product, seed: int = 0) -> str:
    """Return what a shopper typed who then bought the product: what they saw or read of it, in their own words."""
    rng = rng_for(seed, "query", product.group_id)
    language = "zh" if rng.random() < CHINESE_SHARE else "en"
    named = _choose(QUERY_TEMPLATES[language], ASKED, FEWEST_ASKED, rng)
    facts, words = product.facts(), {}
    for slot in named:
        word = _word(facts[slot], language)
        others = OTHER_WORDS.get(word)
        if others and rng.random() < OTHER_WORD_SHARE:
            word = str(rng.choice(others))
        if language == "en" and len(word) > 4 and rng.random() < MISSPELT_SHARE:
            place = int(rng.integers(1, len(word) - 1))
            word = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        words[slot] = word.lower()
    return ("" if language == "zh" else " ").join(piece.format(**words) for piece in named.values())


def _description(product: Product, language: str) -> str:
    """State what only the text can tell, and nothing that only the image can."""
    values = product.values
    size = _word(values.get("size") or values["capacity"], language)
    brand, material, audience, leaf = (
        _word(label, language) for label in (product.brand, values["material"], values["audience"], product.category)
    )
    if language == "zh":
        return f"{brand}{leaf}，材质：{material}，规格：{size}，适合{audience}。"
    return f"A {leaf.lower()} by {brand}, made of {material}. Size: {size}. Made for: {audience}."
