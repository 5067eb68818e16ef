"""Studies: which runs they make, how settings are chosen, what is reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polyturn.errors import BadInput, UnknownName
from polyturn.evaluate.study import Study, Trial, chosen, results, to_choose, to_report, trial_hash

STUDY = Study(
    outcome="success", arms={"new": {"arm": "new"}, "old": {"arm": "old"}}, baseline="old",
    tried=({"lr": 1.0}, {"lr": 2.0}), fixed={"model": "tiny"}, more=("turns",), choose=(100, 101), report=(0, 1, 2),
)


def played(trials: list[Trial], success: dict[tuple[str, int], float]) -> list[Trial]:
    """Outcomes by arm and setting; seeds add a hundredth each."""
    return [
        replace(t, outcome={"success": success[t.arm, t.tried] + 0.01 * (t.seed % 100), "turns": 4.0}, sha256="h")
        for t in trials
    ]


WORTH = {("new", 0): 0.5, ("new", 1): 0.7, ("old", 0): 0.4, ("old", 1): 0.2}


def test_every_arm_gets_the_same_settings_tried_on_seeds_of_their_own() -> None:
    trials = to_choose(STUDY)
    assert [(t.arm, t.tried, t.seed) for t in trials] == [
        (arm, tried, seed) for arm in ("new", "old") for tried in (0, 1) for seed in (100, 101)
    ]
    assert trials[2].settings == {"model": "tiny", "arm": "new", "lr": 2.0, "seed": 100}
    assert trials[2].name == "new-1-seed100"
    assert to_choose(replace(STUDY, tried=({"lr": 1.0},))) == []


def test_the_best_mean_is_chosen_and_the_first_of_equals() -> None:
    done = played(to_choose(STUDY), WORTH)
    assert chosen(STUDY, done) == {"new": 1, "old": 0}
    assert chosen(replace(STUDY, higher=False), done) == {"new": 0, "old": 1}
    assert chosen(STUDY, played(to_choose(STUDY), dict.fromkeys(WORTH, 0.5))) == {"new": 0, "old": 0}


def test_an_outcome_that_is_no_share_keeps_its_own_scale() -> None:
    other = replace(STUDY, shares=())
    tried = played(to_choose(other), WORTH)
    found = results("x", other, tried, played(to_report(other, chosen(other, tried)), WORTH))
    # standard error 0.01 / sqrt(3) = 0.00577, t(2) = 4.3027, half = 0.02484
    assert found["arms"]["new"]["means"]["success"] == pytest.approx(
        {"mean": 0.71, "low": 0.68516, "high": 0.73484}, abs=1e-5)
    assert found["differences"]["new"] == pytest.approx({"mean": 0.3, "low": 0.3, "high": 0.3})


def test_a_missing_run_is_not_passed_over() -> None:
    with pytest.raises(BadInput, match="1 runs of 2"):
        chosen(STUDY, played(to_choose(STUDY), WORTH)[1:])


def test_results_hold_every_point_and_paired_differences() -> None:
    tried = played(to_choose(STUDY), WORTH)
    reported = played(to_report(STUDY, chosen(STUDY, tried)), WORTH)
    found = results("x", STUDY, tried, reported)
    assert found["arms"]["new"]["settings"] == {"arm": "new", "lr": 2.0}
    assert found["arms"]["new"]["points"] == {
        "success": {"0": 0.7, "1": 0.71, "2": pytest.approx(0.72)}, "turns": {"0": 4.0, "1": 4.0, "2": 4.0},
    }
    assert [attempt["mean"] for attempt in found["arms"]["old"]["tried"]] == pytest.approx([0.405, 0.205])
    # new - old = 0.7 - 0.4 = 0.3 for every seed
    # and of three seeds none differs: with 95 % confidence at most 3.841459 / 6.841459 = 0.561497 of all would, so that
    # the interval is 0.3 - 0.561497 * 1.3 to 0.3 + 0.561497 * 0.7
    assert found["differences"]["new"] == pytest.approx({"mean": 0.3, "low": -0.429946, "high": 0.693048}, abs=1e-5)
    # 0.7, 0.71, 0.72: v = 0.0001 / 3, n = 0.2059 / v = 6177, t(2)^2 = 18.5128; scale 1 + 18.5128 / 6177 = 1.002997;
    # middle (0.71 + 0.0014985) / 1.002997 = 0.709372; half 4.30265 * sqrt(v + 18.5128 / (4 * 6177^2)) / 1.002997
    assert found["arms"]["new"]["means"]["success"] == pytest.approx(
        {"mean": 0.71, "low": 0.684560, "high": 0.734184}, abs=1e-5)
    assert len(found["runs"]) == 8 + 6 and found["runs"][0]["sha256"] == "h"
    assert found["figure"] == (
        "success: new 0.71 [0.685, 0.734], old 0.41 [0.385, 0.435]; new - old = +0.3 [-0.43, +0.693] (3 seeds)")


def test_a_run_without_its_outcome_is_named() -> None:
    tried = played(to_choose(STUDY), WORTH)
    broken = [replace(tried[0], outcome={"succes": 1.0}), *tried[1:]]
    with pytest.raises(BadInput, match=r"new-0-seed100 gave outcome .*expected a finite number 'success'"):
        chosen(STUDY, broken)


def test_bad_studies_are_refused() -> None:
    with pytest.raises(UnknownName, match="arm"):
        replace(STUDY, baseline="odl")
    for wrong in ({"report": (100, 0)}, {"report": (0,)}, {"tried": ()}):
        with pytest.raises(BadInput, match="a study needs"):
            replace(STUDY, **wrong)  # type: ignore[arg-type]


def test_the_hash_names_settings_code_and_outcome() -> None:
    one = trial_hash({"lr": 1.0}, "c", {"a": 1.0})
    assert one == trial_hash({"lr": 1.0}, "c", {"a": 1.0})
    assert len({one, trial_hash({"lr": 2.0}, "c", {"a": 1.0}), trial_hash({"lr": 1.0}, "d", {"a": 1.0}),
                trial_hash({"lr": 1.0}, "c", {"a": 2.0})}) == 4
