"""P-values of paired differences by flipping their signs, and Holm's correction for many of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np

from polyturn.errors import BadInput
from polyturn.types import FloatArray

WHOLE = 16
"""Up to so many differences other than zero, all sign patterns are tried."""
DRAWS = 20_000 - 1
"""Beyond that, so many drawn at random."""


def flip_p_value(differences: Sequence[float]) -> float:
    """The two-sided p-value of "neither is better": the share of sign patterns whose sum is at least as far from zero.

    If neither is better, each task's difference is as likely with the other sign; so the test is exact for any
    distribution, and says p = 2^(1 - C) at best for C tasks. Zeros change nothing and are passed over; with more than
    ``WHOLE`` others the patterns are drawn (fixed bits, the observed one among them, so that the smallest p is
    1 / 20,000). For the mean over environments give each difference divided by its environment's number of tasks. NaN
    without any difference. Raises: BadInput for a number that is not finite.

    >>> flip_p_value([0.5, 0.25, 1.0]), flip_p_value([0.0, 0.0]), flip_p_value([1.0, 1.0, -1.0])
    (0.25, 1.0, 1.0)
    """
    gaps = np.sort(np.asarray(differences, float))
    if not np.isfinite(gaps).all():
        raise BadInput("a difference to be tested is not finite; leave out unknown ones")
    if not len(gaps):
        return nan
    gaps = gaps[gaps != 0]
    if not len(gaps):
        return 1.0
    least = abs(float(gaps.sum())) - 1e-9 * float(np.abs(gaps).sum())
    if len(gaps) <= WHOLE:
        return float((_every_sum(gaps) >= least).mean())
    return (1 + int((_drawn_sums(gaps) >= least).sum())) / (1 + DRAWS)


def _every_sum(gaps: FloatArray) -> FloatArray:
    """The sizes of the sums of all 2^C sign patterns."""
    sums = np.zeros(1)
    for gap in gaps:
        sums = np.concatenate([sums + gap, sums - gap])
    return np.abs(sums)


def _drawn_sums(gaps: FloatArray) -> FloatArray:
    """The sizes of the sums of ``DRAWS`` sign patterns, from the raw bits of a generator that numpy keeps stable."""
    words = -(-len(gaps) // 64)
    generator, sums = np.random.PCG64(0), np.empty(DRAWS)
    for start in range(0, DRAWS, 1000):
        rows = min(1000, DRAWS - start)
        bits = np.unpackbits(generator.random_raw(rows * words).view(np.uint8)).reshape(rows, words * 64)
        sums[start:start + rows] = (2.0 * bits[:, : len(gaps)] - 1.0) @ gaps
    return np.abs(sums)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number by Holm's step-down rule, in the given order.

    The i-th smallest of m (i from 0) becomes max over j <= i of min(1, (m - j) p_j).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise BadInput(f"a p-value is {p}; expected a number in 0..1 (leave out comparisons of nothing)")
    corrected = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = worst
    return corrected
