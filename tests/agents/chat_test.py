from __future__ import annotations

from polyturn.agents.chat import ChatAgent, heard
from polyturn.desk import Desk, Log
from polyturn.protocols import Ask, View
from polyturn.types import Message, Sampling, system, user
from tests.byte_policy import BytePolicy


def a_desk() -> Desk:
    return Desk(Log("e", {"main": BytePolicy(lambda messages: f"seen {len(messages)}")}), "agent", "main")


async def test_it_hears_speaks_and_remembers() -> None:
    desk, agent = a_desk(), ChatAgent(system="rules")
    first = await agent.act(Ask("agent", (user("one", id="1"),)), desk)
    second = await agent.act(Ask("agent", (user("two", id="2"),)), desk)
    assert (first.text, second.text) == ("seen 2", "seen 4")
    assert [m.role for m in agent.history] == ["system", "user", "assistant", "user", "assistant"]
    assert [turn.purpose for turn in desk.log.trajectories()[0].turns] == ["act", "act"]


async def test_the_mask_is_used_only_when_asked_for_and_known() -> None:
    desk = a_desk()
    ask = Ask("agent", (user("one"),), legal=("a", "b"))
    await ChatAgent().act(ask, desk)
    await ChatAgent(mask=True).act(ask, desk)
    await ChatAgent(mask=True, sampling=Sampling(temperature=0.5)).act(Ask("agent", (user("x"),)), desk)
    choices = [turn.sampling.choices for turn in desk.log.trajectories()[0].turns]
    assert choices == [None, ("a", "b"), None]


def test_hidden_messages_go_and_fresh_ones_replace() -> None:
    history = [system("s"), user("a", id="1"), user("b", id="2")]
    assert [m.text for m in heard(history, Ask("x", (user("c"),), hide=("1",)))] == ["s", "b", "c"]
    assert [m.text for m in heard(history, Ask("x", (user("c"),), fresh=True))] == ["s", "c"]


async def test_a_context_may_add_to_the_log() -> None:
    class Noting:
        async def view(self, history: list[Message], desk: Desk) -> View:
            note = user("note", origin="reminder")
            return View((*history, note), added=(note,))

    agent = ChatAgent(context=Noting())  # type: ignore[arg-type]
    await agent.act(Ask("agent", (user("one"),)), a_desk())
    assert [m.text for m in agent.history] == ["one", "note", "seen 2"]
