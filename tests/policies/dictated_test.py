from __future__ import annotations

import pytest

from polyturn.agents.chat import AnswerAgent
from polyturn.chat import Chat
from polyturn.desk import Desk, Log
from polyturn.errors import BadInput
from polyturn.policies.dictated import Dictated
from polyturn.protocols import Ask
from polyturn.types import Sampling, assistant, user
from tests.policies.tiny import tiny_tokenizer


async def test_it_spells_what_it_is_told_as_a_demonstration() -> None:
    chat = Chat(tiny_tokenizer())
    policy = Dictated(name="main", chat=chat)
    done = await policy.sample([user("q")], sampling=Sampling(choices=("[7]",)))
    assert done.message.text == "[7]" and not done.sampled and done.logprobs is None
    assert done.ids is not None and chat.parse(done.ids).text == "[7]"
    assert policy.info().kind == "scripted" and policy.count([user("q")]) == sum(len(p.ids) for p in done.prompt)


async def test_it_needs_exactly_one_text() -> None:
    for choices in (None, ("a", "b")):
        with pytest.raises(BadInput, match="writes one given text"):
            await Dictated().sample([user("q")], sampling=Sampling(choices=choices))


async def test_a_scripted_player_plays_through_its_desk() -> None:
    desk = Desk(Log("e", {"main": Dictated(name="main", chat=Chat(tiny_tokenizer()))}), "agent", "main")
    agent = AnswerAgent(lambda ask: assistant(f"[{len(ask.messages[-1].text)}]"), "rules")
    texts = [(await agent.act(Ask("agent", (user("x" * n),)), desk)).text for n in (3, 5)]
    assert texts == ["[3]", "[5]"]
    (trajectory,) = desk.log.trajectories()
    assert [len(turn.prompt) for turn in trajectory.turns] == [2, 4]
    parents = [span.parent for span in trajectory.spans]
    assert len(set(parents)) == len(parents)  # every turn extends the one before
