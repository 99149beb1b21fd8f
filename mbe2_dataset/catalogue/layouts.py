"""The tables that shops export and that data sets are published in, each as a record.

A new one takes a record here and a few rows as a test. Case, accents, blanks, dots, hyphens and underscores of columns'
names do not matter; `{n}` stands for a number, and `*` for anything. A name with dots leads into JSON: `offers.price`,
and `images.hi_res|large` is the first that each of the images has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

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
        split: what separates several values of an attribute.
    """

    columns: tuple[str, ...]
    kind: Literal["value", "pairs", "named", "files"] = "value"
    names: tuple[str, ...] = ()
    label: str | None = None
    pattern: str | None = None
    split: str | None = None


def pairs(column: str, pattern: str | None = None) -> Source:
    """Read attributes from a column that holds them all."""
    return Source((column,), "pairs", pattern=pattern)


def named(names: Part, values: Part, split: str | None = None) -> Source:
    """Read attributes from columns of names and columns of values, such as `Option{n} Name` and `Option{n} Value`."""
    return Source(parts(values), "named", parts(names), split=split)


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


SHOPIFY = Layout(
    name="shopify",
    about="product export of Shopify",
    proof=(("Handle", "URL handle"), "Title", ("Image Src", "Product image URL"),
           ("Vendor", "Variant Price", "Option1 Value", "Body (HTML)")),
    columns={
        "id": (("Handle", "URL handle"),),
        "title": ("Title",),
        "description": (("Body (HTML)", "Body HTML", "Description"),),
        "brand": ("Vendor",),
        "category": (("Product Category", "Standard Product Type", "Google Shopping / Google Product Category",
                      "Custom Product Type", "Type"),),
        "attributes": (named("Option{n} Name", "Option{n} Value"), "* (product.metafields.shopify.*)",
                       "Google Shopping / Gender", "Google Shopping / Age Group"),
        "price": (("Variant Price", "Price"),),
        "images": (("Image Src", "Product image URL"), ("Variant Image", "Variant image URL")),
    },
    merged=True,
    order=("Image Position",),
    nothing=("Default Title", "Default"),
)  # fmt: skip

SHOPIFY_JSON = Layout(
    name="shopify_json",
    about="products.json of Shopify",
    proof=("handle", "title", "variants", "images", ("body_html", "product_type", "vendor")),
    columns={
        "id": ("handle",),
        "title": ("title",),
        "description": ("body_html",),
        "brand": ("vendor",),
        "category": (("product_category.full_name", "category.full_name", "product_type"),),
        "attributes": (pairs("options"),),
        "price": ("variants.price",),
        "images": ("images.src",),
    },
    nothing=("Default Title",),
)

WOOCOMMERCE = Layout(
    name="woocommerce",
    about="product export of WooCommerce",
    proof=(("Type", "Typ", "Tipo"), ("Regular price", "Regulärer Preis", "Tarif régulier", "Precio normal"),
           ("Name", "Nom", "Nombre"), ("Images", "Bilder", "Imágenes")),
    columns={
        "id": (("ID", "SKU", "Artikelnummer", "UGS"),),
        "title": (("Name", "Nom", "Nombre"),),
        "description": (("Description", "Beschreibung", "Descripción", "Short description", "Kurzbeschreibung",
                         "Description courte", "Descripción corta"),),
        "brand": (("Brands", "Brand", "Marken", "Marke", "Marques", "Marcas"),),
        "category": (("Categories", "Kategorien", "Catégories", "Categorías"),),
        "attributes": (named(("Attribute {n} name", "Attribut {n} Name", "Nom de l'attribut {n}",
                              "Nombre del atributo {n}"),
                             ("Attribute {n} value(s)", "Attribut {n} Wert(e)", "Valeur(s) de l'attribut {n}",
                              "Valor(es) del atributo {n}"), split=","),),
        "price": (("Regular price", "Regulärer Preis", "Tarif régulier", "Precio normal", "Price"),),
        "images": (("Images", "Bilder", "Imágenes"),),
    },
    debris=((r"\\n", "\n"), (r"\[/?[a-z][\w-]*(?: [^\]]*)?\]", " ")),
    parent=("Parent", "Übergeordnetes Produkt", "Superior"),
    parent_keys=("{SKU}", "{Artikelnummer}", "{UGS}", "id:{ID}", "{ID}"),
)  # fmt: skip

GOOGLE = Layout(
    name="google",
    about="feed of Google Merchant Center",
    proof=("id", "title", "image_link",
           ("availability", "price", "item_group_id", "google_product_category", "condition", "gtin", "product_type")),
    columns={
        "id": ("id",),
        "title": ("title",),
        "description": ("description",),
        "brand": ("brand",),
        "category": (("product_type", "google_product_category", "fb_product_category"),),
        "attributes": ("color", "size", "material", "pattern", "gender", "age_group"),
        "price": ("price",),
        "images": ("image_link", "additional_image_link"),
        "group_id": ("item_group_id",),
    },
)  # fmt: skip

MAGENTO = Layout(
    name="magento2",
    about="product export of Magento 2",
    proof=("sku", "product_type", "name", ("additional_attributes", "attribute_set_code"),
           ("base_image", "additional_images")),
    columns={
        "id": ("sku",),
        "title": ("name",),
        "description": (("description", "short_description"),),
        "brand": (("manufacturer", "brand"),),
        "category": ("categories",),
        "attributes": (pairs("additional_attributes"), "color", "size", "material"),
        "price": ("price",),
        "images": ("base_image", "additional_images"),
    },
    merged=True,
    children=("configurable_variations", r"(?:^|\|)sku=([^,|]+)"),
    views=("store_view_code",),
    roots=("Default Category", "Root Catalog"),
)  # fmt: skip

BIGCOMMERCE = Layout(
    name="bigcommerce",
    about="product export of BigCommerce",
    proof=(
        "Item",
        "ID",
        "Name",
        "Options",
        ("Image URL (Import)", "Image URL (Export)", "Internal Image URL (Export)"),
    ),
    columns={
        "id": (("ID", "SKU"),),
        "title": ("Name",),
        "description": ("Description",),
        "brand": (("Brand Name", "Brand", "Brand ID"),),
        "category": ("Categories",),
        "attributes": (pairs("Custom Fields"),),
        "price": ("Price",),
        "images": (("Image URL (Import)", "Internal Image URL (Export)", "Image URL (Export)"),),
    },
    merged=True,
    begins=("Item", ("product",)),
    continued={
        "attributes": (pairs("Options", r"Name=([^|]+)\|Value=([^|;]+)"),),
        "images": (("Image URL (Import)", "Internal Image URL (Export)", "Image URL (Export)"), "Variant Image URL"),
    },
    order=("Image Sort Order",),
)

BIGCOMMERCE_BULK = Layout(
    name="bigcommerce_bulk",
    about="bulk edit export of BigCommerce",
    proof=("Item Type", "Product Name", "Product Image File - {n}"),
    columns={
        "id": (("Product ID", "Product Code/SKU"),),
        "title": ("Product Name",),
        "description": ("Product Description",),
        "brand": ("Brand Name",),
        "category": ("Category",),
        "attributes": (pairs("Product Custom Fields"),),
        "price": ("Price",),
        "images": (("Product Image URL - {n}", "Product Image File - {n}"),),
    },
    merged=True,
    begins=("Item Type", ("product",)),
    continued={"attributes": (pairs("Product Name", r"(?:\[\w+\])?([^=,\[\]]+)=([^,]+)"),)},
)

ABO = Layout(
    name="abo",
    about="listings of Amazon Berkeley Objects",
    proof=("item_id", "item_name", "main_image_id", ("other_image_id", "product_type", "domain_name")),
    columns={
        "id": ("item_id",),
        "title": ("item_name",),
        "description": (("product_description", "bullet_point"),),
        "brand": ("brand",),
        "category": (("node.node_name", "product_type"),),
        "attributes": ("color", "material", "style", "pattern", "fabric_type", "finish_type", "item_shape"),
        "images": ("main_image_id", "other_image_id"),
    },
    roots=("Categories",),
    pictures=("image_id", "path"),
)
# The same with the paths of its pictures joined to it.
ABO_JOINED = replace(
    ABO, name="abo_joined", proof=(*ABO.proof, "images"), columns=ABO.columns | {"images": ("images",)}
)

AMAZON_REVIEWS = Layout(
    name="amazon_reviews_2023",
    about="products of Amazon Reviews 2023",
    proof=("parent_asin", "title", "images", ("main_category", "details", "store")),
    columns={
        "id": ("parent_asin",),
        "title": ("title",),
        "description": ("description", "features"),
        "brand": (("store", "details.Brand"),),
        "category": (("categories", "main_category"),),
        "attributes": (pairs("details"),),
        "price": ("price",),
        "images": ("images.hi_res|large|thumb",),
    },
)

KAGGLE_FASHION = Layout(
    name="kaggle_fashion",
    about="Fashion Product Images of Kaggle",
    proof=("id", "productDisplayName", "masterCategory", "articleType"),
    columns={
        "id": ("id",),
        "title": ("productDisplayName",),
        "category": ("masterCategory", "subCategory", "articleType"),
        "attributes": ("gender", "baseColour", "season", "year", "usage"),
    },
)

HM = Layout(
    name="hm",
    about="articles of H&M Personalized Fashion",
    proof=("article_id", "product_code", "prod_name"),
    columns={
        "id": ("article_id",),
        "title": ("prod_name",),
        "description": ("detail_desc",),
        "category": ("index_group_name", "product_group_name", "product_type_name"),
        "attributes": ("colour_group_name", "graphical_appearance_name", "garment_group_name"),
        "group_id": ("product_code",),
    },
)

SHOPEE = Layout(
    name="shopee",
    about="Shopee product matching",
    proof=("posting_id", "image", "title", "label_group"),
    columns={"id": ("posting_id",), "title": ("title",), "images": ("image",), "group_id": ("label_group",)},
)

WANDS = Layout(
    name="wands",
    about="Wayfair's WANDS",
    proof=("product_id", "product_name", "product_class", ("category hierarchy", "product_features")),
    columns={
        "id": ("product_id",),
        "title": ("product_name",),
        "description": ("product_description",),
        "category": (("category hierarchy", "product_class"),),
        "attributes": (pairs("product_features"),),
    },
    log=LogLayout(
        proof=("query_id", "product_id", "label"),
        columns={"query_id": ("query_id",), "item": ("product_id",), "label": ("label",)},
        queries=("query_id", "query"),
    ),
)

ESCI = Layout(
    name="esci",
    about="Amazon's Shopping Queries (ESCI)",
    proof=("product_id", "product_title", "product_locale", ("product_bullet_point", "product_brand")),
    columns={
        "id": ("product_id",),
        "title": ("product_title",),
        "description": ("product_description", "product_bullet_point"),
        "brand": ("product_brand",),
        "attributes": (("product_color", "product_color_name"),),
        "images": (("image_url", "image", "images"),),
    },
    log=LogLayout(
        proof=("query", "product_id", "esci_label"),
        columns={name: (theirs,) for name, theirs in (("query_id", "query_id"), ("query", "query"),
                                                      ("item", "product_id"), ("label", "esci_label"),
                                                      ("split", "split"))},
    ),
)  # fmt: skip

SCHEMA_ORG = Layout(
    name="schema_org",
    about="Product of schema.org",
    proof=("@type", "name", ("image", "offers", "sku", "brand", "hasVariant", "productGroupID")),
    columns={
        "id": (("sku", "productID", "productGroupID", "@id", "gtin", "gtin13", "mpn", "url"),),
        "title": ("name",),
        "description": ("description",),
        "brand": (("brand.name", "manufacturer.name"),),
        "category": ("category.name",),
        "attributes": (pairs("additionalProperty"), "color.name", "material.name", "size.name", "pattern.name"),
        "price": (("offers.price|lowPrice", "offers.priceSpecification.price"),),
        "images": ("image.contentUrl|url|@id",),
    },
    parent=("isVariantOf.productGroupID", "isVariantOf.@id", "isVariantOf.sku", "inProductGroupWithID"),
    parent_keys=("{productGroupID}", "{@id}", "{sku}"),
    products=("@type", r"(?i)product|vehicle|book$|\bcar$"),
)

M5PRODUCT = Layout(
    name="m5product",
    about="M5Product",
    proof=("item_id", ("pv", "property"), ("title", "caption")),
    columns={
        "id": (("item_id", "id", "image_id"),),
        "title": (("title", "caption", "text"),),
        "category": (("category", "cate_name", "label", "cate_id"),),
        "attributes": (pairs("pv"), pairs("table"), pairs("property"), pairs("attributes")),
        "split": ("split",),
    },
)

LAYOUTS = {
    layout.name: layout
    for layout in (SHOPIFY, SHOPIFY_JSON, WOOCOMMERCE, GOOGLE, MAGENTO, BIGCOMMERCE, BIGCOMMERCE_BULK, ABO, ABO_JOINED,
                   AMAZON_REVIEWS, KAGGLE_FASHION, HM, SHOPEE, WANDS, ESCI, SCHEMA_ORG, M5PRODUCT)
}  # fmt: skip
