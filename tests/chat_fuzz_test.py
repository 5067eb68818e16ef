"""Any ids are a reply; any conversation is a prompt, and any template is one, or refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyturn.chat import Chat
from polyturn.errors import BadInput
from polyturn.record.shape import dumped, shape_of, written
from polyturn.types import Call, Message, Part, Tool
from tests.byte_tokenizer import CHATML, byte_tokenizer, llama_tokenizer, mistral_tokenizer, qwen_tokenizer
from tests.fuzz import long, quick

TOKENIZERS: dict[str, Callable[[], Any]] = {
    "qwen": qwen_tokenizer, "llama": llama_tokenizer, "mistral": mistral_tokenizer,
    "bytes": lambda: byte_tokenizer(CHATML),
}
CHATS = {name: Chat(make()) for name, make in TOKENIZERS.items()}
FIND = Tool("find", "finds", {"type": "object", "properties": {"q": {"type": "string"}}})
TEXTS = st.lists(st.sampled_from([
    "<|im_start|>", "<|im_end|>", "<|eot_id|>", "</s>", "[INST]", "<think>", "</think>", "<tool_call>", "{", "{{ 1 }}",
    "{%", "\ue000", "\uf8ff", "\U000f0000", "\U0010fffd", "\0", "\n", " ", "x", "naïve", "\u202e", "\u200d",
    "\U0001f642",
]), max_size=5).map("".join)
MESSAGES = st.builds(
    lambda role, text, thought, calls, answers: Message(
        role, tuple(part for part in (Part("reasoning", thought), Part("text", text)) if part.text),
        calls=calls if role == "assistant" else (), call_id=answers if role == "tool" else None),
    st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS, TEXTS,
    st.lists(st.builds(lambda name, q: Call("c1", name, {"q": q}, json.dumps({"q": q})), TEXTS, TEXTS), max_size=2).map(
        tuple), st.sampled_from(["c1", "", "x"]))


def said(chat: Chat, ids: list[int]) -> None:
    """Reads ids as a reply, twice the same; the record takes it."""
    for tools in ((), (FIND,)):
        message = chat.parse(ids, tools=tools)
        assert message == chat.parse(ids, tools=tools) and message.role == "assistant"
        dumped(written(shape_of(Message), message, "reply"), "reply")


def told(chat: Chat, messages: list[Message]) -> None:
    """A prompt with ids of the vocabulary, or a refusal; a text of a message never becomes a control token."""
    try:
        pieces = chat.encode(messages, tools=(FIND,))
    except BadInput as error:
        assert str(error)
        return
    assert sum(len(piece.ids) for piece in pieces) == chat.count(messages, (FIND,)) > 0


@pytest.mark.parametrize("name", CHATS)
def test_any_ids_are_a_reply(name: str) -> None:
    size = len(CHATS[name]._tokenizer)
    quick(60)(given(st.lists(st.integers(0, size - 1), max_size=60))(lambda ids: said(CHATS[name], ids)))()


@pytest.mark.parametrize("name", CHATS)
def test_any_conversation_is_a_prompt_or_refused(name: str) -> None:
    quick(40)(given(st.lists(MESSAGES, max_size=5))(lambda messages: told(CHATS[name], messages)))()


@pytest.mark.long
@pytest.mark.parametrize("name", CHATS)
def test_any_ids_and_conversations_many_times(name: str) -> None:
    size = len(CHATS[name]._tokenizer)
    long(10_000)(given(st.lists(st.integers(0, size - 1), max_size=200))(lambda ids: said(CHATS[name], ids)))()
    long(5000)(given(st.lists(MESSAGES, max_size=8))(lambda messages: told(CHATS[name], messages)))()


@pytest.mark.parametrize("source", [
    "{{ 1 / 0 }}", "{{ messages[9] }}", "{{ undefined.a.b }}", "{% for x in range(10 ** 9) %}{% endfor %}", "{{",
    "{% if %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__ }}", "{{ 'x' * 10 ** 6 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ raise_exception('no') }}", "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}", "{{ cycler.__init__.__globals__.os.popen('touch /tmp/x') }}", "{{ 10 ** 10 ** 3 }}",
    "{{ 'a'.format.__globals__ }}", "{{ '{0.__class__}'.format(1) }}", "{{ messages | map(attribute='x.y') | list }}",
])
def test_templates_that_mean_harm_are_refused_or_harmless(source: str) -> None:
    """A model of others brings a template of others: it is rendered in jinja's sandbox, and what it raises is said."""
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.chat_template = source
    try:
        pieces = Chat(tokenizer).encode([Message("user", "hi")])  # type: ignore[arg-type]
    except BadInput as error:
        assert str(error)
        return
    text = "".join(tokenizer.decode(piece.ids.tolist()) for piece in pieces)
    assert "root:" not in text and "subclasses" not in text and "<class" not in text and len(text) < 3_000_000
