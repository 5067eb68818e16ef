"""Any request to a served desk: a reply, or a refusal in words; never an error of ours, and never a turn for what was
refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyturn.desk import Budget, Desk, Log
from polyturn.errors import BadInput
from polyturn.policies.scripted import Scripted
from polyturn.record.shape import dumped, shape_of, written
from polyturn.rollout.requests import read_json, read_request
from polyturn.rollout.serve import Server
from polyturn.types import Limits, Message
from tests.fuzz import json_values, long, mutated, quick, seeds

KEYS = st.sampled_from([
    "messages", "role", "content", "tool_calls", "function", "name", "arguments", "id", "tools", "parameters", "type",
    "text", "tool_call_id", "n", "seed", "max_tokens", "temperature", "top_p", "top_k", "stop", "stream", "model",
    "structured_outputs", "choice", "guided_choice", "stream_options", "include_usage", "logprobs", "tool_choice",
    "response_format", "continue_final_message", "logit_bias",
])
VALUES = json_values(KEYS, st.sampled_from(["user", "assistant", "tool", "function", "x", "\0", "none"]))
ASKED: dict[str, Any] = {
    "model": "m", "temperature": 0.5, "max_tokens": 5, "stream": False, "stop": ["x"], "seed": 1, "messages": [
        {"role": "system", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
}


def read(body: bytes) -> bool:
    """Whether a body is a request; what is read can be kept."""
    try:
        request = read_request(read_json(body))
    except BadInput as error:
        assert str(error)
        return False
    for message in request.messages:
        dumped(written(shape_of(Message), message, "message"), "message")
    return True


@given(VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
@quick(150)
def test_any_body_is_read_or_named(body: bytes) -> None:
    read(body)


@pytest.mark.long
@given(VALUES.map(lambda value: json.dumps({**ASKED, **value} if isinstance(value, dict) else value).encode()))
@long(50_000)
def test_any_body_many_times(body: bytes) -> None:
    read(body)


def test_broken_bodies_are_read_or_named() -> None:
    body = json.dumps(ASKED).encode()
    found = [read(mutated(body, plain)) for plain in seeds(300)]
    assert read(body) and any(found) and not all(found)


@pytest.mark.parametrize("role", [["user"], {"a": 1}, 3, None, True, "narrator"])
def test_a_role_of_another_kind_is_named(role: Any) -> None:
    """Found with 30,000 broken bodies: a list cannot be looked up."""
    assert not read(json.dumps({"messages": [{"role": role, "content": "x"}]}).encode())


@pytest.mark.parametrize("text", [b"\\ud800", b"\\uDfff", b"\xed\xa0\x80", b"\xed\xbf\xbf"])
def test_half_a_surrogate_pair_is_named_however_it_is_written(text: bytes) -> None:
    assert not read(b'{"messages": [{"role": "user", "content": "' + text + b'"}]}')
    assert read(b'{"messages": [{"role": "user", "content": "\\ud83d\\ude42 \xed\x95\x9c"}]}')


def test_numbers_beyond_what_is_kept_are_named() -> None:
    for name in ("max_tokens", "top_k", "max_completion_tokens"):
        assert not read(json.dumps({**ASKED, name: 10**30}).encode())
    assert read(json.dumps({**ASKED, "seed": 10**30}).encode())


async def answered(bodies: list[bytes]) -> list[int]:
    """The statuses that a real server gives; every turn that it took was answered with 200, and can be recorded."""
    desk = Desk(Log("e", {"main": Scripted(lambda messages: "x", name="main")}), "agent", "main", Budget(Limits()))
    server = Server()
    await server.start()
    address = server.address(desk)
    found = []
    async with httpx.AsyncClient(trust_env=False, timeout=20) as web:
        for body in bodies:
            answer = await web.post(f"{address.url}/chat/completions", content=body,
                                    headers={"authorization": f"Bearer {address.token}"})
            found.append(answer.status_code)
            if answer.status_code != 200:
                assert answer.json()["error"]["message"]
    await server.close()
    turns = [turn for trajectory in desk.log.trajectories() for turn in trajectory.turns]
    assert len(turns) == found.count(200)
    return found


async def test_broken_bodies_over_the_wire() -> None:
    body = json.dumps(ASKED).encode()
    statuses = await answered([body, *(mutated(body, plain) for plain in seeds(60))])
    assert set(statuses) == {200, 400} and statuses[0] == 200


@pytest.mark.long
async def test_broken_bodies_over_the_wire_many_times() -> None:
    body = json.dumps(ASKED).encode()
    assert set(await answered([mutated(body, plain) for plain in seeds(20_000)])) <= {200, 400}
