"""Agents and environments written as one straight coroutine, suspended at the one gate.

``as_agent(program)``: ``program(ask, desk, use)`` samples what it likes and acts with ``next_ask = await use(reply)``.
``as_env(program)``: ``program(task, seed, table)`` asks with ``reply = await table.ask("agent", "your move?")``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from polyturn.desk import Desk
from polyturn.errors import BadInput, EnvironmentFailed
from polyturn.protocols import Agent, Answer, Ask, Env, Spec, Step, Verifier
from polyturn.types import Event, Message, Seat, Stop, Task, user

Use = Callable[[Message], Awaitable[Ask]]
AgentProgram = Callable[[Ask, Desk, Use], Awaitable[Message]]
EnvProgram = Callable[[Task, int, "Table"], Awaitable[Mapping[str, Any] | None]]


class _Gate:
    """Two sides that take turns: the program hands something out and waits for what comes back."""

    def __init__(self) -> None:
        self.out: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.back: asyncio.Future[Any] | None = None
        self.task: asyncio.Task[Any] | None = None

    async def hand(self, value: Any) -> Any:
        """The program's side: gives ``value`` out, returns what comes back."""
        self.back = asyncio.get_running_loop().create_future()
        self.out.set_result(value)
        return await self.back

    async def resume(self, value: Any) -> tuple[bool, Any]:
        """The caller's side: gives ``value`` back; (True, result) if the program ended, else (False, handed out)."""
        assert self.back is not None
        self.out = asyncio.get_running_loop().create_future()
        self.back.set_result(value)
        return await self.wait()

    async def wait(self) -> tuple[bool, Any]:
        """Until the program hands something out or ends; its exception is raised here."""
        assert self.task is not None
        await asyncio.wait({self.out, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if self.out.done():
            return False, self.out.result()
        return True, self.task.result()

    async def close(self) -> None:
        """Ends the program, wherever it waits. What it raises then, or raised while nobody waited, is nobody's."""
        if self.task is None:
            return
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task})
        if not self.task.cancelled():
            self.task.exception()


class _ProgramAgent:
    """An agent that is one coroutine over the whole episode."""

    def __init__(self, program: AgentProgram) -> None:
        self._program = program
        self._gate: _Gate | None = None
        self._over = False

    async def act(self, ask: Ask, desk: Desk) -> Message:
        if self._over:
            raise BadInput(f"the program of seat {ask.seat!r} returned, but it is asked again; loop on use()")
        if self._gate is None:
            self._gate = _Gate()
            self._gate.task = asyncio.ensure_future(self._program(ask, desk, self._gate.hand))
            self._over, reply = await self._gate.wait()
        else:
            self._over, reply = await self._gate.resume(ask)
        if not isinstance(reply, Message):
            raise BadInput(f"the program of seat {ask.seat!r} gave {type(reply).__name__}; expected a Message")
        return reply

    async def close(self) -> None:
        if self._gate is not None:
            await self._gate.close()


def as_agent(program: AgentProgram) -> Callable[[], Agent]:
    """A maker of agents that each run ``program`` from its start; the returned Message is the last reply."""
    return partial(_ProgramAgent, program)


class Table:
    """What an environment's program holds: the seats, and what it pays and logs."""

    def __init__(self, gate: _Gate) -> None:
        self._gate = gate
        self._told: dict[Seat, list[Message]] = {}
        self._rewards: dict[Seat, dict[str, float]] = {}
        self._events: list[Event] = []

    def tell(self, seat: Seat, content: str | Message) -> None:
        """Something that the seat will read with its next ask."""
        self._told.setdefault(seat, []).append(_as_message(content))

    def pay(self, seat: Seat, channel: str, value: float) -> None:
        """A reward, paid with the step that follows (the next ask, or the end)."""
        channels = self._rewards.setdefault(seat, {})
        channels[channel] = channels.get(channel, 0.0) + float(value)

    def event(self, kind: str, seat: Seat | None = None, *, to: tuple[Seat, ...] | None = None, **content: Any) -> None:
        """Something to be logged; an illegal reply is of kind ``invalid``."""
        self._events.append(Event(0, kind, seat, content, to))

    async def ask(self, seat: Seat, content: str | Message = "", **more: Any) -> Message:
        """The seat's reply. ``more`` are fields of :class:`polyturn.protocols.Ask` (legal, tools, fresh, hide)."""
        return (await self.ask_all({seat: content}, **more))[seat]

    async def ask_all(self, contents: Mapping[Seat, str | Message], **more: Any) -> Mapping[Seat, Message]:
        """The replies of several seats that act at the same time."""
        asks = []
        for seat, content in contents.items():
            if content:
                self.tell(seat, content)
            asks.append(Ask(seat, tuple(self._told.pop(seat, ())), **more))
        replies: Mapping[Seat, Message] = await self._gate.hand(self.step(tuple(asks)))
        return replies

    def step(self, asks: tuple[Ask, ...] = (), stop: Stop | None = None) -> Step:
        """The step with all that was paid and logged since the last one."""
        step = Step(asks, dict(self._rewards), tuple(self._events), stop)
        self._rewards, self._events = {}, []
        return step


def _as_message(content: str | Message) -> Message:
    return user(content) if isinstance(content, str) else content


class _ProgramEnv:
    """An environment that is one coroutine; its return value is the final state (a Stop in it is not read)."""

    def __init__(self, program: EnvProgram, task: Task, seed: int) -> None:
        self._program, self._task, self._seed = program, task, seed
        self._gate: _Gate | None = None
        self._table: Table | None = None
        self._final: Mapping[str, Any] = {}

    async def start(self, state: bytes | None = None) -> Step:
        if state is not None:
            raise EnvironmentFailed("an environment written as a coroutine has no saved states; replay its replies")
        self._gate = _Gate()
        self._table = Table(self._gate)
        self._gate.task = asyncio.ensure_future(self._program(self._task, self._seed, self._table))
        return self._step(*await self._gate.wait())

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        if self._gate is None or self._gate.back is None:
            raise EnvironmentFailed("step() was called before start() or after the end")
        return self._step(*await self._gate.resume(replies))

    def _step(self, over: bool, value: Any) -> Step:
        if not over:
            assert isinstance(value, Step)
            return value
        self._final = value or {}
        assert self._table is not None and self._gate is not None
        self._gate.back = None
        return self._table.step(stop=Stop("done"))

    async def final(self) -> Mapping[str, Any]:
        return self._final

    async def close(self) -> None:
        if self._gate is not None:
            await self._gate.close()


def as_env(program: EnvProgram) -> Callable[[Task, int], Env]:
    """A maker of environments (``make(task, seed)``) that each run ``program``; what it returns is the final state."""
    return partial(_ProgramEnv, program)


@dataclass
class ProgramSuite:
    """A suite around a coroutine: ``ProgramSuite(Spec("echo"), as_env(program), {"train": ..., "test": ...})``."""

    spec: Spec
    env: Callable[[Task, int], Env]
    splits: Mapping[str, Callable[[], Iterable[Task]] | Iterable[Task]]
    """Split -> its tasks, or a function that gives them afresh (for endless ones)."""
    verifier: Verifier | None = None
    answers: Mapping[str, Callable[[Task], Answer]] | None = None
    """``oracle`` and ``null``, where there are any."""

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of a split. Raises: BadInput for an unknown split."""
        if split not in self.splits:
            raise BadInput(f"{self.spec.name} has no split {split!r}; it has {', '.join(self.splits)}")
        tasks = self.splits[split]
        return tasks() if callable(tasks) else tasks

    async def make(self, task: Task, seed: int) -> Env:
        """A fresh environment."""
        return self.env(task, seed)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """The scripted solver. Raises: BadInput where the suite has none."""
        return self._answer("oracle", task)

    def null(self, task: Task) -> Answer:
        """The scripted player that does nothing. Raises: BadInput where the suite has none."""
        return self._answer("null", task)

    def _answer(self, name: str, task: Task) -> Answer:
        if not self.answers or name not in self.answers:
            raise BadInput(f"{self.spec.name} has no {name} answer")
        return self.answers[name](task)
