"""Agreement of judges against published examples and plain enumeration, and the coverage of a corrected rate."""

from __future__ import annotations

from itertools import permutations
from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyturn.errors import BadInput
from polyturn.evaluate.agreement import Verdict, agreement, corrected_rate, krippendorff_alpha


def test_cohens_kappa_of_his_own_kind_of_table() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o 0.7, p_e 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa 0.4
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    found = agreement([one for one, _ in pairs], [two for _, two in pairs])
    assert (found.items, found.raw, found.kappa) == (50, 0.7, pytest.approx(0.4))
    assert found.confusion == {"yes": {"yes": 20, "no": 5}, "no": {"yes": 10, "no": 15}}
    # m_yes = (0.5 + 0.6) / 2 = 0.55: p_e = 2 * 0.55 * 0.45 = 0.495, AC1 = 0.205 / 0.505
    assert found.ac1 == pytest.approx(0.205 / 0.505)
    assert found.low < 0.7 < found.high


def test_kappa_collapses_where_a_verdict_is_rare_and_ac1_does_not() -> None:
    # 118 both yes, 5 and 2 split, none both no: p_o 0.944; kappa below zero
    pairs = [(1, 1)] * 118 + [(1, 0)] * 5 + [(0, 1)] * 2
    found = agreement([one for one, _ in pairs], [two for _, two in pairs])
    assert found.raw == 0.944
    assert found.kappa < 0 and found.ac1 > 0.94


def test_abstentions_are_counted_and_never_verdicts() -> None:
    found = agreement([True, None, False, None], [True, True, None, None])
    assert (found.items, found.abstained, found.raw) == (1, (2, 2), 1.0)
    assert isnan(found.kappa)  # one verdict only: nothing could differ
    empty = agreement([None], [True])
    assert empty.items == 0 and isnan(empty.raw)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        agreement([True], [])


def test_krippendorffs_own_example() -> None:
    # Krippendorff 2011, nominal data of four observers and twelve units with missing values: alpha = 0.743
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units: list[list[Verdict]] = [list(unit) for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert isnan(krippendorff_alpha([[1, 1], [1, None]]))


@given(st.lists(st.lists(st.sampled_from([None, 0, 1, 2]), min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_alpha_equals_enumeration_of_pairs(items: list[list[int | None]]) -> None:
    judged = [[v for v in item if v is not None] for item in items]
    judged = [item for item in judged if len(item) > 1]
    every = [v for item in judged for v in item]
    found = krippendorff_alpha(items)
    if len(set(every)) < 2:
        assert isnan(found)
        return
    n = len(every)
    seen = sum(sum(a != b for a, b in permutations(item, 2)) / (len(item) - 1) for item in judged) / n
    chance = sum(a != b for a, b in permutations(every, 2)) / (n * (n - 1))
    assert found == pytest.approx(1 - seen / chance)


def test_a_judge_without_fault_changes_nothing_and_one_by_chance_is_refused() -> None:
    sure = corrected_rate(30, 100, [(True, True)] * 50 + [(False, False)] * 50)
    assert (sure.rate, sure.sensitivity, sure.specificity) == (pytest.approx(0.3), 1, 1)
    assert sure.low < 0.3 < sure.high
    with pytest.raises(BadInput, match="no better than chance"):
        corrected_rate(30, 100, [(True, True), (True, False), (False, True), (False, False)])
    with pytest.raises(BadInput, match="some of each"):
        corrected_rate(30, 100, [(True, True)])


def test_the_corrected_rates_interval_covers_and_the_naive_one_does_not() -> None:
    rng, held, naive, runs = np.random.default_rng(0), 0, 0, 600
    for _ in range(runs):
        verdict = np.where(rng.random(200) < 0.3, rng.random(200) < 0.85, rng.random(200) >= 0.8)
        labels = [(label, bool(rng.random() < (0.85 if label else 0.2))) for label in [True] * 40 + [False] * 40]
        found = corrected_rate(int(verdict.sum()), 200, labels)
        held += found.low <= 0.3 <= found.high
        naive += abs(found.observed - 0.3) <= 1.96 * (found.observed * (1 - found.observed) / 200) ** 0.5
    assert 0.92 <= held / runs <= 0.98
    assert naive / runs < 0.5
