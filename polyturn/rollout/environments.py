"""Environments of decoupled training: each plays one rollout after the other, and waits for no group and no batch."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from polyturn.errors import BadInput, WorkerLost
from polyturn.protocols import Match, Policy, Recorder, Witness
from polyturn.rollout.episode import Place, parent_of, play_episode, seated
from polyturn.rollout.leases import Order
from polyturn.rollout.pool import Pool, Rooms
from polyturn.types import Episode, Stop, all_turns

LOSSES: Final = 3
"""So often a rollout may be lost with its worker; the last time it is an error."""


class Player(Protocol):
    """Who plays an episode: :func:`polyturn.rollout.episode.play_episode` here, a crew in other processes."""

    async def __call__(
        self, match: Match, policies: Mapping[str, Policy], place: Place, *, recorder: Witness | None = None,
        call_timeout_s: float = 600.0,
    ) -> Episode:
        """The episode. Raises: WorkerLost where it is to be played again, BadInput where it cannot be played."""
        ...


class Queue(Protocol):
    """Where environments get their orders and bring what they played."""

    async def order(self, environment: str) -> Order:
        """The next rollout to play, as soon as there is one."""
        ...

    def played(self, order: Order, episode: Episode, environment: str) -> None:
        """The rollout of an order has ended, well or not."""
        ...

    async def lose(self, environment: str, why: str) -> None:
        """What the environment held was lost, and is to be played again."""
        ...

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

    def lose(self, environment: str) -> None:
        """What it held is lost: the seconds were occupied, and nobody knows how busy."""
        self.held_s += self.clock() - self.live.pop(environment)

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
    player: Player = play_episode
    """Who plays: here, or in other processes."""
    losses: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(ticket, trial) -> how often it was lost."""

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
                episode = await self._held(order, queue, name, occupancy)
            if episode is None:
                continue
            if self.finished is not None:
                self.finished(episode)
            queue.played(order, episode, name)

    async def _held(self, order: Order, queue: Queue, name: str, occupancy: Occupancy) -> Episode | None:
        """The episode of an order; None where it was lost, and the queue knows."""
        occupancy.begin(name)
        try:
            episode = await self._play(order, queue)
        except WorkerLost as error:
            self.losses[order.ticket.number, order.trial] += 1
            if self.losses[order.ticket.number, order.trial] < LOSSES:
                occupancy.lose(name)
                await queue.lose(name, str(error))
                return None
            episode = self._given_up(order, queue, error)
        occupancy.end(name, episode)
        return episode

    async def _play(self, order: Order, queue: Queue) -> Episode:
        group = group_name(self.label, order.ticket.number)
        match, seconds = order.ticket.match, self.pool.call_timeout_s
        if self.call_seconds is not None:
            seconds = self.call_seconds(seconds)
        for attempt in range(self.pool.retries + 1):
            place = Place(episode_name(group, order.trial, attempt), group, order.trial, match.iteration)
            episode = await self.player(
                match, queue.policies(order), place, recorder=self.recorder, call_timeout_s=seconds)
            if episode.stop.kind != "error":
                break
        return episode

    def _given_up(self, order: Order, queue: Queue, error: WorkerLost) -> Episode:
        """The error that a rollout is which takes its worker with it, each time that it is played."""
        group, match, now = group_name(self.label, order.ticket.number), order.ticket.match, time.time()
        episode = Episode(
            episode_name(group, order.trial, self.pool.retries), match.task, match.seed, group, order.trial,
            parent_of(match), match.iteration, match.train, seated(match, queue.policies(order)),
            error.trajectories, started=now, ended=now,
            stop=Stop("error", f"lost {LOSSES} times with its worker, at last: {error}"[:2000]), error=str(error))
        if self.recorder is not None:
            self.recorder.episode(episode)
        return episode


def group_name(label: str, ticket: int) -> str:
    """The id of a ticket's group."""
    return f"{label}.t{ticket}"


def episode_name(group: str, trial: int, attempt: int) -> str:
    """The id of one attempt at a rollout."""
    return f"{group}.{trial}" + (f"r{attempt}" if attempt else "")
