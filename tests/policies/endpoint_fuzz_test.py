"""A server that means harm, or is broken: whatever it answers is a reply that can be kept, or one line that says what
came; never another error, and never a wait past the deadline."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyturn.errors import BadInput, BudgetSpent, PolicyFailed
from polyturn.policies import wire
from polyturn.policies.endpoint import Endpoint
from polyturn.record.shape import dumped, shape_of, written
from polyturn.types import Message, Sampling, user
from tests.fuzz import json_values, long, mutated, quick, seeds

KEYS = st.sampled_from([
    "choices", "message", "content", "role", "tool_calls", "function", "name", "arguments", "id", "usage", "cost",
    "prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens", "finish_reason", "logprobs",
    "logprob", "token_ids", "prompt_token_ids", "reasoning_content", "refusal", "type", "text", "error",
])
TEXTS = st.sampled_from(["assistant", "stop", "{", '{"a": 1e999}', '{"a": "\\ud800"}', "[1]", "\0", "x"])
VALUES = json_values(KEYS, TEXTS)
SAID: dict[str, Any] = {
    "choices": [{"index": 0, "finish_reason": "tool_calls", "token_ids": [5, 6],
                 "logprobs": {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]},
                 "message": {"role": "assistant", "content": "hi", "reasoning_content": "so", "tool_calls": [
                     {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]}}],
    "prompt_token_ids": [1, 2, 3], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.1},
}


def may_be_kept(message: Message) -> None:
    """The record takes it: raises otherwise."""
    dumped(written(shape_of(Message), message, "reply"), "reply")


def read(value: Any) -> None:
    """What the pure readers make of any JSON value."""
    try:
        may_be_kept(wire.read_message(value, "message", origin="policy"))
    except BadInput as error:
        assert "message" in str(error)
    try:
        wire.read_tool(value, "tool")
    except BadInput as error:
        assert "tool" in str(error)
    usage = wire.read_usage(value)
    assert min(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) >= 0
    assert wire.read_finish(value) in {"stop", "length", "tool", "abort"}


@given(VALUES)
@quick(150)
def test_any_value_is_read_or_named(value: Any) -> None:
    read(value)


@pytest.mark.long
@given(VALUES)
@long(50_000)
def test_any_value_is_read_or_named_many_times(value: Any) -> None:
    read(value)


@given(st.text(max_size=40) | VALUES.map(json.dumps))
@quick(150)
def test_any_arguments_are_read_or_say_why(raw: str) -> None:
    found, error = wire.read_arguments(raw)
    assert (found is None) == (error is not None)
    if found is not None:
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


class Raw:
    """A server that sends the bytes it is told to, whatever it is asked."""

    def __init__(self) -> None:
        self.data = b""

    async def __aenter__(self) -> Raw:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
            writer.write(self.data)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def http(body: bytes, plain: random.Random) -> bytes:
    """An answer, sometimes of another status, length or packing than it says."""
    status = plain.choice((*(200,) * 20, 204, 301, 400, 401, 429, 500, 999))
    length = plain.choice((*(len(body),) * 12, len(body) + 7, 0, "x"))
    more = plain.choice((*("",) * 16, "content-encoding: gzip\r\n", "transfer-encoding: chunked\r\n", "x: \xff\r\n",
                         "retry-after: 0\r\n", "retry-after: -1e999\r\n", "content-type: text/plain; charset=nope\r\n"))
    head = f"HTTP/1.1 {status} said\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n"
    return head.encode("latin-1") + body


async def asked(answers: list[bytes]) -> tuple[int, int]:
    """How many answers were replies, and how many failed in words."""
    found = []
    async with Raw() as server:
        endpoint = Endpoint(server.url, "m", key_env="", dialect="vllm", timeout_s=5.0, deadline_s=10.0, retries=1,
                            pause_s=0.0)
        for data in answers:
            server.data = data
            try:
                async with asyncio.timeout(15):
                    completion = await endpoint.sample((user("hi"),), sampling=Sampling(max_tokens=4))
            except (PolicyFailed, BudgetSpent) as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
                found.append(False)
                continue
            may_be_kept(completion.message)
            ids, logprobs = completion.ids, completion.logprobs
            assert ids is None or (logprobs is not None and len(logprobs) == len(ids) and not np.isinf(logprobs).any())
            found.append(True)
        await endpoint.close()
    return found.count(True), found.count(False)


def broken(count: int) -> list[bytes]:
    body = json.dumps(SAID).encode()
    whole = [http(body if number % 4 else mutated(body, plain), plain) for number, plain in enumerate(seeds(count))]
    return [*whole, *(mutated(http(body, plain), plain) for plain in seeds(count // 3)),
            *(plain.randbytes(40) for plain in seeds(5)), b""]


async def test_broken_answers_are_replies_or_named() -> None:
    replies, named = await asked(broken(60))
    assert replies and named


@pytest.mark.long
async def test_broken_answers_many_times() -> None:
    await asked(broken(10_000))


@given(VALUES)
@quick(30)
async def test_answers_of_another_shape_are_named(value: Any) -> None:
    body = json.dumps({"choices": [value] if isinstance(value, dict) else value}).encode()
    await asked([b"HTTP/1.1 200 ok\r\nconnection: close\r\n\r\n" + body])
