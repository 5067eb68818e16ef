"""The picture of a comparison: means and paired differences with their intervals, as one SVG file and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite

from polyturn.evaluate.benchmark import Table
from polyturn.evaluate.compare import Paired
from polyturn.evaluate.stats import Estimate
from polyturn.evaluate.study_plot import COLOURS
from polyturn.record.charts import compact, ticks

_NAME, _PANEL, _ROW, _HEAD, _FOOT, _GAP = 190, 190, 24, 30, 22, 20
_BAR = 25
"""Characters of a bar."""


def plot(table: Table, comparisons: Mapping[str, Paired], baseline: str) -> str:
    """Above, the mean of each result on each environment and on their mixture; below, the differences to the baseline.

    The axis of means is 0..1 where all scores are; differences share an axis around zero.
    """
    names = [*sorted({name for found in table.values() for name in found.environments}), "mixture"]
    names = names[:1] if len(names) == 2 else names
    means = {title: [found.mixture.estimate if name == "mixture" else _of(found.environments.get(name)) for name in
                     names] for title, found in table.items()}
    gaps = {title: [found.mixture.estimate if name == "mixture" else _of(found.environments.get(name)) for name in
                    names] for title, found in comparisons.items()}
    bounded = all(found.mixture.bounded for found in table.values())
    blocks = [("mean score, 95 % interval", means, (0.0, 1.0) if bounded else _span(means), list(table))]
    if gaps:
        low, high = _span(gaps)
        blocks.append((f"difference to {baseline}, paired by task", gaps, (min(low, 0.0), max(high, 0.0)), list(table)))
    width, y, parts = _NAME + len(names) * (_PANEL + _GAP), 0, []
    for title, rows, span, order in blocks:
        parts.append(f'<g transform="translate(0 {y})">{_block(title, names, rows, span, order)}</g>')
        y += _HEAD + 18 + len(rows) * _ROW + _FOOT
    style = "".join(f".c{i}{{stroke:{c};fill:{c}}}" for i, c in enumerate(COLOURS))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" '
            f'role="img" aria-label="{escape(", ".join(table))}"><style>{style}'
            '.grid{stroke:#e3e5e8}.zero{stroke:#6a7280}.range{stroke-width:2.4}'
            'text{font:12px system-ui,sans-serif;fill:#1d2129;stroke:none}'
            f'.tick{{font-size:10px;fill:#6a7280}}.head{{font-weight:600}}</style>'
            f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n')


def _of(found: object) -> Estimate | None:
    estimate = getattr(found, "estimate", None)
    return estimate if isinstance(estimate, Estimate) else None


def _span(rows: Mapping[str, Sequence[Estimate | None]]) -> tuple[float, float]:
    ends = [end for row in rows.values() for e in row if e is not None for end in (e.mean, e.low, e.high)
            if isfinite(end)]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _block(
    title: str, names: Sequence[str], rows: Mapping[str, Sequence[Estimate | None]], span: tuple[float, float],
    order: Sequence[str],
) -> str:
    marks = ticks(*span)
    parts = [f'<text class="head" x="8" y="18">{escape(title)}</text>']
    for place, name in enumerate(names):
        left, foot = _NAME + place * (_PANEL + _GAP), _HEAD + 14 + len(rows) * _ROW
        parts.append(f'<text x="{left}" y="{_HEAD + 8}">{escape(name)}</text>')
        for v in marks:
            x = _at(v, marks, left)
            kind = "zero" if v == 0 and marks[0] < 0 else "grid"
            parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{_HEAD + 14}" y2="{foot}"/><text class="tick" '
                         f'x="{x}" y="{foot + 12}" text-anchor="middle">{compact(v)}</text>')
        for line, (row, estimates) in enumerate(rows.items()):
            colour = order.index(row) % len(COLOURS)
            parts.append(_mark(estimates[place], marks, left, _HEAD + 26 + line * _ROW, colour))
    parts += [f'<text x="8" y="{_HEAD + 30 + line * _ROW}">{escape(_short(row))}</text>'
              for line, row in enumerate(rows)]
    return "".join(parts)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"…{name[-27:]}"


def _at(value: float, marks: Sequence[float], left: float) -> float:
    return round(left + (value - marks[0]) / (marks[-1] - marks[0]) * _PANEL, 1)


def _mark(estimate: Estimate | None, marks: Sequence[float], left: float, y: float, colour: int) -> str:
    if estimate is None or not isfinite(estimate.mean):
        return f'<text class="tick" x="{left}" y="{y + 4}">not known</text>'
    x = _at(estimate.mean, marks, left)
    line = ""
    if isfinite(estimate.low):
        low, high = _at(estimate.low, marks, left), _at(estimate.high, marks, left)
        line = f'<line class="range c{colour}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
    said = f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}], {estimate.count} tasks"
    return f'{line}<circle class="c{colour}" cx="{x}" cy="{y}" r="4"><title>{said}</title></circle>'


def bar(estimate: Estimate, span: tuple[float, float] = (0.0, 1.0)) -> str:
    """An interval as a line of characters over ``span``.

    >>> bar(Estimate(0.5, 0.25, 0.75, 0.0, 9, 10))
    '······├─────●─────┤······'
    >>> bar(Estimate(0.0, -0.5, 0.25, 0.0, 9, 10), (-1.0, 1.0))
    '······├─────●──┤·········'
    """
    line = ["·"] * _BAR
    if span[0] < 0 < span[1]:
        line[_place(0.0, span)] = "┊"
    if isfinite(estimate.low):
        low, high = _place(estimate.low, span), _place(estimate.high, span)
        line[low:high + 1] = ["─"] * (high - low + 1)
        line[low], line[high] = "├", "┤"
    if isfinite(estimate.mean):
        line[_place(estimate.mean, span)] = "●"
    return "".join(line)


def _place(value: float, span: tuple[float, float]) -> int:
    return round(min(max((value - span[0]) / (span[1] - span[0]), 0.0), 1.0) * (_BAR - 1))
