from __future__ import annotations

from collections.abc import Sequence

import pytest

from polyturn.agents.tools import ToolAgent
from polyturn.desk import Budget, Desk, Log
from polyturn.errors import BudgetSpent
from polyturn.protocols import Ask, Completion, Written
from polyturn.types import Call, Limits, Message, Sampling, Tool, user
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
