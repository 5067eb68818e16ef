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
        (lambda: stats.bounded_mean([[0.5], [1.2]]), "values from 0.5 to 1.2; expected 0.0 to 1.0"),
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


def test_bounded_mean_by_hand() -> None:
    # The tasks above: p = 0.5, v = 1/12 (on their own: s^2/N = 0.3/6 = 0.05), n = 0.25 * 12 = 3, t(2)^2 = 18.51282;
    # scale 1 + 18.51282 / 3 = 7.17094; half = 4.30265 * sqrt(0.25/3 + 18.51282/36) / 7.17094 = 0.463828
    found = stats.bounded_mean([[1, 1], [0, 1], [0, 0]])
    assert (found.mean, found.degrees, found.count) == (0.5, 2, 3)
    assert (found.low, found.high) == pytest.approx((0.036172, 0.963828), abs=1e-5)
    # On the range 0 to 10 everything is ten times as large.
    wide = stats.bounded_mean([[10, 10], [0, 10], [0, 0]], (0, 10))
    assert (wide.mean, wide.low, wide.high) == pytest.approx((5, 0.36172, 9.63828), abs=1e-4)


def test_tasks_that_agree_by_chance_do_not_narrow_the_interval() -> None:
    # Both tasks 0.5: no variance between them; on their own the trials have s^2 / N = (4 * 0.25 / 3) / 4 = 1/12.
    found = stats.bounded_mean([[1, 0], [0, 1]])
    assert found.variance == pytest.approx(1 / 12)
    assert found.low < 0.1 and found.high > 0.9
    assert stats.clustered_mean([[1, 0], [0, 1]]).variance == 0


def test_equal_outcomes_get_an_interval_from_the_number_of_tasks() -> None:
    # 10 tasks, no success: high = z^2 / (n + z^2) = 3.841459 / 13.841459 = 0.277533;
    # variance = (0.277533 / 1.959964)^2 = 0.0200508
    zero = stats.bounded_mean([[0, 0]] * 10)
    assert (zero.mean, zero.low, zero.high) == pytest.approx((0, 0, 0.277533), abs=1e-6)
    assert zero.variance == pytest.approx(0.0200508, abs=1e-7) and zero.degrees == float("inf")
    one = stats.bounded_mean([[1]] * 10)
    assert (one.mean, one.low, one.high) == pytest.approx((1, 1 - 0.277533, 1), abs=1e-6)
    # Two tasks at 0.4: Wilson's upper end for none of two is 3.841459 / 5.841459 = 0.657620; 0.4 -+ that share of
    # what is left on either side: 0.4 - 0.263048, 0.4 + 0.394572
    constant = stats.bounded_mean([[0.4], [0.4]])
    assert (constant.low, constant.high) == pytest.approx((0.136952, 0.794572), abs=1e-6)
    rounded, whole = stats.bounded_mean([[0.4], [0.4 + 1e-12]]), stats.bounded_mean([[0.0], [1e-38]], (-1, 1))
    assert (rounded.low, rounded.high) == pytest.approx((constant.low, constant.high), abs=1e-9)
    assert (whole.low, whole.high) == pytest.approx((-0.657620, 0.657620), abs=1e-6)
    same = stats.paired_difference({"a": [1.0], "b": [0.0]}, {"a": [1.0], "b": [0.0]}, (0, 1))
    assert (same.mean, same.low, same.high) == pytest.approx((0, -0.657620, 0.657620), abs=1e-6)


scores = st.lists(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=4), min_size=2, max_size=6)


@given(scores, scores)
@settings(max_examples=200, deadline=None)
def test_a_bounded_interval_holds_its_mean_and_stays_within_its_bounds(
    one: list[list[float]], two: list[list[float]]
) -> None:
    first, second = stats.bounded_mean(one), stats.bounded_mean(two)
    whole = stats.mixture([first, second])
    tasks = [{str(i): task for i, task in enumerate(each)} for each in (one, two)]
    gap = stats.paired_difference(tasks[0], tasks[1], (0, 1))
    for found, lowest in ((first, 0), (second, 0), (whole, 0), (gap, -1)):
        assert lowest - 1e-9 <= found.low <= found.mean + 1e-9
        assert found.mean - 1e-9 <= found.high <= 1 + 1e-9
        assert found.low < found.high


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
    # = 0.0025 / 0.000411111 = 6.081081; below sqrt(0.1^2 + 0.2^2) / 3 = 0.074536, above sqrt(0.2^2 + 0.4^2) / 3
    parts = [
        Estimate(0.2, 0.1, 0.4, 0.01, 9, 10), Estimate(0.5, 0.3, 0.9, 0.04, 4, 5), Estimate(0.8, 0.8, 0.8, 0, 2, 3),
    ]
    found = stats.mixture(parts)
    assert (found.mean, found.count) == pytest.approx((0.5, 18))
    assert found.variance == pytest.approx(0.05 / 9)
    assert found.degrees == pytest.approx(6.081081, abs=1e-5)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.074536, 0.5 + 0.149071), abs=1e-6)


def test_mixture_of_an_unknown_is_unknown_and_of_constants_exact() -> None:
    known = Estimate(0.5, 0.4, 0.6, 0.01, 9, 10)
    assert isnan(stats.mixture([known, stats.clustered_mean([])]).mean)
    half_known = stats.mixture([known, stats.clustered_mean([[0.1]])])
    assert half_known.mean == pytest.approx(0.3) and isnan(half_known.low)
    constant = stats.mixture([Estimate(0.5, 0.5, 0.5, 0.0, 1, 2)] * 2)
    assert (constant.low, constant.high) == (0.5, 0.5)


def test_mixture_of_one_is_itself() -> None:
    for values in ([[0.0, 0.0]] * 3, [[1.0]] * 4, [[0.0], [1.0], [0.5]]):
        one = stats.bounded_mean(values)
        both = stats.mixture([one])
        assert (both.low, both.high) == pytest.approx((one.low, one.high))


def test_a_mean_at_the_end_of_its_range_widens_the_other_side_only() -> None:
    known, zero = Estimate(0.5, 0.41, 0.59, 0.0016, 9, 10), stats.bounded_mean([[0.0]] * 10)
    found = stats.mixture([known, zero])
    # Below 0.09 / 2; above sqrt(0.09^2 + 0.277533^2) / 2 = 0.145881
    assert found.mean == 0.25
    assert found.mean - found.low == pytest.approx(0.045)
    assert found.high - found.mean == pytest.approx(0.145881, abs=1e-6)
    zeros = stats.mixture([zero, zero])
    assert zeros.low == 0 < zeros.high
    ones = stats.mixture([stats.bounded_mean([[1.0]] * 5)] * 3)
    assert ones.low < 1 == ones.high


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
    at = [stats.pass_at(successes, trials, k).mean for k in range(1, fewest + 1)]
    hat = [stats.pass_hat(successes, trials, k).mean for k in range(1, fewest + 1)]
    assert at[0] == pytest.approx(hat[0]) == pytest.approx(np.mean([c / n for c, n in tasks]))
    assert all(a <= b + 1e-12 for a, b in pairwise(at))
    assert all(a >= b - 1e-12 for a, b in pairwise(hat))


def test_tasks_with_fewer_trials_are_left_out_and_counted() -> None:
    one = stats.pass_at([1, 0, 2], [2, 3, 2], 3)
    assert (one.mean, one.count) == (0.0, 1) and isnan(one.low)
    empty = stats.pass_hat([1], [1], 2)
    assert isnan(empty.mean) and empty.count == 0
    # pass@2 of 1 in 4 and of 3 in 4: 1/2 and 1; pass^2: 0 and 1/2; intervals as of any mean of two tasks
    both = stats.pass_at([1, 3], [4, 4], 2)
    assert both == stats.bounded_mean([[0.5], [1.0]])


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


def yes_or_no(
    rng: np.random.Generator, tasks: int, trials: int, mean: float, alike: float
) -> list[list[float]]:
    """Trials that succeed or not; each task has its own chance, with this mean and correlation between its trials."""
    both = 1 / alike - 1
    chance = rng.beta(mean * both, (1 - mean) * both, (tasks, 1))
    found: list[list[float]] = (rng.random((tasks, trials)) < chance).astype(float).tolist()
    return found


@pytest.mark.parametrize(("tasks", "trials", "mean", "least", "most"), [
    (20, 8, 0.5, 0.93, 0.98), (20, 8, 0.2, 0.92, 0.98), (20, 1, 0.9, 0.93, 0.99), (50, 4, 0.1, 0.92, 0.97),
    (5, 4, 0.8, 0.95, 1.0),  # few tasks: too wide rather than too narrow
    (20, 8, 0.05, 0.86, 0.95),  # one task in twenty carries all successes: the known weak place
])
def test_bounded_interval_covers(tasks: int, trials: int, mean: float, least: float, most: float) -> None:
    rng, runs = np.random.default_rng(3), 1000
    found = [stats.bounded_mean(yes_or_no(rng, tasks, trials, mean, 0.3)) for _ in range(runs)]
    assert least <= sum(e.low <= mean <= e.high for e in found) / runs <= most


def test_bounded_interval_covers_where_students_does_not() -> None:
    rng, bounded, plain = np.random.default_rng(4), 0, 0
    for _ in range(500):
        values = yes_or_no(rng, 10, 2, 0.9, 0.3)
        for found, held in ((stats.bounded_mean(values), True), (stats.clustered_mean(values), False)):
            covers = found.low <= 0.9 <= found.high
            bounded, plain = bounded + (held and covers), plain + (not held and covers)
    assert bounded / 500 >= 0.93
    assert plain / 500 < 0.85


def test_mixture_interval_covers_with_unequal_environments() -> None:
    rng = np.random.default_rng(1)
    held = shares = 0
    for _ in range(600):
        parts = [
            stats.clustered_mean((rng.normal(0, spread, (tasks, 1)) + rng.normal(0, 1, (tasks, 2))).tolist())
            for tasks, spread in ((8, 2.0), (20, 0.5), (12, 1.0))
        ]
        found = stats.mixture(parts)
        held += found.low <= 0 <= found.high
        games = ((8, 0.5), (20, 0.9), (12, 0.2))
        mixed = stats.mixture([stats.bounded_mean(yes_or_no(rng, n, 2, mean, 0.3)) for n, mean in games])
        shares += mixed.low <= 1.6 / 3 <= mixed.high
    assert 0.93 <= held / 600 <= 0.98
    assert 0.93 <= shares / 600 <= 0.99


def test_the_interval_of_a_paired_difference_covers() -> None:
    rng, held = np.random.default_rng(5), 0
    for _ in range(600):
        chance = rng.beta(1, 1, 30)
        one, two = (
            {str(i): (rng.random(2) < min(1.0, c + more)).astype(float).tolist() for i, c in enumerate(chance)}
            for more in (0.1, 0.0)
        )
        truth = 0.1 - 0.1**2 / 2  # of a chance from 0.9 on less than 0.1 can be gained
        found = stats.paired_difference(one, two, (0, 1))
        held += found.low <= truth <= found.high
    assert 0.93 <= held / 600 <= 0.975


def test_trial_order_changes_nothing() -> None:
    one = stats.clustered_mean([[1, 0, 0], [0, 1]])
    assert one == stats.clustered_mean([[0, 0, 1], [1, 0]])
