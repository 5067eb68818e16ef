"""Paired differences of results, task by task, with one correction for all that are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isnan, nan

from polyturn.errors import BadInput, UnknownName
from polyturn.evaluate import stats
from polyturn.evaluate.benchmark import Row, Table
from polyturn.evaluate.significance import flip_p_value, holm
from polyturn.evaluate.stats import Estimate


@dataclass(frozen=True, slots=True)
class Difference:
    """``first - second`` on the tasks that both played, with the number of tasks on which each is better."""

    estimate: Estimate
    better: int
    worse: int
    unpaired: int = 0
    """Tasks left out: only one has a score, or they were played in worlds of other seeds."""
    p_value: float = nan
    """Of "neither is better", by :func:`polyturn.evaluate.significance.flip_p_value`."""
    p_holm: float = nan
    """The same, corrected by Holm's rule for the comparisons made with it: mixtures among mixtures, environments among
    all environments of all pairs."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Paired differences on every environment and on their mixture."""

    environments: Mapping[str, Difference]
    mixture: Difference


def paired(table: Table, first: str, second: str) -> Paired:
    """The differences ``first - second`` of two results of a table, paired by task; the mixture is their plain mean.

    Raises: BadInput if they were not played on the same environments.
    """
    return corrected({"": _paired(table, first, second)})[""]


def against(table: Table, baseline: str) -> dict[str, Paired]:
    """Every other result's differences to ``baseline``, corrected together, by name. Raises: UnknownName; BadInput."""
    if baseline not in table:
        raise UnknownName("result to compare with", baseline, table)
    return corrected({name: _paired(table, name, baseline) for name in table if name != baseline})


def corrected(comparisons: Mapping[str, Paired]) -> dict[str, Paired]:
    """The same with ``p_holm`` for their number: one family of mixtures, one of environments."""
    whole = _corrected({(name,): found.mixture for name, found in comparisons.items()})
    parts = _corrected({
        (name, environment): difference for name, found in comparisons.items()
        for environment, difference in found.environments.items()
    })
    return {
        name: Paired({each: parts[name, each] for each in found.environments}, whole[(name,)])
        for name, found in comparisons.items()
    }


def _corrected(family: Mapping[tuple[str, ...], Difference]) -> dict[tuple[str, ...], Difference]:
    tested = [key for key, found in family.items() if not isnan(found.p_value)]
    values = dict(zip(tested, holm([family[key].p_value for key in tested]), strict=True))
    return {key: replace(found, p_holm=values.get(key, nan)) for key, found in family.items()}


def _paired(table: Table, first: str, second: str) -> Paired:
    one, two = table[first].environments, table[second].environments
    if one.keys() != two.keys():
        raise BadInput(f"{first!r} was played on {sorted(one)}, {second!r} on {sorted(two)}: not a pair")
    both = {name: _alike(one[name], two[name]) for name in one}
    each = {name: _difference(one[name], two[name], both[name]) for name in one}
    shared = [stats.gaps(_only(one[name], both[name]), _only(two[name], both[name])) for name in one]
    weighed = [gap / len(gaps) for gaps in shared for gap in gaps.values()]
    return Paired(each, Difference(
        stats.mixture([d.estimate for d in each.values()]), sum(d.better for d in each.values()),
        sum(d.worse for d in each.values()), sum(d.unpaired for d in each.values()),
        flip_p_value(weighed) if all(shared) else nan,
    ))


def _difference(one: Row, two: Row, alike: Callable[[str], bool]) -> Difference:
    first, second = _only(one, alike), _only(two, alike)
    estimate = stats.paired_difference(first, second, (0.0, 1.0) if one.bounded and two.bounded else None)
    return Difference(
        estimate, *stats.better_worse(first, second), len(one.scores.keys() | two.scores.keys()) - estimate.count,
        flip_p_value(list(stats.gaps(first, second).values())),
    )


def _alike(one: Row, two: Row) -> Callable[[str], bool]:
    """Whether a task was played in the same worlds by both."""
    return lambda task: one.seeds.get(task) == two.seeds.get(task)


def _only(row: Row, wanted: Callable[[str], bool]) -> dict[str, tuple[float, ...]]:
    return {task: scores for task, scores in row.scores.items() if wanted(task)}
