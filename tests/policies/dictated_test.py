from __future__ import annotations

import pytest

from polyturn.agents.chat import AnswerAgent
from polyturn.chat import Chat
from polyturn.desk import Desk, Log
from polyturn.errors import BadInput
from polyturn.policies.dictated import Dictated
from polyturn.policies.tiny import learned_tokenizer
from polyturn.protocols import Ask
from polyturn.types import Call, Sampling, Tool, assistant, user
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


CALL = '<tool_call>\n{"name": "set_size", "arguments": {"size": "small"}}\n</tool_call>'


async def test_dictated_calls_are_spelled_in_the_format_of_the_chat_where_tools_are_offered() -> None:
    chat = Chat(learned_tokenizer(["set_size small"]))
    policy, tools = Dictated(name="main", chat=chat), (Tool("set_size"),)
    done = await policy.sample([user("q")], tools=tools, sampling=Sampling(choices=(CALL,)))
    (call,) = done.message.calls
    assert (call.name, call.arguments, done.message.text, done.finish) == ("set_size", {"size": "small"}, "", "tool")
    assert done.ids is not None and chat.parse(done.ids, tools=tools).calls[0].arguments == call.arguments
    plain = await policy.sample([user("q")], sampling=Sampling(choices=(CALL,)))
    assert plain.message.text == CALL and not plain.message.calls


async def test_a_scripted_player_that_calls_sees_the_tools_it_was_offered() -> None:
    policy = Dictated(name="main", chat=Chat(learned_tokenizer(["set_size small"])))
    desk = Desk(Log("e", {"main": policy}), "agent", "main")
    agent = AnswerAgent(lambda ask: assistant("", calls=(Call("", "set_size", {"size": "small"}),)))
    ask = Ask("agent", (user("smaller, please"),), tools=(Tool("set_size"),))
    said = await agent.act(ask, desk)
    assert said.calls[0].arguments == {"size": "small"} and len(said.calls[0].id) == 9
    (trajectory,) = desk.log.trajectories()
    shown = trajectory.turns[0].usage.prompt_tokens
    assert shown == policy.count(ask.messages, ask.tools) > policy.count(ask.messages)
