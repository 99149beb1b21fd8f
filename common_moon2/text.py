"""Text for people: scripts without spaces between words, and Markdown tables."""

import regex

# For character classes of `regex`.
UNSPACED = "".join(
    rf"\p{{Script={name}}}" for name in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
)
UNSPACED_CHARACTER = regex.compile(f"[{UNSPACED}]")


def is_unspaced(text: str) -> bool:
    """Tell whether any character belongs to a script that is written without spaces."""
    return UNSPACED_CHARACTER.search(text) is not None


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table that also reads well in a terminal: first column to the left, figures to the right."""
    cells = [header, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(row)) + " |"
        for row in cells
    ]
    rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])
