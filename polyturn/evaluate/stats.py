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
from polyturn.types import FloatArray

CONFIDENCE = 0.95
SAME = 1e-9
"""Values that differ by no more than this share of their range are the same but for rounding."""


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


# ---------------------------------------------------------------- means


def clustered_mean(values: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Estimate:
    """The mean over all trials with an interval clustered by task; ``values[c]`` = the trials of task c.

    With N trials in C tasks, variance = C / (C - 1) * sum_c (sum_t (y_ct - mean))^2 / N^2, and the interval is
    mean +- t(C - 1) * sqrt(variance). For a quantity without known bounds; a score has them (:func:`bounded_mean`).
    Tasks without trials are left out; one task gives NaN for the interval, none gives NaN for all.

    >>> e = clustered_mean([[1.0], [5.0], [1.0], [5.0]])
    >>> round(e.mean, 3), round(e.low, 3), round(e.high, 3)      # 3 -+ 3.182 * 1.1547
    (3.0, -0.675, 6.675)
    """
    tasks = _tasks(values)
    count = len(tasks)
    if count == 0:
        return Estimate(nan, nan, nan, nan, nan, 0)
    mean, variance = _clustered(tasks)
    return _estimate(mean, variance, count - 1, count, confidence)


def bounded_mean(
    values: Sequence[Sequence[float]], bounds: tuple[float, float] = (0.0, 1.0), confidence: float = CONFIDENCE
) -> Estimate:
    """As :func:`clustered_mean` for values within ``bounds``; the interval stays within them too.

    Let p be the mean as a share of the range and v its variance, clustered as there, but at least that of N trials on
    their own, s^2 / N (tasks that agree by chance must not narrow it). n = p (1 - p) / v yes-or-no trials would vary as
    much, and the interval is Wilson's for p and n with t(C - 1) in place of the normal quantile. Where every value is
    the same c (within 1e-9 of the range: no more than rounding), another value has at most the chance h, the upper end
    of Wilson's interval for none in C tasks, so that the interval is (c - h (c - lowest), c + h (highest - c)).
    Raises: BadInput for a value outside.

    >>> e = bounded_mean([[1.0], [0.0], [1.0], [0.0]])           # p = 1/2, v = 1/12, n = 3
    >>> round(e.mean, 3), round(e.low, 3), round(e.high, 3)
    (0.5, 0.061, 0.939)
    """
    tasks = _tasks(values)
    count = len(tasks)
    if count < 2:
        return clustered_mean(values, confidence)
    (lowest, highest), every = bounds, np.concatenate(tasks)
    span = highest - lowest
    if every.min() < lowest or every.max() > highest:
        raise BadInput(f"values from {every.min()} to {every.max()}; expected {lowest} to {highest}")
    if every.max() - every.min() <= SAME * span:
        mean, share = float(every.mean()), wilson(0, count, confidence)[1]
        low, high = mean - share * (mean - lowest), mean + share * (highest - mean)
        side = max(mean - low, high - mean) / NormalDist().inv_cdf((1 + confidence) / 2)
        return Estimate(mean, low, high, side * side, inf, count)
    mean, variance = _clustered(tasks)
    variance = max(variance, float(every.var(ddof=1)) / len(every))
    p = (mean - lowest) / span
    low, high = _wilson(p, p * (1 - p) * span * span / variance, t_quantile((1 + confidence) / 2, count - 1))
    return Estimate(mean, lowest + span * low, lowest + span * high, variance, count - 1, count)


def _tasks(values: Sequence[Sequence[float]]) -> list[FloatArray]:
    tasks = [np.asarray(task, float) for task in values if len(task)]
    every = np.concatenate(tasks) if tasks else np.empty(0)
    if not np.isfinite(every).all():
        wrong = int((~np.isfinite(every)).sum())
        raise BadInput(f"{wrong} of {len(every)} values are not finite; leave out unknown ones")
    return tasks


def _clustered(tasks: Sequence[FloatArray]) -> tuple[float, float]:
    """Mean and variance of the mean; NaN for the variance of one task."""
    every = np.concatenate(tasks)
    mean, count = float(every.mean()), len(tasks)
    square = sum(float((task - mean).sum()) ** 2 for task in tasks)
    return mean, count / (count - 1) * square / len(every) ** 2 if count > 1 else nan


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval (low, high) for a proportion of independent trials.

    (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n).

    >>> low, high = wilson(0, 10)
    >>> low, round(high, 4)
    (0.0, 0.2775)
    """
    if not 0 <= successes <= trials or trials == 0:
        raise BadInput(f"{successes} successes of {trials} trials; expected 0 <= successes <= trials and trials >= 1")
    return _wilson(successes / trials, trials, NormalDist().inv_cdf((1 + confidence) / 2))


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval for a share p of n trials, which need not be whole, and a quantile z; exact at 0 and 1."""
    scale = 1 + z * z / n
    middle = (p + z * z / (2 * n)) / scale
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return (max(0.0, middle - half) if p > 0 else 0.0), (min(1.0, middle + half) if p < 1 else 1.0)


def paired_difference(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]],
    bounds: tuple[float, float] | None = None, confidence: float = CONFIDENCE,
) -> Estimate:
    """The mean of ``first - second`` over the tasks that both have, each task's difference of means weighing one.

    ``bounds`` = those of the values, if they have any: the difference of two scores in 0..1 lies in -1..1, and so does
    its interval (:func:`bounded_mean`); without them it is :func:`clustered_mean`'s.

    >>> e = paired_difference({"a": [1.0], "b": [1.0, 0.0]}, {"a": [0.0], "b": [0.5]})
    >>> e.mean, e.count                                          # (1 + 0) / 2
    (0.5, 2)
    """
    each = [[gap] for gap in gaps(first, second).values()]
    if bounds is None:
        return clustered_mean(each, confidence)
    widest = bounds[1] - bounds[0]
    return bounded_mean(each, (-widest, widest), confidence)


def better_worse(first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> tuple[int, int]:
    """The number of common tasks on which ``first`` has the higher mean, and on which it has the lower.

    >>> better_worse({"a": [1.0], "b": [0.0], "c": [1.0]}, {"a": [0.0], "b": [0.0], "c": [0.0]})
    (2, 0)
    """
    found = gaps(first, second).values()
    return sum(gap > 0 for gap in found), sum(gap < 0 for gap in found)


def gaps(first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Task -> difference of its means, for the tasks of which both have a trial.

    >>> gaps({"a": [1.0, 0.0], "b": [1.0]}, {"a": [0.0], "b": []})
    {'a': 0.5}
    """
    common = [task for task in first if len(first[task]) and len(second.get(task, ()))]
    return {task: float(np.mean(first[task])) - float(np.mean(second[task])) for task in common}


def mixture(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean of m independent means, one for each environment.

    Each side of the interval is the root of the summed squares of the parts' sides, sqrt(sum_i (mean_i - low_i)^2) / m
    (the method of variance estimates recovery, Zou and Donner 2008), so that it stays within the parts' bounds and a
    part at the end of its range adds nothing on that side. variance = sum_i v_i / m^2 with Welch and Satterthwaite's
    degrees of freedom (sum v_i)^2 / sum (v_i^2 / d_i). NaN where any environment has no mean, and without an interval
    where any has none.

    >>> m = mixture([Estimate(0.2, 0, 0.4, 0.01, 9, 10), Estimate(0.6, 0.4, 0.8, 0.01, 9, 10)])
    >>> round(m.mean, 3), round(m.low, 3), round(m.high, 3), round(m.variance, 4), m.degrees
    (0.4, 0.259, 0.541, 0.005, 18.0)
    """
    if not estimates:
        raise BadInput("a mixture of no environments; give at least one estimate")
    m, mean = len(estimates), float(np.mean([e.mean for e in estimates]))
    below = sqrt(sum((e.mean - e.low) ** 2 for e in estimates)) / m
    above = sqrt(sum((e.high - e.mean) ** 2 for e in estimates)) / m
    return Estimate(mean, mean - below, mean + above, *_summed(estimates), sum(e.count for e in estimates))


def _summed(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Variance and degrees of freedom of the mean of independent means."""
    total = sum(e.variance for e in estimates)
    if not isfinite(total):
        return nan, nan
    below = sum(e.variance**2 / e.degrees for e in estimates if e.variance)
    return total / len(estimates) ** 2, total**2 / below if below > 0 else inf


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


def pass_at(successes: Sequence[int], trials: Sequence[int], k: int) -> Estimate:
    """pass@k (some of k succeeds) averaged over the tasks with at least k trials, ``count`` of them; NaN if none has.

    >>> found = pass_at([1, 4, 1], [4, 4, 1], 2)                 # (0.5 + 1) / 2; the third task has one trial
    >>> found.mean, found.count
    (0.75, 2)
    """
    return bounded_mean([[chance_at(c, n, k)] for c, n in zip(successes, trials, strict=True) if n >= k])


def pass_hat(successes: Sequence[int], trials: Sequence[int], k: int) -> Estimate:
    """pass^k (all of k succeed) averaged over the tasks with at least k trials, ``count`` of them; NaN if none has.

    >>> pass_hat([3, 4, 1], [4, 4, 1], 2).mean
    0.75
    """
    return bounded_mean([[chance_hat(c, n, k)] for c, n in zip(successes, trials, strict=True) if n >= k])
