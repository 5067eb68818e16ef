"""What goes over the border to a worker's process comes back equal; what a process says is never unpickled."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyturn.errors import BadInput, EnvironmentFailed, PolyturnError
from polyturn.protocols import Ask, Step
from polyturn.rollout.worker import in_worker
from polyturn.rollout.worker_lines import as_answer, as_refusal, as_request, read_answer, read_request
from polyturn.types import Call, Event, Message, Part, Seat, Stop, Tool, assistant, user

STEP = Step(
    (Ask("agent", (user("go"), Message("tool", (Part("json", data={"a": [1, None]}),), call_id="c1")), True, ("m1",),
         (Tool("find", "finds", {"type": "object"}),), ("8", "12")), Ask("other")),
    {"agent": {"count": 1.0}}, (Event(0, "invalid", "agent", {"move": {"x": 1}}, to=("agent",)),),
)


def test_steps_replies_states_and_ends_come_back_equal() -> None:
    assert read_answer("e", "start", as_answer("start", STEP)) == STEP
    over = Step(stop=Stop("truncated", "long", "agent"))
    assert read_answer("e", "step", as_answer("step", over)) == over
    replies = {"agent": Message("assistant", "x", calls=(Call("c1", "find", {"id": 7}, "{}"),), id="m3")}  # type: ignore[arg-type]
    assert read_request(as_request("step", (replies,))) == ("step", (replies,))
    assert read_request(as_request("start", (None,))) == ("start", (None,))
    assert read_answer("e", "save", as_answer("save", b"\x00\xff")) == b"\x00\xff"
    assert read_answer("e", "final", as_answer("final", {"a": {"b": (1, 2)}})) == {"a": {"b": [1, 2]}}
    assert read_answer("e", "close", as_answer("close", None)) is None


def test_errors_come_back_as_what_they_are() -> None:
    with pytest.raises(BadInput, match="nobody asked"):
        read_answer("e", "step", as_refusal("nobody asked", True))
    with pytest.raises(EnvironmentFailed, match=r"e\.step\(\) raised KeyError"):
        read_answer("e", "step", as_refusal("KeyError", False))
    with pytest.raises(EnvironmentFailed, match="expected a Step"):
        read_answer("e", "step", as_answer("step", "no step"))
    with pytest.raises(BadInput, match=r"final\.a.*set"):
        as_answer("final", {"a": {1}})


KEYS = st.sampled_from(["value", "error", "refused", "asks", "rewards", "events", "stop", "seat"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=9)


@given(st.sampled_from(["start", "step", "final", "save", "close"]), st.binary(max_size=200) | VALUES.map(orjson.dumps))
@settings(max_examples=150, deadline=None)
def test_whatever_a_process_says_is_read_or_named(method: str, line: bytes) -> None:
    try:
        read_answer("e", method, line)
    except PolyturnError as error:
        assert isinstance(error, EnvironmentFailed | BadInput)


class Harm:
    """Unpickled, it would leave a trace."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


class Hostile:
    """Answers over the connection itself, with a pickle."""

    def __init__(self, trace: str = "") -> None:
        self.trace = trace

    def start(self, state: bytes | None = None) -> Step:
        return Step((Ask("agent"),))

    def step(self, replies: Mapping[Seat, Message]) -> Step:
        from multiprocessing.connection import Connection

        data = pickle.dumps(Harm(self.trace))
        for found in gc.get_objects():
            if isinstance(found, Connection) and found.writable:
                found.send_bytes(data)
        return Step()

    def final(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None: ...


async def test_a_pickle_from_a_process_is_never_read(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    env = in_worker(Hostile(str(trace)), "process", 30.0)
    await env.start()
    with pytest.raises(EnvironmentFailed, match=r"no answer to step\(\)"):
        await env.step({"agent": assistant("x")})
    with contextlib.suppress(EnvironmentFailed):  # it has spoken out of turn, so its last answer is another's
        await env.close()
    assert not trace.exists()
    assert b"touch" in pickle.dumps(Harm(str(trace)))
