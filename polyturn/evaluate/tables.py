"""Results as JSON, as plain text and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from polyturn.evaluate.benchmark import Difference, Paired, Result, Row, Table
from polyturn.evaluate.stats import Estimate

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def as_json(value: Row | Result | Paired | Difference) -> dict[str, Any]:
    """The plain JSON mapping of a row, result or comparison: unknown numbers are None, keys are text."""
    if isinstance(value, Result | Paired):
        rows = {name: as_json(each) for name, each in value.environments.items()}
        return {"environments": rows, "mixture": as_json(value.mixture)}
    named: dict[str, Any] = {name: getattr(value.estimate, name) for name in ("mean", "low", "high")}
    named["n_tasks"] = value.estimate.count
    if isinstance(value, Difference):
        return _known({**named, "better": value.better, "worse": value.worse})
    named["n_trials"] = value.n_trials
    for name in ("pass_at", "pass_hat", "eligible"):
        named[name] = _known({str(k): v for k, v in getattr(value, name).items()})
    for name in ("illegal", "errors", "abstained", "turns", "tokens", "seconds"):
        named[name] = getattr(value, name)
    return _known(named)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not isfinite(v) else v for name, v in values.items()}


def cells(table: Table) -> list[list[str]]:
    """The table as rows of text, the header first: scores with intervals, then the mixture's rates and costs."""
    names = sorted({name for result in table.values() for name in result.environments})
    header = ["", *names, "mixture", "illegal", "errors", "abstained", "turns", "tokens", "seconds"]
    lines = [header]
    for stage, found in table.items():
        rows = [found.environments.get(name) for name in names]
        whole = found.mixture
        lines.append(
            [
                stage, *("-" if r is None else _interval(r.estimate) for r in rows), _interval(whole.estimate),
                _number(whole.illegal, 3), str(whole.errors), str(whole.abstained),
                _number(whole.turns, 1), _number(whole.tokens, 0), _number(whole.seconds, 1),
            ]
        )
    return lines


def paired_cells(comparisons: Mapping[str, Paired]) -> list[list[str]]:
    """Paired differences as rows of text, the header first."""
    names = sorted({name for found in comparisons.values() for name in found.environments})
    lines = [["paired difference", *names, "mixture"]]
    for title, found in comparisons.items():
        each = [found.environments.get(name) for name in names]
        shown = ["-" if d is None else _interval(d.estimate, "+") for d in each]
        lines.append([title, *shown, _interval(found.mixture.estimate, "+")])
    return lines


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}" if isfinite(value) else "?"


def _interval(estimate: Estimate, sign: str = "") -> str:
    low, high = _number(estimate.low, 2, sign), _number(estimate.high, 2, sign)
    return f"{_number(estimate.mean, 2, sign)} [{low}, {high}]"


def as_text(lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned plain text; the first column to the left, the others to the right.

    >>> print(as_text([["", "score"], ["base", "0.25"]]))
          score
    base   0.25
    """
    width = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    others = [[cell.rjust(w) for cell, w in zip(line[1:], width[1:], strict=True)] for line in lines]
    return "\n".join("  ".join([line[0].ljust(width[0]), *rest]) for line, rest in zip(lines, others, strict=True))


def as_rich(lines: Sequence[Sequence[str]], title: str = "") -> RichTable:
    """Rows of cells as a rich table for the terminal."""
    from rich.table import Table as RichTable

    header, *rest = lines
    shown = RichTable(title=title or None)
    for column, name in enumerate(header):
        shown.add_column(name, justify="left" if column == 0 else "right")
    for line in rest:
        shown.add_row(*line)
    return shown
