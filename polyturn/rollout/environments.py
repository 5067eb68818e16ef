"""Environments of decoupled training: each plays one rollout after the other, and waits for no group and no batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from polyturn.errors import BadInput
from polyturn.protocols import Policy, Recorder
from polyturn.rollout.episode import Place, play_episode
from polyturn.rollout.leases import Order
from polyturn.rollout.pool import Pool, Rooms
from polyturn.types import Episode, all_turns


class Queue(Protocol):
    """Where environments get their orders and bring what they played."""

    async def order(self, environment: str) -> Order:
        """The next rollout to play, as soon as there is one."""
        ...

    def played(self, order: Order, episode: Episode, environment: str) -> None: ...

    def policies(self, order: Order) -> Mapping[str, Policy]:
        """Who answers in this rollout, by name."""
        ...


@dataclass(slots=True)
class Occupancy:
    """Of all seconds of all environments: how many they held a live episode, and how many of those they were the ones
    at work (no policy was answering)."""

    environments: int
    clock: Callable[[], float] = time.monotonic
    begun: float = 0.0
    held_s: float = 0.0
    busy_s: float = 0.0
    live: dict[str, float] = field(default_factory=dict)
    """Environment -> when it began the episode that it holds."""

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def begin(self, environment: str) -> None:
        """An environment begins an episode."""
        self.live[environment] = self.clock()

    def end(self, environment: str, episode: Episode) -> None:
        """It has ended it."""
        self.held_s += self.clock() - self.live.pop(environment)
        self.busy_s += busy_seconds(episode)

    def shares(self) -> dict[str, float]:
        """``rollout/occupied`` and ``rollout/busy`` since the beginning, ``0 <= busy <= occupied <= 1``: an episode's
        busy seconds are known, and count, when it has ended, so that a share of a short time alone would mislead."""
        now = self.clock()
        held = self.held_s + sum(now - start for start in self.live.values())
        whole = max(now - self.begun, 1e-9) * self.environments
        return {"rollout/occupied": held / whole, "rollout/busy": self.busy_s / whole}


def busy_seconds(episode: Episode) -> float:
    """The seconds of an episode in which no policy was answering: the environment's own.

    >>> from polyturn.types import Task, Trajectory, Turn
    >>> said = [Turn(i, "a", "p", (), 0, (), started=s, ended=e) for i, (s, e) in enumerate([(1, 3), (2, 4), (6, 7)])]
    >>> busy_seconds(Episode("e", Task("t", "f"), 0, trajectories=(Trajectory("a", "p", turns=tuple(said)),), ended=10))
    6.0
    """
    free, last = 0.0, episode.started
    for turn in sorted(all_turns(episode), key=lambda turn: turn.started):
        free += max(0.0, turn.started - last)
        last = max(last, turn.ended)
    return float(free + max(0.0, episode.ended - last))


@dataclass(frozen=True)
class Environments:
    """``count`` environments that work until they are cancelled. Raises: BadInput for none."""

    count: int
    label: str
    """Begins the ids of groups and episodes; unique in a run."""
    pool: Pool = Pool()
    """Retries and deadlines; its ``concurrency`` is not looked at."""
    recorder: Recorder | None = None
    finished: Callable[[Episode], None] | None = None
    allowed: Callable[[], int] | None = None
    """How many may begin an episode now; None = all."""
    call_seconds: Callable[[float], float] | None = None
    """The longest wait for a reply now, from that of ``pool``; None = that."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadInput(f"{self.count} environments; expected at least 1")

    async def work(self, queue: Queue, occupancy: Occupancy) -> None:
        """Plays whatever is ordered. Raises what is wrong with a match or with the program itself; what goes wrong
        inside an episode is data on it."""
        rooms = Rooms()
        async with asyncio.TaskGroup() as running:
            for index in range(self.count):
                running.create_task(self._one(index, queue, occupancy, rooms))

    async def _one(self, index: int, queue: Queue, occupancy: Occupancy, rooms: Rooms) -> None:
        name = f"env-{index}"
        while True:
            while self.allowed is not None and index >= self.allowed():  # noqa: ASYNC110 (a file says it)
                await asyncio.sleep(0.25)
            order = await queue.order(name)
            async with rooms.of(order.ticket.match.suite):
                occupancy.begin(name)
                episode = await self._play(order, queue)
                occupancy.end(name, episode)
            if self.finished is not None:
                self.finished(episode)
            queue.played(order, episode, name)

    async def _play(self, order: Order, queue: Queue) -> Episode:
        group = group_name(self.label, order.ticket.number)
        match, seconds = order.ticket.match, self.pool.call_timeout_s
        if self.call_seconds is not None:
            seconds = self.call_seconds(seconds)
        for attempt in range(self.pool.retries + 1):
            place = Place(episode_name(group, order.trial, attempt), group, order.trial, match.iteration)
            episode = await play_episode(
                match, queue.policies(order), place, recorder=self.recorder, call_timeout_s=seconds)
            if episode.stop.kind != "error":
                break
        return episode


def group_name(label: str, ticket: int) -> str:
    """The id of a ticket's group."""
    return f"{label}.t{ticket}"


def episode_name(group: str, trial: int, attempt: int) -> str:
    """The id of one attempt at a rollout."""
    return f"{group}.{trial}" + (f"r{attempt}" if attempt else "")
