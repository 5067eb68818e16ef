"""Requests read and refused, replies found again, answers written: all without a server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from polyturn.errors import BadInput
from polyturn.rollout import requests
from polyturn.rollout.requests import Memory, Reply, Request
from polyturn.types import Call, Message, Part, Sampling, Span, Tool, Turn, Usage, assistant, system, user

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "the body is list"),
        ({}, "messages is missing"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0].type is 'image_url'"),
        ({"messages": HELLO, "n": 2}, "n is '2'; this server knows only n 1"),
        ({"messages": HELLO, "frequency_penalty": 0.5}, "frequency_penalty is '0.5'"),
        ({"messages": HELLO, "tool_choice": "required"}, "tool_choice is 'required'"),
        ({"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format is"),
        ({"messages": HELLO, "temprature": 1}, "does not know the field 'temprature'; did you mean 'temperature'?"),
        ({"messages": HELLO, "temperature": "hot"}, "temperature is 'hot'; expected a number"),
        ({"messages": HELLO, "temperature": -1}, "temperature is -1"),
        ({"messages": HELLO, "max_tokens": 2.5}, "max_tokens is 2.5; expected a whole number"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens 0"),
        ({"messages": HELLO, "stop": [3]}, "stop[0] is int 3"),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools[0].function is missing"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "so"}]}, "set continue_final_message"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_place(body: Any, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        requests.read_request(body)
    assert words in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadInput, match="the body is no JSON"):
        requests.read_json(body)


def test_a_full_request() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    found = requests.read_request({
        "model": "any", "messages": [{"role": "system", "content": "rules"}, *HELLO], "tools": [tool], "n": 1,
        "temperature": 0, "top_p": 0.5, "top_k": 3, "max_tokens": 9, "max_completion_tokens": 7, "stop": "END",
        "seed": -1, "stream": True, "stream_options": {"include_usage": True}, "logprobs": True,
        "return_token_ids": True, "user": "eva", "frequency_penalty": 0, "logit_bias": {}, "reasoning_effort": None,
    })
    assert [message.origin for message in found.messages] == ["injected", "user"]
    assert found.tools == (Tool("f", "", {"type": "object"}),)
    assert found.sampling == Sampling(0, 0.5, 3, 7, ("END",), None, 2**63 - 1)
    assert (found.stream, found.usage_in_stream, found.tell_ids, found.tell_logprobs) == (True, True, True, True)


def test_what_is_left_open_is_as_usual_and_no_tools_means_none() -> None:
    usual = Sampling(0.3, max_tokens=11)
    tool = {"type": "function", "function": {"name": "f"}}
    found = requests.read_request({"messages": HELLO, "tools": [tool], "tool_choice": "none"}, usual)
    assert (found.sampling, found.tools, found.stream) == (usual, (), False)


def test_fixed_sampling_leaves_the_harness_only_shorter_replies_stops_and_choices() -> None:
    fixed = Sampling(1.0, max_tokens=50, stop=("###",))
    asked = {"messages": HELLO, "temperature": 0.0, "top_p": 0.1, "seed": 4, "guided_choice": ["a", "b"]}
    found = requests.read_request({**asked, "max_tokens": 500}, fixed, fixed).sampling
    assert found == Sampling(1.0, max_tokens=50, stop=("###",), choices=("a", "b"))
    found = requests.read_request({**asked, "max_tokens": 5, "stop": ["x"]}, fixed, fixed).sampling
    assert (found.max_tokens, found.stop, found.seed) == (5, ("x",), None)


def test_a_last_assistant_message_is_continued_when_asked() -> None:
    talk = [*HELLO, {"role": "assistant", "content": "It is"}]
    found = requests.read_request({"messages": talk, "continue_final_message": True, "add_generation_prompt": False})
    assert found.messages[-1].text == "It is"


# ---------------------------------------------------------------- memory


def test_copies_are_known_by_place_first_then_by_content() -> None:
    memory = Memory()
    first, second = assistant("ok", id="1"), assistant("ok", id="2")
    memory.remember([user("a")], first)
    memory.remember([user("a"), assistant("ok"), user("b")], second)
    copy = assistant("ok", origin="injected")
    recalled = memory.recall([user("a"), copy, user("b"), copy, user("c")])
    assert [message.id for message in recalled] == ["", "1", "", "2", ""]
    # A window that lost the beginning: known by content, the newest.
    assert memory.recall([user("b"), copy])[1].id == "2"


def test_two_equal_retries_are_known_as_the_newest() -> None:
    memory = Memory()
    for id in ("1", "2"):
        memory.remember([user("a")], assistant("ok", id=id))
    assert memory.recall([user("a"), assistant("ok")])[1].id == "2"


def test_changed_text_changed_calls_and_other_roles_are_not_known() -> None:
    memory = Memory()
    said = Message("assistant", (Part("reasoning", "hm"), Part("text", "see")), id="1", origin="policy",
                   calls=(Call("x", "f", {"b": 1, "a": 2}, raw='{"b": 1, "a": 2}'),))
    memory.remember([system("s")], said)
    same = Message("assistant", "see", calls=(Call("y", "f", {"a": 2, "b": 1}, raw='{"a":2,"b":1}'),))  # type: ignore[arg-type]
    assert memory.recall([same])[0] is said
    for other in (
        assistant("see"), assistant("see "), user("see"), same.edited(calls=(Call("y", "g", {"a": 2, "b": 1}),)),
        same.edited(calls=(Call("y", "f", {"a": 2, "b": 2}),)), same.edited(calls=(*same.calls, *same.calls)),
    ):
        assert memory.recall([other])[0] is other


def test_unreadable_arguments_are_compared_as_written() -> None:
    memory = Memory()
    said = Message("assistant", calls=(Call("", "f", None, raw="{broken", error="no JSON"),), id="1")
    memory.remember([], said)
    assert memory.recall([said.edited(id="")])[0].id == "1"
    other = said.edited(calls=(Call("", "f", None, raw="{broke", error="no JSON"),), id="")
    assert memory.recall([other])[0] is other


# ---------------------------------------------------------------- answers

TURN = Turn(4, "agent", "main", (0,), 1, (1,), finish="budget", usage=Usage(9, 0, 2), ended=77.9)
SPANS = (Span(0, np.array([5, 6], np.int32), True, np.array([-0.5, -0.25])),)


def test_ids_and_logprobs_are_told_only_when_asked() -> None:
    reply = Reply("id", "main", TURN, assistant("hi"), np.array([1, 2], np.int32), SPANS)
    plain = requests.whole(reply, Request(()))
    assert plain["choices"][0] == {
        "index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "length", "logprobs": None,
    }
    assert (plain["created"], plain["usage"]["total_tokens"], "prompt_token_ids" in plain) == (77, 11, False)
    told = requests.whole(reply, Request((), tell_ids=True, tell_logprobs=True))
    assert (told["prompt_token_ids"], told["choices"][0]["token_ids"]) == ([1, 2], [5, 6])
    content = told["choices"][0]["logprobs"]["content"]
    assert [(entry["token"], entry["logprob"]) for entry in content] == [("token_id:5", -0.5), ("token_id:6", -0.25)]
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("logprobs", [None, np.array([np.nan, -1.0])])
def test_unknown_logprobs_are_none(logprobs: Any) -> None:
    spans = (Span(0, np.array([5, 6], np.int32), True, logprobs),)
    told = requests.whole(Reply("id", "main", TURN, assistant("hi"), None, spans), Request((), tell_logprobs=True))
    assert told["choices"][0]["logprobs"] is None


def test_a_stream_of_an_empty_reply_has_a_role_and_an_end() -> None:
    got = list(requests.chunks(Reply("id", "main", TURN, assistant("")), Request(())))
    assert [chunk["choices"][0]["delta"] for chunk in got] == [{"role": "assistant", "content": ""}, {}]
    assert got[-1]["choices"][0]["finish_reason"] == "length"
