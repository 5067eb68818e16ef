from __future__ import annotations

from collections.abc import Sequence

import pytest

from polyturn.chat import Chat
from polyturn.desk import Desk, Log
from polyturn.errors import BadInput, PolicyFailed
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Policy
from polyturn.types import Call, Message, Sampling, assistant, system, user
from tests.byte_tokenizer import byte_tokenizer, qwen_tokenizer


async def test_replies_come_in_order_and_running_out_is_a_clear_error() -> None:
    policy = Scripted(["a", assistant("b")], name="script")
    assert isinstance(policy, Policy)
    said = [await policy.sample([user("x")]) for _ in range(2)]
    assert [(one.message.text, one.prompt, one.ids, one.sampled) for one in said] == [
        ("a", (), None, False), ("b", (), None, False),
    ]
    with pytest.raises(PolicyFailed, match="'script' has said all its 2 replies"):
        await policy.sample([user("x")])
    with pytest.raises(BadInput, match="expected a list of replies, or a function"):
        Scripted("north")


async def test_a_function_sees_the_messages_and_may_wait() -> None:
    def echo(messages: Sequence[Message]) -> Message:
        return assistant(messages[-1].text.upper())

    async def slow(messages: Sequence[Message]) -> str:
        return str(len(messages))

    assert (await Scripted(echo).sample([system("s"), user("hi")])).message.text == "HI"
    assert (await Scripted(slow).sample([system("s"), user("hi")])).message.text == "2"
    with pytest.raises(PolicyFailed, match="replied 7; expected a text or an assistant message"):
        await Scripted(lambda messages: 7).sample([user("x")])  # type: ignore[arg-type,return-value]
    with pytest.raises(PolicyFailed, match="expected a text or an assistant message"):
        await Scripted([user("x")]).sample([user("x")])


async def test_with_a_chat_a_reply_is_a_demonstration_in_tokens() -> None:
    chat = Chat(byte_tokenizer())
    policy = Scripted(["12"], chat=chat)
    done = await policy.sample([user("x")])
    assert done.ids is not None
    assert (done.ids.tolist(), done.sampled, done.logprobs) == ([49, 50, 257], False, None)
    prompt = [int(id) for piece in done.prompt for id in piece.ids]
    assert prompt == chat._tokenizer.encode("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n")
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(prompt), 3)
    assert policy.count([user("x")]) == len(prompt)
    info = policy.info()
    assert (info.kind, info.tokenizer_sha256, info.template_sha256) == (
        "scripted", chat.tokenizer_sha256, chat.template_sha256,
    )
    assert Scripted(["a"]).count([system("be brief"), user("go")]) == 3


async def test_demonstrated_turns_are_one_chain_of_unsampled_spans() -> None:
    policy = Scripted(lambda messages: str(len(messages)), name="teacher", chat=Chat(byte_tokenizer()))
    log = Log("e", {"teacher": policy})
    desk = Desk(log, "agent", "teacher")
    history = [user("start")]
    for turn in range(3):
        history += [desk.message(await desk.say(history)), user(str(turn))]
    (trajectory,) = log.trajectories()
    assert [span.parent for span in trajectory.spans] == list(range(-1, len(trajectory.spans) - 1))
    assert not any(span.sampled for span in trajectory.spans)
    assert [trajectory.spans[turn.spans[0]].ids.tolist() for turn in trajectory.turns] == [
        [49, 257], [51, 257], [53, 257],
    ]


async def test_a_demonstration_is_cut_at_max_tokens_and_calls_finish_with_tool() -> None:
    policy = Scripted(["north"], chat=Chat(byte_tokenizer()))
    done = await policy.sample([user("x")], sampling=Sampling(max_tokens=3))
    assert (done.message.text, done.finish, len(done.ids if done.ids is not None else ())) == ("nor", "length", 3)
    called = Message("assistant", calls=(Call("c", "search", {}),))
    assert (await Scripted([called], chat=Chat(qwen_tokenizer())).sample([user("x")])).finish == "tool"
    assert (await Scripted([called]).sample([user("x")])).finish == "tool"


async def test_a_demonstration_keeps_to_a_template_that_writes_and_drops_an_empty_reasoning_block() -> None:
    chat = Chat(qwen_tokenizer())
    log = Log("e", {"teacher": Scripted(["a", "b"], name="teacher", chat=chat)})
    desk = Desk(log, "agent", "teacher")
    first = desk.message(await desk.say([user("x")]))
    assert [part.kind for part in first.parts] == ["reasoning", "text"] and first.text == "a"
    await desk.say([user("x"), first, user("y")])
    (trajectory,) = log.trajectories()
    prompt = trajectory.path(trajectory.turns[1].spans[0])[:-1]
    text = chat._tokenizer.decode([int(id) for span in prompt for id in trajectory.spans[span].ids])
    assert text == (
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\ny<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_a_reply_outside_the_mask_is_an_error_and_spans_of_others_are_dropped() -> None:
    masked = Sampling(choices=("1", "2"))
    assert (await Scripted(["2"]).sample([user("x")], sampling=masked)).message.text == "2"
    with pytest.raises(PolicyFailed, match="replied '3'; expected one of"):
        await Scripted(["3"]).sample([user("x")], sampling=masked)
    copied = assistant("a", spans=(("rival", "main", 0),))
    assert (await Scripted([copied]).sample([user("x")])).message.spans == ()
