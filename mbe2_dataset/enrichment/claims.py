"""What sellers say of everything: superlatives, promises and offers, in English and Chinese."""

import regex

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
    """The claims in `text`, in lower case."""
    return [match[0].casefold() for match in _CLAIM.finditer(text)]
