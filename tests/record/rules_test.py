"""Each rule has a mutation that breaks it and is caught; good episodes break none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from polyturn.errors import BadInput
from polyturn.record.rules import broken_rules, check_rules
from polyturn.types import (
    Call,
    Episode,
    Message,
    PolicyInfo,
    Score,
    Span,
    Task,
    Trajectory,
    Turn,
    assistant,
    user,
)


def good() -> Episode:
    """Two turns of a model that calls a tool, then answers."""
    messages = (
        user("3 + 4?", id="m0"), Message("assistant", (), "m1", calls=(Call("c1", "add", {"a": 3, "b": 4}),)),
        Message("tool", "7", "m2", call_id="c1"), assistant("7", id="m3"),  # type: ignore[arg-type]
    )
    ids = np.array([5, 6], np.int32)
    spans = (Span(-1, ids), Span(0, ids, True, np.array([-0.5, -1.0])), Span(1, ids), Span(2, ids, True,
                                                                                         np.array([np.nan, -1.0])))
    turns = (Turn(0, "agent", "main", (0,), 1, (1,), "tool"), Turn(2, "agent", "main", (0, 1, 2), 3, (3,)))
    trajectory = Trajectory("agent", "main", None, messages, turns, spans)
    return Episode("e", Task("t", "sums"), 0, cast={"agent": PolicyInfo("main", "model")}, trajectories=(trajectory,),
                   scores={"exact": {"agent": Score(1.0, turns={2: {"sum": 1.0}})}})


def changed(**fields: object) -> Callable[[Episode], Episode]:
    return lambda episode: replace(
        episode, trajectories=(replace(episode.trajectories[0], **fields),))  # type: ignore[arg-type]


def with_turn(index: int, **fields: object) -> Callable[[Episode], Episode]:
    def change(episode: Episode) -> Episode:
        turns = list(episode.trajectories[0].turns)
        turns[index] = replace(turns[index], **fields)  # type: ignore[arg-type]
        return changed(turns=tuple(turns))(episode)

    return change


def with_span(index: int, **fields: object) -> Callable[[Episode], Episode]:
    def change(episode: Episode) -> Episode:
        spans = list(episode.trajectories[0].spans)
        spans[index] = replace(spans[index], **fields)  # type: ignore[arg-type]
        return changed(spans=tuple(spans))(episode)

    return change


def with_message(index: int, **fields: object) -> Callable[[Episode], Episode]:
    def change(episode: Episode) -> Episode:
        messages = list(episode.trajectories[0].messages)
        messages[index] = replace(messages[index], **fields)  # type: ignore[arg-type]
        return changed(messages=tuple(messages))(episode)

    return change


BROKEN: list[tuple[str, Callable[[Episode], Episode]]] = [
    ("R1", with_turn(0, spans=())), ("R1", with_turn(1, spans=(1, 3))), ("R1", with_turn(1, spans=(3, 9))),
    ("R2", with_span(1, logprobs=np.array([-1.0]))), ("R2", with_span(3, support=((1,),))),
    ("R3", lambda e: replace(e, cast={"agent": PolicyInfo("main", "scripted")})),
    ("R4", with_message(2, call_id="c9")), ("R4", with_message(1, calls=())),
    ("R5", with_span(1, parent=1)), ("R5", with_span(2, parent=3)), ("R5", with_span(0, parent=-2)),
    ("R6", with_turn(1, at=0)), ("R6", with_turn(1, reply=4)), ("R6", with_turn(1, prompt=(0, -1))),
    ("R6", with_turn(1, prompt=(0, 3))), ("R6", with_turn(0, seat="other")),
    ("R6", changed(parent=("nobody", "main"))),
    ("R6", lambda e: replace(e, trajectories=(e.trajectories[0], replace(e.trajectories[0], turns=(), spans=())))),
    ("R6", lambda e: replace(e, scores={"exact": {"agent": Score(1.0, turns={1: {"sum": 1.0}})}})),
    ("R7", with_span(1, logprobs=np.array([-np.inf, -1.0]))), ("R7", with_turn(0, started=float("nan"))),
    ("R7", lambda e: replace(e, final={"x": float("inf")})), ("R7", with_message(0, role=3)),
]


def test_a_good_episode_breaks_none() -> None:
    assert list(broken_rules(good())) == []


@pytest.mark.parametrize(("rule", "change"), BROKEN)
def test_each_mutation_is_caught_by_its_rule(rule: str, change: Callable[[Episode], Episode]) -> None:
    episode = change(good())
    assert {found.name for found in broken_rules(episode)} == {rule}
    with pytest.raises(BadInput, match=f"here: breaks {rule} .*episode e"):
        check_rules(episode, "here")
