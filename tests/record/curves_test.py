"""Which iteration an episode belongs to, means with intervals, and which dialogues are picked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from polyturn.record.curves import Played, mean_interval, pick, played, rate_section, score_section, stage_starts
from polyturn.types import Episode, Event, Score, Stop, Task, Trajectory, Turn

STAGES = {("stage1", 0): 0, ("warm.up", 1): 1}
METRICS: list[dict[str, Any]] = [
    {"stage": "stage1", "iteration": 0, "values": {"learner/loss": 2.0, "other/x": 1.0}},
    {"stage": "stage2", "iteration": 0, "values": {"learner/loss": 0.5}},
]


def episode(group: str, **more: Any) -> Episode:
    turns = (Turn(0, "a", "main", (), 0, ()), Turn(1, "a", "main", (), 0, (), branch="a#0"))
    scores = {"score": {"a": Score(0.25), "b": Score(0.75), "c": Score(None)}}
    return Episode("e", Task("t", "guess"), 0, group, **{
        "scores": scores, "train": frozenset({"a", "b"}), "trajectories": (Trajectory("a", "main", None, (), turns),),
        "events": (Event(0, "invalid", "a"), Event(1, "invalid", "a", branch="a#0")), **more})


@pytest.mark.parametrize(("group", "at"), [
    ("stage1.0.5", 0), ("warm.up.1.0", 1), ("stage1.7.0", None), ("evaluate.base.3", None), ("", None), ("x", None),
])
def test_the_iteration_stands_in_the_group(group: str, at: int | None) -> None:
    assert played((1, 1), episode(group), STAGES).at == at


def test_an_episode_in_numbers() -> None:
    """Forks count for nothing; an abstention is no score; a failed episode has none; without learners all count."""
    found = played((1, 1), episode("stage1.0.0"), STAGES)
    assert (found.scores, found.score, found.invalid, found.turns) == ({"a": 0.25, "b": 0.75}, 0.5, 1, 1)
    assert played((1, 1), episode("", stop=Stop("error")), STAGES).score is None
    assert played((1, 1), episode("", scores={}), STAGES).scores == {}
    assert played((1, 1), episode("", train=frozenset(), scores={"x": {"z": Score(1.0)}}), STAGES).scores == {"z": 1.0}


def test_stages_begin_where_their_rows_begin() -> None:
    assert stage_starts(METRICS) == [("stage1", 0.0), ("stage2", 1.0)]
    assert stage_starts([{"stage": "", "iteration": 0, "values": {}}]) == [("training", 0.0)]


def test_sections_appear_with_their_data() -> None:
    plays = [played((1, i), episode(f"stage{i}.0.0"), {("stage1", 0): 0, ("stage2", 0): 1}) for i in (1, 2)]
    scores = score_section(plays, METRICS)
    assert "guess" in scores and scores.count("<circle") == 4 and "stage1 0: 0.25 (0.25 to 0.25), 1 groups" in scores
    rates = rate_section(plays, METRICS)
    assert "Loss" in rates and "1 of 1 replies" in rates and "1 more measurements" in rates and "Entropy" not in rates
    assert score_section([], METRICS) == "" and rate_section([], []) == ""


def test_dialogues_worth_a_look() -> None:
    """Best and worst of the last iteration, worst of the first; never one twice; no failed or unscored ones."""
    def play(number: int, at: int | None, score: float | None) -> Played:
        return Played((1, number), "guess", "g", at, {} if score is None else {"a": score}, 0, 1)

    plays = [play(0, 0, 0.5), play(1, 0, 0.25), play(2, 3, 0.0), play(3, 3, 1.0), play(4, None, 1.0), play(5, 3, None)]
    assert {title: p.key[1] for title, p in pick(plays).items()} == {
        "guess: last iteration, best": 3, "guess: last iteration, worst": 2, "guess: first iteration, worst": 1}
    kept = [play(0, 0, 0.5), replace(play(1, 0, 0.75), trained=True), play(2, 0, 1.0)]
    assert [p.key[1] for p in pick(kept).values()] == [1]
    assert len(pick([play(0, 0, 0.5)])) == 1 and pick([]) == {}


def test_intervals() -> None:
    """Two values 0 and 1: mean 0.5, standard deviation sqrt(0.5), half = 12.71 * sqrt(0.5) / sqrt(2) = 6.355."""
    assert mean_interval([0.0, 1.0]) == pytest.approx((0.5, -5.855, 6.855))
    assert mean_interval([0.25]) == (0.25, 0.25, 0.25)
    many = mean_interval([0.0, 1.0] * 50)                           # sd = sqrt(25/99); half = 1.96 * sd / 10
    assert many == pytest.approx((0.5, 0.5 - 0.0984938, 0.5 + 0.0984938), abs=1e-6)
