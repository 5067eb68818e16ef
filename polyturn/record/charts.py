"""Pictures of numbers as SVG text: curves with bands, intervals on a line, sparklines. Colours come from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 184
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 22, 22


@dataclass(frozen=True, slots=True)
class Point:
    """One place of a curve; ``low`` and ``high`` bound its band."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    """Shown when the pointer rests on it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A named curve in one of the page's colours (0 to 7); a part for each stage, since stages are not joined."""

    name: str
    parts: tuple[tuple[Point, ...], ...]
    colour: int = 0

    @property
    def points(self) -> list[Point]:
        """All points in order."""
        return [point for part in self.parts for point in part]


def compact(value: float | None) -> str:
    """A number in at most five characters and a sign; an unknown one is a dash.

    >>> [compact(v) for v in (0.0, 0.25, -0.031, 3.14159, 164.2, 12_345, 5.6e9, 1e-7, None)]
    ['0', '0.25', '−0.031', '3.14', '164', '12.3k', '5.6G', '1e-07', '–']
    """
    if value is None or math.isnan(value):
        return "–"
    size = abs(value)
    sign = "−" if value < 0 else ""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            scale = 1e3 if name == "k" else unit
            return f"{sign}{size / scale:.3g}{name}"
    if 0 < size < 1e-3:
        return f"{sign}{size:.0e}"
    text = f"{size:.0f}" if size >= 100 else f"{size:.3g}" if size >= 1 else f"{size:.3f}".rstrip("0").rstrip(".")
    return f"{sign}{text}"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, about ``count`` steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 1), ticks(0.3, 2.7)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 1.0, 2.0, 3.0])
    """
    if (low, high) == (0, 1):
        return [0.0, 0.25, 0.5, 0.75, 1.0]
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = abs(low) * 0.1 or 1.0
        low, high = low - (room if low else 0.0), high + room
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(12, 2 - math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def line_chart(
    curves: Sequence[Curve], *, label: str, y_range: tuple[float, float] | None = None,
    stages: Sequence[tuple[str, float]] = (),
) -> str:
    """Curves over iterations. ``stages`` are (name, x of its first iteration); ``label`` is read to those who do not
    see the picture. Empty without points."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return ""
    ends = [v for p in points for v in (p.y, p.low, p.high) if v is not None and math.isfinite(v)]
    y_ticks = ticks(*(y_range or (min(ends), max(ends))))
    x_low, x_high = min(p.x for p in points), max(p.x for p in points)
    frame = _Frame(x_low, max(x_high, x_low + 1), y_ticks[0], y_ticks[-1])
    marks = [_grid(frame, y_ticks), _x_axis(frame), *(_stage(frame, name, x) for name, x in stages)]
    marks += [_curve(frame, curve) for curve in curves]
    return (f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
            f"{''.join(marks)}</svg>")


@dataclass(frozen=True, slots=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(HEIGHT - _BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - _TOP - _BOTTOM), 1)


def _grid(frame: _Frame, y_ticks: Sequence[float]) -> str:
    return "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{frame.y(v)}" y2="{frame.y(v)}"/>'
        f'<text class="tick" x="{_LEFT - 7}" y="{frame.y(v) + 3.5}" text-anchor="end">{compact(v)}</text>'
        for v in y_ticks
    )


def _x_axis(frame: _Frame) -> str:
    inside = [v for v in ticks(frame.x_low, frame.x_high, 5) if frame.x_low <= v <= frame.x_high and v == int(v)]
    return "".join(
        f'<text class="tick" x="{frame.x(v)}" y="{HEIGHT - 7}" text-anchor="middle">{int(v)}</text>' for v in inside
    )


def _stage(frame: _Frame, name: str, x: float) -> str:
    at = frame.x(x)
    line = f'<line class="stage" x1="{at}" x2="{at}" y1="{_TOP - 6}" y2="{HEIGHT - _BOTTOM}"/>'
    text = f'<text class="stage-name" x="{at + 4}" y="{_TOP - 8}">{escape(name)}</text>'
    return line + text if x > frame.x_low else text


def _curve(frame: _Frame, curve: Curve) -> str:
    marks = []
    for part in curve.parts:
        banded = [(frame.x(p.x), frame.y(p.low), frame.y(p.high)) for p in part
                  if p.low is not None and p.high is not None]
        if banded:
            edge = [f"{x},{high}" for x, _, high in banded] + [f"{x},{low}" for x, low, _ in reversed(banded)]
            marks.append(f'<polygon class="band c{curve.colour}" points="{" ".join(edge)}"/>')
        line = " ".join(f"{frame.x(p.x)},{frame.y(p.y)}" for p in part)
        marks.append(f'<polyline class="line c{curve.colour}" points="{line}"/>')
        marks += [f'<circle class="dot c{curve.colour}" cx="{frame.x(p.x)}" cy="{frame.y(p.y)}" r="{_radius(part)}">'
                  f"<title>{escape(p.note or compact(p.y))}</title></circle>" for p in part]
    return "".join(marks)


def _radius(part: Sequence[Point]) -> float:
    return 3.0 if len(part) <= 2 else 1.8 if len(part) <= 60 else 0.9


def interval(mean: float, low: float, high: float, *, span: tuple[float, float] = (0.0, 1.0), colour: int = 0) -> str:
    """A dot and its interval on a line that stands for ``span``; zero is marked where it lies inside."""
    def place(value: float) -> float:
        return round(4 + 112 * min(max((value - span[0]) / (span[1] - span[0]), 0.0), 1.0), 1)

    zero = f'<line class="stage" x1="{place(0)}" x2="{place(0)}" y1="1" y2="13"/>' if span[0] < 0 < span[1] else ""
    return (f'<svg class="interval" viewBox="0 0 120 14" aria-hidden="true"><line class="grid" x1="4" x2="116" y1="7" '
            f'y2="7"/>{zero}<line class="range c{colour}" x1="{place(low)}" x2="{place(high)}" y1="7" y2="7"/>'
            f'<circle class="dot c{colour}" cx="{place(mean)}" cy="7" r="3.6"/></svg>')


def sparkline(values: Sequence[float]) -> str:
    """A curve without axes; fewer than two values give nothing."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    room = (high - low) or 1.0
    line = " ".join(f"{2 + 116 * i / (len(values) - 1):.1f},{26 - 24 * (v - low) / room:.1f}"
                    for i, v in enumerate(values))
    return ('<svg class="spark" viewBox="0 0 120 28" aria-hidden="true">'
            f'<polyline class="line c0" points="{line}"/></svg>')
