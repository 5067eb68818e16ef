from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from typing import Any

import pytest

from polyturn.desk import Desk
from polyturn.errors import BadInput, EnvironmentFailed
from polyturn.programs import ProgramSuite, Table, Use, as_agent, as_env
from polyturn.protocols import Ask, Match, Player, Spec
from polyturn.rollout.episode import Place, play_episode
from polyturn.types import Episode, Limits, Message, Seat, Task, all_turns, assistant
from tests.byte_policy import BytePolicy

TASK = Task("t", "echo")


async def echo(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """Asks twice; pays for a reply that is not empty."""
    first = await table.ask("agent", "one", legal=("a", "b"))
    table.pay("agent", "length", len(first.text))
    table.event("note", "agent", text=first.text)
    second = await table.ask("agent", "two")
    table.pay("agent", "length", len(second.text))
    return {"said": [first.text, second.text]}


def suite(program: Any, seats: tuple[Seat, ...] = ("agent",), **more: Any) -> ProgramSuite:
    return ProgramSuite(Spec("echo", seats, **more), as_env(program), {"train": [TASK]})


async def play(program: Any, agent: Any, *, limits: Limits = Limits(), seats: tuple[Seat, ...] = ("agent",)) -> Episode:
    cast = {seat: Player(as_agent(agent), "main") for seat in seats}
    match = Match(suite(program, seats), TASK, cast, limits=limits, train=frozenset(seats))
    return await play_episode(match, {"main": BytePolicy()}, Place("e"))


async def straight(ask: Ask, desk: Desk, use: Use) -> Message:
    """Samples and acts until the environment ends."""
    while True:
        turn = await desk.say(ask.messages)
        ask = await use(desk.message(turn))


async def test_a_program_environment_and_a_program_agent_play() -> None:
    before = asyncio.all_tasks()
    episode = await play(echo, straight)
    assert episode.stop.kind == "done" and episode.final is not None
    said = [t.text for t in episode.trajectories[0].messages if t.role == "assistant"]
    assert episode.final["said"] == said
    assert [turn.rewards["length"] for turn in all_turns(episode)] == [len(text) for text in said]
    assert [event.kind for event in episode.events] == ["note", "reward", "reward"]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_two_seats_asked_at_once_repeat_span_by_span() -> None:
    async def both(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
        replies = await table.ask_all({"a": "your bid", "b": "your bid"})
        table.tell("a", f"the other said {replies['b'].text!r}")
        last = await table.ask("a")
        return {"bids": {seat: reply.text for seat, reply in replies.items()}, "last": last.text}

    first, second = [await play(both, straight, seats=("a", "b")) for _ in range(2)]
    assert first.final == second.final
    for one, other in zip(first.trajectories, second.trajectories, strict=True):
        assert [s.ids.tolist() for s in one.spans] == [s.ids.tolist() for s in other.spans]
        assert [turn.at for turn in one.turns] == [turn.at for turn in other.turns]


async def test_a_crash_in_either_program_is_an_error_with_its_turns() -> None:
    before = asyncio.all_tasks()

    async def broken(task: Task, seed: int, table: Table) -> None:
        await table.ask("agent", "one")
        raise RuntimeError("the disk melted")

    async def breaks(ask: Ask, desk: Desk, use: Use) -> Message:
        await desk.say(ask.messages)
        raise KeyError("lost")

    episode = await play(broken, straight)
    assert episode.stop.kind == "error" and "the disk melted" in episode.stop.reason
    assert episode.error is not None and "RuntimeError" in episode.error
    assert len(all_turns(episode)) == 1
    episode = await play(echo, breaks)
    assert episode.stop.kind == "error" and "lost" in episode.stop.reason and len(all_turns(episode)) == 1
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_program_that_returned_is_not_asked_again() -> None:
    async def once(ask: Ask, desk: Desk, use: Use) -> Message:
        return assistant("only this")

    episode = await play(echo, once)
    assert episode.stop.kind == "error" and "loop on use()" in episode.stop.reason


async def test_a_budget_spent_inside_a_program_ends_the_episode_with_its_turns() -> None:
    async def greedy(ask: Ask, desk: Desk, use: Use) -> Message:
        while True:
            await desk.sub("worker").say(ask.messages)
            turn = await desk.say(ask.messages)
            ask = await use(desk.message(turn))

    episode = await play(echo, greedy, limits=Limits(model_calls=3))
    assert (episode.stop.kind, episode.stop.seat) == ("budget", "agent")
    assert {t.seat: len(t.turns) for t in episode.trajectories} == {"agent/worker": 2, "agent": 1}
    assert episode.final is not None


async def test_a_coroutine_environment_refuses_a_saved_state() -> None:
    env = as_env(echo)(TASK, 0)
    with pytest.raises(EnvironmentFailed, match="no saved states"):
        await env.start(b"x")
    with pytest.raises(EnvironmentFailed, match="before start"):
        await env.step({})
    await env.close()


async def test_what_a_program_raises_while_it_is_closed_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Else asyncio says "Task exception was never retrieved" when a run is stopped."""
    async def fails(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
        try:
            await table.ask("agent", "one")
        except asyncio.CancelledError:
            raise ValueError("spent") from None
        return {}

    env = as_env(fails)(TASK, 0)
    await env.start()
    await env.close()
    del env
    gc.collect()
    assert not caplog.records


def test_a_suite_names_its_splits() -> None:
    with pytest.raises(BadInput, match="no split 'test'; it has train"):
        suite(echo).tasks("test")
    with pytest.raises(BadInput, match="no oracle answer"):
        suite(echo).oracle(TASK)
