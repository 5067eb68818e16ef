"""Whatever a model writes is read, in time that grows with its length, and what is read can be kept."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyturn.calls import GRAMMARS, Grammar, split_reasoning, wrap_reasoning
from polyturn.types import Tool
from tests.fuzz import long, quick

PIECES = st.sampled_from([
    "<tool_call>", "</tool_call>", "<function=f>", "<function=", "</function>", "<parameter=a>", "<parameter=b", ">",
    "</parameter>", '{"name": "f", "arguments": {"a": 1}}', '{"name": 3}', '{"name": "f", "arguments": "{"}', "[", "]",
    "{", "}", '{"name": "f", "parameters": {}}', ";", "<|python_tag|>", 'f.call(a="b")', "f.call(a=-1e999)", "\n", " ",
    "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "find", "<think>", "</think>", "\\ud800", "\ud800", "1e999", "NaN", '"',
    "\0", "9" * 30, "[]",
    '{"name": "f", "arguments": {"a": "\\ud800"}}', "\u2028", "\U0001f642",
])
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=14).map("".join)
TOOLS = (Tool("f", "", {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}),)


def read(grammar: Grammar, text: str) -> None:
    """Reads; what came out can be stored, and every call says what it is or why it cannot be read."""
    rest, calls = grammar.read(text, TOOLS)
    assert isinstance(rest, str)
    for call in calls:
        if call.arguments is None:
            assert call.error and "\n" not in call.error.replace(repr(call.raw[:80]), "")[:20]
        else:
            assert orjson.loads(orjson.dumps(dict(call.arguments))) == call.arguments
    again, same = grammar.read(text, TOOLS)
    assert (again, same) == (rest, calls)


@pytest.mark.parametrize("name", GRAMMARS)
def test_any_text_is_read(name: str) -> None:
    quick(150)(given(TEXTS)(lambda text: read(GRAMMARS[name], text)))()


@pytest.mark.long
@pytest.mark.parametrize("name", GRAMMARS)
def test_any_text_is_read_many_times(name: str) -> None:
    long(30_000)(given(TEXTS)(lambda text: read(GRAMMARS[name], text)))()


@pytest.mark.parametrize("frame", ["{}", "<tool_call>{}</tool_call>", "<|python_tag|>{}", "[TOOL_CALLS]{}"])
@pytest.mark.parametrize("name", GRAMMARS)
def test_an_empty_list_is_no_call(name: str, frame: str) -> None:
    for none in ("[]", " [ ] ", "[];[]", "[]x"):
        read(GRAMMARS[name], frame.format(none))
    assert not [call for call in GRAMMARS[name].read(frame.format("[]"), TOOLS)[1] if call.arguments is not None]


@pytest.mark.parametrize("text", [
    '<tool_call>{"name": "f", "arguments": {"b": N}}</tool_call>',
    '<|python_tag|>{"name": "f", "parameters": {"b": N}}',
    '[TOOL_CALLS] [{"name": "f", "arguments": {"b": N}}]', "<|python_tag|>f.call(b=N)",
    "<tool_call><function=f><parameter=b>N</parameter></function></tool_call>",
])
@pytest.mark.parametrize("name", GRAMMARS)
def test_whole_numbers_that_no_record_holds(name: str, text: str) -> None:
    """They are no JSON here; where a format writes values bare, they stay the text that they are."""
    for digits in ("9" * 30, "9" * 5000):
        read(GRAMMARS[name], text.replace("N", digits))


@pytest.mark.parametrize("name", GRAMMARS)
def test_calls_that_were_written_are_read_again(name: str) -> None:
    """Of arguments as JSON; the XML of Qwen writes texts bare, so a text that looks like JSON needs its schema."""
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["x", "a b", "naïve"]),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("kl"), inner, max_size=2))

    def check(arguments: dict[str, Any]) -> None:
        from polyturn.types import Call

        grammar = GRAMMARS[name]
        rest, (call,) = grammar.read(grammar.write([Call("", "f", arguments)]), ())
        assert (call.name, call.arguments, rest.strip()) == ("f", arguments, "")

    quick(80)(given(st.dictionaries(st.sampled_from("abc"), values, max_size=3))(check))()


@given(st.text(max_size=40), st.text(max_size=40))
@quick(100)
def test_reasoning_is_told_from_the_reply(reasoning: str, text: str) -> None:
    found, rest = split_reasoning(wrap_reasoning(reasoning, text))
    if "</think>" not in reasoning:
        assert (found, rest) == (reasoning.strip("\n"), text.lstrip("\n"))


WORST = ("<tool_call><function=f>{}x</tool_call>", "{}", "[TOOL_CALLS]{}x", "<|python_tag|>{}x")


@pytest.mark.parametrize("name", GRAMMARS)
def test_time_grows_with_the_length(name: str) -> None:
    """100,000 characters of what makes patterns try every way: a model may repeat itself to its last token."""
    texts = [frame.format(fill * (100_000 // len(fill))) for frame in WORST for fill in (" ", "\n", "\n ", "\t")]
    texts += [piece * (100_000 // len(piece)) for piece in (
        "<tool_call>", "<parameter=", "<parameter=a>", "{", "[", '{"name"', '{"name": 1', "[TOOL_CALLS]", "<think>",
        "\n{", "<function=f>", "[CALL_ID]", "-", "(")]
    texts += [f"<tool_call><function=f>{'<parameter=a>' * 7000}</function></tool_call>",
              f"<tool_call><function=f>{'<parameter=' * 9000}</function></tool_call>",
              f"<|python_tag|>f.call(a={'(' * 50_000}", "<tool_call>" + "[" * 90_000 + "</tool_call>"]
    for text in texts:
        begun = time.perf_counter()
        GRAMMARS[name].read(text, TOOLS)
        assert time.perf_counter() - begun < 5.0, (name, text[:60])
