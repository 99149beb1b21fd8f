"""Find which column of other people's tables holds what."""

import re
from collections.abc import Iterable, Mapping, Sequence

from mbe2_dataset.errors import CatalogueError

# Our name -> the columns it is read from; none: it is not read at all.
Columns = dict[str, tuple[str, ...]]

# Usual names, the likeliest first. Case, blanks, dots and hyphens do not matter.
CATALOGUE_NAMES: dict[str, tuple[str, ...]] = {
    "id": (
        "id", "product_id", "productid", "item_id", "itemid", "sku", "sku_id", "asin", "article_id", "goods_id",
        "spu_id", "parent_asin", "uniq_id", "uid", "商品id", "商品编号", "商品编码", "货号", "编号",
    ),
    "title": (
        "title", "product_title", "item_title", "doc_title", "product_name", "productname", "item_name", "name",
        "productdisplayname", "prod_name", "goods_name", "caption",
        "商品标题", "商品名称", "商品名", "标题", "名称", "品名",
    ),
    "description": (
        "description", "product_description", "item_description", "detail_desc", "desc", "details",
        "product_bullet_point", "about_product", "商品描述", "商品详情", "描述", "详情", "简介",
    ),
    "brand": ("brand", "brand_name", "product_brand", "manufacturer", "品牌", "品牌名称"),
    "category": (
        "category", "categories", "category_path", "category_name", "product_category", "product_category_tree",
        "product_type", "cate_name", "类目", "商品类目", "类目路径", "品类", "分类",
    ),
    "attributes": (
        "attributes", "attribute", "doc_attributes", "product_attributes", "product_specifications", "specifications",
        "specs", "properties", "pv", "属性", "商品属性", "规格参数",
    ),
    "price": (
        "price", "sale_price", "selling_price", "discounted_price", "retail_price", "list_price", "actual_price",
        "价格", "售价", "现价",
    ),
    "images": (
        "images", "image", "doc_image", "image_url", "image_urls", "img_url", "imgurl", "img", "imgs", "picture",
        "pictures", "photo", "photos", "image_path", "image_file", "image_name", "filename", "file_name",
        "imageurlhighres", "product_image", "main_image", "image_link", "pict_url", "pic_url",
        "图片", "主图", "商品图片", "图片链接", "图片地址",
    ),
    "split": ("split", "subset", "partition"),
    "group_id": ("group_id", "group", "spu"),
    "parent_id": ("parent_id",),
    "noise": ("noise",),
    "translations": ("translations",),
}  # fmt: skip
# Columns for the levels of one category: their numbers give the order ('doc_industry_name' is the level above).
CATEGORY_LEVELS = re.compile(
    r"(?:doc_)?(?:cate|category|cat|level|l)_?(\d)(?:_?(?:name|category|cate))?|(?:category|cate)_?l(?:evel)?_?(\d)"
)
CHINESE_LEVELS = {"一级类目": 1, "二级类目": 2, "三级类目": 3, "四级类目": 4, "doc_industry_name": 0}


def parse_columns(pairs: Iterable[str]) -> Columns:
    """Return what each of our columns is read from, of pairs like `["id=sku", "images=front,back", "price="]`.

    Raises:
        CatalogueError: a pair is not of the form ours=theirs.
    """
    columns: Columns = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours.strip():
            raise CatalogueError(f"{pair!r} is not of the form ours=theirs, like title=product_name.")
        columns[ours.strip()] = tuple(name.strip() for name in theirs.split(",") if name.strip())
    return columns


def find_columns(
    found: Sequence[str],
    given: Mapping[str, tuple[str, ...]],
    names: Mapping[str, Sequence[str]],
    needed: Iterable[str],
    table: str,
) -> Columns:
    """Map our columns to those of `found` that they are read from: as `given`, else the first that has a usual name.

    Args:
        names: usual names of each of our columns.
        needed: those of ours that the table must have.
        table: its name, for messages.

    Raises:
        CatalogueError: a needed column was not found, or `given` names one that is not there.
    """
    listed = ", ".join(map(repr, found)) or "none"
    for ours, theirs in given.items():
        if ours not in names:
            raise CatalogueError(f"A mapping has no column {ours!r}; it may have: {', '.join(names)}.")
        for name in theirs:
            if name not in found:
                raise CatalogueError(
                    f"{table} has no column {name!r}, from which {ours!r} is to be read; it has: {listed}."
                )
    columns = {ours: tuple(theirs) for ours, theirs in given.items()}
    taken = {name for theirs in columns.values() for name in theirs}
    by_usual_name = {_folded(name): name for name in reversed(found) if name not in taken}
    for ours, usual in names.items():
        if ours not in columns:
            theirs = next((by_usual_name[name] for name in usual if name in by_usual_name), None)
            if theirs is not None:
                columns[ours] = (theirs,)
            elif ours == "category" and (levels := _category_levels(by_usual_name)):
                columns[ours] = levels
    missing = [ours for ours in needed if not columns.get(ours)]
    if missing:
        example = " ".join(f"{ours}=COLUMN" for ours in missing)
        raise CatalogueError(
            f"{table} has no column that is known to hold {' or '.join(missing)}; it has: {listed}. Say which column "
            f"does, with --columns {example}."
        )
    return {ours: theirs for ours, theirs in columns.items() if theirs}


def _folded(name: str) -> str:
    return re.sub(r"[\s.\-]+", "_", name.strip().casefold())


def _category_levels(by_usual_name: Mapping[str, str]) -> tuple[str, ...]:
    levels = {}
    for usual, name in by_usual_name.items():
        match = CATEGORY_LEVELS.fullmatch(usual)
        level = int(match.group(1) or match.group(2)) if match else CHINESE_LEVELS.get(usual)
        if level is not None:
            levels[level] = name
    return tuple(levels[level] for level in sorted(levels))
