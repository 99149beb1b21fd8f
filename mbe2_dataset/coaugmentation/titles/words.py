"""Words, amounts and claims in English and Chinese: what every catalogue says in the same way (our choice)."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import regex

from common_moon2.text import UNSPACED

# A plain word (first, because it is the most frequent), one character of an unspaced script, a number, "T-shirt" and
# its like as one word, or any other word.
_TOKEN = regex.compile(
    rf"[A-Za-z]{{2,}}(?![\p{{L}}\p{{M}}])(?:['’]s?)?|[{UNSPACED}]|\p{{N}}+(?:[.,]\p{{N}}+)*|\p{{L}}-\p{{L}}{{3,}}"
    rf"|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}])+(?:['’]s?)?"
)
_VARIANTS = {
    **{"woman": "women", "womens": "women", "lady": "women", "female": "women"},
    **{"man": "men", "mens": "men", "gent": "men", "male": "men", "child": "kid", "children": "kid"},
    **{"gray": "grey", "color": "colour", "aluminum": "aluminium", "jewelry": "jewellery", "tee": "tshirt"},
    # The plural of the first is another thing, and the others are no plurals.
    **{word: word for word in ("glasses", "canvas", "lens", "christmas", "gas", "plus", "always")},
}


class Token(NamedTuple):
    """A folded word, and where it stands in the text."""

    word: str
    start: int
    end: int


@lru_cache(maxsize=10_000)
def tokens(text: str) -> tuple[Token, ...]:
    """Return the words of `text`; each character of an unspaced script is a word."""
    return tuple(Token(fold(match[0]), match.start(), match.end()) for match in _TOKEN.finditer(text))


@lru_cache(maxsize=200_000)
def phrase(text: str) -> tuple[str, ...]:
    """Return the folded words of `text`."""
    return tuple(fold(word) for word in _TOKEN.findall(text))


@lru_cache(maxsize=200_000)
def fold(word: str) -> str:
    """Fold a word: lower case, singular, no possessive or hyphen, British spelling; a number without commas."""
    if word[0].isdecimal():
        return regex.sub(r",(?=\d{3}\b)", "", word)
    word = regex.sub(r"['’]s?$", "", word.casefold()).replace("-", "")
    if word not in _VARIANTS and len(word) > 3 and word.isascii():
        if word.endswith("ies") and len(word) > 4:
            word = word[:-3] + "y"
        elif word.endswith(("sses", "xes", "zes", "ches", "shes")):
            word = word[:-2]
        elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
            word = word[:-1]
    return _VARIANTS.get(word, word)


@lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """Remove the verbal ending of a folded word, so that "printed" and "print", "striped" and "stripe" are the same."""
    if not word.isascii() or len(word) < 5:
        return word
    return regex.sub(r"(?:(?<=.{3})ing|(?<=.{3})ed|(?<=.{3})e|(?<=.{4})ly)$", "", word)


def joined_pairs(found: tuple[Token, ...]) -> Iterator[str]:
    """Join neighbouring words between which nothing stands, as in a script without spaces."""
    return (one.word + other.word for one, other in pairwise(found) if one.end == other.start)


def contains(words: tuple[str, ...], part: tuple[str, ...]) -> bool:
    """Tell whether `part` stands in `words` as neighbours."""
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))


# The type of an entity, and the names under which catalogues list it.
_NAMES = {
    "brand": "brand, brand name, 品牌",
    "type": "type, product type, article type, item type, 类型, 品类, 类别, 产品类型, 商品类型",
    "colour": "colour, base colour, colour family, colour name, main colour, 颜色, 主色, 色系, 颜色分类, 主要颜色",
    "material": "material, fabric, fabric type, main material, outer material, upper material, composition, "
    "材质, 面料, 材料, 成分, 面料材质, 主要材质, 鞋面材质",
    "pattern": "pattern, print, print type, print or pattern type, 图案, 花纹, 花型, 印花",
    "size": "size, clothing size, shoe size, 尺码, 尺寸, 规格, 大小, 鞋码",
    "capacity": "capacity, volume, 容量, 容积",
    "weight": "weight, net weight, 重量, 净重, 净含量",
    "dimension": "dimension, dimensions, measurements, 外形尺寸, 产品尺寸",
    "audience": "audience, gender, sex, age group, target audience, target gender, department, "
    "性别, 适用性别, 适用人群, 适用对象, 人群",
    "season": "season, 季节, 适用季节",
    "occasion": "occasion, usage, use, activity, 场合, 场景, 适用场景, 使用场景, 适用场合, 用途",
    "fit": "fit, 版型",
    "neck": "neck, neckline, neck type, collar, collar type, 领型, 领口, 领子",
    "sleeve": "sleeve, sleeve length, sleeve type, 袖长, 袖型",
    "length": "length, 长度, 衣长, 裙长, 裤长",
    "style": "style, 风格, 款式",
    "shape": "shape, 形状",
    "closure": "closure, closure type, fastening, 闭合方式, 开合方式",
    "heel": "heel type, heel height, 跟高, 跟型",
    "toe": "toe shape, toe type, 鞋头, 鞋头款式",
    "display": "display, 显示方式",
    "feature": "feature, key feature, 功能, 特点, 卖点",
    "model": "model, model number, model name, 型号, 货号, 款号",
}

_WORDS = {
    "colour": "red, orange, yellow, green, turquoise, blue, purple, pink, brown, black, grey, white, beige, cream, "
    "navy, navy blue, maroon, olive, gold, silver, bronze, copper, magenta, teal, khaki, charcoal, burgundy, lavender, "
    "mustard, peach, rust, tan, mauve, violet, multicoloured, off white, rose gold, sky blue, dark blue, light blue, "
    "红色, 橙色, 黄色, 绿色, 青色, 蓝色, 紫色, 粉色, 粉红色, 棕色, 咖啡色, 黑色, 灰色, 白色, 米色, 米白色, 卡其色, "
    "藏青色, 深蓝色, 浅蓝色, 天蓝色, 酒红色, 军绿色, 金色, 银色, 玫瑰金, 驼色, 杏色, 彩色",
    "material": "cotton, linen, wool, silk, leather, faux leather, synthetic leather, suede, canvas, denim, polyester, "
    "nylon, viscose, rayon, acrylic, elastane, spandex, velvet, satin, chiffon, georgette, cashmere, fleece, wood, "
    "bamboo, steel, stainless steel, aluminium, brass, ceramic, porcelain, glass, crystal, plastic, silicone, rubber, "
    "mesh, jute, hemp, modal, lycra, corduroy, "
    "纯棉, 全棉, 棉质, 亚麻, 棉麻, 羊毛, 羊绒, 真丝, 桑蚕丝, 真皮, 牛皮, 头层牛皮, 人造革, 皮革, 麂皮, 帆布, 牛仔布, "
    "涤纶, 聚酯纤维, 锦纶, 尼龙, 粘纤, 腈纶, 氨纶, 丝绒, 缎面, 雪纺, 实木, 竹制, 不锈钢, 铝合金, 陶瓷, 骨瓷, 玻璃, "
    "水晶, 塑料, 硅胶, 橡胶, 网布",
    "pattern": "striped, checked, checkered, plaid, floral, floral print, printed, solid, polka dot, dotted, "
    "graphic print, animal print, leopard print, camouflage, paisley, geometric, chevron, argyle, embroidered, "
    "colourblocked, tie dye, abstract, houndstooth, self design, "
    "纯色, 条纹, 格子, 格纹, 圆点, 波点, 碎花, 印花, 花卉, 豹纹, 迷彩, 几何, 刺绣, 拼色, 千鸟格, 菱形纹, 锯齿纹, 提花",
    "audience": "women, men, kid, boy, girl, baby, infant, toddler, teen, unisex, adult, "
    "女士, 男士, 儿童, 男女通用, 女款, 男款, 女童, 男童, 婴儿, 宝宝, 中性, 女生, 男生, 成人, 情侣",
    "fit": "slim fit, regular fit, relaxed fit, loose fit, skinny fit, tailored fit, 修身, 宽松, 直筒, 紧身, 合身",
    "neck": "round neck, vneck, crew neck, polo collar, scoop neck, turtleneck, mandarin collar, boat neck, "
    "spread collar, 圆领, 立领, 翻领, 高领, 半高领, 方领, 连帽, 衬衫领",
    "sleeve": "short sleeve, long sleeve, sleeveless, half sleeve, full sleeve, cap sleeve, three quarter sleeve, "
    "短袖, 长袖, 无袖, 七分袖, 五分袖, 泡泡袖, 蝙蝠袖",
    "season": "春季, 夏季, 秋季, 冬季, 四季, 春秋",
}

# What stands in a column that has to have a value, or is said of nearly everything.
_VAGUE = (
    "yes, no, na, n/a, nan, none, null, other, others, regular, basic, standard fit, normal, single, default, multi, "
    "assorted, blended, mixed, misc, unknown, not applicable, see description, free items, new basics, fabric, "
    "textile, 是, 否, 无, 其他, 其它, 常规, 普通, 见描述, 不详, 见详情"
)
VAGUE = frozenset(phrase(word) for word in _VAGUE.split(", "))
# Fields that keep house rather than describe the product.
HOUSEKEEPING = regex.compile(
    r"wash|care|warrant|shelf life|usable period|hex|year|processing|\bsku\b|\bids?\b|barcode|\bean\b|\bgtin\b|"
    r"business unit|segment|\bbrick\b|洗涤|保养|保修|质保|年份|条码|编号|产地"
)

ATTRIBUTE_TYPES = {name: kind for kind, names in _NAMES.items() for name in names.split(", ")}
BUILT_IN = {phrase(word): (kind, word) for kind, words in _WORDS.items() for word in words.split(", ")}


@lru_cache(maxsize=10_000)
def attribute_type(name: str) -> str | None:
    """Return the entity type of an attribute's name: of ATTRIBUTE_TYPES, or the name itself; None for housekeeping."""
    spaced = regex.sub(r"(?<=\p{Ll})(?=\p{Lu})|[_\-./]+", " ", name).casefold()
    plain = regex.sub(r"\s+", " ", regex.sub(r"[\d\s]+$", "", spaced)).strip().replace("color", "colour")
    if HOUSEKEEPING.search(plain) or not plain:
        return None
    return ATTRIBUTE_TYPES.get(plain) or ATTRIBUTE_TYPES.get(plain.removesuffix("s")) or plain


_CLAIM = regex.compile(
    r"(?i:(?<!\p{L})(?:best(?:[ -]?sell(?:ing|ers?))?|#\s?1|no\.?\s?1|number one|"
    r"top[ -](?:rated|quality|notch|selling)|"
    r"(?:100\s?%\s?)?(?:original|genuine|authentic)(?!\p{L}|[ ]leather)|"
    r"(?:free|fast)[ ](?:shipping|delivery|returns?|gift)|"
    r"hot[ ](?:sale|selling)|(?:for|on)[ ]sale|"
    r"sale|discount(?:ed)?|\d+\s?%\s?off|cheap(?:est)?|(?:lowest|best)[ ]price|"
    r"limited[ ]time|guaranteed?|new[ ]arrivals?|premium|luxur(?:y|ious)|perfect|amazing|ultimate|must[ -]have|finest|"
    r"unbeatable|unmatched|world[ -]class|exclusive|buy[ ]now|hurry|order[ ]now|greatest|incredible|superior)(?!\p{L}))"
    r"|正品|包邮|最[佳好低优热强新高]|第一|顶级|极品|爆款|热卖|热销|畅销|秒杀|特价|促销|打折|清仓|限时|抢购|买一送|赠品|全网|"
    r"官方|旗舰店|绝对|国家级|独家|新品上市|假一|厂家直销|免运费|优惠|折扣|必备|神器|奢华|完美"
)


def claims(text: str) -> list[str]:
    """Return the claims in `text`, in lower case."""
    return [match[0].casefold() for match in _CLAIM.finditer(text)]


# --- amounts: sizes, capacities, weights, dimensions, counts and shares of a material

# Every spelling of a unit; the first one stands for all of them.
UNITS = {
    "capacity": (
        ("ml", "millilitre", "milliliter", "millilitres", "milliliters", "毫升"),
        ("l", "litre", "liter", "litres", "liters", "ltr", "公升", "升"),
        ("fl oz", "fluid ounce", "fluid ounces"),
        ("gallon", "gallons", "加仑"),
    ),
    "weight": (
        ("mg", "毫克"),
        ("kg", "kgs", "kilogram", "kilograms", "千克", "公斤"),
        ("g", "gm", "gms", "gram", "grams", "克"),
        ("lb", "lbs", "pound", "pounds", "磅"),
        ("oz", "ounce", "ounces", "盎司"),
        ("斤",),
    ),
    "length": (
        ("cm", "cms", "centimetre", "centimeter", "centimetres", "centimeters", "厘米", "公分"),
        ("mm", "millimetre", "millimeter", "millimetres", "millimeters", "毫米"),
        ("inch", "inches", "in", '"', "″", "英寸", "寸"),
        ("ft", "feet", "foot", "英尺"),
        ("m", "metre", "meter", "metres", "meters", "米"),
    ),
    "power": (("w", "watt", "watts", "瓦"), ("v", "volt", "volts", "伏")),
    "electric charge": (("mah", "毫安", "毫安时"),),
    "storage": (("gb",), ("tb",), ("mb",)),
    "share": (("%", "percent", "per cent"),),
}
NUMBER_WORDS = {
    **{"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10},
    **{"dozen": 12, "twelve": 12, "twenty": 20, "hundred": 100},
}
CHINESE_NUMBERS = {character: number for number, character in enumerate("一二三四五六七八九十", 1)} | {"两": 2}

_CANONICAL = {spelling: (kind, unit[0]) for kind, units in UNITS.items() for unit in units for spelling in unit}
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_COUNTED = "件套|件装|只装|个装|双装|条装|包装|片装|支装|瓶装|盒装|件|只|双|条|片|支|瓶|盒|枚"
_DECIMAL = regex.compile(r"[0-9]+(?:\.[0-9]+)?")
_PIECES = "pcs?|pieces?|packs?|pairs?|count|ct"
_SIDE = 'cm|mm|m|inch|in|"|厘米|毫米|米'
_COUNT_WORDS = "|".join(NUMBER_WORDS)
# The three branches begin with a digit, a Latin letter and a Chinese character, so that most places fail at once.
_PATTERN = regex.compile(
    rf"""
    (?<![\d.])(?=\d)(?:
        (?P<dimension>{_NUMBER}\s?(?:{_SIDE})?(?:\s?[x×*]\s?{_NUMBER}\s?(?:{_SIDE})?){{1,2}}(?![\p{{L}}\d]))
        |(?P<counted>\d+)(?:[ -]?(?i:{_PIECES})(?![\p{{L}}\d])|(?:{_COUNTED}))
        |(?P<number>{_NUMBER})[ -]?(?P<unit>(?i:\L<units>))(?![\p{{Latin}}\d])(?!(?<=in)[ ]\d)
        |(?P<size>\d{{2,3}}码|[2-6]XL(?![\p{{L}}\d])))
    |(?<![\p{{Latin}}\d])(?=[A-Za-z])(?:
        (?i:pack|set|box|bundle)[ ]of[ ](?P<counted>\d+|(?i:{_COUNT_WORDS}))(?!\p{{L}})
        |(?P<counted>(?i:{_COUNT_WORDS}))[ -](?i:{_PIECES})(?!\p{{L}})
        |(?i:size)[ :]{{1,2}}(?P<stated>(?i:small|medium|large|x-?large)|[2-6]?X{{0,3}}[SML]|\d{{1,3}}(?:\.5)?)
            (?![\p{{L}}\d%.]|[ -]?(?i:\L<units>)(?!\p{{L}}))
        |(?P<size>XX?S|X{{1,3}}L|(?:UK|US|EU)[ ]?\d{{1,2}}(?:\.5)?|(?i:free|one|plus)[ -](?i:size))(?![\p{{L}}\d]))
    |(?=\p{{Script=Han}})(?:(?P<size>(?:特大|加大|大|中|小)号|均码)
        |(?P<counted>[{"".join(CHINESE_NUMBERS)}])(?:{_COUNTED}))
    """,
    regex.VERBOSE,
    units=sorted(_CANONICAL, key=len, reverse=True),
)


class Measure(NamedTuple):
    """`kind` is an entity type; `key` is the same for every spelling of the same amount."""

    kind: str
    key: tuple[str, ...]
    value: str
    start: int
    end: int


@lru_cache(maxsize=10_000)
def measures(text: str) -> tuple[Measure, ...]:
    """Return all measures in `text`, in order."""
    return tuple(_measures(text))


def overlap(found: tuple[Measure, ...], start: int, end: int) -> bool:
    """Tell whether any measure takes part of the text between two places."""
    return any(measure.start < end and start < measure.end for measure in found)


def _measures(text: str) -> Iterator[Measure]:
    for match in _PATTERN.finditer(text.replace("”", '"')):
        value = match[0].strip()
        start, end = match.start(), match.start() + len(value)
        if match["unit"]:
            kind, unit = _CANONICAL[match["unit"].casefold()]
            yield Measure(kind, (number_key(match["number"]), unit), value, start, end)
        elif match["counted"]:
            yield Measure("count", (number_key(match["counted"]), "pieces"), value, start, end)
        elif match["dimension"]:
            yield Measure("dimension", tuple(regex.findall(r"[\d.]+|\p{L}+", value)), value, start, end)
        else:
            yield Measure("size", ((match["stated"] or value).casefold(), "size"), match["stated"] or value, start, end)


def number_key(number: str) -> str:
    """Return the digits of a number, a number word or a Chinese numeral: "1,000" is 1000, "three" and 三 are 3."""
    known = NUMBER_WORDS.get(number.casefold()) or CHINESE_NUMBERS.get(number)
    plain = number.replace(",", "")
    return str(known) if known else f"{float(plain):.12g}" if _DECIMAL.fullmatch(plain) else number
