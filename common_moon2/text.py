"""Scripts that are written without spaces between words."""

import regex

# For character classes of `regex`.
UNSPACED = "".join(
    rf"\p{{Script={name}}}" for name in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
)
UNSPACED_CHARACTER = regex.compile(f"[{UNSPACED}]")


def is_unspaced(text: str) -> bool:
    """Tell whether any character belongs to a script that is written without spaces."""
    return UNSPACED_CHARACTER.search(text) is not None
