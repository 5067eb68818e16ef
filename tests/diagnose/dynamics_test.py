"""The fit by hand and against plain loops, pairs that never cross a border, and the small-sample bias by simulation."""

from __future__ import annotations

from itertools import pairwise
from math import isnan, log, nan

import numpy as np
import pytest

from polyturn.diagnose.dynamics import fit, half_life, pairs, shape_of, unbiased
from polyturn.diagnose.verdict import simulated
from polyturn.errors import BadInput


def slow_fit(series: list[list[float]]) -> tuple[float, float]:
    """a and b of the differences, by sums in plain floats."""
    xs, ys = [], []
    for one in series:
        for now, then in pairwise(one):
            xs.append(now)
            ys.append(then - now)
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    b = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)
    return my - b * mx, b


def test_a_fit_by_hand() -> None:
    # D_{t+1} = 2 + 0.5 (D_t - 2) exactly: differences 1 - 0.5 D; a = 1, b = -0.5, level 2, half life 1 turn
    found = fit([[6.0, 4.0, 3.0, 2.5, 2.25], [0.0, 1.0, 1.5, 1.75, 1.875]])
    assert (found.a, found.b, found.slope, found.equilibrium) == pytest.approx((1.0, -0.5, 0.5, 2.0), abs=1e-9)
    assert (found.r2, found.spearman, found.pairs, found.series) == (pytest.approx(1.0), pytest.approx(-1.0), 8, 2)
    assert found.residual_max == pytest.approx(0.0, abs=1e-9) and isnan(found.d)
    # corrected: (0.5 + 1/8) / (1 - 1/8 - 2/8) = 0.625 / 0.625
    assert found.corrected == pytest.approx(1.0)


def test_an_intervention_by_hand() -> None:
    # D_{t+1} - D_t = 1 - 0.5 D_t - 0.7 I_{t+1}; from 4 with I on the third turn: 3, then 1 - 1.5 - 0.7 = -1.2 -> 1.8,
    # then 1 - 0.9 -> 1.9, 1.95, 1.975
    found = fit([[4.0, 3.0, 1.8, 1.9, 1.95, 1.975]], [[False, False, True, False, False, False]])
    assert (found.a, found.b, found.d) == pytest.approx((1.0, -0.5, 0.7), abs=1e-9)
    assert isnan(found.low) and isnan(found.high)  # one series cannot be drawn again
    own = fit([[4.0, 3.0, 1.8, 1.9, 1.95, 1.975]], [[False, False, True, False, False, False]], intercept="series")
    assert (own.b, own.d) == pytest.approx((-0.5, 0.7), abs=1e-9) and isnan(own.a) and isnan(own.equilibrium)


def test_pairs_never_cross_a_border_or_a_gap() -> None:
    x, y, mark, key = pairs([[1.0, 2.0], [100.0, 90.0, nan, 7.0, 8.0]], [[True, False], [False] * 4 + [True]])
    assert x.tolist() == [1.0, 100.0, 7.0] and y.tolist() == [1.0, -10.0, 1.0]
    assert mark.tolist() == [0.0, 0.0, 1.0] and key.tolist() == [0.0, 1.0, 1.0]
    crossed = slow_fit([[1.0, 2.0, 3.0, 2.0, 100.0, 90.0, 80.0, 95.0]])[1]
    assert fit([[1.0, 2.0, 3.0, 2.0], [100.0, 90.0, 80.0, 95.0]]).b != pytest.approx(crossed, abs=0.05)


def test_a_thousand_random_fits_equal_plain_loops() -> None:
    draws = np.random.default_rng(0)
    for _ in range(1000):
        series = [draws.normal(size=int(draws.integers(5, 10))).tolist() for _ in range(int(draws.integers(1, 5)))]
        found = fit(series, resamples=1)
        assert (found.a, found.b) == pytest.approx(slow_fit(series), abs=1e-9)
        joined = slow_fit([[value for one in series for value in one]])
        assert len(series) == 1 or (found.a, found.b) != pytest.approx(joined, abs=1e-9)


def test_the_bootstrap_equals_one_that_draws_series_by_hand() -> None:
    series = simulated(5, 12, 0.5, seed=8).tolist()
    for intercept in ("pooled", "series"):
        found = fit(series, intercept=intercept, resamples=4000)  # type: ignore[arg-type]
        draws = np.random.default_rng(1)
        slow = [fit([series[i] for i in draws.integers(5, size=5)], intercept=intercept, resamples=1).corrected  # type: ignore[arg-type]
                for _ in range(1000)]
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.06)


@pytest.mark.parametrize(("count", "turns", "slope"), [(1, 40, 0.4), (1, 40, 0.8), (12, 12, 0.4), (12, 12, 0.8)])
def test_the_correction_takes_the_bias_off(count: int, turns: int, slope: float) -> None:
    raw, corrected = [], []
    for seed in range(400):
        found = fit(simulated(count, turns, slope, seed=seed).tolist(), intercept="series", resamples=1)
        raw.append(found.slope)
        corrected.append(found.corrected)
    bias, left = slope - np.mean(raw), slope - np.mean(corrected)
    assert bias > 0.04 and abs(left) < 0.35 * bias


def test_half_lives_and_shapes() -> None:
    assert half_life(0.25) == 0.5 and isnan(half_life(-0.2)) and isnan(half_life(1.0))
    assert unbiased(0.0, 10, 1) == pytest.approx(0.1 / 0.7) and isnan(unbiased(0.5, 4, 2))
    assert shape_of([[1.0, nan]]) == (((True, False), (False, False)),)
    assert log(0.5) / log(0.9) == half_life(0.9)


def test_too_little_and_too_flat() -> None:
    with pytest.raises(BadInput, match="at least 4"):
        fit([[1.0, 2.0, 3.0, 4.0]])
    with pytest.raises(BadInput, match="do not vary"):
        fit([[1.0] * 9])
    with pytest.raises(BadInput, match="one row of marks"):
        pairs([[1.0, 2.0]], [[True]])
