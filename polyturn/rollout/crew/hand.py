"""One worker as its leader sees it: what it holds, the questions it asks, and how its life ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from polyturn.errors import BadInput, WorkerLost
from polyturn.protocols import Match, Policy, Suite, Witness
from polyturn.rollout.crew.lines import (
    Answer,
    Begin,
    Count,
    Drop,
    Forget,
    Heard,
    Meet,
    Ping,
    Play,
    Played,
    Pong,
    Ready,
    Recorded,
    Refused,
    Sample,
    Stands,
    Told,
    frame,
    heard,
    without_suite,
)
from polyturn.rollout.crew.member import error_of, plain_words
from polyturn.rollout.episode import Place, seated
from polyturn.types import Episode, Trajectory
from polyturn.waits import elsewhere

PULSES: Final = 4
"""How often a worker is asked whether it is there, before it counts as hung."""


class Link(Protocol):
    """The way to one worker."""

    name: str
    """``process 4711``."""

    def send(self, data: bytes) -> None:
        """Never waits, and never fails: of a dead worker :meth:`receive` tells."""
        ...

    async def receive(self) -> bytes:
        """The next frame. Raises: EOFError when there is no worker any more, with how it ended."""
        ...

    async def kill(self) -> None:
        """Ends the worker, whatever it does, with all that it started."""
        ...

    async def end(self) -> None:
        """Waits a little for the end of a worker that was told so, then kills it."""
        ...


@dataclass(eq=False, slots=True)
class Held:
    """An episode that a worker holds."""

    match: Match
    policies: Mapping[str, Policy]
    place: Place
    recorder: Witness | None
    done: asyncio.Future[Episode]
    said: list[Recorded] = field(default_factory=list)


class Hand:
    """One worker, as its leader sees it."""

    def __init__(self, link: Link, suites: Callable[[Suite], tuple[int, bytes]]) -> None:
        self.link, self.suites = link, suites
        self.held: dict[int, Held] = {}
        self.name = link.name
        self.kept = False
        """Whether it is kept for one episode alone."""
        self._met: set[int] = set()
        self._asks: dict[int, asyncio.Task[None]] = {}
        self._pinged: tuple[int, ...] = ()
        self._quiet = 0

    async def greet(self, begin: Begin) -> None:
        """Tells it where it is and waits until it can play. Raises: EOFError, BadInput."""
        self.tell(begin)
        said = heard(await self.link.receive())
        if not isinstance(said, Ready):
            raise BadInput(f"its first words were {type(said).__name__}")
        self.name = f"worker {self.link.name} (process {said.process} on {said.machine})"

    def tell(self, message: Told) -> None:
        """Sends a message."""
        self.link.send(frame(message))

    def give(self, number: int, held: Held, call_timeout_s: float) -> None:
        """Gives it an episode to play. Raises: BadInput for a match that cannot be sent."""
        suite, payload = self.suites(held.match.suite)
        match = without_suite(held.match)
        if suite not in self._met:
            self._met.add(suite)
            self.tell(Meet(suite, payload))
        who = {key: (policy.name, policy.limit) for key, policy in held.policies.items()}
        self.held[number] = held
        self.tell(Play(number, suite, match, held.place, who, call_timeout_s))

    def drop(self, number: int) -> None:
        """Takes an episode away from it, played or not."""
        if number in self.held:
            del self.held[number]
            self.tell(Drop(number))

    async def live(self, silent_s: float) -> str:
        """Serves the worker until it ends, and says how it ended; one that is silent too long is killed."""
        listening = asyncio.create_task(self._listen())
        try:
            while not (await asyncio.wait([listening], timeout=silent_s / PULSES))[0]:
                if self._quiet >= PULSES:
                    await self.link.kill()
                    return f"said nothing for {silent_s:g} s, and was ended"
                self._quiet += 1
                self._pinged = tuple(self.held)
                self.tell(Ping())
            return listening.result()
        finally:
            elsewhere(self.name, ())
            listening.cancel()
            for task in self._asks.values():
                task.cancel()

    async def _listen(self) -> str:
        while True:
            try:
                message = heard(await self.link.receive())
            except EOFError as end:
                return str(end)
            except BadInput as error:
                await self.link.kill()
                return f"was ended, for it said what is no message: {error}"
            self._quiet = 0
            self._take(message)

    def _take(self, message: Heard) -> None:
        if isinstance(message, Sample | Count):
            self._asks[message.ask] = asyncio.create_task(self._answer(message))
        elif isinstance(message, Forget):
            task = self._asks.pop(message.ask, None)
            if task is not None:
                task.cancel()
        elif isinstance(message, Pong):
            for number in set(self._pinged) & self.held.keys() - set(message.orders):
                self._lose(number, f"knows nothing of {self.held[number].place.id}")
        elif isinstance(message, Stands):
            elsewhere(self.name, message.waits)
        elif not isinstance(message, Ready):
            self._of_play(message)

    def _of_play(self, message: Recorded | Played | Refused) -> None:
        held = self.held.get(message.order)
        if held is None:  # it was dropped
            return
        if isinstance(message, Recorded):
            held.said.append(message)
            if held.recorder is not None:
                held.recorder.turn(held.place.id, message.turn, message.messages, message.spans)
        elif isinstance(message, Refused):
            self._fail(message.order, error_of(message.error, message.words))
        else:
            episode = replace(
                message.episode, id=held.place.id, task=held.match.task, cast=seated(held.match, held.policies))
            if held.recorder is not None:
                held.recorder.episode(episode)
            del self.held[message.order]
            if not held.done.done():
                held.done.set_result(episode)

    async def _answer(self, asked: Sample | Count) -> None:
        held = self.held.get(asked.order)
        if held is None:
            return
        try:
            answer = frame(await _answered(asked, held.policies[asked.policy]))
        except Exception as error:
            answer = frame(Answer(asked.ask, error=type(error).__name__, words=plain_words(error)))
        if self._asks.pop(asked.ask, None) is not None:
            self.link.send(answer)

    def _fail(self, number: int, error: Exception) -> None:
        held = self.held.pop(number)
        if not held.done.done():
            held.done.set_exception(error)

    def lose(self, why: str) -> list[str]:
        """Gives up all that it held; the ids of these episodes."""
        lost = [held.place.id for held in self.held.values()]
        for number in list(self.held):
            self._lose(number, why)
        return lost

    def _lose(self, number: int, why: str) -> None:
        error = WorkerLost(f"{self.name} {why}")
        error.trajectories = remains(self.held[number].said)
        self._fail(number, error)


def remains(said: Sequence[Recorded]) -> tuple[Trajectory, ...]:
    """The trajectories that recorded turns make, as far as they go."""
    found: dict[tuple[str, str], Trajectory] = {}
    for each in said:
        seat, policy = each.turn.seat, each.turn.policy
        so_far = found.get((seat, policy), Trajectory(seat, policy))
        found[seat, policy] = replace(
            so_far, turns=(*so_far.turns, each.turn),
            messages=(*so_far.messages, *(each.messages[index] for index in sorted(each.messages))),
            spans=(*so_far.spans, *(each.spans[index] for index in sorted(each.spans))))
    return tuple(found.values())


async def _answered(asked: Sample | Count, policy: Policy) -> Answer:
    if isinstance(asked, Count):
        return Answer(asked.ask, count=policy.count(asked.messages, asked.tools))
    own = {id(message): pieces for message, pieces in zip(asked.messages, asked.written, strict=True)}
    completion = await policy.sample(
        asked.messages, tools=asked.tools, sampling=asked.sampling, written=lambda message: own.get(id(message)))
    return Answer(asked.ask, completion)
