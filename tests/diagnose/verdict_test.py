"""Calibration: the right verdict on stable, walking and independent series, and none on a short one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from polyturn.diagnose.dynamics import shape_of
from polyturn.diagnose.verdict import SIMULATED, critical_value, judge, power, simulated


def verdicts(count: int, series: int, turns: int, slope: float) -> Counter[str]:
    start = 0.0 if slope == 1 else None
    made = (simulated(series, turns, slope, seed=seed, start=start) for seed in range(count))
    return Counter(judge(data.tolist()).verdict for data in made)


@pytest.mark.parametrize(("slope", "right"), [
    (0.4, "stable"), (1.0, "unstable"), (0.0, "no evidence of dynamics"),
])
def test_five_hundred_sets_of_six_dialogues_of_forty_turns(slope: float, right: str) -> None:
    found = verdicts(500, 6, 40, slope)
    assert found[right] >= 450, found


def test_one_random_walk_of_eight_turns_is_no_evidence_of_anything() -> None:
    found = verdicts(500, 1, 8, 1.0)
    assert found["insufficient turns"] + found["no evidence of dynamics"] >= 400, found


def test_a_negative_slope_alone_proves_nothing() -> None:
    walks = [simulated(1, 9, 1.0, seed=seed, start=0.0)[0] for seed in range(400)]
    slopes = [np.polyfit(walk[:-1], np.diff(walk), 1)[0] for walk in walks]
    assert np.mean(np.array(slopes) < 0) > 0.9  # what reading the sign would call an equilibrium


def test_an_oscillation_that_grows_is_unstable() -> None:
    series = simulated(4, 12, -1.4, noise=0.05, start=1.0, seed=1)
    found = judge(series.tolist())
    assert found.verdict == "unstable" and "grows" in found.reason and found.fit.slope < -1


def test_the_critical_value_is_that_of_dickey_and_fuller_for_one_series() -> None:
    # Their table (constant, no trend): 5 % at n = 25 is -3.00, at n = 50 -2.93, at n = 100 -2.89.
    for turns, known in ((26, -3.00), (51, -2.93), (101, -2.89)):
        assert critical_value(shape_of([[0.0] * turns]), count=4 * SIMULATED) == pytest.approx(known, abs=0.1)


def test_power_grows_with_turns_and_series() -> None:
    found = [power(shape_of([[0.0] * turns] * series)) for series, turns in ((1, 8), (1, 40), (6, 12), (6, 40))]
    assert found[0] < 0.2 < found[1] and found[2] < found[3] and found[3] > 0.99


def test_interventions_are_not_taken_for_dynamics() -> None:
    marked = [turn % 4 == 3 for turn in range(40)]
    made = [simulated(6, 40, 0.4, effect=2.0, reminded=[t + 1 for t in range(40) if marked[t]], seed=seed)
            for seed in range(40)]
    found = [judge(data.tolist(), [marked] * 6) for data in made]
    assert sum(one.verdict == "stable" for one in found) >= 36
    assert np.mean([one.fit.d for one in found]) == pytest.approx(2.0, abs=0.1)
    covered = [one.fit.low <= 0.4 <= one.fit.high for one in found]
    assert np.mean(covered) > 0.6  # six series are few for a bootstrap
