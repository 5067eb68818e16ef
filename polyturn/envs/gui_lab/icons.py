"""Procedural icons: a colour and a shape (and a number of dots, where more are needed) in a unit square, with a name.

The name says what is drawn, so that the picture, the element list and the HTML page tell the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from polyturn.errors import BadInput, UnknownName

Point = tuple[float, float]
Polygon = tuple[Point, ...]

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (205, 38, 38), "orange": (240, 128, 20), "gold": (214, 168, 0), "lime": (140, 200, 40),
    "green": (34, 139, 58), "teal": (0, 140, 140), "cyan": (60, 200, 225), "blue": (40, 90, 210),
    "navy": (20, 35, 110), "violet": (130, 70, 200), "pink": (245, 130, 180), "brown": (125, 75, 35),
    "grey": (130, 130, 130), "black": (25, 25, 25), "olive": (120, 125, 40), "coral": (255, 110, 90),
}
DOTS = 9
"""The most dots beside a shape."""
SYSTEM = ("back", "home", "close")


def _round(corners: int, *, radius: float = 0.42, inner: float | None = None, turn: float = -0.25) -> Polygon:
    """A regular polygon, or a star whose inner corners lie at ``inner``; ``turn`` in turns, -0.25 = a corner on top."""
    count = corners if inner is None else 2 * corners
    found = []
    for index in range(count):
        angle = 2 * math.pi * (turn + index / count)
        reach = radius if inner is None or index % 2 == 0 else inner
        found.append((round(0.5 + reach * math.cos(angle), 4), round(0.5 + reach * math.sin(angle), 4)))
    return tuple(found)


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


SHAPES: Mapping[str, tuple[Polygon, ...]] = {
    "circle": (_round(28),), "triangle": (_round(3, radius=0.46),), "square": (_box(0.12, 0.12, 0.88, 0.88),),
    "pentagon": (_round(5),), "hexagon": (_round(6),), "octagon": (_round(8, turn=0.0625),),
    "diamond": (((0.5, 0.05), (0.85, 0.5), (0.5, 0.95), (0.15, 0.5)),),
    "star": (_round(5, radius=0.47, inner=0.19),), "sun": (_round(12, radius=0.47, inner=0.3),),
    "spark": (_round(4, radius=0.48, inner=0.13),),
    "cross": (_box(0.37, 0.08, 0.63, 0.92), _box(0.08, 0.37, 0.92, 0.63)),
    "bar": (_box(0.06, 0.36, 0.94, 0.64),), "pole": (_box(0.36, 0.06, 0.64, 0.94),),
    "stripes": (_box(0.1, 0.12, 0.9, 0.3), _box(0.1, 0.41, 0.9, 0.59), _box(0.1, 0.7, 0.9, 0.88)),
    "pillars": (_box(0.12, 0.1, 0.3, 0.9), _box(0.41, 0.1, 0.59, 0.9), _box(0.7, 0.1, 0.88, 0.9)),
    "arrow": (((0.08, 0.38), (0.52, 0.38), (0.52, 0.15), (0.94, 0.5), (0.52, 0.85), (0.52, 0.62), (0.08, 0.62)),),
    "bolt": (((0.58, 0.04), (0.2, 0.55), (0.46, 0.55), (0.38, 0.96), (0.8, 0.42), (0.54, 0.42)),),
    "heart": (((0.5, 0.92), (0.08, 0.48), (0.08, 0.26), (0.24, 0.12), (0.4, 0.14), (0.5, 0.28), (0.6, 0.14),
               (0.76, 0.12), (0.92, 0.26), (0.92, 0.48)),),
    "moon": (((0.66, 0.08), (0.36, 0.12), (0.16, 0.34), (0.16, 0.66), (0.36, 0.88), (0.66, 0.92), (0.46, 0.74),
              (0.38, 0.5), (0.46, 0.26)),),
    "drop": (((0.5, 0.04), (0.78, 0.5), (0.8, 0.7), (0.66, 0.9), (0.5, 0.95), (0.34, 0.9), (0.2, 0.7), (0.22, 0.5)),),
    "flag": (_box(0.16, 0.06, 0.26, 0.94), ((0.26, 0.1), (0.9, 0.3), (0.26, 0.52))),
    "house": (((0.5, 0.08), (0.94, 0.48), (0.06, 0.48)), _box(0.18, 0.48, 0.82, 0.92)),
    "cup": (((0.14, 0.14), (0.7, 0.14), (0.62, 0.9), (0.22, 0.9)), _box(0.7, 0.24, 0.92, 0.56)),
    "key": (_box(0.42, 0.44, 0.94, 0.56), _box(0.8, 0.56, 0.9, 0.74), _round(12, radius=0.2)),
}
"""Name -> polygons in the unit square, y downwards; all of one colour."""
_SYSTEM_SHAPES: Mapping[str, tuple[Polygon, ...]] = {
    "back": (((0.62, 0.08), (0.8, 0.24), (0.52, 0.5), (0.8, 0.76), (0.62, 0.92), (0.18, 0.5)),),
    "home": SHAPES["house"],
    "close": (((0.12, 0.24), (0.24, 0.12), (0.88, 0.76), (0.76, 0.88)),
              ((0.76, 0.12), (0.88, 0.24), (0.24, 0.88), (0.12, 0.76))),
}
_SYSTEM_COLOURS = {"back": (70, 80, 95), "home": (70, 80, 95), "close": (235, 235, 240)}


def names(count: int) -> list[str]:
    """The first ``count`` icon names: every colour and shape, then again with one to nine dots.

    Raises: BadInput for more than there are.

    >>> names(2), names(385)[-1]
    (['red-circle', 'orange-circle'], 'red-circle-1')
    """
    plain = [f"{colour}-{shape}" for shape in SHAPES for colour in COLOURS]
    every = plain + [f"{name}-{dots}" for dots in range(1, DOTS + 1) for name in plain]
    if count > len(every):
        raise BadInput(f"{count} icons are asked for; there are {len(every)} different ones: draw a smaller graph")
    return every[:count]


def picture(name: str) -> tuple[tuple[int, int, int], tuple[Polygon, ...]]:
    """The colour and the polygons of an icon. Raises: UnknownName.

    >>> picture("back")[0]
    (70, 80, 95)
    """
    if name in _SYSTEM_SHAPES:
        return _SYSTEM_COLOURS[name], _SYSTEM_SHAPES[name]
    colour, _, rest = name.partition("-")
    shape, _, dots = rest.partition("-")
    if colour not in COLOURS or shape not in SHAPES or (dots and dots not in map(str, range(1, DOTS + 1))):
        raise UnknownName("icon", name, [*SYSTEM, *names(len(COLOURS) * len(SHAPES))])
    more = tuple(_box(0.02 + 0.11 * dot, 0.94, 0.08 + 0.11 * dot, 1.0) for dot in range(int(dots or 0)))
    return COLOURS[colour], (*SHAPES[shape], *more)
