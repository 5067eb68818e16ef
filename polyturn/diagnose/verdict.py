"""What series over turns are evidence of: the slope of their differences against nulls simulated in their very shape.

Independent draws around a level and a random walk both give a negative slope in short series; only what differs from
both is evidence of a level that is returned to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from polyturn.diagnose.dynamics import Fit, Series, Shape, fit, least, pairs, shape_of
from polyturn.seeds import generator
from polyturn.types import FloatArray

Verdict: TypeAlias = Literal["stable", "unstable", "no evidence of dynamics", "insufficient turns"]
SIMULATED = 2000


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with what it rests on."""

    verdict: Verdict
    reason: str
    fit: Fit
    statistic: float
    """Dickey and Fuller's t of the slope b, an intercept for each series."""
    critical: float
    """What it must be below to exclude a random walk (5 %), simulated in this shape."""
    power: float
    """The chance to exclude a random walk in this shape, were lambda ``ALTERNATIVE``."""
    p_walk: float
    """Share of simulated random walks with so low a statistic."""
    p_draws: float
    """Share of simulated independent draws whose lambda is as far from theirs."""


ALTERNATIVE = 0.5
"""The lambda that a shape must be able to tell from a random walk to be judged at all."""
POWER = 0.5
"""The least power at which a shape is judged."""


# ---------------------------------------------------------------- the nulls


def simulated(
    series: int, turns: int, slope: float, *, level: float = 0.0, noise: float = 1.0, start: float | None = None,
    effect: float = 0.0, reminded: Sequence[int] = (), seed: int = 0,
) -> FloatArray:
    """Series [series, turns] of ``D_{t+1} = level + slope (D_t - level) + noise - effect I_{t+1}``; ``reminded`` lists
    turns from 1. ``start`` None: from the stationary distribution where there is one, else from ``level``."""
    draws = generator("dynamics", "simulated", seed)
    now = np.full(series, level if start is None else start)
    if start is None and abs(slope) < 1:
        now = level + draws.normal(size=series) * noise / np.sqrt(1 - slope**2)
    rows = [now]
    for turn in range(2, turns + 1):
        now = level + slope * (now - level) + noise * draws.normal(size=series) - effect * (turn in reminded)
        rows.append(now)
    return np.stack(rows, 1)


@lru_cache(maxsize=64)
def _null(shape: Shape, slope: float, count: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """(statistics, slopes lambda) of ``count`` simulated data sets of a shape, an intercept for each series."""
    x, y, mark, key = [], [], [], []
    for index, (known, marks) in enumerate(shape):
        made = simulated(count, len(known), slope, seed=seed * 100_003 + index, start=0.0 if slope == 1 else None)
        turns = [t for t in range(len(known) - 1) if known[t] and known[t + 1]]
        x.append(made[:, turns])
        y.append(made[:, [t + 1 for t in turns]] - made[:, turns])
        mark += [float(marks[t + 1]) for t in turns]
        key += [float(index)] * len(turns)
    found = least(np.concatenate(x, 1), np.concatenate(y, 1), np.array(mark), np.array(key))
    return found.statistic, 1 + found.slope


def critical_value(shape: Shape, *, level: float = 0.05, count: int = SIMULATED, seed: int = 0) -> float:
    """Dickey and Fuller's critical value of the slope's t for this shape: the ``level`` quantile over simulated random
    walks, each series with an intercept of its own."""
    return float(np.quantile(_null(shape, 1.0, count, seed)[0], level))


def power(shape: Shape, *, slope: float = ALTERNATIVE, level: float = 0.05, count: int = SIMULATED) -> float:
    """The chance that series of this shape with lambda ``slope`` exclude a random walk."""
    below = _null(shape, slope, count, 1)[0] < critical_value(shape, level=level, count=count)
    return float(below.mean())


# ---------------------------------------------------------------- the verdict


def judge(
    series: Sequence[Series], interventions: Sequence[Sequence[bool]] | None = None, *, level: float = 0.05,
    seed: int = 0, count: int = SIMULATED,
) -> Judgement:
    """What the series are evidence of, each with an intercept of its own.

    "insufficient turns": in this shape lambda = 0.5 could not be told from a random walk. "unstable": a random walk is
    not excluded, or lambda is below -1 (an oscillation that grows). "no evidence of dynamics": independent draws around
    a level explain the slope. "stable": none of these. Raises: BadInput as :func:`fit`.
    """
    shape = shape_of(series, interventions)
    found = fit(series, interventions, intercept="series", seed=seed)
    x, y, mark, key = pairs(series, interventions)
    statistic = float(least(x[None], y[None], mark, key).statistic[0])
    walks, critical = _null(shape, 1.0, count, 0)[0], critical_value(shape, level=level, count=count)
    draws = _null(shape, 0.0, count, 2)[1]
    off = np.abs(draws - np.median(draws))
    p_draws = float((off >= abs(found.slope - np.median(draws))).mean())
    chance = power(shape, level=level, count=count)
    verdict, reason = _verdict(found, statistic, critical, chance, p_draws, level)
    return Judgement(verdict, reason, found, statistic, critical, chance, float((walks <= statistic).mean()), p_draws)


def _verdict(
    found: Fit, statistic: float, critical: float, chance: float, p_draws: float, level: float
) -> tuple[Verdict, str]:
    if not (np.isfinite(statistic) and chance >= POWER):
        return "insufficient turns", (
            f"{found.pairs} pairs in {found.series} series: lambda {ALTERNATIVE} would be told from a random walk with "
            f"probability {chance:.2f} only"
        )
    if statistic >= critical:
        return "unstable", f"t {statistic:.2f} is not below {critical:.2f}: a random walk is not excluded"
    if found.corrected <= -1:
        return "unstable", f"lambda {found.corrected:.2f} is not above -1: an oscillation that grows"
    if p_draws >= level:
        return "no evidence of dynamics", f"independent draws around a level explain the slope (p {p_draws:.2f})"
    return "stable", f"lambda {found.corrected:.2f}; neither a random walk nor independent draws"
