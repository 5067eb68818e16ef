"""The one gate: every effect on an environment is a :meth:`World.step`, checked, charged, logged and replayable."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from polyturn.desk import Budget, Log
from polyturn.errors import EnvironmentFailed
from polyturn.protocols import Ask, Env, Spec, Step
from polyturn.types import Event, Message, Seat, Stop, root_of
from polyturn.waits import Expired, Waiting, within

T = TypeVar("T")
MakeEnv = Callable[[], Awaitable[Env]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What all copies of one episode's environment share."""

    spec: Spec
    make: MakeEnv
    log: Log
    budgets: Mapping[Seat, Budget]
    start: bytes | None = None


class World:
    """One environment behind the gate; a copy made by :func:`fork` has a ``name`` (its branch)."""

    def __init__(self, rules: Rules, env: Env, name: str = "") -> None:
        self.rules = rules
        self.name = name
        self.taken: list[Mapping[Seat, Message]] = []
        """The replies so far: the action log."""
        self.copies: list[World] = []
        self._env = env
        self._shown: dict[Seat, int] = {}

    async def start(self, state: bytes | None = None) -> Step:
        """The first step, from the beginning or from a saved state."""
        return self._checked(await self._within(self._env.start(state), "start"))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The environment's answer to the replies; every replying seat is charged one environment step."""
        for seat in replies:
            self.rules.budgets[root_of(seat)].check("env_steps")
            self.rules.budgets[root_of(seat)].charge(env_steps=1)
        self.taken.append(dict(replies))
        if not self.name:
            self.rules.log.step += 1
        step = self._checked(await self._within(self._env.step(replies), "step"))
        self._log(step)
        return step

    async def replay(self, taken: list[Mapping[Seat, Message]], seat: Seat) -> Step:
        """The step after ``taken`` replies, made again from the start; each costs ``seat`` an environment step."""
        step = await self.start(self.rules.start)
        for replies in taken:
            budget = self.rules.budgets[root_of(seat)]
            budget.check("env_steps")
            budget.charge(env_steps=1)
            self.taken.append(replies)
            step = self._checked(await self._within(self._env.step(replies), "replay"))
        return step

    async def save(self) -> bytes | None:
        """The state, where the environment can give it; else None."""
        save = getattr(self._env, "save", None)
        if save is None:
            return None
        state: bytes = await self._within(save(), "save")
        return state

    async def final(self) -> Mapping[str, Any]:
        """The last state."""
        state = await self._within(self._env.final(), "final")
        if not isinstance(state, Mapping):
            raise EnvironmentFailed(f"{self.rules.spec.name}.final() gave {type(state).__name__}; expected a mapping")
        return state

    async def close(self) -> None:
        """Closes the environment and all copies made of it."""
        try:
            for copy in self.copies:
                await copy.close()
        finally:
            await self._within(self._env.close(), "close")

    def log_start(self, step: Step) -> None:
        """Logs what the very first step paid and told."""
        self._log(step)

    async def _within(self, call: Awaitable[T], name: str) -> T:
        return await answered(call, name, self.rules.spec, self.rules.log.episode_id)

    def _checked(self, step: Step) -> Step:
        """The step with ids on its messages. Raises: EnvironmentFailed where it breaks the protocol."""
        name = self.rules.spec.name
        if not isinstance(step, Step):
            raise EnvironmentFailed(f"{name} answered {type(step).__name__}; expected a Step")
        if step.asks and step.stop is not None:
            raise EnvironmentFailed(f"{name} asks {[a.seat for a in step.asks]} and stops ({step.stop.kind}) at once")
        if len({ask.seat for ask in step.asks}) != len(step.asks):
            raise EnvironmentFailed(f"{name} asks a seat twice in one step: {[a.seat for a in step.asks]}")
        for ask in step.asks:
            if ask.seat not in self.rules.budgets:
                raise EnvironmentFailed(f"{name} asks seat {ask.seat!r}; its seats are {sorted(self.rules.budgets)}")
        for seat, channels in step.rewards.items():
            for channel, value in channels.items():
                if not math.isfinite(value):
                    raise EnvironmentFailed(f"{name} paid seat {seat!r} {value} on channel {channel!r}")
        return Step(tuple(self._named(ask) for ask in step.asks), step.rewards, step.events, step.stop)

    def _named(self, ask: Ask) -> Ask:
        messages = []
        for message in ask.messages:
            count = self._shown.get(ask.seat, 0)
            self._shown[ask.seat] = count + 1
            messages.append(message if message.id else replace(message, id=f"{ask.seat}<{count}"))
        return Ask(ask.seat, tuple(messages), ask.fresh, ask.hide, ask.tools, ask.legal)

    def _log(self, step: Step) -> None:
        for event in step.events:
            self.rules.log.event(replace(event, branch=self.name) if self.name or event.branch else event)
        for seat, channels in step.rewards.items():
            for channel, value in channels.items():
                content = {"channel": channel, "value": float(value)}
                self.rules.log.event(Event(0, "reward", seat, content, branch=self.name))


async def fork(world: World, seat: Seat) -> tuple[World, Step]:
    """A copy of ``world`` and the step it stands at, charged to ``seat``.

    By saved state where the environment has ``save`` (one environment step), else by replay of its action log (one
    for each reply).
    """
    name = f"{world.name or seat}.{len(world.copies)}" if world.name else f"{seat}#{len(world.copies)}"
    state = await world.save()
    copy = World(world.rules, await world.rules.make(), name)
    world.copies.append(copy)
    copy._shown = {}
    if state is None:
        return copy, await copy.replay(list(world.taken), seat)
    budget = world.rules.budgets[root_of(seat)]
    budget.check("env_steps")
    budget.charge(env_steps=1)
    step = await copy.start(state)
    copy.taken = list(world.taken)
    return copy, step


async def answered(call: Awaitable[T], name: str, spec: Spec, episode: str) -> T:
    """What an environment's ``name()`` gives. Raises: EnvironmentFailed where it does not answer in time, ends the
    program, or is cancelled by itself; whoever cancels the episode cancels it."""
    seconds = spec.step_timeout_s
    try:
        with Waiting(f"episode {episode}", f"environment {spec.name}", f"{name}()", seconds):
            return await within(call, seconds)
    except Expired as error:
        raise EnvironmentFailed(f"{spec.name}.{name}() did not answer within {seconds:g} s") from error
    except (TimeoutError, SystemExit) as error:
        raise EnvironmentFailed(f"{spec.name}.{name}() raised {type(error).__name__}: {error}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise EnvironmentFailed(f"{spec.name}.{name}() was cancelled by itself") from error


def over(step: Step) -> Stop | None:
    """Why a step is the last one; None while somebody is asked."""
    if step.asks:
        return None
    return step.stop or Stop("done")
