"""The picture of a study: every seed's point, means with intervals, and curves, as one SVG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from polyturn.evaluate.stats import bounded_mean, clustered_mean
from polyturn.record.charts import HEIGHT, WIDTH, Curve, Point, compact, line_chart, ticks

COLOURS = ("#2563c9", "#d9730d", "#17875f", "#8646c4", "#b8326b", "#0f7f94", "#7a6a11", "#5b6472")
_LEFT, _BOTTOM, _TOP = 44, 38, 34
LETTER, ROW = 6.2, 14
"""Width of a letter and height of a row of names, about."""


def plot(found: Mapping[str, Any]) -> str:
    """The picture of what :func:`polyturn.evaluate.study.results` gave."""
    panels = [points_panel(found)]
    curves = curves_panel(found)
    if curves:
        panels.append(curves)
    inner = "".join(f'<g transform="translate({i * (WIDTH + 24)} 0)">{p}</g>' for i, p in enumerate(panels))
    width = len(panels) * (WIDTH + 24) - 24
    names, rows = legend(list(found["arms"]), width)
    height = HEIGHT + 12 + ROW * rows
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{2 * width}" '
            f'role="img" aria-label="{escape(found["figure"])}">{_style()}'
            f'<rect width="100%" height="100%" fill="#ffffff"/>{inner}{names}</svg>\n')


def _style() -> str:
    colours = "".join(f".c{i}{{stroke:{c};fill:{c}}}.line.c{i}{{fill:none}}" for i, c in enumerate(COLOURS))
    return (f"<style>{colours}.grid{{stroke:#e3e5e8}}.line{{fill:none;stroke-width:1.8}}"
            ".band{opacity:.15;stroke:none}text{font:11px system-ui,sans-serif;fill:#1d2129;stroke:none}"
            ".tick,.stage-name{fill:#6a7280}.point{opacity:.45;stroke:none}.range{stroke-width:2}</style>")


def legend(arms: Sequence[str], width: float) -> tuple[str, int]:
    """The names in their colours below the panels, and how many rows they take."""
    parts, x, row = [], float(_LEFT), 0
    for i, arm in enumerate(arms):
        if x > _LEFT and x + LETTER * len(arm) > width:
            x, row = float(_LEFT), row + 1
        parts.append(f'<text class="arm" x="{x:.0f}" y="{HEIGHT + 20 + ROW * row}" '
                     f'style="fill:{COLOURS[i % 8]}">{escape(arm)}</text>')
        x += LETTER * len(arm) + 18
    return "".join(parts), row + 1


def points_panel(found: Mapping[str, Any]) -> str:
    """Arms side by side: a faint dot for every seed, the mean and its 95 % interval beside them."""
    outcome, arms = found["outcome"], found["arms"]
    values = [v for row in arms.values() for v in row["points"][outcome].values()]
    ends = [row["means"][outcome][end] for row in arms.values() for end in ("low", "high")]
    marks = ticks(min([*values, *ends]), max([*values, *ends]))
    low, high = marks[0], marks[-1]

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _BOTTOM - _TOP), 1)

    parts = [f'<text x="{_LEFT}" y="16">{escape(outcome)} by arm, {len(found["seeds"])} seeds</text>']
    parts += [f'<line class="grid" x1="{_LEFT}" x2="{WIDTH}" y1="{y(v)}" y2="{y(v)}"/><text class="tick" '
              f'x="{_LEFT - 6}" y="{y(v) + 3.5}" text-anchor="end">{compact(v)}</text>' for v in marks]
    room = (WIDTH - _LEFT) / len(arms)
    named = max(map(len, arms)) * LETTER < room
    for place, (arm, row) in enumerate(arms.items()):
        parts.append(_column(arm if named else "", row, outcome, (_LEFT + (place + 0.5) * room, place % 8), y))
    return "".join(parts)


def _column(arm: str, row: Mapping[str, Any], outcome: str, place: tuple[float, int], y: Any) -> str:
    x, colour = place
    dots = "".join(
        f'<circle class="point c{colour}" cx="{round(x - 8, 1)}" cy="{y(value)}" r="3"><title>seed {seed}: '
        f"{compact(value)}</title></circle>" for seed, value in row["points"][outcome].items()
    )
    mean = row["means"][outcome]
    ends = f'y1="{y(mean["low"])}" y2="{y(mean["high"])}"'
    line = f'<line class="range c{colour}" x1="{x + 6:.1f}" x2="{x + 6:.1f}" {ends}/>'
    dot = f'<circle class="c{colour}" cx="{x + 6:.1f}" cy="{y(mean["mean"])}" r="3.5"/>'
    name = f'<text x="{x:.1f}" y="{HEIGHT - 16}" text-anchor="middle">{escape(arm)}</text>'
    number = f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 3}" text-anchor="middle">{compact(mean["mean"])}</text>'
    return dots + line + dot + name + number


def curves_panel(found: Mapping[str, Any]) -> str:
    """The metric over iterations: mean of the seeds of each arm with its 95 % band; empty where none was recorded."""
    curves = []
    for colour, (arm, row) in enumerate(found["arms"].items()):
        seeds = [dict(map(tuple, points)) for points in row["curves"].values()]
        if seeds:
            share = found["curve"].startswith("score/")
            curves.append(Curve(arm, (tuple(band(seeds, share)),), colour % 8))
    if not curves:
        return ""
    chart = line_chart(curves, label=found["curve"]).replace("<svg ", _sized, 1)
    return f'<text x="{_LEFT}" y="10">{escape(found["curve"])}</text>{chart}'


_sized = f'<svg x="0" y="4" width="{WIDTH}" height="{HEIGHT}" '


def band(seeds: Sequence[Mapping[int, float]], share: bool = False) -> list[Point]:
    """Per iteration that every seed has, the mean with its interval; of a ``share`` it stays in 0..1."""
    mean = bounded_mean if share else clustered_mean
    shared = sorted(set.intersection(*(set(seed) for seed in seeds)))
    means = [(x, mean([[seed[x]] for seed in seeds])) for x in shared]
    return [Point(x, e.mean, *((e.low, e.high) if e.low == e.low else (None, None))) for x, e in means]
