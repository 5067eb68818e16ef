"""Paired comparisons of results worked by hand."""

from __future__ import annotations

from math import isnan

import pytest

from polyturn.errors import BadInput, UnknownName
from polyturn.evaluate import benchmark, compare
from polyturn.evaluate.benchmark import Result, seats_of
from polyturn.types import Episode, PolicyInfo, Score, Task


def played(values: dict[str, dict[str, float]], seed: int = 0) -> Result:
    """A result from family -> task -> score."""
    episodes = [
        Episode(f"{family}{task}", Task(f"{family}/{task}", family), seed, cast={"agent": PolicyInfo("main")},
                scores={"score": {"agent": Score(value)}})
        for family, tasks in values.items() for task, value in tasks.items()
    ]
    return benchmark.result([(episode,) for episode in episodes], seats_of("main"))


OLD = played({"guess": {"a": 0, "b": 0}, "kuhn": {"a": 0.5, "b": 0.5, "c": 1}})
NEW = played({"guess": {"a": 1, "b": 0}, "kuhn": {"a": 0.25, "b": 1, "c": 1}})


def test_paired_by_hand() -> None:
    found = compare.paired({"new": NEW, "old": OLD}, "new", "old")
    # guess: 1, 0 -> 0.5; kuhn: -0.25, 0.5, 0 -> 1/12; mixture 7/24
    assert found.environments["guess"].estimate.mean == 0.5
    assert found.environments["kuhn"].estimate.mean == pytest.approx(1 / 12)
    assert (found.environments["kuhn"].better, found.environments["kuhn"].worse) == (1, 1)
    assert found.mixture.estimate.mean == pytest.approx(7 / 24)
    assert (found.mixture.better, found.mixture.worse, found.mixture.unpaired) == (2, 1, 0)
    assert -1 <= found.mixture.estimate.low < found.mixture.estimate.high <= 1
    # guess: one changed task: p = 1. kuhn: sums of (-0.25, 0.5): all of |0.25|, |0.75| reach 0.25: p = 1.
    # mixture: (1/2, -0.25/3, 0.5/3): observed 0.583; 0.75 (twice) and 0.583 (twice) of eight reach it: 0.5
    assert found.environments["guess"].p_value == found.environments["kuhn"].p_value == 1
    assert found.mixture.p_value == found.mixture.p_holm == 0.5
    back = compare.paired({"new": NEW, "old": OLD}, "old", "new").mixture
    assert (back.estimate.mean, back.p_value) == (pytest.approx(-7 / 24), 0.5)


def test_what_was_not_played_alike_is_left_out_and_counted() -> None:
    other = {"new": NEW, "old": played({"guess": {"a": 0, "z": 1}, "kuhn": {"a": 0.5, "b": 0.5, "c": 1}})}
    found = compare.paired(other, "new", "old").environments["guess"]
    assert (found.estimate.count, found.unpaired) == (1, 2)  # b and z
    elsewhere = compare.paired({"new": NEW, "old": played(
        {"guess": {"a": 0, "b": 0}, "kuhn": {"a": 0.5, "b": 0.5, "c": 1}}, seed=1)}, "new", "old")
    assert elsewhere.mixture.estimate.count == 0 and elsewhere.mixture.unpaired == 5
    assert isnan(elsewhere.mixture.p_value) and isnan(elsewhere.mixture.p_holm)
    with pytest.raises(BadInput, match="not a pair"):
        compare.paired({"new": NEW, "old": Result({"guess": OLD.environments["guess"]}, OLD.mixture)}, "new", "old")


def test_many_runs_are_corrected_together() -> None:
    tasks = [str(i) for i in range(8)]
    base = played({"guess": dict.fromkeys(tasks, 0.0)})
    table = {
        "base": base, "all": played({"guess": dict.fromkeys(tasks, 1.0)}), "same": base,
        "six": played({"guess": {task: float(int(task) < 6) for task in tasks}}),
    }
    found = compare.against(table, "base")
    assert list(found) == ["all", "same", "six"]
    # p: 2/256, 1, 2/64; Holm: 3 * 2/256, then 2 * 2/64, then 1
    assert [one.mixture.p_value for one in found.values()] == [2 / 256, 1, 2 / 64]
    assert [one.mixture.p_holm for one in found.values()] == [6 / 256, 1, 4 / 64]
    assert found["all"].environments["guess"].p_holm == 6 / 256
    with pytest.raises(UnknownName, match="did you mean 'base'"):
        compare.against(table, "basis")


def test_scores_without_bounds_keep_an_interval_without_bounds() -> None:
    wild = played({"guess": {"a": 3.0, "b": -4.0}})
    assert not wild.environments["guess"].bounded
    tame = played({"guess": {"a": 0.0, "b": 0.0}})
    found = compare.paired({"wild": wild, "tame": tame}, "wild", "tame").mixture
    assert found.estimate.high > 1 and found.estimate.low < -1 and found.p_value == 1
