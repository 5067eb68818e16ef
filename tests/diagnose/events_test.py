"""The effect of events by hand, and a permutation test that keeps its level."""

from __future__ import annotations

import numpy as np
import pytest

from polyturn.diagnose.events import event_effect
from polyturn.diagnose.verdict import simulated
from polyturn.errors import BadInput


def test_the_difference_and_the_p_value_by_hand() -> None:
    # changes 1, -3, 1, 1 with the second marked: -3 - 1 = -4; at the other three places 0 - ... : the marked change is
    # 1 and the others' mean (-3 + 1 + 1) / 3 = -1/3, so 4/3. One of four arrangements is as far: p = 1/4.
    found = event_effect([[0.0, 1.0, -2.0, -1.0, 0.0]], [[False, False, True, False, False]])
    assert (found.difference, found.marked, found.others) == (-4.0, 1, 3)
    assert (found.p_value, found.positions) == (0.25, 4)


def test_series_with_one_schedule_are_permuted_together() -> None:
    one, mark = [0.0, 1.0, -2.0, -1.0, 0.0], [False, False, True, False, False]
    found = event_effect([one] * 30, [mark] * 30)  # thirty copies are no more evidence than one
    assert (found.p_value, found.positions) == (0.25, 4)


def test_the_first_turn_has_no_change() -> None:
    with pytest.raises(BadInput, match="at least one of each"):
        event_effect([[1.0, 2.0]], [[True, False]])


def test_it_rejects_as_often_as_it_says_where_nothing_happens_and_finds_a_planted_effect() -> None:
    draws = np.random.default_rng(0)
    marks = [[False, *draws.permutation([True] * 3 + [False] * 8).tolist()] for _ in range(8)]
    nothing, planted = 0, 0
    for seed in range(150):
        series = simulated(8, 12, 0.5, seed=seed)
        nothing += event_effect(series.tolist(), marks, most=199).p_value <= 0.05
        series = series - 1.5 * np.array(marks)
        planted += event_effect(series.tolist(), marks, most=199).p_value <= 0.05
    assert nothing <= 15 and planted >= 135
