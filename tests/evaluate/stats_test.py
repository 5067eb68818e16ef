"""Estimates against tables, enumeration, plain-Python twins and simulated data."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import isnan, pi, sqrt, tan
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyturn.errors import BadInput
from polyturn.evaluate import stats
from polyturn.evaluate.stats import Estimate

# Two-sided 95 % unless said otherwise; printed tables of Student's t.
TABLE = [
    (0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 3, 3.1824), (0.975, 4, 2.7764), (0.975, 5, 2.5706),
    (0.975, 9, 2.2622), (0.975, 19, 2.0930), (0.975, 29, 2.0452), (0.975, 120, 1.9799), (0.95, 10, 1.8125),
    (0.995, 5, 4.0321), (0.9995, 8, 5.0413), (0.9, 30, 1.3104), (0.025, 9, -2.2622), (0.5, 7, 0.0),
]


@pytest.mark.parametrize(("p", "degrees", "expected"), TABLE)
def test_t_quantile_equals_the_printed_table(p: float, degrees: float, expected: float) -> None:
    assert stats.t_quantile(p, degrees) == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.999, 0.99999])
def test_t_quantile_equals_the_closed_forms_of_one_and_two_degrees(p: float) -> None:
    assert stats.t_quantile(p, 1) == pytest.approx(tan(pi * (p - 0.5)), rel=1e-10)
    assert stats.t_quantile(p, 2) == pytest.approx((2 * p - 1) / sqrt(2 * p * (1 - p)), rel=1e-10)


@pytest.mark.parametrize("degrees", [0.7, 2.5, 17.3, 250.5])
def test_t_tail_of_fractional_degrees_equals_the_integral_of_the_density(degrees: float) -> None:
    # With t = sqrt(d) tan(a), P(T > 1.3) is the share of the integral of cos(a)^(d - 1) beyond atan(1.3 / sqrt(d)).
    def integral(low: float, high: float) -> float:
        nodes, weights = np.polynomial.legendre.leggauss(400)
        angle = low + (nodes + 1) * (high - low) / 2
        return float((weights * np.cos(angle) ** (degrees - 1)).sum() * (high - low) / 2)

    cut = float(np.arctan(1.3 / sqrt(degrees)))
    accuracy = 1e-3 if degrees < 1 else 1e-6  # below one degree the integrand has a pole at its end
    assert stats.t_tail(1.3, degrees) == pytest.approx(integral(cut, pi / 2) / integral(-pi / 2, pi / 2), rel=accuracy)


def test_t_becomes_normal() -> None:
    normal = NormalDist().inv_cdf(0.975)
    assert stats.t_quantile(0.975, 1e5) == pytest.approx(normal + (normal**3 + normal) / 4e5, abs=1e-9)
    assert stats.t_quantile(0.975, float("inf")) == normal
    assert stats.t_tail(float("inf"), 3) == 0.0


@given(st.floats(0.05, 300), st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_quantile_and_tail_are_inverse(degrees: float, p: float) -> None:
    assert stats.t_tail(stats.t_quantile(p, degrees), degrees) == pytest.approx(1 - p, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stats.t_quantile(1.0, 3), "probability is 1.0"),
        (lambda: stats.t_tail(1.0, 0), "degrees of freedom are 0"),
        (lambda: stats.incomplete_beta(1.5, 1, 1), "expected 0 <= x <= 1"),
        (lambda: stats.wilson(3, 2), "3 successes of 2 trials"),
        (lambda: stats.chance_at(1, 2, 3), "3 drawn"),
        (lambda: stats.holm([0.1, float("nan")]), "p-value is nan"),
        (lambda: stats.mixture([]), "no environments"),
        (lambda: stats.clustered_mean([[1.0, float("nan")]]), "1 of 2 values are not finite"),
        (lambda: stats.paired_difference({"a": [float("inf")]}, {"a": [0.0]}), "not finite"),
    ],
)
def test_bad_input_is_refused_in_words(call: object, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        call()  # type: ignore[operator]


def test_clustered_mean_by_hand() -> None:
    # Tasks (1, 1), (0, 1), (0, 0): mean 3/6 = 0.5; sums of deviations 1, 0, -1; squares 2;
    # variance 3/2 * 2 / 36 = 1/12 = 0.083333; t(2) = 4.30265; half = 4.30265 * 0.288675 = 1.242069
    found = stats.clustered_mean([[1, 1], [0, 1], [0, 0]])
    assert (found.mean, found.degrees, found.count) == (0.5, 2, 3)
    assert found.variance == pytest.approx(1 / 12)
    assert (found.low, found.high) == pytest.approx((-0.742069, 1.742069), abs=1e-5)


def test_clustered_mean_weighs_trials_and_leaves_empty_tasks_out() -> None:
    # Trials 1, 0, 0 and 1: mean 0.5; sums of deviations -0.5 and 0.5; variance 2/1 * 0.5 / 16 = 0.0625
    found = stats.clustered_mean([[1, 0, 0], [], [1]])
    assert (found.mean, found.variance, found.count) == (0.5, 0.0625, 2)


def test_clustered_mean_equals_the_plain_standard_error_for_one_trial_a_task() -> None:
    values = np.random.default_rng(0).normal(size=12)
    found = stats.clustered_mean([[v] for v in values])
    assert found.variance == pytest.approx(values.var(ddof=1) / 12)


def test_one_task_has_no_interval_and_no_task_no_mean() -> None:
    one = stats.clustered_mean([[0.2, 0.4]])
    assert one.mean == pytest.approx(0.3)
    assert isnan(one.low) and isnan(one.high) and one.count == 1
    none = stats.clustered_mean([[], []])
    assert isnan(none.mean) and none.count == 0


def test_all_equal_outcomes_get_wilsons_interval() -> None:
    # 10 tasks, no success: high = z^2 / (n + z^2) = 3.841459 / 13.841459 = 0.277533;
    # variance = (0.277533 / 1.959964)^2 = 0.0200508
    zero = stats.clustered_mean([[0, 0]] * 10)
    assert (zero.mean, zero.low, zero.high) == pytest.approx((0, 0, 0.277533), abs=1e-6)
    assert zero.variance == pytest.approx(0.0200508, abs=1e-7) and zero.degrees == float("inf")
    one = stats.clustered_mean([[1]] * 10)
    assert (one.mean, one.low, one.high) == pytest.approx((1, 1 - 0.277533, 1), abs=1e-6)
    constant = stats.clustered_mean([[0.5], [0.5]])
    assert (constant.low, constant.high) == (0.5, 0.5)


def test_wilson_by_hand() -> None:
    # n = 20, p = 0.25, z^2 = 3.841459: scale 1.192073; middle (0.25 + 0.096036) / 1.192073 = 0.290282;
    # half = 1.959964 * sqrt(0.009375 + 0.002401) / 1.192073 = 0.178421
    low, high = stats.wilson(5, 20)
    assert (low, high) == pytest.approx((0.111861, 0.468703), abs=1e-5)


def test_wilson_of_no_event_is_near_three_over_n() -> None:
    assert stats.wilson(0, 1000)[1] == pytest.approx(3.84 / 1000, rel=0.01)


def test_paired_difference_by_hand() -> None:
    # Differences 1, 0, 0.5 over the tasks in common: mean 0.5, variance 0.25 / 3, t(2) = 4.30265, half 1.242069
    first = {"a": [1.0], "b": [0.0, 1.0], "c": [1.0], "only": [1.0]}
    second = {"a": [0.0], "b": [0.5], "c": [0.5], "other": [0.0]}
    found = stats.paired_difference(first, second)
    assert (found.mean, found.count, found.variance) == pytest.approx((0.5, 3, 0.25 / 3))
    assert found.high == pytest.approx(1.742069, abs=1e-5)
    assert stats.better_worse(first, second) == (2, 0)
    assert stats.better_worse(second, first) == (0, 2)


def test_paired_difference_without_common_tasks_is_unknown() -> None:
    found = stats.paired_difference({"a": [1.0]}, {"b": [1.0], "a": []})
    assert isnan(found.mean) and found.count == 0
    assert isnan(stats.paired_difference({"a": [1.0]}, {"a": [0.0]}).low)


def test_mixture_by_hand() -> None:
    # Means 0.2, 0.5, 0.8 -> 0.5; variances 0.01, 0.04, 0 -> 0.05 / 9; degrees 0.05^2 / (0.0001/9 + 0.0016/4)
    # = 0.0025 / 0.000411111 = 6.081081
    parts = [Estimate(0.2, 0, 0.4, 0.01, 9, 10), Estimate(0.5, 0, 1, 0.04, 4, 5), Estimate(0.8, 0.8, 0.8, 0.0, 2, 3)]
    found = stats.mixture(parts)
    assert (found.mean, found.count) == pytest.approx((0.5, 18))
    assert found.variance == pytest.approx(0.05 / 9)
    assert found.degrees == pytest.approx(6.081081, abs=1e-5)
    half = stats.t_quantile(0.975, 6.081081) * sqrt(0.05 / 9)
    assert found.high - found.mean == pytest.approx(half, rel=1e-5)


def test_mixture_of_an_unknown_is_unknown_and_of_constants_exact() -> None:
    known = Estimate(0.5, 0.4, 0.6, 0.01, 9, 10)
    assert isnan(stats.mixture([known, stats.clustered_mean([])]).mean)
    half_known = stats.mixture([known, stats.clustered_mean([[0.1]])])
    assert half_known.mean == pytest.approx(0.3) and isnan(half_known.low)
    constant = stats.mixture([Estimate(0.5, 0.5, 0.5, 0.0, 1, 2)] * 2)
    assert (constant.low, constant.high) == (0.5, 0.5)


def test_mixture_of_one_is_itself() -> None:
    for values in ([[0.0, 0.0]] * 3, [[1.0]] * 4, [[0.0], [1.0], [0.5]]):
        one = stats.clustered_mean(values)
        both = stats.mixture([one])
        assert (both.low, both.high) == pytest.approx((one.low, one.high))


def test_a_mean_at_the_end_of_its_range_widens_the_other_side_only() -> None:
    # Variances 0.0016 (9 degrees) and Wilson's of no success in 10 tasks, 0.0200507 (normal).
    known, zero = Estimate(0.5, 0.41, 0.59, 0.0016, 9, 10), stats.clustered_mean([[0.0]] * 10)
    found = stats.mixture([known, zero])
    # Below: t(9) * 0.04 / 2 = 2.262157 * 0.02 = 0.045243. Above: degrees 0.0216507^2 / (0.0016^2 / 9) = 1648;
    # 1.961413 * sqrt(0.0216507) / 2 = 0.144302
    assert found.mean == 0.25
    assert found.mean - found.low == pytest.approx(0.045243, abs=1e-5)
    assert found.high - found.mean == pytest.approx(0.144302, abs=1e-5)
    zeros = stats.mixture([zero, zero])
    assert zeros.low == 0 < zeros.high
    ones = stats.mixture([stats.clustered_mean([[1.0]] * 5)] * 3)
    assert ones.low < 1 == ones.high


def test_holm_by_hand() -> None:
    # sorted 0.005 * 4 = 0.02, 0.01 * 3 = 0.03, 0.03 * 2 = 0.06, 0.04 * 1 = 0.04 -> held at 0.06
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_p_value_matches_the_interval() -> None:
    # An interval that touches zero has p = 0.05.
    edge = stats.t_quantile(0.975, 9) * 0.1
    assert stats.p_value(Estimate(edge, 0, 2 * edge, 0.01, 9, 10)) == pytest.approx(0.05, rel=1e-9)
    assert stats.p_value(Estimate(0.0, 0, 0, 0.0, 9, 10)) == 1.0
    assert stats.p_value(Estimate(0.1, 0.1, 0.1, 0.0, 9, 10)) == 0.0
    assert isnan(stats.p_value(stats.clustered_mean([[1.0, 0.0]])))


def test_pass_estimators_equal_enumeration_up_to_eight_trials() -> None:
    for trials in range(1, 9):
        for successes in range(trials + 1):
            outcomes = [1] * successes + [0] * (trials - successes)
            for k in range(1, trials + 1):
                draws = list(combinations(outcomes, k))
                some = sum(any(draw) for draw in draws) / len(draws)
                every = sum(all(draw) for draw in draws) / len(draws)
                assert stats.chance_at(successes, trials, k) == pytest.approx(some, abs=1e-12)
                assert stats.chance_hat(successes, trials, k) == pytest.approx(every, abs=1e-12)


outcomes = st.integers(1, 10).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
counts = st.lists(outcomes, min_size=1, max_size=6)


@given(counts)
@settings(max_examples=100, deadline=None)
def test_pass_at_rises_pass_hat_falls_and_both_begin_at_the_mean(tasks: list[tuple[int, int]]) -> None:
    successes, trials = zip(*tasks, strict=True)
    fewest = min(trials)
    at = [stats.pass_at(successes, trials, k).value for k in range(1, fewest + 1)]
    hat = [stats.pass_hat(successes, trials, k).value for k in range(1, fewest + 1)]
    assert at[0] == pytest.approx(hat[0]) == pytest.approx(np.mean([c / n for c, n in tasks]))
    assert all(a <= b + 1e-12 for a, b in pairwise(at))
    assert all(a >= b - 1e-12 for a, b in pairwise(hat))


def test_tasks_with_fewer_trials_are_left_out_and_counted() -> None:
    assert stats.pass_at([1, 0, 2], [2, 3, 2], 3) == stats.Passes(0.0, 1)
    empty = stats.pass_hat([1], [1], 2)
    assert isnan(empty.value) and empty.eligible == 0


def coverage(runs: int, seed: int) -> tuple[float, float]:
    """Share of runs whose clustered and whose naive interval hold the truth: 20 tasks, 8 trials, spread by task."""
    rng = np.random.default_rng(seed)
    clustered = naive = 0
    for _ in range(runs):
        values = rng.normal(0.0, 1.0, (20, 1)) + rng.normal(0.0, 1.0, (20, 8))
        found = stats.clustered_mean(values.tolist())
        clustered += found.low <= 0 <= found.high
        naive += abs(values.mean()) <= 1.96 * values.std(ddof=1) / sqrt(160)
    return clustered / runs, naive / runs


def test_clustered_interval_covers_and_the_naive_one_does_not() -> None:
    clustered, naive = coverage(runs=2000, seed=0)
    assert 0.93 <= clustered <= 0.97
    assert naive < 0.85


def test_mixture_interval_covers_with_unequal_environments() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(600):
        parts = [
            stats.clustered_mean((rng.normal(0, spread, (tasks, 1)) + rng.normal(0, 1, (tasks, 2))).tolist())
            for tasks, spread in ((8, 2.0), (20, 0.5), (12, 1.0))
        ]
        found = stats.mixture(parts)
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / 600 <= 0.97


def test_paired_comparison_finds_a_planted_gain_and_rejects_at_its_nominal_rate() -> None:
    rng = np.random.default_rng(2)
    found = false = 0
    for _ in range(600):
        base = rng.normal(0, 1, 40)
        noise = rng.normal(0, 0.1, (2, 40))
        names = [str(i) for i in range(40)]
        one = {n: [b + e] for n, b, e in zip(names, base, noise[0], strict=True)}
        two = {n: [b + e] for n, b, e in zip(names, base, noise[1], strict=True)}
        better = {n: [v[0] + 0.05] for n, v in two.items()}
        false += stats.p_value(stats.paired_difference(one, two)) < 0.05
        found += stats.paired_difference(better, one).low > 0
    # Power: shift 0.05 over a standard error of 0.1414 / sqrt(40) = 0.02236 is 2.236; P(Z > 2.02 - 2.236) is about 0.58
    assert 0.03 <= false / 600 <= 0.07
    assert 0.52 <= found / 600 <= 0.65


def test_trial_order_changes_nothing() -> None:
    one = stats.clustered_mean([[1, 0, 0], [0, 1]])
    assert one == stats.clustered_mean([[0, 0, 1], [1, 0]])
