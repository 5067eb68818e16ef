"""A recipe in which everything hangs that can: an environment that never answers, one that hangs in its thread, a
policy that never replies; or, with ``--kind block``, an environment that keeps the whole loop. Bounded to a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyturn.agents.chat import ChatAgent
from polyturn.learn.run import Run
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Ask, Match, Player, Spec, Step
from polyturn.rollout.pool import play
from polyturn.types import Message, Seat, Task, user

BOUND_S = 60.0


@dataclass(frozen=True)
class Settings:
    """Which part hangs."""

    kind: str = "all"


class Hangs:
    """Asks once, then never comes back."""

    async def start(self, state: bytes | None = None) -> Step:
        return Step((Ask("agent", (user("go"),)),))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        await asyncio.sleep(BOUND_S)
        return Step()

    async def final(self) -> Mapping[str, Any]:
        return {}

    async def close(self) -> None: ...


class Blocks(Hangs):
    """Hangs in a call that is not async."""

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        time.sleep(BOUND_S)  # noqa: ASYNC251
        return Step()


class InThread:
    """Plain, and hangs where it stands."""

    def start(self, state: bytes | None = None) -> Step:
        return Step((Ask("agent", (user("go"),)),))

    def step(self, replies: Mapping[Seat, Message]) -> Step:
        return self.waits_for_a_lock_that_nobody_frees()

    def waits_for_a_lock_that_nobody_frees(self) -> Step:
        time.sleep(BOUND_S)
        return Step()

    def final(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None: ...


class Suite:
    """One environment of a kind."""

    def __init__(self, name: str, env: type[Any], deadline_s: float, worker: Any = "none") -> None:
        self.spec = Spec(name, worker=worker, step_timeout_s=deadline_s)
        self._env = env

    def tasks(self, split: str) -> tuple[Task, ...]:
        return (Task("one", self.spec.name),)

    async def make(self, task: Task, seed: int) -> Any:
        return self._env()

    async def close(self) -> None: ...


async def never(messages: Sequence[Message]) -> str:
    await asyncio.sleep(BOUND_S)
    return "late"


async def main(settings: Settings, run: Run) -> None:
    """Plays one episode of each kind."""
    suites = [Suite("asleep", Hangs, 50.0), Suite("threaded", InThread, 40.0, "thread"), Suite("mute", Hangs, 30.0)]
    if settings.kind == "block":
        suites = [Suite("blocking", Blocks, 1.0)]
    policies = {"quick": Scripted(lambda messages: "x", name="quick"), "mute": Scripted(never, name="mute")}
    matches = [Match(suite, Task("one", suite.spec.name), {"agent": Player(
        ChatAgent, "mute" if suite.spec.name == "mute" else "quick")}) for suite in suites]
    await play(matches, policies, recorder=run.recorder)
