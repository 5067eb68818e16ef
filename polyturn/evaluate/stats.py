"""Estimates with intervals for repeated trials of tasks: pure functions of numbers.

Trials of one task are alike, so that intervals are clustered by task; with few tasks the quantile is Student's t.
Unknown is NaN: one task gives a mean but no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, exp, inf, isfinite, lgamma, log, log1p, nan, sqrt
from statistics import NormalDist

import numpy as np

from polyturn.errors import BadInput

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval: ``Estimate(0.5, 0.22, 0.78, variance=0.0156, degrees=9.0, count=10)``."""

    mean: float
    low: float
    high: float
    variance: float
    """Of the mean, not of the values."""
    degrees: float
    """Degrees of freedom of the variance."""
    count: int
    """Independent units that it rests on: tasks."""


@dataclass(frozen=True, slots=True)
class Passes:
    """pass@k or pass^k: its value and the number of tasks with at least k trials, over which it is the mean."""

    value: float
    eligible: int


# ---------------------------------------------------------------- Student's t


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b) for 0 <= x <= 1 and a, b > 0.

    By the continued fraction of Abramowitz and Stegun 26.5.8, evaluated by Lentz's rule, on the side of the mean where
    it converges fast. Relative error below 1e-12 for a and b up to 100.

    >>> round(incomplete_beta(0.3, 1.0, 1.0), 12), round(incomplete_beta(0.5, 2.0, 3.0), 12)
    (0.3, 0.6875)
    """
    if not (0 <= x <= 1 and a > 0 and b > 0):
        raise BadInput(f"incomplete_beta({x}, {a}, {b}); expected 0 <= x <= 1 and a, b > 0")
    if x in {0.0, 1.0}:
        return x
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(x, a, b) / a
    return 1 - front * _beta_fraction(1 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    upper, lower, value = 1.0, 1.0 / ((1 - (a + b) * x / (a + 1)) or tiny), 1.0
    value = lower
    for m in range(1, 100_000):
        before = value
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            lower = 1 / ((1 + term * lower) or tiny)
            upper = (1 + term / upper) or tiny
            value *= upper * lower
        if abs(value - before) <= 1e-15 * abs(value):
            return value
    raise BadInput(f"the incomplete beta function did not converge at x={x}, a={a}, b={b}")


def t_tail(t: float, degrees: float) -> float:
    """P(T > t) of Student's t with ``degrees`` > 0 degrees of freedom (fractions allowed, infinity = normal).

    For t >= 0 it is I_x(degrees / 2, 1 / 2) / 2 with x = degrees / (degrees + t^2).

    >>> round(t_tail(1.0, 1.0), 12)
    0.25
    """
    if not degrees > 0:
        raise BadInput(f"degrees of freedom are {degrees}; expected a number > 0")
    if t < 0:
        return 1 - t_tail(-t, degrees)
    if degrees > 1e7 or t == inf:
        return NormalDist().cdf(-t) if t < inf else 0.0
    return incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2


@lru_cache(maxsize=4096)
def t_quantile(p: float, degrees: float) -> float:
    """The value that Student's t with ``degrees`` degrees of freedom stays below with probability p, 0 < p < 1.

    By bisection of :func:`t_tail`; relative error below 1e-9 up to 1,000 degrees and below 1e-6 beyond.

    >>> round(t_quantile(0.975, 9), 4)
    2.2622
    """
    if not 0 < p < 1:
        raise BadInput(f"the quantile's probability is {p}; expected a number between 0 and 1")
    if p < 0.5:
        return -t_quantile(1 - p, degrees)
    if p == 0.5 or degrees > 1e7:
        return NormalDist().inv_cdf(p)
    low, high = 0.0, 1.0
    while t_tail(high, degrees) > 1 - p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, degrees) > 1 - p else (low, middle)
        if high - low <= 1e-14 * high:
            break
    return (low + high) / 2


def _estimate(mean: float, variance: float, degrees: float, count: int, confidence: float) -> Estimate:
    if not (isfinite(variance) and degrees > 0):
        return Estimate(mean, nan, nan, nan, degrees, count)
    half = t_quantile((1 + confidence) / 2, degrees) * sqrt(variance) if variance > 0 else 0.0
    return Estimate(mean, mean - half, mean + half, variance, degrees, count)


def p_value(estimate: Estimate) -> float:
    """The two-sided p-value of "the mean is zero"; NaN where there is no interval, 0 or 1 where nothing varied."""
    if not isfinite(estimate.variance):
        return nan
    if estimate.variance == 0:
        return 1.0 if estimate.mean == 0 else 0.0
    return 2 * t_tail(abs(estimate.mean) / sqrt(estimate.variance), estimate.degrees)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number by Holm's step-down rule, in the given order.

    The i-th smallest of m (i from 0) becomes max over j <= i of min(1, (m - j) p_j).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise BadInput(f"a p-value is {p}; expected a number in 0..1 (leave out comparisons without an interval)")
    corrected = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = worst
    return corrected


# ---------------------------------------------------------------- means


def clustered_mean(values: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Estimate:
    """The mean over all trials with an interval clustered by task; ``values[c]`` = the trials of task c.

    With N trials in C tasks, variance = C / (C - 1) * sum_c (sum_t (y_ct - mean))^2 / N^2, and the interval is
    mean +- t(C - 1) * sqrt(variance). Where every value is the same 0 or 1, that interval would have no width: then it
    is Wilson's for C tasks (trials of a task add nothing), and the variance is that of its one open side. Tasks
    without trials are left out; one task gives NaN for the interval, none gives NaN for all.

    >>> e = clustered_mean([[1.0], [0.0], [1.0], [0.0]])
    >>> round(e.mean, 3), round(e.low, 3), round(e.high, 3)      # 0.5 -+ 3.182 * 0.2887
    (0.5, -0.419, 1.419)
    """
    tasks = [np.asarray(task, float) for task in values if len(task)]
    count = len(tasks)
    if count == 0:
        return Estimate(nan, nan, nan, nan, nan, 0)
    every = np.concatenate(tasks)
    if not np.isfinite(every).all():
        wrong = int((~np.isfinite(every)).sum())
        raise BadInput(f"{wrong} of {len(every)} values are not finite; leave out unknown ones")
    mean = float(every.mean())
    if count == 1:
        return Estimate(mean, nan, nan, nan, 0.0, 1)
    if mean in {0.0, 1.0} and (every == mean).all():
        low, high = wilson(count if mean else 0, count, confidence)
        variance = ((high - low) / NormalDist().inv_cdf((1 + confidence) / 2)) ** 2
        return Estimate(mean, low, high, variance, inf, count)
    square = sum(float((task - mean).sum()) ** 2 for task in tasks)
    return _estimate(mean, count / (count - 1) * square / len(every) ** 2, count - 1, count, confidence)


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval (low, high) for a proportion of independent trials.

    (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n).

    >>> low, high = wilson(0, 10)
    >>> low, round(high, 4)
    (0.0, 0.2775)
    """
    if not 0 <= successes <= trials or trials == 0:
        raise BadInput(f"{successes} successes of {trials} trials; expected 0 <= successes <= trials and trials >= 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, scale = successes / trials, 1 + z * z / trials
    middle = (p + z * z / (2 * trials)) / scale
    half = z * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / scale
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == trials else middle + half)


def paired_difference(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], confidence: float = CONFIDENCE
) -> Estimate:
    """The mean of ``first - second`` over the tasks that both have, each task's difference of means weighing one.

    With d_c the difference of task c: variance = sum_c (d_c - mean)^2 / (C (C - 1)), t with C - 1 degrees of freedom.

    >>> e = paired_difference({"a": [1.0], "b": [1.0, 0.0]}, {"a": [0.0], "b": [0.5]})
    >>> e.mean, e.count                                          # (1 + 0) / 2
    (0.5, 2)
    """
    gaps = np.array(_gaps(first, second))
    if not len(gaps):
        return Estimate(nan, nan, nan, nan, nan, 0)
    if not np.isfinite(gaps).all():
        raise BadInput("a value to be compared is not finite; leave out unknown ones")
    count = len(gaps)
    variance = float(gaps.var(ddof=1)) / count if count > 1 else nan
    return _estimate(float(gaps.mean()), variance, count - 1, count, confidence)


def better_worse(first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> tuple[int, int]:
    """The number of common tasks on which ``first`` has the higher mean, and on which it has the lower.

    >>> better_worse({"a": [1.0], "b": [0.0], "c": [1.0]}, {"a": [0.0], "b": [0.0], "c": [0.0]})
    (2, 0)
    """
    gaps = _gaps(first, second)
    return sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)


def _gaps(first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> list[float]:
    common = [task for task in first if len(first[task]) and len(second.get(task, ()))]
    return [float(np.mean(first[task])) - float(np.mean(second[task])) for task in common]


def mixture(estimates: Sequence[Estimate], confidence: float = CONFIDENCE) -> Estimate:
    """The plain mean of independent means, one for each environment.

    variance = sum_i v_i / m^2 with Welch and Satterthwaite's degrees of freedom (sum v_i)^2 / sum (v_i^2 / d_i). An
    estimate at the end of its range (a mean of 0 whose interval begins at 0) adds nothing on that side. NaN where any
    environment has no mean, and without an interval where any has none.

    >>> m = mixture([Estimate(0.2, 0, 0.4, 0.01, 9, 10), Estimate(0.6, 0.4, 0.8, 0.01, 9, 10)])
    >>> round(m.mean, 3), round(m.variance, 4), m.degrees
    (0.4, 0.005, 18.0)
    """
    if not estimates:
        raise BadInput("a mixture of no environments; give at least one estimate")
    mean = float(np.mean([e.mean for e in estimates]))
    count = sum(e.count for e in estimates)
    below = [e for e in estimates if not e.low == e.mean < e.high]
    above = [e for e in estimates if not e.low < e.mean == e.high]
    whole, lower, upper = (_summed(side, len(estimates)) for side in (estimates, below, above))
    low = _estimate(mean, *lower, count, confidence).low
    high = _estimate(mean, *upper, count, confidence).high
    return Estimate(mean, low, high, *whole, count)


def _summed(estimates: Sequence[Estimate], m: int) -> tuple[float, float]:
    """Variance and degrees of freedom of the sum of independent means over m."""
    total = sum(e.variance for e in estimates)
    if not isfinite(total):
        return nan, nan
    below = sum(e.variance**2 / e.degrees for e in estimates if e.variance)
    return total / m**2, total**2 / below if below > 0 else inf


# ---------------------------------------------------------------- repeated trials


def chance_at(successes: int, trials: int, k: int) -> float:
    """pass@k of one task: the chance that k of its trials, drawn without replacement, hold a success.

    1 - C(n - c, k) / C(n, k), unbiased for k <= n.

    >>> chance_at(1, 4, 2)                                       # 1 - C(3, 2) / C(4, 2) = 1 - 3 / 6
    0.5
    """
    _check_draw(successes, trials, k)
    return 1 - comb(trials - successes, k) / comb(trials, k)


def chance_hat(successes: int, trials: int, k: int) -> float:
    """pass^k of one task: the chance that k of its trials, drawn without replacement, are all successes.

    C(c, k) / C(n, k), unbiased for k <= n.

    >>> chance_hat(3, 4, 2)                                      # C(3, 2) / C(4, 2) = 3 / 6
    0.5
    """
    _check_draw(successes, trials, k)
    return comb(successes, k) / comb(trials, k)


def _check_draw(successes: int, trials: int, k: int) -> None:
    if not (0 <= successes <= trials and 1 <= k <= trials):
        raise BadInput(
            f"{successes} successes of {trials} trials, {k} drawn; expected 0 <= successes <= trials, 1 <= k <= trials"
        )


def pass_at(successes: Sequence[int], trials: Sequence[int], k: int) -> Passes:
    """pass@k (some of k succeeds) averaged over the tasks with at least k trials; NaN if there is none.

    >>> pass_at([1, 4, 1], [4, 4, 1], 2)                         # (0.5 + 1) / 2; the third task has one trial
    Passes(value=0.75, eligible=2)
    """
    drawn = [chance_at(c, n, k) for c, n in zip(successes, trials, strict=True) if n >= k]
    return Passes(float(np.mean(drawn)) if drawn else nan, len(drawn))


def pass_hat(successes: Sequence[int], trials: Sequence[int], k: int) -> Passes:
    """pass^k (all of k succeed) averaged over the tasks with at least k trials; NaN if there is none.

    >>> pass_hat([3, 4, 1], [4, 4, 1], 2)
    Passes(value=0.75, eligible=2)
    """
    drawn = [chance_hat(c, n, k) for c, n in zip(successes, trials, strict=True) if n >= k]
    return Passes(float(np.mean(drawn)) if drawn else nan, len(drawn))
