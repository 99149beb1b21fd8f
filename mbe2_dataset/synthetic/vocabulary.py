"""The words of the synthetic catalogue, in English and Chinese, and what may go with what.

The English word is the label in every row; the Chinese one stands in titles and descriptions of Chinese rows.
"""

from dataclasses import dataclass

from mbe2_dataset.synthetic.render import MARKS, PATTERNS, Colour


@dataclass(frozen=True)
class Category:
    """`sizes` are the values of the attribute called `size_name` (size or capacity)."""

    path: tuple[str, ...]
    chinese: str
    materials: tuple[str, ...]
    size_name: str
    sizes: tuple[str, ...]


COLOURS: dict[str, Colour] = {
    "red": (208, 32, 38),
    "orange": (245, 130, 20),
    "yellow": (248, 216, 40),
    "green": (34, 139, 52),
    "turquoise": (48, 200, 190),
    "blue": (34, 80, 200),
    "purple": (120, 40, 150),
    "pink": (250, 150, 185),
    "brown": (120, 72, 36),
    "black": (28, 28, 30),
    "grey": (138, 140, 144),
    "white": (250, 250, 250),
}

BRAND_MARKS: dict[str, str] = dict(
    zip(
        ("Norvik", "Solenne", "Kestara", "Lumora", "Tavora", "Fenwald", "Oakmere", "Zephrin", "Mirelle", "Hokana"),
        MARKS,
        strict=True,
    )
)

AUDIENCES = ("women", "men", "kids", "unisex")

_WEAR = ("size", ("small", "medium", "large"))
_FURNITURE = ("size", ("compact", "standard", "oversized"))
_CLOTH = ("cotton", "linen", "wool")
_HARD = ("wood", "steel", "plastic")
_TABLEWARE = ("ceramic", "glass", "steel")


def _capacity(unit: str, *amounts: int) -> tuple[str, tuple[str, ...]]:
    return "capacity", tuple(f"{amount} {unit}" for amount in amounts)


CATEGORIES: dict[str, Category] = {
    path[-1]: Category(path, chinese, materials, *size)
    for path, chinese, materials, size in (
        (("Home", "Kitchen", "Mug"), "马克杯", _TABLEWARE, _capacity("ml", 250, 350, 450)),
        (("Home", "Kitchen", "Teapot"), "茶壶", _TABLEWARE, _capacity("ml", 600, 900, 1200)),
        (("Home", "Furniture", "Chair"), "椅子", _HARD, _FURNITURE),
        (("Home", "Furniture", "Sofa"), "沙发", ("leather", "linen", "wool"), _FURNITURE),
        (("Home", "Lighting", "Lamp"), "台灯", ("wood", "steel", "glass"), _FURNITURE),
        (("Fashion", "Clothing", "T-shirt"), "T恤", _CLOTH, _WEAR),
        (("Fashion", "Clothing", "Dress"), "连衣裙", _CLOTH, _WEAR),
        (("Fashion", "Shoes", "Sneaker"), "运动鞋", ("leather", "canvas", "wool"), _WEAR),
        (("Fashion", "Accessories", "Hat"), "帽子", _CLOTH, _WEAR),
        (("Fashion", "Accessories", "Watch"), "手表", ("leather", "steel", "plastic"), _WEAR),
        (("Fashion", "Accessories", "Sunglasses"), "太阳镜", _HARD, _WEAR),
        (("Fashion", "Accessories", "Umbrella"), "雨伞", ("canvas", "plastic", "linen"), _FURNITURE),
        (("Leisure", "Bags", "Backpack"), "双肩包", ("leather", "canvas", "cotton"), _capacity("l", 15, 22, 30)),
        (("Leisure", "Sports", "Bottle"), "水瓶", ("glass", "steel", "plastic"), _capacity("ml", 500, 750, 1000)),
        (("Leisure", "Sports", "Ball"), "皮球", ("leather", "canvas", "plastic"), _WEAR),
        (("Leisure", "Music", "Guitar"), "吉他", _HARD, _FURNITURE),
    )
}

CHINESE: dict[str, str] = {
    **{leaf: category.chinese for leaf, category in CATEGORIES.items()},
    **dict(
        zip(
            COLOURS,
            ("红色", "橙色", "黄色", "绿色", "青色", "蓝色", "紫色", "粉色", "棕色", "黑色", "灰色", "白色"),
            strict=True,
        )
    ),
    **dict(zip(PATTERNS, ("纯色", "条纹", "圆点", "格子", "锯齿纹", "菱形纹"), strict=True)),
    **dict(
        zip(
            BRAND_MARKS,
            ("诺维克", "索兰", "凯思塔", "露墨", "塔沃", "芬沃", "橡湖", "泽风", "米瑞", "和卡"),
            strict=True,
        )
    ),
    **dict(zip(AUDIENCES, ("女士", "男士", "儿童", "男女通用"), strict=True)),
    **dict(zip(("small", "medium", "large"), ("小号", "中号", "大号"), strict=True)),
    **dict(zip(("compact", "standard", "oversized"), ("小型", "标准型", "加大型"), strict=True)),
    **{"ceramic": "陶瓷", "glass": "玻璃", "steel": "不锈钢", "cotton": "纯棉", "linen": "亚麻", "wool": "羊毛"},
    **{"leather": "真皮", "canvas": "帆布", "wood": "实木", "plastic": "塑料"},
    **{"straight-sided": "直筒", "tapered": "锥形", "globe-bodied": "圆腹", "tall-bodied": "高身", "slim": "细长"},
    **{"flask-shaped": "扁圆瓶身", "short-sleeved": "短袖", "long-sleeved": "长袖", "flared": "大摆"},
    **{"column-cut": "直筒裙摆", "low-top": "低帮", "high-top": "高帮", "rounded": "圆顶", "flap-topped": "翻盖"},
    **{"cone-shaded": "锥形灯罩", "dome-shaded": "半球灯罩", "square-backed": "方背", "hoop-backed": "圈背"},
    **{"round-faced": "圆盘", "square-faced": "方盘", "peaked": "鸭舌", "wide-brimmed": "宽檐", "two-armed": "双扶手"},
    **{"chaise-ended": "带贵妃位", "round-lensed": "圆框", "square-lensed": "方框", "open": "撑开", "folded": "收拢"},
    **{"round-bodied": "圆身", "horned": "尖角", "spherical": "正圆", "oval": "椭圆"},
    **{
        size: size.replace(" ml", "毫升").replace(" l", "升")
        for category in CATEGORIES.values()
        for size in category.sizes
        if category.size_name == "capacity"
    },
}

FILLERS = {
    "en": ("new", "classic", "everyday", "gift", "bestselling"),
    "zh": ("新款", "经典", "日常", "送礼", "热卖"),
}

# Orders in which a title may name things; a title leaves some of them out. "for+{audience}" is one thing of two words.
TITLE_TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": (
        "{brand} {colour} {pattern} {material} {category} {size} for+{audience}",
        "{filler} {pattern} {colour} {category} by+{brand} for+{audience} {material} {size}",
        "{audience} {category} {brand} {size} {material} {colour} {pattern} {filler}",
        "{size} {material} {category} {colour} {pattern} {filler} {brand}",
    ),
    "zh": (
        "{brand} {colour} {pattern} {material} {category} {size} {audience}",
        "{filler} {audience} {material} {pattern} {category} {colour} {brand}",
        "{brand} {size} {category} {audience} {colour} {pattern} {material} {filler}",
    ),
}
