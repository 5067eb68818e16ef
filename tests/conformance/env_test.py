"""Every planted fault of an environment is caught, by name; a sound one passes."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from polyturn.conformance.env import any_answer, check_env, check_final, check_step, is_json
from polyturn.conformance.failed import CheckFailed
from polyturn.errors import BadInput
from polyturn.protocols import Ask, Spec, Step
from polyturn.types import Event, Message, Seat, Stop, assistant, user

SPEC = Spec("count", ("agent",), invalid="it costs nothing", step_timeout_s=10.0)


@dataclass
class Count:
    """A sound environment: three replies of ``up`` or ``down``; everything below breaks one thing of it."""

    count: int = 0
    turns: int = 0
    open: bool = False

    async def start(self, state: bytes | None = None) -> Step:
        if state is not None:
            self.count, self.turns = (int(part) for part in state.split())
        self.open = True
        return Step((self.ask(),))

    def ask(self) -> Ask:
        return Ask("agent", (user(f"{self.turns}: {self.count}"),), legal=("up", "down"))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        if not self.open or set(replies) != {"agent"}:
            raise BadInput("nobody else was asked")
        return self.answer(replies["agent"].text)

    def answer(self, text: str) -> Step:
        events = () if text in ("up", "down") else (Event(0, "invalid", "agent", {"reply": text}),)
        self.count += {"up": 1, "down": -1}.get(text, 0)
        self.turns += 1
        self.open = self.turns < 3
        paid = {"agent": {"level": float(self.count)}}
        return Step((self.ask(),) if self.open else (), paid, events, None if self.open else Stop("done"))

    async def final(self) -> Mapping[str, Any]:
        return {"count": self.count}

    async def save(self) -> bytes:
        return f"{self.count} {self.turns}".encode()

    async def close(self) -> None:
        self.open = False


def broken(**methods: Any) -> Callable[[], Any]:
    """A maker of ``Count`` with other methods."""
    return type("Count", (Count,), methods)


def stepping(answer: Callable[[Count, str], Step]) -> Callable[[], Any]:
    return broken(answer=answer)


async def test_a_sound_environment_passes_in_every_dress() -> None:
    await check_env(Count, spec=SPEC)

    async def made() -> Count:
        return Count()

    await check_env(made, spec=SPEC)


def changed(**changes: Any) -> Callable[[Count, str], Step]:
    def answer(self: Count, text: str) -> Step:
        step = Count.answer(self, text)
        fields = {name: getattr(step, name) for name in ("asks", "rewards", "events", "stop")}
        return Step(**{**fields, **changes})

    return answer


def asking(**changes: Any) -> Callable[[], Any]:
    fields = {"seat": "agent", "messages": (user("?"),), "legal": ("up", "down"), **changes}
    return broken(ask=lambda self: Ask(**fields))


STEPS: list[tuple[str, Callable[[], Any], str]] = [
    ("no step", stepping(lambda self, text: None), "answered NoneType"),  # type: ignore[arg-type, return-value]
    ("stranger asked", asking(seat="bob"), r"asks \['bob'\]; its spec has the seats"),
    ("asks and stops", stepping(changed(stop=Stop("done"))), "either asks or stops"),
    ("nothing", stepping(changed(asks=(), stop=None)), "either asks or stops"),
    ("stranger paid", stepping(changed(rewards={"bob": {"x": 1.0}})), "pays 'bob'"),
    ("reward is no number", stepping(changed(rewards={"agent": {"x": float("nan")}})), "expected a finite number"),
    ("reward is text", stepping(changed(rewards={"agent": {"x": "1"}})), "expected a finite number"),
    ("pays the score", stepping(changed(rewards={"agent": {"score": 1.0}})), "counts twice"),
    ("event is no JSON", stepping(changed(events=(Event(0, "x", None, {"a": {1}}),))), "expected a kind and JSON"),
    ("event to a stranger", stepping(changed(events=(Event(0, "x", to=("bob",)),))), "sends an event to"),
    ("speaks as the agent", asking(messages=(assistant("I am you"),)), "in the role assistant"),
    ("spliced message", asking(messages=(user("x", spans=(("agent", "main", 0),)),)), "sampled spans"),
    ("half a character", asking(messages=(user("\ud83e"),)), "half of a surrogate pair"),
    ("text for a message", asking(messages=("hello",)), "asks with str; expected Messages"),
    ("no legal reply", asking(legal=()), "expected distinct texts"),
    ("legal twice", asking(legal=("up", "up")), "expected distinct texts"),
    ("empty legal", asking(legal=("up", "")), "expected distinct texts"),
    ("legal is invalid", asking(legal=("sideways",)), "as legal for 'agent' and then called it invalid"),
]


@pytest.mark.parametrize(("make", "words"), [fault[1:] for fault in STEPS], ids=[fault[0] for fault in STEPS])
async def test_a_malformed_step_is_caught(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(CheckFailed, match=words):
        await check_env(make, spec=SPEC)


# ---------------------------------------------------------------- behaviour


async def raises(self: Count, state: bytes | None = None) -> Step:
    raise ZeroDivisionError("oh")


def drawing(draw: Callable[[], Any]) -> Callable[[], Any]:
    def ask(self: Count) -> Ask:
        return Ask("agent", (user(f"{draw()}"),), legal=("up", "down"))

    return broken(ask=ask)


SHARED = {"count": 0}
THREADS: list[threading.Event] = []
PROCESSES: list[subprocess.Popen[bytes]] = []


def shared(self: Count) -> Ask:
    SHARED["count"] += 1
    return Ask("agent", (user(str(SHARED["count"])),), legal=("up", "down"))


async def no_refusal(self: Count, replies: Mapping[Seat, Message]) -> Step:
    return self.answer(next(iter(replies.values())).text)


async def refuses_strangers_only(self: Count, replies: Mapping[Seat, Message]) -> Step:
    if set(replies) != {"agent"}:
        raise BadInput("a stranger")
    return self.answer(replies["agent"].text)


def chokes(self: Count, text: str) -> Step:
    if text not in ("up", "down"):
        raise ValueError(f"cannot read {text[:5]}")
    return Count.answer(self, text)


def swallows(self: Count, text: str) -> Step:
    step = Count.answer(self, text)
    return Step(step.asks, step.rewards, (), step.stop)


async def half_a_save(self: Count) -> bytes:
    return f"{self.count} 0".encode()


async def text_save(self: Count) -> str:
    return "0 0"


async def spoiling_save(self: Count) -> bytes:
    state = f"{self.count} {self.turns}".encode()
    self.count += 5
    return state


async def close_once(self: Count) -> None:
    if self.turns < 0:
        raise RuntimeError("closed twice")
    self.turns = -1


async def starts_thread(self: Count, state: bytes | None = None) -> Step:
    THREADS.append(threading.Event())
    threading.Thread(target=THREADS[-1].wait, args=(20,), name="forgotten", daemon=True).start()
    return await Count.start(self, state)


async def starts_process(self: Count, state: bytes | None = None) -> Step:
    PROCESSES.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"]))  # noqa: ASYNC220
    return await Count.start(self, state)


async def starts_task(self: Count, state: bytes | None = None) -> Step:
    self.task = asyncio.create_task(asyncio.sleep(20), name="forgotten")  # type: ignore[attr-defined]
    return await Count.start(self, state)


def connects() -> str:
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    except OSError as error:
        return type(error).__name__
    return "connected"


def looks_up() -> str:
    try:
        socket.getaddrinfo("example.org", 80)
    except OSError as error:
        return type(error).__name__
    return "found"


def final_of(value: Any) -> Callable[[], Any]:
    async def final(self: Count) -> Any:
        return value() if callable(value) else value

    return broken(final=final)


BEHAVIOUR: list[tuple[str, Callable[[], Any], str]] = [
    ("no final", broken(final=None), "has no final; an environment has"),
    ("never over", stepping(lambda self, text: Step((self.ask(),))), "not over after 50 steps"),
    ("raises at start", broken(start=raises), r"start\(\) raised ZeroDivisionError"),
    ("goes on after the end", broken(step=no_refusal), "answered a reply after the end"),
    ("takes strangers", broken(step=no_refusal, answer=lambda self, text: (_ for _ in ()).throw(BadInput("over"))
     if self.turns >= 3 else Count.answer(self, text)), "took a reply of the seat 'nobody'"),
    ("draws from the air", drawing(lambda: np.random.default_rng().random()), "answered the same replies otherwise"),
    ("reads a clock", drawing(time.monotonic_ns), "answered the same replies otherwise at step 0"),
    ("draws from random", drawing(random.random), "Python's global generator"),
    ("draws from numpy", drawing(np.random.rand), "numpy's global generator"),
    ("seeds random", drawing(lambda: random.seed(1)), "Python's global generator"),
    ("shares between plays", broken(ask=shared), "something that two plays share"),
    ("final has a clock", final_of(lambda: {"t": time.monotonic_ns()}), "another final state"),
    ("final is a list", final_of([1]), "expected a mapping"),
    ("final has a set", final_of({"a": {1, 2}}), "expected plain JSON"),
    ("final has NaN", final_of({"a": float("nan")}), "expected plain JSON"),
    ("final has numpy", final_of({"a": np.float32(1.0)}), "expected plain JSON"),
    ("final has number keys", final_of({1: "a"}), "expected plain JSON"),
    ("strange replies raise", stepping(chokes), r"step\(\) raised ValueError: cannot read"),
    ("illegal is not noted", stepping(swallows), "without an event of kind 'invalid'"),
    ("state leaves something out", broken(save=half_a_save), r"start\(state\) asks"),
    ("save is text", broken(save=text_save), "gave str; expected bytes"),
    ("save spoils the play", broken(save=spoiling_save), "goes on otherwise after save"),
    ("closes once", broken(close=close_once), r"close \(again\)\(\) raised RuntimeError"),
    ("leaves a thread", broken(start=starts_thread), r"left threads running: \['forgotten'"),
    ("leaves a process", broken(start=starts_process), "left processes running"),
    ("leaves a task", broken(start=starts_task), "left asyncio tasks running"),
    ("connects", drawing(connects), r"used the network \(192.0.2.1\)"),
    ("looks up a name", drawing(looks_up), r"used the network \(example.org\)"),
]


@pytest.mark.parametrize(("make", "words"), [fault[1:] for fault in BEHAVIOUR], ids=[fault[0] for fault in BEHAVIOUR])
async def test_a_broken_promise_is_caught(make: Callable[[], Any], words: str) -> None:
    try:
        with pytest.raises(CheckFailed, match=words):
            await check_env(make, spec=SPEC, most_steps=50, grace_s=0.2)
    finally:
        for event in THREADS:
            event.set()
        for process in PROCESSES:
            process.kill()
            process.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        THREADS.clear()
        PROCESSES.clear()


async def test_what_is_not_deterministic_may_say_so() -> None:
    make = drawing(time.monotonic_ns)
    await check_env(make, spec=Spec("clock", invalid="nothing", deterministic=False))
    with pytest.raises(CheckFailed, match="answered the same replies otherwise"):
        await check_env(make, spec=Spec("clock", invalid="nothing"))


async def test_a_rule_without_illegal_replies_needs_no_events() -> None:
    spec = Spec("count", invalid="none: every reply is legal", step_timeout_s=10.0)
    await check_env(stepping(swallows), spec=spec)


async def test_the_generators_and_sockets_stand_as_before() -> None:
    random.seed(3)
    before = (random.getstate(), socket.socket.connect, socket.getaddrinfo)
    await check_env(Count, spec=SPEC)
    with pytest.raises(CheckFailed):
        await check_env(drawing(random.random), spec=SPEC)
    assert (random.getstate(), socket.socket.connect, socket.getaddrinfo) == before


def test_any_answer_is_fixed_and_legal() -> None:
    ask = Ask("agent", legal=("a", "b"))
    one, same = any_answer("agent"), any_answer("agent")
    said = [one(ask).text for _ in range(20)]
    assert said == [same(ask).text for _ in range(20)] and set(said) == {"a", "b"}
    assert any_answer("agent")(Ask("agent")).text == "ok"


@pytest.mark.parametrize(("value", "good"), [
    ({"a": [1, 2.5, None, True, "x"]}, True), ({"a": (1, 2)}, True), ({"a": {"b": {}}}, True),
    ({"a": float("inf")}, False), ({1: 2}, False), ({"a": object()}, False), ({"a": b"x"}, False),
])
def test_plain_json(value: Any, good: bool) -> None:
    assert is_json(value) is good


def test_the_parts_can_be_used_alone() -> None:
    check_step(Step(stop=Stop("done")), "x", ("agent",))
    check_final({"a": 1}, "x")
    with pytest.raises(CheckFailed, match="asks a seat twice"):
        check_step(Step((Ask("a"), Ask("a"))), "x", ("a",))
