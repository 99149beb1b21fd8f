"""Draws one photo of a synthetic product, and the mask of its pixels."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

EMPTY, BODY, PATTERNED, ACCENT, DARK, LIGHT = range(6)
PARTS = {"empty": EMPTY, "body": BODY, "accent": ACCENT, "dark": DARK, "light": LIGHT}


@dataclass(frozen=True)
class Stroke:
    """One drawing step: `kind` is an ImageDraw method, `points` its coordinates as x, y pairs."""

    kind: str
    part: int
    points: tuple[float, ...]
    width: float = 0.0
    angles: tuple[float, float] = (0.0, 360.0)

    @classmethod
    def parse(cls, line: str) -> "Stroke":
        """Read a line of `shapes.yaml`, like 'arc accent 0.1 0.2 0.5 0.6 | width 0.07 | angles 0 180'."""
        drawn, *rest = line.split(" | ")
        kind, part, *points = drawn.split()
        told = {name: tuple(map(float, values)) for name, *values in map(str.split, rest)}
        (width,) = told.get("width", (0.0,))
        return cls(kind, PARTS[part], tuple(map(float, points)), width, told.get("angles", (0.0, 360.0)))


@dataclass(frozen=True)
class Shape:
    """A drawing, and the place of the brand mark."""

    strokes: tuple[Stroke, ...]
    mark: tuple[float, float]


def read_table(name: str) -> dict:
    """Read a YAML file beside this module."""
    return yaml.load((Path(__file__).parent / name).read_text(encoding="utf-8"), yaml.CSafeLoader)


# Category -> name of the shape -> drawing.
SHAPES: dict[str, dict[str, Shape]] = {
    category: {
        name: Shape(tuple(map(Stroke.parse, drawing["strokes"])), tuple(drawing["mark"]))
        for name, drawing in shapes.items()
    }
    for category, shapes in read_table("shapes.yaml").items()
}

Colour = tuple[int, int, int]

MARKS = ("disc", "square", "triangle", "diamond", "cross", "ring", "chevron", "bars", "star", "crescent")
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag", "diamond")

# Everything is drawn this many times larger and reduced, which is the anti-aliasing.
SUPERSAMPLING = 3
MARK_RADIUS = 0.09
_DARK_COLOUR, _LIGHT_COLOUR = (38, 38, 44), (246, 246, 242)


@dataclass(frozen=True)
class Look:
    """What a product looks like: everything that an image of it can tell."""

    category: str
    shape: str
    colour: Colour
    second_colour: Colour
    pattern: str
    mark: str


@dataclass(frozen=True)
class Viewpoint:
    """How it was photographed. Shift and perspective are in image widths, rotation in degrees."""

    scale: float
    shift: tuple[float, float]
    rotation: float
    mirror: bool
    perspective: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """What is around it: `background` is plain, gradient or clutter, `light` brightness factors left and right."""

    background: str
    light: tuple[float, float]
    seed: int


def render_photo(look: Look, viewpoint: Viewpoint, scene: Scene, size: int) -> tuple[Image.Image, np.ndarray]:
    """Draw `look` as seen from `viewpoint` in `scene`.

    Returns:
        The image, RGB, size x size, and its mask: bool (size, size), True where the product is.
    """
    canvas = size * SUPERSAMPLING
    parts = _draw_parts(look, canvas, viewpoint.mirror)
    parts = parts.transform((canvas, canvas), Image.Transform.PERSPECTIVE, _coefficients(viewpoint, canvas))
    labels = np.asarray(parts).copy()
    inside = labels != EMPTY
    coverage = _reduced(Image.fromarray(inside.view(np.uint8) * 255)) / 255.0

    colours = [(0, 0, 0), look.colour, look.second_colour, look.second_colour, _DARK_COLOUR, _LIGHT_COLOUR]
    outline = inside & ~_eroded(inside, max(2, canvas // 128))  # or white goods would vanish on white
    labels[outline] += len(colours)
    painted = Image.frombytes("P", parts.size, labels.tobytes())
    painted.putpalette([v for colour in colours for v in colour] + [v // 3 for colour in colours for v in colour])
    product = _reduced(painted.convert("RGB"))

    light = np.linspace(*scene.light, size)[None, :, None]
    background = _background(scene, size)
    pixels = product * light + background * (1.0 - coverage[..., None])
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8)), coverage > 0.5


def _reduced(image: Image.Image) -> np.ndarray:
    return np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float64)


def _draw_parts(look: Look, canvas: int, mirror: bool) -> Image.Image:
    """Draw the product as part numbers (`PARTS`), seen from straight ahead."""
    shape = SHAPES[look.category][look.shape]
    image = Image.new("P", (canvas, canvas), EMPTY)
    draw = ImageDraw.Draw(image)
    for stroke in shape.strokes:
        _draw_stroke(draw, stroke, canvas, mirror)
    labels = np.asarray(image).copy()
    labels[(labels == BODY) & _pattern(look.pattern, canvas)] = PATTERNED
    image = Image.frombytes("P", image.size, labels.tobytes())
    x, y = shape.mark
    # The goods may face either way, but a mark that is mirrored would be another mark.
    _draw_mark(ImageDraw.Draw(image), look.mark, (1 - x if mirror else x) * canvas, y * canvas, MARK_RADIUS * canvas)
    return image


def _draw_stroke(draw: ImageDraw.ImageDraw, stroke: Stroke, canvas: int, mirror: bool) -> None:
    xs, ys = stroke.points[::2], stroke.points[1::2]
    start, end = stroke.angles
    if mirror:
        xs = tuple(1 - x for x in xs)
        start, end = 180 - end, 180 - start
    points = [(x * canvas, y * canvas) for x, y in zip(xs, ys, strict=True)]
    width = round(stroke.width * canvas)
    if stroke.kind not in ("polygon", "line"):
        (x0, y0), (x1, y1) = points
        points = [min(x0, x1), y0, max(x0, x1), y1]
    more = {
        "line": {"width": width, "joint": "curve"},
        "rounded_rectangle": {"radius": width},
        "pieslice": {"start": start, "end": end},
        "arc": {"start": start, "end": end, "width": width},
    }
    getattr(draw, stroke.kind)(points, fill=stroke.part, **more.get(stroke.kind, {}))


@cache
def _pattern(name: str, canvas: int) -> np.ndarray:
    """Tell where a body shows the second colour: bool (canvas, canvas)."""
    y, x = np.mgrid[0:canvas, 0:canvas] / canvas
    if name == "plain":
        return np.zeros((canvas, canvas), dtype=bool)
    if name == "striped":
        return y % 0.14 < 0.06
    if name == "dotted":
        row = np.floor(y / 0.12)
        return np.hypot((x + 0.06 * (row % 2)) % 0.12 - 0.06, y % 0.12 - 0.06) < 0.036
    if name == "checked":
        return (np.floor(x / 0.09) + np.floor(y / 0.09)) % 2 == 0
    if name == "zigzag":
        return (y + 0.8 * np.abs(x % 0.14 - 0.07)) % 0.14 < 0.055
    if name == "diamond":
        return np.abs(x % 0.16 - 0.08) + 0.7 * np.abs(y % 0.22 - 0.11) < 0.05
    raise ValueError(f"Unknown pattern {name!r}, expected one of {PATTERNS}.")


def _draw_mark(draw: ImageDraw.ImageDraw, name: str, x: float, y: float, radius: float) -> None:
    """Draw a dark geometric sign on a light badge."""
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=LIGHT)
    r = radius * 0.68
    if name in ("disc", "ring", "crescent"):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=DARK)
        if name == "ring":
            draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=LIGHT)
        elif name == "crescent":
            draw.ellipse((x - r / 3, y - r * 0.8, x + r * 1.27, y + r * 0.8), fill=LIGHT)
    elif name == "bars":
        for offset in (-0.7, 0.0, 0.7):
            draw.rectangle((x + (offset - 0.2) * r, y - r * 0.8, x + (offset + 0.2) * r, y + r * 0.8), fill=DARK)
    elif name == "cross":
        draw.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=DARK)
        draw.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=DARK)
    else:
        outlines = {
            "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
            "triangle": ((0, -1), (0.95, 0.7), (-0.95, 0.7)),
            "diamond": ((0, -1.1), (0.75, 0), (0, 1.1), (-0.75, 0)),
            "chevron": ((-0.9, -0.7), (0, 0.1), (0.9, -0.7), (0.9, 0.0), (0, 0.9), (-0.9, 0.0)),
            "star": tuple(
                (math.sin(k * math.pi / 5) * (1.2, 0.45)[k % 2], -math.cos(k * math.pi / 5) * (1.2, 0.45)[k % 2])
                for k in range(10)
            ),
        }
        draw.polygon([(x + u * r, y + v * r) for u, v in outlines[name]], fill=DARK)


def _coefficients(viewpoint: Viewpoint, canvas: int) -> tuple[float, ...]:
    """Return the eight numbers with which PIL maps a point of the photo back to the straight drawing."""
    centre = canvas / 2
    angle = math.radians(viewpoint.rotation)
    cos, sin = viewpoint.scale * math.cos(angle), viewpoint.scale * math.sin(angle)
    to_centre = np.array([[1, 0, -centre], [0, 1, -centre], [0, 0, 1]])
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    tilt = np.eye(3)
    tilt[2, :2] = np.array(viewpoint.perspective) / canvas
    back = np.array(
        [[1, 0, centre + viewpoint.shift[0] * canvas], [0, 1, centre + viewpoint.shift[1] * canvas], [0, 0, 1]]
    )
    inverse = np.linalg.inv(back @ tilt @ turn @ to_centre)
    return tuple((inverse / inverse[2, 2]).flatten()[:8])


def _eroded(inside: np.ndarray, pixels: int) -> np.ndarray:
    core = inside.copy()
    for axis in (0, 1):
        for step in (-pixels, pixels):
            core &= np.roll(inside, step, axis)
    return core


def _background(scene: Scene, size: int) -> np.ndarray:
    """Draw what is behind the product: float (size, size, 3)."""
    rng = np.random.default_rng(scene.seed)
    first = rng.uniform(185, 235) + rng.uniform(-14, 14, 3)
    if scene.background == "plain":
        return np.broadcast_to(first, (size, size, 3))
    second = rng.uniform(120, 180) + rng.uniform(-25, 25, 3)
    ramp = np.linspace(0, 1, size)
    if scene.background == "gradient":
        ramp = ramp[:, None] if rng.random() < 0.5 else ramp[None, :]
        ramp = np.broadcast_to(ramp, (size, size))[..., None]
        return first * (1 - ramp) + second * ramp
    image = Image.new("RGB", (size, size), tuple(int(v) for v in first))
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = rng.uniform(-0.1, 1.0, 2) * size
        w, h = rng.uniform(0.08, 0.4, 2) * size
        colour = tuple(int(v) for v in rng.uniform(60, 230, 3))
        kind = rng.integers(3)
        if kind == 0:
            draw.rectangle((x, y, x + w, y + h), fill=colour)
        elif kind == 1:
            draw.ellipse((x, y, x + w, y + h), fill=colour)
        else:
            draw.line((x, y, x + 2 * w - 0.4 * size, y + 2 * h - 0.4 * size), fill=colour, width=max(1, size // 24))
    return np.asarray(image, dtype=np.float64)
