"""P-values against enumeration by hand, and their level and power on simulated data."""

from __future__ import annotations

from itertools import product
from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyturn.errors import BadInput
from polyturn.evaluate import significance, stats
from polyturn.evaluate.significance import flip_p_value, holm


def test_few_differences_by_hand() -> None:
    # Patterns of (0.5, 0.25): +-0.75, +-0.25: two of four are at least 0.75 away from zero.
    assert flip_p_value([0.5, 0.25]) == 0.5
    # (1, 1, -1, 0): sum 1; the eight patterns of three ones have sums 3, 1, 1, -1, 1, -1, -1, -3: all reach 1.
    assert flip_p_value([1.0, 1.0, -1.0, 0.0]) == 1.0
    assert flip_p_value([0.1] * 6) == 2 / 2**6
    assert isnan(flip_p_value([]))
    assert flip_p_value([0.0]) == 1.0
    with pytest.raises(BadInput, match="not finite"):
        flip_p_value([0.5, float("nan")])


@given(st.lists(st.integers(-3, 3), max_size=7))
@settings(max_examples=60, deadline=None)
def test_enumeration_equals_plain_python_and_neither_order_nor_side_matter(gaps: list[int]) -> None:
    found = flip_p_value(gaps)
    if gaps:
        sums = [abs(sum(sign * gap for sign, gap in zip(signs, gaps, strict=True)))
                for signs in product((1, -1), repeat=len(gaps))]
        assert found == pytest.approx(sum(one >= abs(sum(gaps)) for one in sums) / len(sums))
        assert found == flip_p_value(gaps[::-1]) == flip_p_value([-gap for gap in gaps])


def test_drawn_patterns_agree_with_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = np.random.default_rng(0).normal(0.3, 1, 14).tolist()
    exact = flip_p_value(gaps)
    monkeypatch.setattr(significance, "WHOLE", 4)
    drawn = flip_p_value(gaps)
    assert drawn == flip_p_value(gaps)
    assert drawn == pytest.approx(exact, abs=4 * (exact * (1 - exact) / significance.DRAWS) ** 0.5)
    assert flip_p_value([1.0] * 200) == 1 / 20_000


def test_holm_by_hand() -> None:
    # sorted 0.005 * 4 = 0.02, 0.01 * 3 = 0.03, 0.03 * 2 = 0.06, 0.04 * 1 = 0.04 -> held at 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(BadInput, match="p-value is nan"):
        holm([0.1, float("nan")])


def test_a_planted_gain_is_found_and_none_is_rejected_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(7)
    found = false = 0
    for _ in range(600):
        base, noise = rng.normal(0, 1, 40), rng.normal(0, 0.1, (2, 40))
        one = {str(i): [v] for i, v in enumerate(base + noise[0])}
        two = {str(i): [v] for i, v in enumerate(base + noise[1])}
        better = {name: [v + 0.05] for name, (v,) in one.items()}
        false += flip_p_value(list(stats.gaps(one, two).values())) <= 0.05
        found += flip_p_value(list(stats.gaps(better, two).values())) <= 0.05
    # Power: shift 0.05 over a standard error of 0.1414 / sqrt(40) = 0.02236 is 2.236; P(Z > 2.02 - 2.236) is about 0.58
    assert 0.03 <= false / 600 <= 0.07
    assert 0.5 <= found / 600 <= 0.67


def test_few_changed_tasks_are_no_proof() -> None:
    # Four of a hundred tasks better, none worse: 2 / 2^4. Student's t would say 0.045.
    assert flip_p_value([1.0] * 4 + [0.0] * 96) == 0.125
