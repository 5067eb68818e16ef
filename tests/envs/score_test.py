"""Scores from final states: errors unscored, unfinished plays, numbers out of range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from polyturn.envs.score import FinalScore, scaled
from polyturn.errors import NotFinite
from polyturn.types import Episode, Score, Seat, Stop, Task

TASK = Task("t", "f")


def read(final: Mapping[str, Any]) -> dict[Seat, Score]:
    return {seat: Score(value) for seat, value in final.items()}


def episode(name: str, final: Mapping[str, Any] | None, stop: Stop = Stop("done")) -> Episode:
    return Episode(name, TASK, 0, final=final, stop=stop)


async def values(one: Episode) -> dict[Seat, float | None]:
    scores = await FinalScore(("a", "b"), read)([(one,)])
    return {seat: score.value for seat, score in scores[one.id].items()}


async def test_what_is_read_is_the_score() -> None:
    assert await values(episode("e", {"a": 0.25, "b": 1.0})) == {"a": 0.25, "b": 1.0}


async def test_an_error_is_never_scored() -> None:
    broken = episode("e", {"a": 0.0, "b": 0.0}, Stop("error", "it broke"))
    assert await FinalScore(("a", "b"), read)([(broken, episode("f", {"a": 1.0, "b": 1.0}))]) == {
        "f": {"a": Score(1.0), "b": Score(1.0)}}


async def test_an_unread_final_state_is_no_zero() -> None:
    assert await values(episode("e", None)) == {"a": None, "b": None}


@pytest.mark.parametrize(("stop", "expected"), [
    (Stop("budget", "tokens", "a"), {"a": 0.0, "b": None}), (Stop("budget", "tokens", "b"), {"a": None, "b": 0.0}),
    (Stop("truncated", "env_steps"), {"a": 0.0, "b": 0.0}),
])
async def test_who_stops_an_unfinished_play_loses_it(stop: Stop, expected: dict[str, float | None]) -> None:
    assert await values(episode("e", {}, stop)) == expected
    assert await values(episode("e", {"a": 1.0, "b": 0.5}, stop)) == {"a": 1.0, "b": 0.5}  # it was decided before


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.5])
async def test_a_score_out_of_range_is_refused(bad: float) -> None:
    with pytest.raises(NotFinite, match=r"episode e, seat 'a': score .* expected 0..1"):
        await values(episode("e", {"a": bad, "b": 0.0}))


def test_scaled_by_hand() -> None:
    assert scaled(-1.0, -2.0, 2.0) == 0.25  # (-1 + 2) / 4
    assert scaled(-3.0, -2.0, 2.0) == 0.0 and scaled(2.5, -2.0, 2.0) == 1.0
