"""A judge of seats: bools, numbers, scores, mappings, abstentions; what is slow is no verdict."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polyturn.errors import BadInput, DeadlinePassed, NotFinite
from polyturn.evaluate.judging import Judge
from polyturn.types import Episode, Score, Task


def episode(name: str) -> Episode:
    return Episode(name, Task("t", "f"), 0)


def judge(said: Any, **more: Any) -> Judge:
    return Judge("j", lambda episode: said, lambda episode: ["a", "b"], **more)


@pytest.mark.parametrize(("said", "a", "b"), [
    (True, Score(1.0, True), Score(1.0, True)), (False, Score(0.0, False), Score(0.0, False)),
    (0.25, Score(0.25), Score(0.25)), (1, Score(1.0), Score(1.0)), (None, Score(None), Score(None)),
    ({"a": True}, Score(1.0, True), Score(None)), (Score(0.5, True), Score(0.5, True), Score(0.5, True)),
])
async def test_what_a_judge_may_say(said: Any, a: Score, b: Score) -> None:
    assert await judge(said)([(episode("x"),), (episode("y"),)]) == {"x": {"a": a, "b": b}, "y": {"a": a, "b": b}}


async def test_what_it_may_not_say_and_a_coroutine_in_time() -> None:
    with pytest.raises(BadInput, match="said 'yes' of episode x"):
        await judge("yes")([(episode("x"),)])
    with pytest.raises(NotFinite, match=r"said -0.1"):
        await judge(-0.1)([(episode("x"),)])

    async def slow(played: Episode) -> bool:
        await asyncio.sleep(0.0 if played.id == "x" else 600.0)
        return True

    hasty = Judge("j", slow, lambda episode: ["a"], timeout_s=0.05)
    assert await hasty([(episode("x"),)]) == {"x": {"a": Score(1.0, True)}}
    with pytest.raises(DeadlinePassed, match=r"judge j did not judge episode y within 0.05 s"):
        await hasty([(episode("y"),)])
