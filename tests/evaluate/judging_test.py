"""A judge of seats: bools, numbers, scores, mappings, abstentions; what is slow is no verdict."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from polyturn.evaluate.judging import FAILED, Judge, failures
from polyturn.types import Episode, Finding, Score, Task
from polyturn.waits import waits


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


@pytest.mark.parametrize(("said", "why"), [
    ("yes", "said 'yes'; expected True, False, a number in 0..1, a Score, or None"),
    (-0.1, "said -0.1; expected 0..1"), ({"a": 2}, "said 2; expected 0..1"),
    (Score(float("nan")), "said a score of nan"),
])
async def test_what_it_may_not_say_is_no_verdict_and_why_is_kept(said: Any, why: str) -> None:
    found = await judge(said)([(episode("x"),)])
    lost = Finding(FAILED, {"episode": "x"}, reason=why, source="j")
    assert found == {"x": {"a": Score(None, findings=(lost,)), "b": Score(None, findings=(lost,))}}
    assert failures("j", [replace(episode("x"), scores={"j": found["x"]}), episode("y")]) == [lost]


async def test_what_raises_or_is_slow_is_lost_alone_and_one_waits_for_it_by_name() -> None:
    seen: list[tuple[str, str, float | None]] = []

    async def slow(played: Episode) -> bool:
        if played.id == "z":
            raise KeyError("z")
        await asyncio.sleep(0.0 if played.id == "x" else 600.0)
        return True

    hasty = Judge("j", slow, lambda episode: ["a"], timeout_s=0.05)
    asyncio.get_running_loop().call_later(
        0.02, lambda: seen.extend((w.who, str(w.what), w.deadline_s) for w in waits() if w.who.startswith("judge")))
    found = await hasty([(episode("x"), episode("y"), episode("z"))])
    assert found["x"] == {"a": Score(1.0, True)}
    told = {name: found[name]["a"].findings[0].reason for name in "yz"}
    assert told == {"y": "gave no verdict within 0.05 s", "z": "raised KeyError: 'z'"}
    assert [found[name]["a"].value for name in "yz"] == [None, None]
    assert seen == [("judge j", "a verdict on episode y", 0.05)]
    assert hasty.deadline_s([(episode("x"),) * 65]) == pytest.approx(0.1 + 10.0)  # two rounds of 64
