"""Results as JSON, as plain text and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from polyturn.evaluate.benchmark import Result, Row, Table
from polyturn.evaluate.compare import Difference, Paired
from polyturn.evaluate.stats import Estimate

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def as_json(value: Row | Result | Paired | Difference) -> dict[str, Any]:
    """The plain JSON mapping of a row, result or comparison: unknown numbers are None, keys are text, and what was read
    off a clock (and so differs when the same is played again) stands under names that end in ``seconds``."""
    if isinstance(value, Result | Paired):
        rows = {name: as_json(each) for name, each in value.environments.items()}
        return {"environments": rows, "mixture": as_json(value.mixture)}
    named: dict[str, Any] = {name: getattr(value.estimate, name) for name in ("mean", "low", "high")}
    named["n_tasks"] = value.estimate.count
    if isinstance(value, Difference):
        more = {name: getattr(value, name) for name in ("better", "worse", "unpaired", "p_value", "p_holm")}
        return _known({**named, **more})
    named["n_trials"] = value.n_trials
    for name in ("pass_at", "pass_hat"):
        found: Mapping[int, Estimate] = getattr(value, name)
        named[name] = _known({str(k): e.mean for k, e in found.items()})
        named[f"{name}_interval"] = {str(k): list(_known({"low": e.low, "high": e.high}).values())
                                     for k, e in found.items()}
    named["eligible"] = {str(k): tasks for k, tasks in value.eligible.items()}
    for name in ("illegal", "errors", "abstained", "turns", "tokens", "seconds"):
        named[name] = getattr(value, name)
    timed = {name: cost for name, cost in value.costs.items() if name.endswith("seconds")}
    costs = {name: cost for name, cost in value.costs.items() if name not in timed}
    return _known({**named, **timed, "stops": dict(value.stops), "failures": dict(value.failures), "costs": costs})


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
    """Paired differences as rows of text, the header first; the p-value is that of the mixture, corrected by Holm."""
    names = sorted({name for found in comparisons.values() for name in found.environments})
    lines = [["paired difference", *names, "mixture", "better", "worse", "p (Holm)"]]
    for title, found in comparisons.items():
        each = [found.environments.get(name) for name in names]
        shown = ["-" if d is None else _interval(d.estimate, "+") for d in each]
        whole = found.mixture
        lines.append([title, *shown, _interval(whole.estimate, "+"), str(whole.better), str(whole.worse),
                      _number(whole.p_holm, 4)])
    return lines


def pass_cells(table: Table) -> list[list[str]]:
    """pass@k and pass^k of the mixtures with the number of tasks that have k trials; no rows where k is 1 alone."""
    ks = sorted({k for found in table.values() for k in found.mixture.eligible})
    if len(ks) < 2:
        return []
    header = ["", *(f"{name}{k}" for k in ks for name in ("pass@", "pass^", "tasks "))]
    lines = [header]
    for stage, found in table.items():
        whole, line = found.mixture, [stage]
        for k in ks:
            both = [whole.pass_at.get(k), whole.pass_hat.get(k)]
            line += ["-" if e is None else _interval(e) for e in both] + [str(whole.eligible.get(k, 0))]
        lines.append(line)
    return lines


def cost_cells(table: Table) -> list[list[str]]:
    """What a trial used on average; the seats beside the rated ones apart. What nobody used or knows has no column, and
    without any there are no rows."""
    names = {"calls": 1, "tool_calls": 1, "prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0,
             "model_seconds": 1, "usd": 4, "others_calls": 1, "others_completion_tokens": 0, "others_usd": 4,
             "success_per_1000_tokens": 2}
    names = {name: digits for name, digits in names.items()
             if any(found.mixture.costs.get(name) for found in table.values())}
    lines = [["a trial uses", *(name.replace("_", " ") for name in names)]] if names else []
    for stage, found in table.items() if names else ():
        costs = found.mixture.costs
        known = [(costs.get(name), digits) for name, digits in names.items()]
        lines.append([stage, *("?" if value is None else _number(value, digits) for value, digits in known)])
    return lines


def left_out(table: Table) -> list[str]:
    """A sentence for each result with trials that have no score: errors by what broke, and abstentions."""
    lines = []
    for stage, found in table.items():
        whole = found.mixture
        if whole.errors or whole.abstained:
            broke = ", ".join(f"{what} {count}" for what, count in whole.failures.items())
            lines.append(f"{stage}: {whole.errors} errors{f' ({broke})' if broke else ''} and {whole.abstained} "
                         f"abstentions are left out, {whole.n_trials} trials rated; none of them counts as a failure")
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
