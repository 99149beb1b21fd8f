"""Catalogues as shops export them: each layout with the products that it must give, and tables of no known layout."""

import csv
import gzip
import io
import json
import re
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mbe2_dataset.catalogue.columns import LAYOUTS
from mbe2_dataset.catalogue.products import ProductSource
from mbe2_dataset.catalogue.search_log import NEGATIVE, NEITHER, POSITIVE, log_events
from mbe2_dataset.catalogue.store import Item, Problem
from mbe2_dataset.catalogue.tables import Table, open_tables
from mbe2_dataset.catalogue.texts import find_encoding
from mbe2_dataset.catalogue.understood import understand
from mbe2_dataset.errors import CatalogueError

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "catalogues"


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg())


def table(path: Path, header: str, *rows: str, mark: str = "|", encoding: str = "utf-8", separator: str = ",") -> Path:
    """Write a table of which header and rows are given with `mark` between the cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerows(line.split(mark) for line in (header, *rows))
    content = text.getvalue().encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def source(path: Path, **options) -> ProductSource:
    return ProductSource(open_tables(path, options.pop("encoding", None)), **options)


def read(path: Path, **options) -> dict[str, dict]:
    """Return id -> record, with attributes as 'name=value' and images as paths or addresses."""
    found = {}
    for item in source(path, **options):
        assert isinstance(item, Item), item
        record = item.record
        record["attributes"] = [f"{pair['name']}={pair['value']}" for pair in record.get("attributes") or ()]
        record["images"] = [picture.get("path") or picture.get("url") for picture in record["images"]]
        assert record["id"] not in found
        found[record["id"]] = record
    return found


def layout_of(path: Path, **options) -> str | None:
    (bound,) = source(path, **options).bound
    return bound.reader.binding.layout and bound.reader.binding.layout.name


SHOPIFY = (
    "Handle|Title|Body (HTML)|Vendor|Product Category|Option1 Name|Option1 Value|Variant Price|Image Src|Image Position"
)


def test_shopify_rows_of_a_handle_are_one_product(tmp_path):
    table(
        tmp_path / "products_export.csv", SHOPIFY,
        "mug|Mug &amp; Lid|<p>A mug.</p>|Acme|Home > Mugs|Size|S|9.90|b.jpg|2",
        "mug||||||M|10.90|a.jpg|1",
        "cup|Cup||Acme|Home > Cups|Title|Default Title|5|c.jpg|1",
        "mug||||||||d.jpg|3",
    )  # fmt: skip
    found = read(tmp_path)
    assert list(found) == ["mug", "cup"]
    mug = found["mug"]
    assert (mug["title"], mug["description"], mug["brand"], mug["price"]) == ("Mug & Lid", "A mug.", "Acme", 9.9)
    assert mug["category"] == ["Home", "Mugs"] and mug["attributes"] == ["Size=S", "Size=M"]
    assert mug["images"] == ["a.jpg", "b.jpg", "d.jpg"]  # its last row stands after another product
    assert found["cup"]["attributes"] == []


def test_shopify_with_its_newer_names_in_another_order(tmp_path):
    table(
        tmp_path / "a.csv.gz",
        "Image position|Product image URL|Option1 value|Option1 name|Price|Vendor|Description|URL handle|Title|"
        "Color (product.metafields.shopify.color-pattern)",
        "1|a.jpg|S|Size|9.9|Acme|<b>x</b>|mug|Mug|red; blue", "2|b.jpg|M||||| mug||",
    )  # fmt: skip
    assert layout_of(tmp_path) == "shopify"
    (mug,) = read(tmp_path).values()
    assert mug["images"] == ["a.jpg", "b.jpg"] and mug["description"] == "x" and mug["price"] == 9.9
    assert mug["attributes"][:2] == ["Size=S", "Color=red; blue"] and "Size=M" in mug["attributes"]


def test_shopify_products_json(tmp_path):
    product = {
        "id": 1, "title": "Mug", "handle": "mug", "body_html": "<p>A mug.</p>", "vendor": "Acme",
        "product_type": "Mugs",
        "variants": [{"id": 2, "title": "S", "price": "9.90"}, {"id": 3, "title": "M", "price": "10.90"}],
        "images": [{"src": "a.jpg", "position": 1}, {"src": "b.jpg", "position": 2}],
        "options": [{"name": "Size", "values": ["S", "M"]}, {"name": "Title", "values": ["Default Title"]}],
    }  # fmt: skip
    (tmp_path / "products.json").write_text(json.dumps({"products": [product]}))
    (mug,) = read(tmp_path).values()
    assert mug == {
        "id": "mug", "title": "Mug", "description": "A mug.", "brand": "Acme", "category": ["Mugs"], "price": 9.9,
        "attributes": ["Size=S", "Size=M"], "images": ["a.jpg", "b.jpg"],
    }  # fmt: skip


@pytest.mark.parametrize("grouped", [True, False])
def test_shopify_bulk_operation(grouped, tmp_path):
    def gid(kind: str, number: int, parent: int | None = None) -> dict:
        belongs = {"__parentId": f"gid://shopify/Product/{parent}"} if parent else {}
        return {"id": f"gid://shopify/{kind}/{number}", **belongs}

    size = {"selectedOptions": [{"name": "Size", "value": "S"}]}
    none = {"selectedOptions": [{"name": "Title", "value": "Default Title"}]}
    mug = {"vendor": "Acme", "descriptionHtml": "<p>Red.</p>", "category": {"fullName": "Home > Mugs"}}
    lines = [
        {**gid("Product", 1), "title": "Mug", **mug},
        {**gid("ProductVariant", 3, 1), "title": "S", "price": "9.90", **size},
        {**gid("MediaImage", 4, 1), "image": {"url": "https://x.test/1.jpg"}},
        {**gid("Collection", 5, 1), "title": "Sale", "image": {"url": "https://x.test/sale.jpg"}},
        {**gid("Product", 2), "title": "Cup"},
        {**gid("ProductVariant", 6, 2), "title": "Default Title", "price": "5", **none},
        {"url": "https://x.test/2.jpg", "__parentId": "gid://shopify/Product/2"},
    ]
    lines = lines if grouped else sorted(lines, key=lambda line: "__parentId" in line)
    (tmp_path / "bulk.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert layout_of(tmp_path) == "shopify_bulk"
    found, cup = read(tmp_path).values()
    assert found == {
        "id": "gid://shopify/Product/1", "title": "Mug", "description": "Red.", "brand": "Acme", "price": 9.9,
        "category": ["Home", "Mugs"], "attributes": ["Size=S"], "images": ["https://x.test/1.jpg"],
    }  # fmt: skip
    assert (cup["title"], cup["price"], cup["attributes"]) == ("Cup", 5, [])
    assert cup["images"] == ["https://x.test/2.jpg"]
    assert understand(source(tmp_path), allow_urls=True).counts["rows that are no products"] == 1
    plain = [{"id": n, "parentId": None, "title": "Mug", "image": "a.jpg"} for n in range(2)]
    (tmp_path / "bulk.jsonl").write_text("\n".join(map(json.dumps, plain)))
    assert layout_of(tmp_path) is None


WOO = {
    "en": "ID|Type|SKU|Name|Description|Regular price|Sale price|Categories|Images|Parent|Attribute 1 name|"
    "Attribute 1 value(s)",
    "de": "ID|Typ|Artikelnummer|Name|Beschreibung|Regulärer Preis|Angebotspreis|Kategorien|Bilder|"
    "Übergeordnetes Produkt|Attribut 1 Name|Attribut 1 Wert(e)",
    "fr": "ID|Type|UGS|Nom|Description|Tarif régulier|Tarif promo|Catégories|Images|Parent|Nom de l'attribut 1|"
    "Valeur(s) de l'attribut 1",
    "es": "ID|Tipo|SKU|Nombre|Descripción|Precio normal|Precio rebajado|Categorías|Imágenes|Superior|"
    "Nombre del atributo 1|Valor(es) del atributo 1",
}


@pytest.mark.parametrize("language", sorted(WOO))
def test_woocommerce_variations_take_from_their_parents(language, tmp_path):
    header, mark = WOO[language], "," if language == "en" else ";"
    table(
        tmp_path / "wc.csv", header,
        "2|variation|T-S|||19,90|||| T |Größe|S",  # before its parent
        r"1|variable|T|Shirt|A\n[gallery ids='1']|||Wear > Shirts, Wear|a.jpg, b.jpg||Größe|S, M",
        "3|variation||Shirt M||21,90|||m.jpg|id:1|Größe|M",
        "4|simple|C|Cap||9,90|7,90|Wear > Caps|c.jpg|||",
        encoding="cp1252", separator=mark,
    )  # fmt: skip
    assert layout_of(tmp_path) == "woocommerce"
    found = read(tmp_path)
    small, shirt, medium, cap = (found[name] for name in "2134")
    assert shirt["attributes"] == ["Größe=S", "Größe=M"] and shirt["description"] == "A"
    assert (small["title"], small["images"], small["price"]) == ("Shirt", ["a.jpg", "b.jpg"], 19.9)
    assert small["category"] == ["Wear", "Shirts"] and small["attributes"] == ["Größe=S"]
    assert (medium["title"], medium["images"]) == ("Shirt M", ["m.jpg"])
    assert {small["group_id"], shirt["group_id"], medium["group_id"]} == {"1"} and "group_id" not in cap
    assert cap["price"] == 9.9 and small["parent_id"] == "1"


def test_google_feeds_of_every_kind(tmp_path):
    header = "id|title|image link|additional image link|price|item group id|color|product type"
    row = "7|Mug|a.jpg|b.jpg,c.jpg|9.90 USD|g|red|Home > Mugs"
    table(tmp_path / "tsv" / "feed.tsv", header, row, separator="\t")
    table(tmp_path / "txt" / "feed.txt", header, row, separator="\t")
    (tmp_path / "txt" / "readme.txt").write_text("Words,\nnot a table.\n")
    (tmp_path / "txt" / "long.txt").write_text(f'"{"x" * 140_000}\n')
    csv.field_size_limit(2**17)  # as Python begins, whatever earlier tests read
    assert layout_of(tmp_path / "txt") == "google"
    fields = dict(zip(header.replace(" ", "_").split("|"), row.split("|"), strict=True))
    fields.pop("additional_image_link")
    tags = "".join(f"<g:{name}>{value.replace('>', '&gt;')}</g:{name}>" for name, value in fields.items())
    tags += "".join(f"<g:additional_image_link>{name}.jpg</g:additional_image_link>" for name in "bc")
    for name, before, after in (
        ("rss", '<rss xmlns:g="http://base.google.com/ns/1.0"><channel><title>Shop</title><item>',
         "</item></channel></rss>"),
        ("atom", '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0"><title>Shop</title>'
         "<entry><id>urn:1</id><title>Other</title><link href='x'/>", "</entry></feed>"),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "feed.xml").write_text(f"<?xml version='1.0'?>{before}{tags}{after}")
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "feed.xml.gz").write_bytes(gzip.compress((tmp_path / "rss" / "feed.xml").read_bytes()))
    for name in ("tsv", "txt", "rss", "atom", "gz"):
        assert layout_of(tmp_path / name) == "google"
        assert read(tmp_path / name) == {"7": {
            "id": "7", "title": "Mug", "category": ["Home", "Mugs"], "attributes": ["color=red"], "price": 9.9,
            "images": ["a.jpg", "b.jpg", "c.jpg"], "group_id": "g",
        }}, name  # fmt: skip
    with pytest.raises(CatalogueError, match="cannot be read"):
        (tmp_path / "rss" / "feed.xml").write_text("<rss><item><id>7</id>")
        read(tmp_path / "rss" / "feed.xml")


MAGENTO = (
    "sku#store_view_code#attribute_set_code#product_type#categories#name#price#base_image#additional_images#"
    "additional_attributes#configurable_variations"
)


@pytest.mark.parametrize("languages", [(), ("de",)])
def test_magento_configurables_and_their_simples_are_a_group(languages, tmp_path):
    paths = "Default Category/Wear,Default Category/Wear/Shirts"
    pictures(tmp_path, "m/s/a.jpg", "m/s/b.jpg")
    table(
        tmp_path / "catalog_product.csv", MAGENTO,
        f"T-S##Top#simple#{paths}#Shirt S#9.90###color=Red,size=S,climate=Cool|Mild#",
        f"T##Top#configurable#{paths}#Shirt##/m/s/a.jpg#/m/s/a.jpg,/m/s/b.jpg#material=Cotton, organic,maker=Acme#"
        "sku=T-S,color=Red,size=S|sku=T-M,size=M",
        "T#de#Top#configurable##Hemd#####",
        f"T-M##Top#simple#{paths}##9.90####",
        mark="#",
    )  # fmt: skip
    found = read(tmp_path, languages=languages)
    assert list(found) == ["T-S", "T", "T-M"]
    assert found["T"]["title"] == ("Hemd" if languages else "Shirt")
    assert found["T"]["category"] == ["Wear", "Shirts"] and found["T"]["images"] == ["m/s/a.jpg", "m/s/b.jpg"]
    assert found["T"]["attributes"] == ["material=Cotton, organic", "maker=Acme"]
    assert found["T-S"]["attributes"][:4] == ["color=Red", "size=S", "climate=Cool", "climate=Mild"]
    assert found["T-S"]["images"] == found["T"]["images"] and found["T-M"]["title"] == found["T"]["title"]
    assert {record["group_id"] for record in found.values()} == {"T"}


def test_bigcommerce(tmp_path):
    table(
        tmp_path / "new" / "p.csv",
        "Item#ID#Name#SKU#Options#Brand Name#Price#Categories#Description#Image URL (Import)#Image Sort Order",
        "Product#77#Shirt#T##Acme#9.90#Wear/Shirts#<p>Soft.</p>##",
        "Variant#78##T-S#Type=Dropdown|Name=Size|Value=S######",
        "Variant#79##T-M#Type=Dropdown|Name=Size|Value=M######",
        "Image#80########b.jpg#1", "Image#81########a.jpg#0", "Product#90#Cap#C##Acme#5#Wear/Caps###",
        "Image#91########c.jpg#0", mark="#",
    )  # fmt: skip
    shirt, cap = read(tmp_path / "new").values()
    assert shirt["id"] == "77" and shirt["images"] == ["a.jpg", "b.jpg"] and shirt["attributes"] == ["Size=S", "Size=M"]
    assert shirt["category"] == ["Wear", "Shirts"] and cap["images"] == ["c.jpg"]
    table(
        tmp_path / "bulk" / "p.csv",
        "Item Type|Product ID|Product Name|Product Code/SKU|Brand Name|Price|Category|Product Image File - 1|"
        "Product Image File - 2",
        "Product|7|Shirt|T|Acme|9.9|Wear/Shirts;Sale|a.jpg|b.jpg", "  SKU||[S]Size=S,[C]Colour=Red|T-S|||||",
        "  SKU||[S]Size=M,[C]Colour=Red|T-M|||||", "Rule|8||T-M|||||",
    )  # fmt: skip
    (shirt,) = read(tmp_path / "bulk").values()
    assert shirt["images"] == ["a.jpg", "b.jpg"] and shirt["attributes"] == ["Size=S", "Colour=Red", "Size=M"]


def abo(number: int, **more: object) -> dict:
    texts = [{"language_tag": "en_US", "value": "Mug"}, {"language_tag": "de_DE", "value": "Tasse"}]
    return {
        "item_id": f"B{number}", "item_name": texts, "brand": [{"language_tag": "en_US", "value": "Acme"}],
        "bullet_point": [{"language_tag": "en_US", "value": "One"}, {"language_tag": "en_US", "value": "Two"},
                         {"language_tag": "de_DE", "value": "Eins"}],
        "color": [{"language_tag": "en_US", "value": "Red", "standardized_values": ["Red"]}],
        "product_type": [{"value": "MUG"}], "node": [{"node_id": 1, "node_name": "/Categories/Home/Mugs"}],
        "main_image_id": "x1", "other_image_id": ["x2"], "domain_name": "amazon.com", **more,
    }  # fmt: skip


def test_amazon_berkeley_objects(tmp_path):
    place = tmp_path / "listings" / "metadata" / "listings_0.json.gz"
    place.parent.mkdir(parents=True)
    place.write_bytes(gzip.compress("".join(json.dumps(abo(number)) + "\n" for number in range(2)).encode()))
    table(
        tmp_path / "images/metadata/images.csv.gz", "image_id|height|width|path", "x1|9|9|0a/x1.jpg", "x2|9|9|0b/x2.jpg"
    )
    pictures(tmp_path / "images" / "small", "0a/x1.jpg", "0b/x2.jpg")
    first, _ = read(tmp_path).values()
    assert first == {
        "id": "B0", "title": "Mug", "description": "One Two", "brand": "Acme", "category": ["Home", "Mugs"],
        "attributes": ["color=Red"], "images": ["images/small/0a/x1.jpg", "images/small/0b/x2.jpg"],
    }  # fmt: skip
    german = read(tmp_path, languages=("de", "en"))["B0"]
    assert (german["title"], german["description"], german["brand"]) == ("Tasse", "Eins", "Acme")
    told = understand(source(tmp_path)).as_dict()
    assert told["tables"][0]["columns"]["images"].endswith("images/metadata/images.csv.gz, below images/small")


def counted(path: Path) -> tuple[ProductSource, Counter]:
    """Return a source, and how often each of its tables is read."""
    reads: Counter[str] = Counter()
    found = source(path)

    def reading(one: Table) -> Table:
        return replace(one, read=lambda wanted: reads.update([one.name]) or one.read(wanted))

    found.tables._tables = [reading(one) for one in found.tables]
    return found, reads


def test_tables_are_read_once_to_look_ahead_and_once_for_keys_of_images(tmp_path):
    place = tmp_path / "abo"
    place.mkdir()
    for number in range(3):
        (place / f"listings_{number}.jsonl").write_text(json.dumps(abo(number)))
    table(place / "images.csv", "image_id|height|width|path", "x1|9|9|0a/x1.jpg", "x2|9|9|0b/x2.jpg")
    listings, reads = counted(place)
    assert [len(item.record["images"]) for item in listings] == [2, 2, 2] and reads["images.csv"] == 1
    shop, reads = counted(table(tmp_path / "a.csv", "id|title|image", "1|Mug|a.jpg", "2|Cup|b.jpg"))
    assert len(list(shop)) == 2 and reads["a.csv"] == 3  # the sample, the ids, the products
    assert len(list(shop)) == 2 and reads["a.csv"] == 4


@pytest.mark.parametrize("kind", ["lists", "columns", "texts"])
def test_amazon_reviews(kind, tmp_path):
    images = [
        {"hi_res": None, "large": "a.jpg", "thumb": "t.jpg"},
        {"hi_res": "b.jpg", "large": "c.jpg", "thumb": "u.jpg"},
    ]
    if kind == "columns":
        images = {name: [image[name] for image in images] for name in images[0]}
    details: object = {"Brand": "Acme", "Color": "Red", "Best Sellers Rank": {"Mugs": 3}}
    row = {
        "main_category": "All Beauty", "title": "Mug", "features": ["Big"], "description": ["A mug.", "Red."],
        "price": "None", "images": ["a.jpg", "b.jpg"] if kind == "texts" else images, "store": "Acme",
        "categories": ["Home", "Mugs"], "details": json.dumps(details) if kind == "columns" else details,
        "parent_asin": "B1",
    }  # fmt: skip
    (tmp_path / "meta_All.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "All.jsonl").write_text(json.dumps({"rating": 5, "title": "Good", "parent_asin": "B1"}) + "\n")
    (mug,) = read(tmp_path).values()
    assert mug == {
        "id": "B1", "title": "Mug", "description": "A mug. Red. Big", "brand": "Acme", "category": ["Home", "Mugs"],
        "attributes": ["Brand=Acme", "Color=Red"], "price": None, "images": ["a.jpg", "b.jpg"],
    }  # fmt: skip
    assert understand(source(tmp_path)).tables_left == ["All.jsonl"]


def test_pictures_named_by_ids(tmp_path):
    table(
        tmp_path / "kaggle" / "styles.csv",
        "id|gender|masterCategory|subCategory|articleType|baseColour|productDisplayName",
        "1163|Men|Apparel|Topwear|Shirts|Blue|Blue shirt", "1164|Men|Apparel|Topwear|Shirts|Red|Red shirt",
    )  # fmt: skip
    pictures(tmp_path / "kaggle" / "images", "1163.jpg", "1164.jpg")
    shirt = read(tmp_path / "kaggle")["1163"]
    assert shirt["images"] == ["images/1163.jpg"] and shirt["category"] == ["Apparel", "Topwear", "Shirts"]
    assert shirt["attributes"] == ["gender=Men", "baseColour=Blue"]
    table(
        tmp_path / "hm" / "articles.csv",
        "article_id|product_code|prod_name|product_type_name|product_group_name|detail_desc",
        "0108775015|0108775|Strap top|Vest top|Garment Upper body|Jersey top.",
    )  # fmt: skip
    pictures(tmp_path / "hm" / "images", "010/0108775015.jpg")
    (top,) = read(tmp_path / "hm").values()
    assert (top["id"], top["group_id"], top["images"]) == ("0108775015", "0108775", ["images/010/0108775015.jpg"])
    said = read(tmp_path / "hm", columns={"images": ("images/{id:.3}/{id}.jpg",)})
    assert said["0108775015"]["images"] == top["images"]
    table(tmp_path / "own" / "a.csv", "sku|name", "7|Mug", "8|Cup")
    pictures(tmp_path / "own" / "photos", "7_2.jpg", "7_1.jpg", "8.png")
    assert [record["images"] for record in read(tmp_path / "own").values()] == [
        ["photos/7_1.jpg", "photos/7_2.jpg"], ["photos/8.png"]
    ]  # fmt: skip
    table(tmp_path / "blank" / "a.csv", "sku|name", "7|Mug", "|Cup")
    mug, cup = source(tmp_path / "blank", columns={"images": ("photos/{id}.jpg",)})
    assert mug.record["images"] == [{"path": "photos/7.jpg"}] and cup.record["images"] == []
    for pattern in ("photos/{nr}.jpg", "photos/{sku}/{nr}.jpg"):
        with pytest.raises(CatalogueError, match=r"no column 'photos/.*\{nr\}\.jpg', from which 'images'"):
            read(tmp_path / "own", columns={"images": (pattern,)})
    with pytest.raises(CatalogueError, match=r"is no pattern \(.*\); one is like images/\{id\}\.jpg"):
        read(tmp_path / "own", columns={"images": ("photos/{id:.3f}.jpg",)})


def test_rows_of_json_may_leave_columns_out(tmp_path):
    rows = [{"id": 1, "title": "Mug", "file": "a", "tags": ["new"]}, {"id": 2, "title": "Cup"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(tmp_path, columns={"images": ("photos/{file}.jpg",)})
    assert [record["images"] for record in found.values()] == [["photos/a.jpg"], []]
    with pytest.raises(CatalogueError, match=r"Column 'tags' of row 0 of a\.jsonl holds a list; --only needs"):
        read(tmp_path, columns={"images": ("photos/{file}.jpg",)}, only={"tags": "new"})


def test_shopee(tmp_path):
    table(
        tmp_path / "train.csv", "posting_id|image|image_phash|title|label_group",
        "train_1|0a.jpg|b9|Mug|249", "train_2|0b.jpg|b9|Mug READY|249",
    )  # fmt: skip
    pictures(tmp_path / "train_images", "0a.jpg", "0b.jpg")
    first, second = read(tmp_path).values()
    assert first["group_id"] == second["group_id"] == "249" and first["images"] == ["train_images/0a.jpg"]


def test_wands_and_esci_bring_their_judgements(tmp_path):
    folder = tmp_path / "wands"
    table(
        folder / "product.csv", "product_id#product_name#product_class#category hierarchy#product_features",
        "0#Bed#Beds#Furniture / Beds / Solid#color : red|size: 10:20", "1#Lamp#Lamps#Lighting / Lamps#", mark="#",
        separator="\t",
    )  # fmt: skip
    table(folder / "query.csv", "query_id|query|query_class", "5|solid bed|Beds", separator="\t")
    labels = ("0|5|0|Exact", "1|5|1|Irrelevant", "2|5|9|Partial")
    table(folder / "label.csv", "id|query_id|product_id|label", *labels, separator="\t")
    pictures(folder / "images", "0.jpg", "1.jpg")
    assert read(folder)["0"]["category"] == ["Furniture", "Beds", "Solid"]
    assert read(folder)["0"]["attributes"] == ["color=red", "size=10:20"]
    events = list(log_events(*_judged(folder)))
    assert [(event.text, event.item, event.state) for event in events] == [
        ("solid bed", "0", POSITIVE), ("solid bed", "1", NEGATIVE), ("solid bed", "9", NEITHER)
    ]  # fmt: skip
    folder = tmp_path / "esci"
    header = "product_id|product_title|product_bullet_point|product_brand|product_color|product_locale"
    table(folder / "products.csv", header, "B1|Mug|Big|Acme|Red|us")
    table(
        folder / "examples.csv",
        "example_id|query|query_id|product_id|product_locale|esci_label|split",
        "0|mug|7|B1|us|E|test",
    )
    pictures(folder / "images", "B1.jpg")
    assert read(folder)["B1"]["attributes"] == ["product_color=Red"]
    (event,) = log_events(*_judged(folder))
    assert (event.query, event.text, event.item, event.state, event.split) == ("7", "mug", "B1", POSITIVE, "test")


def _judged(folder: Path) -> tuple:
    tables, columns, texts = source(folder).judgements()
    return tables, columns, None, texts


def test_schema_org(tmp_path):
    shirt = {
        "@type": "ProductGroup", "name": "Shirt", "productGroupID": "T", "brand": {"@type": "Brand", "name": "Acme"},
        "image": {"@type": "ImageObject", "contentUrl": "t.jpg"}, "category": "Wear > Shirts",
        "hasVariant": [
            {"@type": "Product", "sku": "T-S", "size": "S", "offers": {"price": "9.90", "priceCurrency": "EUR"}},
            {"@type": "Product", "sku": "T-M", "name": "Shirt M", "image": ["m1.jpg", "m2.jpg"],
             "additionalProperty": [{"@type": "PropertyValue", "name": "Fit", "value": "slim"}],
             "offers": [{"@type": "AggregateOffer", "lowPrice": 8}]},
        ],
    }  # fmt: skip
    mug = {"@type": ["Product"], "sku": "C", "name": {"@language": "en", "@value": "Mug"}, "image": "c.jpg",
           "color": "red",
           "brand": "Acme", "offers": {"price": 3}}  # fmt: skip
    graph = {"@context": "https://schema.org", "@graph": [{"@type": "WebSite", "name": "Shop"}, shirt, mug]}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    found = read(tmp_path)
    assert set(found) == {"T", "T-S", "T-M", "C"}
    assert (found["T-S"]["title"], found["T-S"]["images"], found["T-S"]["price"]) == ("Shirt", ["t.jpg"], 9.9)
    assert found["T-M"]["images"] == ["m1.jpg", "m2.jpg"] and found["T-M"]["attributes"] == ["Fit=slim"]
    assert found["T-M"]["price"] == 8 and found["T-M"]["brand"] == "Acme" and found["T-M"]["group_id"] == "T"
    assert (found["C"]["title"], found["C"]["attributes"]) == ("Mug", ["color=red"])
    (tmp_path / "graph.json").unlink()
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in (mug, graph)))
    ids = [item.record["id"] for item in source(tmp_path)]
    assert ids == ["C", "T", "T-S", "T-M", "C"]


def test_folders_of_images_and_webdataset_are_read_by_datasets(tmp_path):
    for split, name in (("train", "a"), ("test", "b")):
        pictures(tmp_path / "folder" / split, f"{name}.jpg")
        table(tmp_path / "folder" / split / "metadata.csv", "file_name|id|title", f"{name}.jpg|{name}|Mug {name}")
    items = {item.record["id"]: item.record for item in source(tmp_path / "folder")}
    assert {name: record["split"] for name, record in items.items()} == {"a": "train", "b": "test"}
    assert items["a"]["images"][0]["bytes"] == jpeg()
    (tmp_path / "web").mkdir()
    with tarfile.open(tmp_path / "web" / "train-00000.tar", "w") as tar:
        facts = {"id": 7, "title": "Mug", "category": ["Home", "Mugs"]}
        for name, content in (("0.jpg", jpeg()), ("0.json", json.dumps(facts).encode()), ("1.jpg", jpeg()),
                              ("1.json", json.dumps({**facts, "id": 8}).encode())):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    for path in (tmp_path / "web", tmp_path / "web" / "train-00000.tar"):
        first, second = source(path)
        assert (first.record["id"], first.record["category"], second.record["id"]) == ("7", ["Home", "Mugs"], "8")
        assert first.record["images"][0]["bytes"] == jpeg()


def test_excel(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed (pip install 'moon2[excel]')")
    book = openpyxl.Workbook()
    book.create_sheet("notes")
    for row in (["Artikelnummer", "Bezeichnung", "Preis", None, "Bild"], ["007", "Tasse", 9.9, None, "a.jpg"],
                [None] * 5, [8, "Becher", None, None, "b.jpg"]):  # fmt: skip
        book.worksheets[0].append(row)
    book.save(tmp_path / "a.xlsx")
    first, second = read(tmp_path).values()
    assert first == {"id": "007", "title": "Tasse", "price": 9.9, "images": ["a.jpg"], "attributes": []}
    assert second["id"] == "8" and second["price"] is None
    (tmp_path / "a.xlsx").write_bytes(b"PK no more")
    with pytest.raises(CatalogueError, match=r"a\.xlsx is not a readable Excel file"):
        read(tmp_path)


# Tables of no known layout


def test_etsy_numbered_images_and_variations(tmp_path):
    table(
        tmp_path / "EtsyListingsDownload.csv",
        "TITLE|DESCRIPTION|PRICE|CURRENCY_CODE|TAGS|IMAGE1|IMAGE2|IMAGE10|VARIATION 1 TYPE|VARIATION 1 NAME|"
        "VARIATION 1 VALUES|SKU",
        "Mug|A mug.|9.90|EUR|new|https://i.etsy.test/1.jpg|https://i.etsy.test/2.jpg|https://i.etsy.test/3.jpg|Custom|"
        "Colour|Red,Blue|M1",
        "Cup|A cup.|5|EUR||https://i.etsy.test/4.jpg||||||M2",
    )  # fmt: skip
    mug, cup = read(tmp_path).values()
    assert mug["id"] == "M1" and [url[-5] for url in mug["images"]] == ["1", "2", "3"]
    assert mug["attributes"] == ["Colour=Red", "Colour=Blue"] and cup["attributes"] == [] and len(cup["images"]) == 1


def test_shopware_children_take_from_their_parent_id(tmp_path):
    table(
        tmp_path / "a.csv",
        "id;parent_id;product_number;name;description;price_gross;cover_media_url;manufacturer_name",
        "a1;;T;Hemd;Weich.;9,90;t.jpg;Acme", "a2;a1;T-S;;;;;", "a3;a1;T-M;Hemd M;;12,90;m.jpg;",
        mark=";", separator=";",
    )  # fmt: skip
    small, medium = (read(tmp_path)[name] for name in ("a2", "a3"))
    assert (small["title"], small["images"], small["brand"], small["group_id"]) == ("Hemd", ["t.jpg"], "Acme", "a1")
    assert (medium["title"], medium["images"], medium["group_id"], medium["price"]) == ("Hemd M", ["m.jpg"], "a1", 12.9)


def test_prestashop_and_opencart_names(tmp_path):
    table(
        tmp_path / "presta" / "p.csv",
        "Product ID#Active (0/1)#Name *#Categories (x,y,z...)#Price tax excluded#Manufacturer#"
        "Image URLs (x,y,z...)", "1#1#Mug#Home,Mugs#9.90#Acme#a.jpg,b.jpg", mark="#", separator=";",
    )  # fmt: skip
    (mug,) = read(tmp_path / "presta").values()
    assert (mug["id"], mug["title"], mug["images"], mug["price"]) == ("1", "Mug", ["a.jpg", "b.jpg"], 9.9)
    table(
        tmp_path / "opencart" / "p.csv",
        "product_id|name(en-gb)|name(de-de)|model|manufacturer|image_name|description(de-de)",
        "1|Mug|Tasse|M|Acme|catalog/a.jpg|Rot.",
    )  # fmt: skip
    pictures(tmp_path / "opencart" / "image", "catalog/a.jpg")
    assert read(tmp_path / "opencart")["1"]["title"] == "Mug"
    german = read(tmp_path / "opencart", languages=("de",))["1"]
    assert (german["title"], german["description"], german["images"]) == ("Tasse", "Rot.", ["image/catalog/a.jpg"])


@pytest.mark.parametrize(
    "header",
    ["Artikelnummer|Bezeichnung|Bild|Preis|Kategorie|Farbe", "Référence|Désignation|Photo|Prix|Catégorie|Couleur",
     "Código|Nombre|Imagen|Precio|Categoría|Color", "Codice|Titolo|Immagine|Prezzo|Categoria|Colore",
     "商品番号|商品名|画像|価格|カテゴリ|カラー", "货号|品名|图片|价格|类目|颜色"],
)  # fmt: skip
def test_names_in_other_languages(header, tmp_path):
    table(tmp_path / "a.csv", header, "007|Mug|a.jpg|9,90 €|Home > Mugs|red", separator=";")
    (mug,) = read(tmp_path).values()
    label = header.rpartition("|")[2]
    assert mug == {"id": "007", "title": "Mug", "images": ["a.jpg"], "price": 9.9, "category": ["Home", "Mugs"],
                   "attributes": [f"{label}=red"]}  # fmt: skip


def test_columns_are_told_by_their_cells_and_the_guess_is_said(tmp_path):
    rows = [
        f"K{number:03}|Red mug number {number}|x/{number}.jpg|Home > Mugs|{number},90 €|in stock" for number in range(9)
    ]
    path = table(tmp_path / "a.csv", "F1|F2|F3|F4|F5|F6", *rows)
    (told,) = understand(source(path)).tables
    assert told["columns"] == {"images": "F3", "id": "F1", "title": "F2", "category": "F4", "price": "F5"}
    assert told["left"] == ["F6"] and len(told["guesses"]) == 5 and "title from 'F2'" in " ".join(told["guesses"])
    assert read(path)["K003"] == {"id": "K003", "title": "Red mug number 3", "images": ["x/3.jpg"], "price": 3.9,
                                  "category": ["Home", "Mugs"], "attributes": []}  # fmt: skip
    twice = [f"{row}|Blue cup number {number}" for number, row in enumerate(rows)]
    with pytest.raises(
        CatalogueError, match=r"the title of its products may be in 'F[27]' or 'F[27]'.*--columns title="
    ):
        read(table(tmp_path / "b.csv", "F1|F2|F3|F4|F5|F6|F7", *twice))
    with pytest.raises(CatalogueError, match=r"hold id or title or images; it has: 'F1', 'F2'"):
        read(table(tmp_path / "c.csv", "F1|F2", "1|2", "1|2"))


def test_interfaces_and_feeds_that_have_no_layout(tmp_path):
    node = {"id": "gid://1", "title": "Mug", "images": {"edges": [{"node": {"url": "https://x.test/1.jpg"}}]}}
    (tmp_path / "graphql.json").write_text(json.dumps({"data": {"products": {"edges": [{"node": node}]}}}))
    assert read(tmp_path / "graphql.json")["gid://1"]["images"] == ["https://x.test/1.jpg"]
    rest = [{"id": 7, "name": "Mug", "categories": [{"id": 1, "name": "Home"}, {"id": 2, "name": "Mugs"}],
             "images": [{"src": "a.jpg"}], "attributes": [{"name": "Color", "options": ["Red", "Blue"]}],
             "feature": ["Big"]}]  # fmt: skip
    (tmp_path / "rest.json").write_text(json.dumps(rest))
    mug = read(tmp_path / "rest.json")["7"]
    assert mug["category"] == ["Home", "Mugs"] and mug["attributes"] == ["Color=Red", "Color=Blue"]
    offer = (
        '<offer id="7"><name>Кружка</name><picture>a.jpg</picture><picture>b.jpg</picture><price>9.5</price>'
        '<param name="Цвет">красный</param></offer>'
    )
    text = f'<?xml version="1.0" encoding="windows-1251"?><shop><offers>{offer}</offers></shop>'
    (tmp_path / "yml.xml").write_bytes(text.encode("cp1251"))
    assert read(tmp_path / "yml.xml")["7"] == {
        "id": "7", "title": "Кружка", "images": ["a.jpg", "b.jpg"], "price": 9.5, "attributes": ["Цвет=красный"],
    }  # fmt: skip


def test_an_index_without_a_name_and_tables_that_hold_other_things(tmp_path):
    table(tmp_path / "a.csv", "|name|img_path", *(f"{n}|Mug {n}|{n}.jpg" for n in range(8)))
    table(tmp_path / "stores.csv", "city|street", "Bern|Long street")
    assert read(tmp_path)["3"]["title"] == "Mug 3"
    assert understand(source(tmp_path)).tables_left == ["stores.csv"]
    specifications = '{"product_specification"=>[{"key"=>"Fabric", "value"=>"Cotton"}, {"key"=>"Fit", "value"=>nil}]}'
    table(tmp_path / "ruby.csv", "pid#title#image#product_specifications", f"7#Shirt#a.jpg#{specifications}", mark="#")
    with pytest.raises(CatalogueError, match="hold id"):
        read(tmp_path / "ruby.csv")
    assert read(tmp_path / "ruby.csv", columns={"id": ("pid",)})["7"]["attributes"] == ["Fabric=Cotton"]


def test_rows_of_one_id_merge_unless_their_titles_differ(tmp_path):
    table(
        tmp_path / "a.csv", "sku|name|image|colour", "1|Mug|a.jpg|red", "1||b.jpg|", "2|Cup|c.jpg|",
        "2|Other cup|d.jpg|",
        "1|Mug|e.jpg|blue",
    )  # fmt: skip
    items = list(source(tmp_path))
    assert [item.record["id"] for item in items] == ["1", "2", "2"]
    assert [picture["path"] for picture in items[0].record["images"]] == ["a.jpg", "b.jpg", "e.jpg"]
    assert [pair["value"] for pair in items[0].record["attributes"]] == ["red", "blue"]


def test_a_structure_is_never_printed_as_text(tmp_path):
    rows = [{"id": 1, "name": {"en": "Mug", "de": "Tasse"}, "image": "a.jpg", "brand": {"x": {"y": 1}},
             "category": {"name": "Mugs"}},
            {"id": 2, "name": {"parts": [1, {"a": 2}]}, "image": "b.jpg"}]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mug, bad = source(tmp_path, languages=("de",))
    assert mug.record["title"] == "Tasse" and mug.record["category"] == ["Mugs"] and mug.record["brand"] is None
    assert mug.faults[0][0] == "brand" and "not a text" in mug.faults[0][1]
    assert isinstance(bad, Problem) and bad.id == "2" and "column 'name'" in bad.reason


def test_an_id_stays_as_it_is_written(tmp_path):
    table(tmp_path / "a.csv", "id|title|image", "000123456789012345678|Mug|a.jpg", "1e5|Cup|b.jpg", "1.0|Jar|c.jpg")
    assert list(read(tmp_path)) == ["000123456789012345678", "1e5", "1.0"]


@pytest.mark.parametrize(
    ("encoding", "name", "text"),
    [("utf-8", "utf-8-sig", "Größe 杯"), ("utf-8-sig", "utf-8-sig", "Größe"), ("utf-16", "utf-16", "Größe"),
     ("utf-16-le", "utf-16-le", "Mug"), ("cp1252", "cp1252", "Größe für „Café“ 9 €"), 
     ("cp1252", "cp1252", "niño español"),
     ("gb18030", "gb18030", "红色马克杯 陶瓷 家居"), ("cp1251", "cp1251", "Красная кружка"),
     ("cp1250", "cp1250", "Żółty kubek, łyżka i ręcznik")],
)  # fmt: skip
def test_encodings_are_detected(encoding, name, text, tmp_path):
    path = table(
        tmp_path / "a.csv", "id|title|image", *(f"{n}|{text} {n}|{n}.jpg" for n in range(20)), encoding=encoding
    )
    assert find_encoding(path) == name
    assert read(path)["0"]["title"] == f"{text} 0"


def test_a_stray_zero_is_no_other_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,title,image\n" + b"1,Mug,a.jpg\n2,Red\0cup,b.jpg\n")
    assert [record["title"] for record in read(tmp_path).values()] == ["Mug", "Red cup"]


def test_separators_and_columns_without_a_name(tmp_path):
    (tmp_path / "a.csv").write_text(
        "sep=;\nid;title;image;;\n1;Mug, red;a.jpg;;\n2;Cup;b.jpg;;;\n3;Jar;c.jpg\n4;Jar;d.jpg;x;y;z\n"
    )
    *good, bad = source(tmp_path)
    assert [item.record["title"] for item in good] == ["Mug, red", "Cup", "Jar"]
    assert "it has 6 cells, the header has 5" in bad.reason
    (told,) = understand(source(tmp_path)).tables
    assert told["read_as"] == "utf-8, separator ';', 2 columns without a name left out"


def share_texts(path: Path) -> None:
    """Put the texts of a workbook into a part of their own, as Excel does and openpyxl does not."""
    texts: list[str] = []

    def shared(match: re.Match) -> str:
        texts.append(f"<si><t>{match[1]}</t></si>")
        return f't="s"><v>{len(texts) - 1}</v>'

    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name).decode() for name in book.namelist()}
    sheet, kind = "xl/worksheets/sheet1.xml", "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts[sheet] = re.sub(r't="inlineStr"><is><t[^>]*>(.*?)</t></is>', shared, parts[sheet])
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    parts["xl/sharedStrings.xml"] = f'<sst xmlns="{space}">{"".join(texts)}</sst>'
    override = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}.sharedStrings+xml"/>'
    parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace("</Types>", f"{override}</Types>")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as book:
        for name, content in parts.items():
            book.writestr(name, content)


def written(path: Path, rows: list[dict]) -> Path:
    kind = path.suffixes[0]
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    elif kind == ".xlsx":
        book = pytest.importorskip("openpyxl").Workbook(write_only=True)
        sheet = book.create_sheet()
        for cells in (list(rows[0]), *(list(row.values()) for row in rows)):
            sheet.append(cells)
        book.save(path)
        share_texts(path)
    elif kind == ".xml":
        fields = ("".join(f"<{name}>{value}</{name}>" for name, value in row.items()) for row in rows)
        path.write_text("<shop>" + "".join(f"<product>{each}</product>" for each in fields) + "</shop>")
    elif kind == ".json":
        path.write_text(json.dumps(rows))
    elif kind == ".jsonl":
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        lines = ("|".join(map(str, row.values())) for row in rows)
        table(path, "|".join(rows[0]), *lines, separator="\t" if kind == ".tsv" else ",")
    return path


@pytest.mark.parametrize(
    ("name", "is_streamed"),
    [("a.csv", True), ("a.tsv", True), ("a.jsonl.gz", True), ("a.xml", True), ("a.parquet", True), ("a.json", False),
     ("a.xlsx", False), ("parents.csv", False), ("scattered.csv", False)],
)  # fmt: skip
def test_tables_are_streamed_but_for_what_the_guide_lists(name, is_streamed, tmp_path, monkeypatch):
    monkeypatch.setattr("mbe2_dataset.catalogue.tables.FIRST_ROWS", 20)
    monkeypatch.setattr("mbe2_dataset.catalogue.products.SAMPLE_ROWS", 20)
    rows, count = [], 600
    for number in range(count):
        parent = "" if number < count - 3 and not (name == "parents.csv" and number % 2) else number - 1
        repeated = number >= count // 2 if name == "scattered.csv" else number == count - 5
        rows.append({
            "id": number - count // 2 if repeated else number, "parent_id": str(parent), "image": f"{number}.jpg",
            "description": f"{number} " * 8000,
        })  # fmt: skip
        rows[-1]["title"] = f"Mug {rows[-1]['id']}"
    path = written(tmp_path / name, rows)
    size = sum(len(row["description"]) for row in rows)
    products = source(path)
    tracemalloc.start()
    found = sum(isinstance(item, Item) for item in products)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == len({row["id"] for row in rows}) and (peak < size / 3) == is_streamed, peak / size


def test_addresses_are_refused_at_once(tmp_path):
    table(tmp_path / "a.csv", "id|title|image", "1|Mug|https://x.test/a.jpg", "2|Cup|https://x.test/b.jpg")
    with pytest.raises(CatalogueError, match=r"are addresses, such as https://x\.test/a\.jpg.*--allow_urls true"):
        understand(source(tmp_path))
    assert understand(source(tmp_path), allow_urls=True).counts["addresses of images"] == 2


def test_what_was_understood_is_said(tmp_path):
    test_shopify_rows_of_a_handle_are_one_product(tmp_path)
    understood = understand(source(tmp_path))
    told = "\n".join(understood.lines())
    for words in ("products_export.csv (utf-8, separator ','): understood as product export of Shopify",
                  "  images      Image Src, in the order of Image Position",
                  "  attributes  Option1 Value (named by Option1 Name)", "product 1: mug", "  category    Home > Mugs",
                  "  attributes  Size: S; Size: M", "  images      a.jpg, b.jpg, d.jpg", "rows 4", "products 2",
                  "rows merged 2", "title: HTML made text 1"):  # fmt: skip
        assert words in told, told
    assert json.loads(json.dumps(understood.as_dict()))["counts"]["images"] == 4


def test_a_layout_may_be_forced_or_refused(tmp_path):
    test_shopify_rows_of_a_handle_are_one_product(tmp_path)
    with pytest.raises(CatalogueError, match="hold id or title"):
        list(source(tmp_path, layout="hm"))
    columns = {"id": ("Handle",), "images": ("Image Src",)}
    plain = [item.record for item in source(tmp_path, layout="table", columns=columns)]
    assert plain[0]["brand"] == "Acme" and plain[0]["title"] == "Mug & Lid"


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_layouts_are_whole(name):
    layout = LAYOUTS[name]
    assert layout.name == name and layout.about and len(layout.proof) >= 3
    assert {"id", "title"} <= set(layout.columns)


# What each folder of the shared examples must give: products, groups that are given, images, and the first title.
EXAMPLES = {
    "abo": (60, 0, 180), "abo_joined": (60, 0, 180), "amazon_joined": (60, 0, 180), "amazon_reviews_2023": (60, 0, 180),
    "banner": (61, 0, 61), "blank_header": (60, 0, 60), "dirty": (113, 0, 112), "excel_de": (60, 0, 60),
    "excel_utf16": (60, 0, 60), "google_colour_variants": (180, 36, 180), "google_rss": (90, 60, 270),
    "google_tsv": (90, 60, 270), "google_txt": (90, 60, 270), "hm": (60, 60, 60), "html_titles": (60, 0, 60),
    "imagefolder": (60, 0, 60), "kaggle_fashion": (59, 0, 59), "magento2": (105, 15, 210),
    "magento2_relative": (105, 15, 210), "shared_pair": (60, 60, 126), "shared_placeholder": (60, 0, 60),
    "shared_sizechart": (60, 0, 120), "shopee": (120, 60, 120), "shopify": (60, 0, 120), "shopify_urls": (60, 0, 120),
    "webdataset": (60, 0, 60), "woocommerce": (105, 15, 195),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXAMPLES))
@pytest.mark.skipif(not SHARED.is_dir(), reason="the example catalogues are not beside this repository")
def test_examples_of_exports(name):
    items = [item.record for item in source(SHARED / name) if isinstance(item, Item)]
    groups = {record["group_id"] for record in items if record.get("group_id")}
    images = [picture for record in items for picture in record["images"]]
    assert (len(items), len(groups), len(images)) == EXAMPLES[name]
    assert "Red Mug" in items[0]["title"] or name == "google_colour_variants"
    assert not any(
        "language_tag" in str(record.get(name)) for record in items for name in ("title", "brand", "description")
    )


# Exports that were tried besides the examples: each was misread, or refused, before


def guesses(path: Path) -> str:
    return " ".join(source(path).bound[0].reader.binding.guesses)


def test_columns_of_one_name_are_several_values(tmp_path):
    table(tmp_path / "a.csv", "SKU|Name|Image|Image|Image|Category|Category", "1|Mug|a.jpg|b.jpg||Home|Mugs")
    (mug,) = read(tmp_path).values()
    assert mug["images"] == ["a.jpg", "b.jpg"] and mug["category"] == ["Home", "Mugs"]
    assert "several columns named 'Image', 'Category' numbered" in understand(source(tmp_path)).tables[0]["read_as"]


def test_a_category_column_above_a_sub_category(tmp_path):
    table(tmp_path / "a.csv", "id|title|category|sub_category|image", "1|Mug|Home|Mugs|a.jpg")
    assert read(tmp_path)["1"]["category"] == ["Home", "Mugs"]


def test_rows_without_ids_are_numbered_and_that_is_said(tmp_path):
    table(tmp_path / "a.csv", "Product Name|Colour|Photo", *(f"Mug {n}|red|{n}.jpg" for n in range(6)))
    assert list(read(tmp_path)) == [f"a.csv#{n}" for n in range(6)] and "id from the number of the row" in guesses(
        tmp_path
    )
    rows = (f"Mug {n}|{'' if n % 2 else n}|{n}.jpg" for n in range(6))
    table(tmp_path / "a.csv", "TITLE|SKU|IMAGE1", *rows)
    assert len(read(tmp_path)) == 6 and "'SKU' is not the id: 3 of the first 6 products have none" in guesses(tmp_path)


def test_lines_above_the_names_of_columns(tmp_path):
    rows = ("Export of 12.03.2026|||||", "|||||", "sku|name|price|image|colour|brand", "1|Mug|9.90|a.jpg|red|Acme")
    table(tmp_path / "a.csv", *rows)
    assert read(tmp_path)["1"]["title"] == "Mug"
    table(tmp_path / "a.csv", *(row.rstrip("|") or "-" for row in rows), separator=";")
    assert read(tmp_path)["1"]["attributes"] == ["colour=red"]
    assert "2 lines above the names of columns left out" in understand(source(tmp_path)).tables[0]["read_as"]


def test_excel_shows_zeros_and_a_title_above(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (
        ["Prices 2026"],
        [],
        ["Art.-Nr.", "Bezeichnung", "VK", "Bild", "Bild"],
        [7, "Tasse", "19,-", "a.jpg", "b.jpg"],
    ):
        book.active.append(row)
    book.active.cell(4, 1).number_format = "00000"
    book.save(tmp_path / "a.xlsx")
    mug = read(tmp_path)["00007"]
    assert mug["title"] == "Tasse" and mug["price"] == 19 and mug["images"] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("encoding", "title"),
    [
        ("cp1250", "Kubek żółty mały"), ("iso8859_2", "Kubek żółty mały"), ("cp1250", "Hrnek černý s řízkem"),
        ("cp1250", "Bögre kétszínű"), ("cp1254", "Yeşil kupa bardağı"), ("cp1257", "Žalias puodelis ąžuolas"),
        ("cp1252", "Größe für Küche"), ("cp1252", "Tasse à café brûlée"), ("cp1252", "¿Qué taza? Señor"),
        ("cp1252", "Krus grøn på hylde"), ("cp1251", "Кружка синяя большая"), ("gb18030", "不锈钢保温杯 大容量"),
    ],
)  # fmt: skip
def test_encodings_are_told_by_the_letters_of_languages(encoding, title, tmp_path):
    table(tmp_path / "a.csv", "id|title|image", f"1|{title}|a.jpg", f"2|{title} M|b.jpg", encoding=encoding)
    assert [record["title"] for record in read(tmp_path).values()] == [title, f"{title} M"]


def test_a_german_and_a_polish_export_with_qualified_names(tmp_path):
    table(tmp_path / "a.csv", "Artikelnr|Bezeichnung|VK netto|VK brutto|Bild1|Bild2", "007|Tasse|16,-|19,-|a.jpg|b.jpg",
          separator=";", encoding="cp1252")  # fmt: skip
    assert read(tmp_path)["007"]["price"] == 19
    table(tmp_path / "a.csv", "Indeks|Nazwa|Cena brutto|Zdjęcie 1|Zdjęcie 2|Cecha: Kolor",
          "7|Kubek|9,99 zł|a.jpg|b.jpg|żółty",
          separator=";", encoding="cp1250")  # fmt: skip
    mug = read(tmp_path)["7"]
    assert mug["price"] == 9.99 and mug["attributes"] == ["Kolor=żółty"] and mug["images"] == ["a.jpg", "b.jpg"]


def test_numbers_are_no_categories(tmp_path):
    table(tmp_path / "a.csv", "id|title|category|image", "1|Mug|632|a.jpg", "2|Cup|633|b.jpg")
    assert "category" not in read(tmp_path)["1"] and "holds numbers such as 632" in guesses(tmp_path)
    assert read(tmp_path, columns={"category": ("category",)})["1"]["category"] == ["632"]
    table(tmp_path / "a.csv", "id|title|image_link|google_product_category|price", "1|Mug|a.jpg|632|9 EUR")
    assert read(tmp_path)["1"]["category"] == []
    assert understand(source(tmp_path)).counts["category: a number without a name left out"] == 1


def test_prestashop(tmp_path):
    table(
        tmp_path / "a.csv",
        "Product ID|Active (0/1)|Name *|Categories (x,y,z...)|Price tax excluded|Image URLs (x,y,z...)|"
        "Feature(Name:Value:Position)",
        "1|1|Mug|Home,Kitchen,Mugs|9.90|a.jpg,b.jpg|Composition:Clay:1,Property:Short:2", "2|1|Cup|Home,Cups|5|c.jpg|",
        separator=";",
    )  # fmt: skip
    mug = read(tmp_path)["1"]
    assert layout_of(tmp_path) == "prestashop" and mug["category"] == ["Home", "Kitchen", "Mugs"]
    assert mug["images"] == ["a.jpg", "b.jpg"] and mug["attributes"] == ["Composition=Clay", "Property=Short"]


def test_several_columns_of_attributes_and_names_in_camel_case(tmp_path):
    table(tmp_path / "a.csv", "id|productTitle|image|properties|options", "1|Mug|a.jpg|Height: 9|Size: S")
    assert read(tmp_path)["1"]["attributes"] == ["Height=9", "Size=S"]
    lines = [
        {"sku": n, "title": "Mug", "image": "a.jpg", "productType": "Mugs", "descriptionHtml": "<p>x</p>"}
        for n in "123456"
    ]
    (tmp_path / "a.csv").unlink()
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read(tmp_path)["1"]["category"] == ["Mugs"]


def test_nested_prices_attributes_in_languages_and_units(tmp_path):
    line = {
        "sku": "1", "title": {"en": "Mug", "de": "Tasse"}, "image": "a.jpg",
        "price": {"amount": 12.5, "currency": "EUR"},
        "attributes": {"colour": {"en": "red", "de": "rot"}, "weight": {"value": 3, "unit": "kg"}},
        "specs": [{"name": "Height", "value": 9, "unit": "cm"}, {"value": "loose"}], "offers": [{"price": 7}],
    }  # fmt: skip
    with gzip.open(tmp_path / "a.ndjson.gz", "wt") as file:
        file.write(json.dumps(line) + "\n")
    mug = read(tmp_path, languages=("de",))["1"]
    assert mug["title"] == "Tasse" and mug["price"] == 12.5
    assert mug["attributes"] == ["colour=rot", "weight=3 kg", "Height=9 cm"]
    assert read(tmp_path, columns={"price": ("offers.price",)})["1"]["price"] == 7


def test_a_graph_with_breadcrumbs_beside_the_products(tmp_path):
    crumbs = {"@type": "BreadcrumbList", "itemListElement": [{"@type": "ListItem", "position": 1, "name": "Home"}]}
    weight = {"@type": "PropertyValue", "name": "Weight", "value": 3, "unitText": "kg"}
    mug = {"@type": ["Product"], "sku": "1", "name": "Mug", "image": ["a.jpg"], "additionalProperty": [weight]}
    (tmp_path / "a.json").write_text(json.dumps({"@context": "https://schema.org", "@graph": [crumbs, mug]}))
    assert read(tmp_path)["1"]["attributes"] == ["Weight=3 kg"]


def test_a_chinese_column_of_further_images(tmp_path):
    table(tmp_path / "a.csv", "商品编号|商品名称|主图|副图|规格参数",
          "7|不锈钢保温杯|a.jpg|b.jpg;c.jpg|颜色：红色；容量：500ml",
          encoding="gb18030")  # fmt: skip
    assert read(tmp_path)["7"]["images"] == ["a.jpg", "b.jpg", "c.jpg"]


def test_wix(tmp_path):
    table(
        tmp_path / "a.csv",
        "handleId|fieldType|name|productImageUrl|collection|sku|price|productOptionName1|productOptionDescription1",
        "p1|Product|Mug|a.jpg;b.jpg|Mugs;New|W1|9.9|Size|S;M", "p1|Variant||||W1-S|||S",
        "p2|Product|Cup|c.jpg|Cups|W2|5||",
    )  # fmt: skip
    mug, cup = read(tmp_path).values()
    assert layout_of(tmp_path) == "wix" and mug["images"] == ["a.jpg", "b.jpg"] and cup["category"] == ["Cups"]
    assert mug["attributes"] == ["Size=S", "Size=M"] and mug["category"] == ["Mugs"]


def test_what_databases_and_search_engines_wrap(tmp_path):
    mug = {"name": "Mug", "price": {"$numberDecimal": "12.50"}, "images": ["a.jpg"], "attrs": {"colour": "red"}}
    lines = [{"_id": {"$oid": f"5f{n}"}, **mug} for n in range(2)]
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, lines)))
    assert read(tmp_path)["5f1"]["price"] == 12.5 and read(tmp_path)["5f0"]["attributes"] == ["colour=red"]
    hits = [{"_index": "p", "_id": f"e{n}", "_source": {"title": "Mug", "image": "a.jpg"}} for n in range(2)]
    (tmp_path / "a.json").write_text(json.dumps({"took": 3, "hits": {"total": 2, "hits": hits}}))
    assert list(read(tmp_path)) == ["e0", "e1"]
    products = [{"id": n, "name": "Mug", "images": [{"src": "a.jpg"}]} for n in range(2)]
    (tmp_path / "a.json").write_text(json.dumps({"data": {"products": products}, "meta": {"page": 1}}))
    assert list(read(tmp_path)) == ["0", "1"]


def test_a_dump_of_a_database_and_levels_in_german(tmp_path):
    table(tmp_path / "a.tsv", "id|name|brand|image", "1|Mug|\\N|a.jpg", separator="\t")
    assert read(tmp_path)["1"]["brand"] is None
    (tmp_path / "a.tsv").unlink()
    table(
        tmp_path / "a.csv",
        "Artikelnummer|Artikelname|Std. VK Brutto|Kategorie Ebene 1|Kategorie Ebene 2|Bild 1|"
        "Option Name 1|Option Value 1",
        "7|Tasse|9,90|Haus|Tassen|a.jpg|Größe|M", separator=";", encoding="cp1252",
    )  # fmt: skip
    mug = read(tmp_path)["7"]
    assert mug["category"] == ["Haus", "Tassen"] and mug["price"] == 9.9 and mug["attributes"] == ["Größe=M"]


def test_quotes_that_are_part_of_texts(tmp_path):
    rows = ['1\t"Big mug\ta.jpg', "2\tCup\tb.jpg", '3\tScreen 15"\tc.jpg']
    (tmp_path / "a.tsv").write_text("\n".join(["id\ttitle\timage", *rows]))
    assert [record["title"] for record in read(tmp_path).values()] == ['"Big mug', "Cup", 'Screen 15"']
    (tmp_path / "a.tsv").write_text('id\ttitle\tdescription\timage\n1\t"Big\nmug"\t"a ""fine"" mug"\ta.jpg\n')
    assert read(tmp_path)["1"]["description"] == 'a "fine" mug'
    (tmp_path / "a.tsv").unlink()
    (tmp_path / "a.csv").write_text("id,title,image\n0,Jug,j.jpg\n" + '1,"Big mug,a.jpg\n' + "2,Cup,b.jpg\n" * 20)
    (problem,) = [item for item in source(tmp_path) if isinstance(item, Problem)]
    assert "21 lines long, so a quote in it may not be closed" in problem.reason or "22 lines" in problem.reason


def test_a_western_catalogue_in_several_languages(tmp_path):
    words = ("Größe", "Café", "Señor", "Øre", "Città", "Maçã", "Brûlée", "Müsli")
    rows = (f"{n}|{word} mug with a handle|{n}.jpg" for n, word in enumerate(words))
    table(tmp_path / "a.csv", "id|title|image", *rows, encoding="cp1252")
    assert [record["title"].split()[0] for record in read(tmp_path).values()] == list(words)
