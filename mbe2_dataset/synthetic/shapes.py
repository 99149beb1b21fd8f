"""Line drawings of the synthetic goods: for each category and shape variant, geometry in the unit square (y down).

Parts are drawn in order, later ones over earlier ones. Every shape has a body (first colour and pattern), an accent
(second colour, so that it shows on plain goods too) and a place for the brand mark.
"""

from dataclasses import dataclass

EMPTY, BODY, PATTERNED, ACCENT, DARK, LIGHT = range(6)


@dataclass(frozen=True)
class Stroke:
    """One drawing step: `kind` is an ImageDraw method, `points` its coordinates as x, y pairs."""

    kind: str
    part: int
    points: tuple[float, ...]
    width: float = 0.0
    angles: tuple[float, float] = (0.0, 360.0)


@dataclass(frozen=True)
class Shape:
    strokes: tuple[Stroke, ...]
    mark: tuple[float, float]


def _polygon(part: int, *points: float) -> Stroke:
    return Stroke("polygon", part, points)


def _oval(part: int, *box: float) -> Stroke:
    return Stroke("ellipse", part, box)


def _box(part: int, *box: float, radius: float = 0.0) -> Stroke:
    return Stroke("rounded_rectangle", part, box, radius)


def _line(part: int, width: float, *points: float) -> Stroke:
    return Stroke("line", part, points, width)


def _arc(part: int, width: float, start: float, end: float, *box: float) -> Stroke:
    return Stroke("arc", part, box, width, (start, end))


def _dome(part: int, *box: float) -> Stroke:
    return Stroke("pieslice", part, box, 0.0, (180.0, 360.0))


_MUG_HANDLE = _arc(ACCENT, 0.07, 0, 360, 0.52, 0.36, 0.90, 0.70)
_MUG_RIM = (_oval(ACCENT, 0.18, 0.19, 0.72, 0.32), _oval(DARK, 0.23, 0.22, 0.67, 0.29))
_TEAPOT_HANDLE = _arc(ACCENT, 0.06, 0, 360, 0.60, 0.38, 0.93, 0.72)
_SHIRT_NECK = (_oval(ACCENT, 0.36, 0.06, 0.64, 0.24), _oval(EMPTY, 0.40, 0.02, 0.60, 0.19))
_LACES = tuple(_line(LIGHT, 0.022, x, y, x + 0.09, y - 0.06) for x, y in ((0.40, 0.53), (0.47, 0.57), (0.54, 0.61)))
_UMBRELLA_HOOK = _arc(ACCENT, 0.05, 0, 180, 0.38, 0.78, 0.54, 0.94)
_SHORT_SLEEVES = _polygon(
    BODY,
    0.36, 0.14, 0.64, 0.14, 0.78, 0.19, 0.93, 0.42, 0.80, 0.50, 0.72, 0.40,
    0.72, 0.90, 0.28, 0.90, 0.28, 0.40, 0.20, 0.50, 0.07, 0.42, 0.22, 0.19,
)  # fmt: skip
_LONG_SLEEVES = _polygon(
    BODY,
    0.36, 0.14, 0.64, 0.14, 0.78, 0.19, 0.93, 0.74, 0.80, 0.78, 0.70, 0.44,
    0.70, 0.90, 0.30, 0.90, 0.30, 0.44, 0.20, 0.78, 0.07, 0.74, 0.22, 0.19,
)  # fmt: skip
_HORNED_BODY = _polygon(
    BODY,
    0.30, 0.36, 0.44, 0.52, 0.56, 0.52, 0.72, 0.40, 0.68, 0.62,
    0.82, 0.86, 0.60, 0.95, 0.36, 0.93, 0.20, 0.80, 0.34, 0.62,
)  # fmt: skip
_OVAL_BALL = _polygon(
    BODY,
    0.03, 0.50, 0.12, 0.37, 0.28, 0.27, 0.50, 0.23, 0.72, 0.27, 0.88, 0.37,
    0.97, 0.50, 0.88, 0.63, 0.72, 0.73, 0.50, 0.77, 0.28, 0.73, 0.12, 0.63,
)  # fmt: skip
_TEMPLES = (_line(BODY, 0.06, 0.08, 0.46, 0.20, 0.22), _line(BODY, 0.06, 0.92, 0.46, 0.80, 0.22))
_SOFA_LEGS = (_line(DARK, 0.05, 0.16, 0.74, 0.16, 0.84), _line(DARK, 0.05, 0.84, 0.74, 0.84, 0.84))

SHAPES: dict[str, dict[str, Shape]] = {
    "Mug": {
        "straight-sided": Shape(
            (_MUG_HANDLE, _box(BODY, 0.18, 0.25, 0.72, 0.84, radius=0.05), *_MUG_RIM), (0.45, 0.58)
        ),
        "tapered": Shape(
            (_MUG_HANDLE, _polygon(BODY, 0.18, 0.25, 0.72, 0.25, 0.58, 0.86, 0.32, 0.86), *_MUG_RIM), (0.45, 0.56)
        ),
    },
    "Teapot": {
        "globe-bodied": Shape(
            (
                _TEAPOT_HANDLE,
                _polygon(ACCENT, 0.05, 0.38, 0.14, 0.35, 0.34, 0.52, 0.30, 0.72),
                _oval(BODY, 0.20, 0.33, 0.78, 0.84),
                _oval(ACCENT, 0.36, 0.28, 0.62, 0.40),
                _oval(DARK, 0.45, 0.20, 0.53, 0.29),
            ),
            (0.49, 0.60),
        ),
        "tall-bodied": Shape(
            (
                _TEAPOT_HANDLE,
                _polygon(ACCENT, 0.07, 0.30, 0.15, 0.28, 0.36, 0.50, 0.30, 0.72),
                _polygon(BODY, 0.36, 0.24, 0.64, 0.24, 0.76, 0.86, 0.24, 0.86),
                _polygon(ACCENT, 0.36, 0.25, 0.64, 0.25, 0.50, 0.15),
                _oval(DARK, 0.46, 0.08, 0.54, 0.17),
            ),
            (0.50, 0.62),
        ),
    },
    "Bottle": {
        "slim": Shape(
            (
                _box(BODY, 0.43, 0.16, 0.57, 0.42),
                _box(BODY, 0.35, 0.32, 0.65, 0.95, radius=0.10),
                _box(ACCENT, 0.41, 0.05, 0.59, 0.19, radius=0.02),
                _box(ACCENT, 0.35, 0.80, 0.65, 0.86),
            ),
            (0.50, 0.56),
        ),
        "flask-shaped": Shape(
            (
                _box(BODY, 0.42, 0.18, 0.58, 0.44),
                _oval(BODY, 0.20, 0.34, 0.80, 0.94),
                _box(ACCENT, 0.39, 0.07, 0.61, 0.21, radius=0.02),
                _line(ACCENT, 0.03, 0.40, 0.25, 0.60, 0.25),
            ),
            (0.50, 0.64),
        ),
    },
    "T-shirt": {
        "short-sleeved": Shape(
            (
                _SHORT_SLEEVES,
                *_SHIRT_NECK,
            ),
            (0.60, 0.40),
        ),
        "long-sleeved": Shape(
            (
                _LONG_SLEEVES,
                _polygon(ACCENT, 0.93, 0.74, 0.80, 0.78, 0.785, 0.72, 0.915, 0.68),
                _polygon(ACCENT, 0.07, 0.74, 0.20, 0.78, 0.215, 0.72, 0.085, 0.68),
                *_SHIRT_NECK,
            ),
            (0.59, 0.40),
        ),
    },
    "Dress": {
        "flared": Shape(
            (
                _line(BODY, 0.05, 0.40, 0.06, 0.40, 0.22),
                _line(BODY, 0.05, 0.60, 0.06, 0.60, 0.22),
                _polygon(BODY, 0.35, 0.18, 0.65, 0.18, 0.60, 0.44, 0.40, 0.44),
                _polygon(BODY, 0.40, 0.44, 0.60, 0.44, 0.86, 0.90, 0.14, 0.90),
                _box(ACCENT, 0.385, 0.40, 0.615, 0.48),
            ),
            (0.50, 0.29),
        ),
        "column-cut": Shape(
            (
                _line(BODY, 0.05, 0.38, 0.05, 0.40, 0.20),
                _line(BODY, 0.05, 0.62, 0.05, 0.60, 0.20),
                _polygon(
                    BODY, 0.33, 0.17, 0.67, 0.17, 0.62, 0.42, 0.67, 0.60, 0.64, 0.95, 0.36, 0.95, 0.33, 0.60, 0.38, 0.42
                ),
                _box(ACCENT, 0.36, 0.86, 0.64, 0.95),
            ),
            (0.50, 0.29),
        ),
    },
    "Sneaker": {
        "low-top": Shape(
            (
                _polygon(BODY, 0.08, 0.70, 0.09, 0.46, 0.20, 0.50, 0.34, 0.46, 0.58, 0.60, 0.82, 0.63, 0.93, 0.70),
                _box(ACCENT, 0.06, 0.68, 0.95, 0.79, radius=0.04),
                *_LACES,
            ),
            (0.24, 0.60),
        ),
        "high-top": Shape(
            (
                _polygon(BODY, 0.08, 0.72, 0.10, 0.24, 0.38, 0.24, 0.40, 0.46, 0.60, 0.60, 0.84, 0.63, 0.93, 0.72),
                _box(ACCENT, 0.06, 0.70, 0.95, 0.81, radius=0.04),
                _box(ACCENT, 0.09, 0.20, 0.39, 0.27, radius=0.02),
                *_LACES,
            ),
            (0.24, 0.44),
        ),
    },
    "Backpack": {
        "rounded": Shape(
            (
                _arc(DARK, 0.04, 180, 360, 0.38, 0.04, 0.62, 0.24),
                _box(DARK, 0.12, 0.46, 0.26, 0.80, radius=0.05),
                _box(DARK, 0.74, 0.46, 0.88, 0.80, radius=0.05),
                _box(BODY, 0.20, 0.12, 0.80, 0.92, radius=0.26),
                _box(ACCENT, 0.29, 0.58, 0.71, 0.86, radius=0.07),
                _line(DARK, 0.02, 0.32, 0.65, 0.68, 0.65),
            ),
            (0.50, 0.38),
        ),
        "flap-topped": Shape(
            (
                _arc(DARK, 0.04, 180, 360, 0.38, 0.05, 0.62, 0.25),
                _box(BODY, 0.19, 0.14, 0.81, 0.92, radius=0.04),
                _polygon(ACCENT, 0.17, 0.13, 0.83, 0.13, 0.80, 0.38, 0.50, 0.46, 0.20, 0.38),
                _line(DARK, 0.04, 0.34, 0.36, 0.34, 0.60),
                _line(DARK, 0.04, 0.66, 0.36, 0.66, 0.60),
                _line(DARK, 0.02, 0.19, 0.76, 0.81, 0.76),
            ),
            (0.50, 0.60),
        ),
    },
    "Lamp": {
        "cone-shaded": Shape(
            (
                _line(ACCENT, 0.05, 0.50, 0.48, 0.50, 0.86),
                _oval(ACCENT, 0.30, 0.82, 0.70, 0.93),
                _polygon(BODY, 0.38, 0.08, 0.62, 0.08, 0.84, 0.52, 0.16, 0.52),
            ),
            (0.50, 0.34),
        ),
        "dome-shaded": Shape(
            (
                _line(ACCENT, 0.045, 0.50, 0.46, 0.28, 0.92),
                _line(ACCENT, 0.045, 0.50, 0.46, 0.72, 0.92),
                _line(ACCENT, 0.045, 0.50, 0.46, 0.50, 0.92),
                _dome(BODY, 0.14, 0.10, 0.86, 0.90),
                _oval(LIGHT, 0.40, 0.47, 0.60, 0.57),
            ),
            (0.50, 0.30),
        ),
    },
    "Chair": {
        "square-backed": Shape(
            (
                _line(ACCENT, 0.05, 0.29, 0.60, 0.26, 0.94),
                _line(ACCENT, 0.05, 0.71, 0.60, 0.74, 0.94),
                _line(ACCENT, 0.05, 0.40, 0.60, 0.40, 0.84),
                _line(ACCENT, 0.05, 0.60, 0.60, 0.60, 0.84),
                _box(BODY, 0.28, 0.06, 0.72, 0.52, radius=0.03),
                _polygon(BODY, 0.28, 0.54, 0.72, 0.54, 0.80, 0.68, 0.20, 0.68),
                _line(DARK, 0.02, 0.27, 0.53, 0.73, 0.53),
            ),
            (0.50, 0.28),
        ),
        "hoop-backed": Shape(
            (
                _line(ACCENT, 0.05, 0.32, 0.62, 0.20, 0.92),
                _line(ACCENT, 0.05, 0.68, 0.62, 0.80, 0.92),
                _arc(ACCENT, 0.06, 150, 390, 0.24, 0.06, 0.76, 0.58),
                _line(ACCENT, 0.03, 0.40, 0.10, 0.40, 0.58),
                _line(ACCENT, 0.03, 0.60, 0.10, 0.60, 0.58),
                _oval(BODY, 0.16, 0.50, 0.84, 0.76),
            ),
            (0.50, 0.63),
        ),
    },
    "Watch": {
        "round-faced": Shape(
            (
                _box(BODY, 0.34, 0.04, 0.66, 0.96, radius=0.05),
                _oval(ACCENT, 0.22, 0.22, 0.78, 0.78),
                _oval(LIGHT, 0.29, 0.29, 0.71, 0.71),
                _line(DARK, 0.03, 0.50, 0.50, 0.50, 0.34),
                _line(DARK, 0.03, 0.50, 0.50, 0.62, 0.46),
            ),
            (0.50, 0.62),
        ),
        "square-faced": Shape(
            (
                _box(BODY, 0.34, 0.04, 0.66, 0.96, radius=0.05),
                _box(ACCENT, 0.23, 0.25, 0.77, 0.75, radius=0.04),
                _box(LIGHT, 0.30, 0.32, 0.70, 0.68, radius=0.02),
                _line(DARK, 0.03, 0.50, 0.49, 0.50, 0.35),
                _line(DARK, 0.03, 0.50, 0.49, 0.62, 0.45),
            ),
            (0.50, 0.60),
        ),
    },
    "Hat": {
        "peaked": Shape(
            (
                _polygon(ACCENT, 0.60, 0.54, 0.80, 0.54, 0.95, 0.64, 0.94, 0.69, 0.66, 0.64, 0.56, 0.64),
                _dome(BODY, 0.10, 0.20, 0.74, 1.06),
                _line(ACCENT, 0.05, 0.10, 0.61, 0.74, 0.61),
                _oval(DARK, 0.39, 0.17, 0.45, 0.23),
            ),
            (0.50, 0.46),
        ),
        "wide-brimmed": Shape(
            (
                _oval(BODY, 0.04, 0.54, 0.96, 0.80),
                _oval(DARK, 0.26, 0.56, 0.74, 0.70),
                _box(BODY, 0.28, 0.22, 0.72, 0.64, radius=0.14),
                _box(ACCENT, 0.28, 0.53, 0.72, 0.64, radius=0.02),
            ),
            (0.50, 0.40),
        ),
    },
    "Sofa": {
        "two-armed": Shape(
            (
                *_SOFA_LEGS,
                _box(BODY, 0.12, 0.28, 0.88, 0.66, radius=0.08),
                _box(BODY, 0.12, 0.56, 0.88, 0.76, radius=0.04),
                _line(DARK, 0.018, 0.16, 0.56, 0.84, 0.56),
                _line(DARK, 0.018, 0.50, 0.32, 0.50, 0.75),
                _box(ACCENT, 0.05, 0.44, 0.19, 0.78, radius=0.06),
                _box(ACCENT, 0.81, 0.44, 0.95, 0.78, radius=0.06),
            ),
            (0.34, 0.42),
        ),
        "chaise-ended": Shape(
            (
                *_SOFA_LEGS,
                _box(BODY, 0.06, 0.26, 0.90, 0.60, radius=0.06),
                _box(BODY, 0.06, 0.54, 0.90, 0.74, radius=0.04),
                _polygon(BODY, 0.54, 0.54, 0.90, 0.54, 0.95, 0.86, 0.54, 0.86),
                _line(DARK, 0.018, 0.08, 0.54, 0.90, 0.54),
                _line(DARK, 0.018, 0.54, 0.54, 0.54, 0.86),
                _box(ACCENT, 0.04, 0.42, 0.17, 0.77, radius=0.06),
                _box(ACCENT, 0.22, 0.36, 0.40, 0.53, radius=0.03),
            ),
            (0.64, 0.40),
        ),
    },
    "Sunglasses": {
        "round-lensed": Shape(
            (
                *_TEMPLES,
                _arc(BODY, 0.06, 200, 340, 0.38, 0.42, 0.62, 0.62),
                _oval(BODY, 0.04, 0.34, 0.47, 0.77),
                _oval(BODY, 0.53, 0.34, 0.96, 0.77),
                _oval(ACCENT, 0.13, 0.43, 0.38, 0.68),
                _oval(ACCENT, 0.62, 0.43, 0.87, 0.68),
            ),
            (0.255, 0.555),
        ),
        "square-lensed": Shape(
            (
                *_TEMPLES,
                _line(BODY, 0.08, 0.40, 0.45, 0.60, 0.45),
                _box(BODY, 0.04, 0.37, 0.47, 0.73, radius=0.05),
                _box(BODY, 0.53, 0.37, 0.96, 0.73, radius=0.05),
                _box(ACCENT, 0.13, 0.46, 0.38, 0.65, radius=0.02),
                _box(ACCENT, 0.62, 0.46, 0.87, 0.65, radius=0.02),
            ),
            (0.255, 0.555),
        ),
    },
    "Umbrella": {
        "open": Shape(
            (
                _line(ACCENT, 0.05, 0.515, 0.10, 0.515, 0.86),
                _UMBRELLA_HOOK,
                _dome(BODY, 0.05, 0.13, 0.95, 0.99),
                *(_oval(EMPTY, x, 0.50, x + 0.225, 0.62) for x in (0.05, 0.275, 0.50, 0.725)),
                _line(ACCENT, 0.05, 0.515, 0.52, 0.515, 0.86),
            ),
            (0.50, 0.32),
        ),
        "folded": Shape(
            (
                _line(ACCENT, 0.05, 0.515, 0.05, 0.515, 0.86),
                _UMBRELLA_HOOK,
                _polygon(BODY, 0.515, 0.08, 0.72, 0.62, 0.58, 0.70, 0.45, 0.70, 0.31, 0.62),
                _line(DARK, 0.018, 0.515, 0.14, 0.515, 0.66),
                _box(ACCENT, 0.37, 0.40, 0.66, 0.46),
            ),
            (0.515, 0.58),
        ),
    },
    "Guitar": {
        "round-bodied": Shape(
            (
                _oval(BODY, 0.22, 0.50, 0.78, 0.96),
                _oval(BODY, 0.30, 0.34, 0.70, 0.66),
                _box(ACCENT, 0.46, 0.08, 0.54, 0.52),
                _box(ACCENT, 0.43, 0.03, 0.57, 0.13, radius=0.02),
                _oval(DARK, 0.42, 0.48, 0.58, 0.64),
                _line(DARK, 0.03, 0.40, 0.86, 0.60, 0.86),
            ),
            (0.50, 0.75),
        ),
        "horned": Shape(
            (
                _HORNED_BODY,
                _box(ACCENT, 0.46, 0.08, 0.54, 0.60),
                _polygon(ACCENT, 0.44, 0.14, 0.46, 0.03, 0.62, 0.06, 0.55, 0.14),
                _box(DARK, 0.42, 0.64, 0.58, 0.68),
                _box(DARK, 0.42, 0.86, 0.58, 0.89),
            ),
            (0.50, 0.77),
        ),
    },
    "Ball": {
        "spherical": Shape(
            (
                _oval(BODY, 0.12, 0.12, 0.88, 0.88),
                _arc(ACCENT, 0.06, -44, 44, -0.40, 0.12, 0.40, 0.88),
                _arc(ACCENT, 0.06, 136, 224, 0.60, 0.12, 1.40, 0.88),
            ),
            (0.50, 0.50),
        ),
        "oval": Shape(
            (
                _OVAL_BALL,
                _polygon(ACCENT, 0.12, 0.37, 0.19, 0.325, 0.19, 0.675, 0.12, 0.63),
                _polygon(ACCENT, 0.88, 0.37, 0.81, 0.325, 0.81, 0.675, 0.88, 0.63),
                _line(LIGHT, 0.025, 0.36, 0.36, 0.64, 0.36),
                *(_line(LIGHT, 0.025, x, 0.32, x, 0.40) for x in (0.42, 0.50, 0.58)),
            ),
            (0.50, 0.57),
        ),
    },
}
