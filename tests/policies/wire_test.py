"""The chat-completions format, both ways."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyturn.errors import BadInput
from polyturn.policies import wire
from polyturn.types import Call, Message, Part, Tool, Usage, user


def test_a_reply_with_reasoning_and_calls_comes_back_equal() -> None:
    call = Call("c1", "search", {"q": "cats"}, raw='{"q":"cats"}')
    said = Message("assistant", (Part("reasoning", "look it up"), Part("text", "Let me see.")), calls=(call,),
                   origin="policy")
    spoken = wire.spoken_message(said, reasoning=True)
    assert spoken == {
        "role": "assistant", "content": "Let me see.", "reasoning_content": "look it up",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q":"cats"}'}}],
    }
    assert wire.read_message(json.loads(json.dumps(spoken)), "m", origin="policy") == said


@given(st.text(max_size=30), st.sampled_from(["user", "system", "assistant"]))
def test_text_comes_back_equal(text: str, role: Any) -> None:
    assert wire.read_message(wire.spoken_message(Message(role, text)), "m").text == text  # type: ignore[arg-type]


def test_reasoning_is_left_out_unless_asked_for() -> None:
    said = Message("assistant", (Part("reasoning", "hm"), Part("text", "yes")))
    assert "reasoning_content" not in wire.spoken_message(said)


def test_calls_without_text_have_no_content_and_get_ids() -> None:
    spoken = wire.spoken_message(Message("assistant", calls=(Call("", "f", {}), Call("", "g", {"x": 1}))))
    assert spoken["content"] is None
    assert [call["id"] for call in spoken["tool_calls"]] == ["call_0", "call_1"]
    assert spoken["tool_calls"][1]["function"]["arguments"] == '{"x": 1}'


def test_raw_of_a_whole_call_is_not_sent_as_arguments() -> None:
    # A chat template's grammar keeps the raw text of the whole call.
    call = Call("c", "f", {"x": 1}, raw='{"name": "f", "arguments": {"x": 1}}')
    assert wire.arguments_text(call) == '{"x": 1}'
    assert wire.arguments_text(Call("c", "f", None, raw="{broken", error="no JSON")) == "{broken"


def test_unreadable_arguments_stay_raw_with_the_reason() -> None:
    spoken = {"role": "assistant", "tool_calls": [
        {"id": "a", "function": {"name": "f", "arguments": '{"x": '}},
        {"id": "b", "function": {"name": "f", "arguments": "[1]"}},
        {"id": "c", "function": {"name": "f", "arguments": '{"x": NaN}'}},
        {"id": "d", "function": {"name": "f", "arguments": ""}},
        {"id": "e", "function": {"name": "f", "arguments": {"x": 2}}},
    ]}
    calls = wire.read_message(spoken, "m").calls
    assert [call.arguments for call in calls] == [None, None, None, {}, {"x": 2}]
    assert calls[0].raw == '{"x": ' and "not JSON" in (calls[0].error or "")
    assert "list, expected an object" in (calls[1].error or "")
    assert "NaN is no JSON number" in (calls[2].error or "")


def test_parts_are_joined_and_json_is_spelled() -> None:
    message = Message("user", (Part("text", "see "), Part("json", data={"b": 1, "a": "é"})))
    assert wire.spoken_message(message)["content"] == 'see {"a": "é", "b": 1}'
    with pytest.raises(BadInput, match="a user message holds image"):
        wire.spoken_message(Message("user", (Part("image", media="0" * 64),)))


def test_tool_messages_need_their_call() -> None:
    spoken = wire.spoken_message(Message("tool", "42", call_id="c1"))  # type: ignore[arg-type]
    assert spoken == {"role": "tool", "content": "42", "tool_call_id": "c1"}
    assert wire.read_message(spoken, "m") == Message("tool", "42", call_id="c1", origin="tool")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no call_id"):
        wire.spoken_message(Message("tool", "42"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoken", "words"),
    [
        ("hi", r"messages\[0\] is str 'hi'; expected an object"),
        ({"content": "x"}, r"messages\[0\].role is None; expected one of system"),
        ({"role": "robot"}, r"messages\[0\].role is 'robot'"),
        ({"role": "user", "content": 3}, r"messages\[0\].content is int 3; expected a list"),
        ({"role": "user", "content": [{"type": "image_url"}]}, r"content\[0\].type is 'image_url'"),
        ({"role": "user", "content": [{"type": "text"}]}, r"content\[0\].text is missing"),
        ({"role": "tool", "content": "x"}, r"tool_call_id is None"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, r"tool_calls\[0\].function is missing"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}, "arguments is int 3"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(spoken: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        wire.read_message(spoken, "messages[0]")


def test_origins_follow_the_role() -> None:
    read = [wire.read_message({"role": r, "content": "x", "tool_call_id": "c"}, "m").origin
            for r in ("developer", "user", "assistant", "tool")]
    assert read == ["injected", "user", "injected", "tool"]
    assert wire.read_message({"role": "developer"}, "m").role == "system"


def test_tools_come_back_equal() -> None:
    tool = Tool("add", "adds", {"type": "object", "properties": {"x": {"type": "number"}}})
    assert wire.read_tool(wire.spoken_tool(tool), "tools[0]") == tool
    assert wire.read_tool({"function": {"name": "f"}}, "t").parameters == {"type": "object", "properties": {}}
    with pytest.raises(BadInput, match="'custom'; expected 'function'"):
        wire.read_tool({"type": "custom"}, "tools[0]")
    most = {"function": {"name": "f", "parameters": {"maximum": 2**64 - 1, "minimum": -(2**63)}}}
    assert wire.read_tool(most, "t").parameters["maximum"] == 2**64 - 1
    for number in (2**64, float("inf")):
        with pytest.raises(BadInput, match=r"^tools\[1\]\.function\.parameters cannot be recorded: "):
            wire.read_tool({"function": {"name": "f", "parameters": {"maximum": number}}}, "tools[1]")


def test_finish_reasons() -> None:
    assert [wire.read_finish(r) for r in ("stop", "length", "tool_calls", "content_filter", None, 3)] == [
        "stop", "length", "tool", "abort", "abort", "abort"]
    assert wire.spoken_finish("budget") == "length"
    assert wire.spoken_finish("stop", (Call("", "f", {}),)) == "tool_calls"


def test_usage_is_read_leniently_and_never_negative() -> None:
    told = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}, "cost": 0.25}
    assert wire.read_usage(told) == Usage(9, 8, 4, 0.25)
    assert wire.read_usage(None) == Usage()
    assert wire.read_usage({"prompt_tokens": -3, "completion_tokens": "7", "cost": float("nan")}) == Usage()
    assert wire.spoken_usage(Usage(9, 8, 4))["total_tokens"] == 13
    assert wire.read_usage(wire.spoken_usage(Usage(9, 8, 4))) == Usage(9, 8, 4)


def test_a_user_message_is_plain() -> None:
    assert wire.spoken_message(user("hello", name="eva")) == {"role": "user", "content": "hello", "name": "eva"}
