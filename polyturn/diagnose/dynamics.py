"""Does a quantity return to a level over the turns? A fit of first differences, with its small-sample bias taken off.

For series ``D_1 .. D_n`` (one for each dialogue), interventions ``I`` (1 on the turn that an intervention preceded):

    D_{t+1} - D_t = a + b D_t - d I_{t+1} + noise,    lambda = 1 + b,    equilibrium D* = -a / b

A slope b < 0 proves nothing by itself: independent draws have b = -1, and a random walk of ten turns has b near -0.5.
So :mod:`polyturn.diagnose.verdict` judges the slope against both, simulated in the very shape of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, nan
from typing import Literal, TypeAlias

import numpy as np

from polyturn.errors import BadInput
from polyturn.seeds import generator
from polyturn.types import FloatArray

Series: TypeAlias = Sequence[float]
"""The values of one dialogue by turn; NaN where a turn has none."""
Shape: TypeAlias = tuple[tuple[tuple[bool, ...], tuple[bool, ...]], ...]
"""Of each series, by turn: whether it has a value, and whether an intervention preceded it."""
Intercept: TypeAlias = Literal["pooled", "series"]


@dataclass(frozen=True, slots=True)
class Fit:
    """The fit of the differences."""

    a: float
    """NaN where every series has an intercept of its own."""
    b: float
    d: float
    """What an intervention takes away; NaN without interventions."""
    slope: float
    """lambda = 1 + b."""
    corrected: float
    """lambda without its small-sample bias (:func:`unbiased`)."""
    low: float
    high: float
    """95 % interval of ``corrected`` by bootstrap over series; NaN for a single one."""
    equilibrium: float
    """-a / b; NaN where b is not negative or there is no common intercept."""
    half_life: float
    """Turns, of ``corrected``; NaN outside 0 < lambda < 1."""
    r2: float
    residual_sd: float
    residual_max: float
    spearman: float
    """Of D_t with its change."""
    pairs: int
    series: int


# ---------------------------------------------------------------- pairs and least squares


def shape_of(series: Sequence[Series], interventions: Sequence[Sequence[bool]] | None = None) -> Shape:
    """Which turns have values and interventions. Raises: BadInput for rows of different lengths, or no rows."""
    marks = interventions if interventions is not None else [[False] * len(one) for one in series]
    if not series or len(marks) != len(series) or any(len(m) != len(s) for m, s in zip(marks, series, strict=True)):
        raise BadInput(f"{len(series)} series and {len(marks)} rows of interventions; expected one row of marks for "
                       "each series, of its length")
    return tuple(
        (tuple(bool(np.isfinite(value)) for value in one), tuple(bool(m) for m in mark))
        for one, mark in zip(series, marks, strict=True)
    )


def pairs(
    series: Sequence[Series], interventions: Sequence[Sequence[bool]] | None = None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(D_t, D_{t+1} - D_t, I_{t+1}, index of the series) of all neighbouring turns with values; none crosses from one
    series to the next.

    >>> [row.tolist() for row in pairs([[1.0, 3.0, 2.0], [5.0, 4.0]])]
    [[1.0, 3.0, 5.0], [2.0, -1.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    shape = shape_of(series, interventions)
    rows = [
        (float(one[t]), float(one[t + 1]) - float(one[t]), float(mark[t + 1]), float(index))
        for index, (one, (known, mark)) in enumerate(zip(series, shape, strict=True))
        for t in range(len(one) - 1) if known[t] and known[t + 1]
    ]
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return columns[0], columns[1], columns[2], columns[3]


@dataclass(frozen=True, slots=True)
class Least:
    """Least squares of many data sets [S, P] at once, over one design of intercepts and interventions."""

    slope: FloatArray
    effect: FloatArray
    statistic: FloatArray
    """slope / its standard error."""
    residual: FloatArray


def least(x: FloatArray, y: FloatArray, mark: FloatArray, key: FloatArray) -> Least:
    """Regression of y on x, -mark and an intercept for each key; by partialling out (Frisch, Waugh, Lovell)."""
    x, y, marks = _centred(x, key), _centred(y, key), _centred(mark[None], key)
    square = float((marks**2).sum())
    has = square > 1e-12
    own_x = (x * marks).sum(-1, keepdims=True) / square if has else np.zeros((len(x), 1))
    own_y = (y * marks).sum(-1, keepdims=True) / square if has else np.zeros((len(x), 1))
    x, y = x - own_x * marks, y - own_y * marks
    spread = (x**2).sum(-1)
    spread = np.where(spread > 1e-300, spread, np.nan)
    slope = (x * y).sum(-1) / spread
    residual = y - slope[:, None] * x
    degrees = x.shape[-1] - len(np.unique(key)) - 1 - int(has)
    variance = (residual**2).sum(-1) / degrees if degrees > 0 else np.full(len(x), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = slope / np.sqrt(variance / spread)
    effect = -(own_y[:, 0] - slope * own_x[:, 0]) if has else np.full(len(x), np.nan)
    return Least(slope, effect, statistic, residual)


def _centred(rows: FloatArray, key: FloatArray) -> FloatArray:
    out = rows.astype(np.float64).copy()
    for value in np.unique(key):
        here = key == value
        out[:, here] -= out[:, here].mean(-1, keepdims=True)
    return out


def unbiased(slope: float, count: int, intercepts: int) -> float:
    """lambda without the small-sample bias of least squares, ``-(1 + lambda) / k - 2 lambda / N`` for N pairs and
    ``k = N / intercepts`` pairs for each intercept (Kendall's ``-(1 + 3 lambda) / N`` for one).

    >>> round(unbiased(0.4, 100, 1), 6)             # (0.4 + 0.01) / (1 - 0.03)
    0.42268
    """
    each = count / intercepts
    left = 1 - 1 / each - 2 / count
    return (slope + 1 / each) / left if left > 0 else nan


def half_life(slope: float) -> float:
    """``ln 0.5 / ln lambda`` turns; NaN unless 0 < lambda < 1.

    >>> half_life(0.5), half_life(1.2)
    (1.0, nan)
    """
    return log(0.5) / log(slope) if 0 < slope < 1 else nan


def fit(
    series: Sequence[Series], interventions: Sequence[Sequence[bool]] | None = None, *,
    intercept: Intercept = "pooled", seed: int = 0, resamples: int = 1000,
) -> Fit:
    """The fit over all series, with one common intercept or one for each.

    A common intercept presumes one level for all; series around levels of their own then look more persistent than
    each is. Raises: BadInput for fewer than four pairs, or values that never vary.
    """
    x, y, mark, key = pairs(series, interventions)
    if len(x) < 4:
        raise BadInput(f"{len(x)} pairs of neighbouring turns; a fit needs at least 4")
    groups = key if intercept == "series" else np.zeros(len(key))
    found = least(x[None], y[None], mark, groups)
    b, d = float(found.slope[0]), float(found.effect[0])
    if not np.isfinite(b):
        raise BadInput("the values do not vary, so that no slope can be fitted")
    a = float(y.mean() - b * x.mean() + (0.0 if np.isnan(d) else d) * mark.mean()) if intercept == "pooled" else nan
    corrected = unbiased(1 + b, len(x), len(np.unique(groups)))
    low, high = _bootstrap((x, y, mark, key), intercept, seed, resamples)
    total = float(((y - y.mean()) ** 2).sum())
    residual = found.residual[0]
    return Fit(
        a, b, d, 1 + b, corrected, low, high, -a / b if b < 0 else nan, half_life(corrected),
        1 - float((residual**2).sum()) / total if total else nan, float(residual.std()),
        float(np.abs(residual).max()), _spearman(x, y), len(x), len(np.unique(key)),
    )


def _bootstrap(
    columns: tuple[FloatArray, FloatArray, FloatArray, FloatArray], intercept: Intercept, seed: int, resamples: int
) -> tuple[float, float]:
    """Quantiles of the corrected lambda when whole series are drawn again; from their sums of products alone."""
    x, y, mark, key = columns
    known = np.unique(key)
    if len(known) < 2:
        return nan, nan
    parts = np.stack([np.ones_like(x), x, y, mark])
    if intercept == "series":
        parts = np.concatenate([np.ones((1, len(x))), _centred(parts[1:], key)])
    sums_J44 = np.stack([parts[:, key == value] @ parts[:, key == value].T for value in known])
    times_RJ = generator("dynamics", "bootstrap", seed).multinomial(len(known), np.full(len(known), 1 / len(known)),
                                                                   resamples)
    sums = np.einsum("rj,jab->rab", times_RJ, sums_J44)
    count = sums[:, 0, 0]
    if intercept == "pooled":
        sums = sums - sums[:, :, :1] * sums[:, :1, :] / count[:, None, None]
    own = sums[:, 3, 3]
    share = np.where(own > 1e-9, sums[:, 1, 3] / np.where(own > 1e-9, own, 1.0), 0.0)
    spread = sums[:, 1, 1] - share * sums[:, 1, 3]
    slopes = 1 + (sums[:, 1, 2] - share * sums[:, 3, 2]) / np.where(spread > 0, spread, nan)
    intercepts = len(known) if intercept == "series" else 1
    kept = np.array([unbiased(one, int(n), intercepts) for one, n in zip(slopes, count, strict=True)])
    kept = kept[np.isfinite(kept)]
    return (float(np.quantile(kept, 0.025)), float(np.quantile(kept, 0.975))) if len(kept) else (nan, nan)


def _spearman(x: FloatArray, y: FloatArray) -> float:
    first, second = _ranks(x), _ranks(y)
    if first.std() == 0 or second.std() == 0:
        return nan
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1, equal values sharing their mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    mean: FloatArray = (last - (count - 1) / 2)[place.reshape(-1)]
    return mean
