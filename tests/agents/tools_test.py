from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from polyturn.agents.tools import ToolAgent
from polyturn.desk import Budget, Desk, Log
from polyturn.errors import BudgetSpent, DeadlinePassed
from polyturn.protocols import Ask, Completion, Written
from polyturn.types import Call, Limits, Message, Sampling, Tool, user
from polyturn.waits import waits
from tests.byte_policy import BytePolicy


class Caller(BytePolicy):
    """Calls ``add`` until a tool has answered twice, then calls the environment's ``submit``."""

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        done = sum(message.role == "tool" for message in messages)
        call = Call(f"c{done}", "add" if done < 2 else "submit", {"x": done})
        return Completion(Message("assistant", calls=(call,)), finish="tool")


class Adder:
    def tools(self) -> tuple[Tool, ...]:
        return (Tool("add"),)

    async def call(self, call: Call) -> Message:
        assert call.arguments is not None
        return Message("tool", str(call.arguments["x"] + 1), call_id=call.id, origin="tool")  # type: ignore[arg-type]


async def test_own_calls_are_run_and_foreign_ones_are_the_act() -> None:
    desk = Desk(Log("e", {"main": Caller()}), "agent", "main")
    agent = ToolAgent(Adder())
    reply = await agent.act(Ask("agent", (user("go"),), tools=(Tool("submit"),)), desk)
    assert [call.name for call in reply.calls] == ["submit"]
    assert [m.text for m in agent.history if m.role == "tool"] == ["1", "2"]
    assert [turn.finish for turn in desk.log.trajectories()[0].turns] == ["tool"] * 3


async def test_tool_calls_count_against_the_budget() -> None:
    desk = Desk(Log("e", {"main": Caller()}), "agent", "main", Budget(Limits(tool_calls=1)))
    with pytest.raises(BudgetSpent, match="tool_calls: 1 spent"):
        await ToolAgent(Adder()).act(Ask("agent", (user("go"),)), desk)
    assert len(desk.log.trajectories()[0].turns) == 2


class Slow(Adder):
    """Hangs where it is told to, and keeps whom one then waits for."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.seen: list[tuple[str, str, str, float | None]] = []

    async def _at(self, place: str) -> None:
        if place == self.place:
            own = [wait for wait in waits() if wait.who == "seat agent of episode e"]
            self.seen = [(wait.who, wait.whom, str(wait.what), wait.deadline_s) for wait in own]
            await asyncio.sleep(60)

    async def open(self) -> None:
        await self._at("open")

    async def call(self, call: Call) -> Message:
        await self._at("call")
        return await super().call(call)


@pytest.mark.parametrize(("place", "whom", "what"), [
    ("open", "its tools", "that they are opened"), ("call", "its tool add", "call c0"),
])
async def test_a_tool_that_hangs_is_given_up_and_one_waits_for_it_by_name(place: str, whom: str, what: str) -> None:
    tools = Slow(place)
    desk = Desk(Log("e", {"main": Caller()}, call_timeout_s=0.05), "agent", "main")
    with pytest.raises(DeadlinePassed, match=f"seat 'agent' waited 0 s for {whom}"):
        await ToolAgent(tools).act(Ask("agent", (user("go"),)), desk)
    assert tools.seen == [("seat agent of episode e", whom, what, 0.05)]
    short = Desk(Log("e", {"main": Caller()}), "agent", "main", Budget(Limits(seconds=0.05)))
    with pytest.raises(BudgetSpent, match=r"seconds: 0.05 spent"):
        await ToolAgent(Slow(place)).act(Ask("agent", (user("go"),)), short)
