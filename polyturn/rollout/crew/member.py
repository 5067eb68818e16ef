"""A worker of a crew: plays what it is told to, asks its leader for every reply, and keeps no record."""

from __future__ import annotations

import asyncio
import builtins
import importlib.util
import itertools
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from polyturn import errors
from polyturn.errors import DeadlinePassed, PolicyFailed, PolyturnError
from polyturn.protocols import Completion, Suite, Written
from polyturn.record.write import turn_row
from polyturn.rollout.crew.lines import (
    Answer,
    Begin,
    Count,
    Drop,
    End,
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
    told,
    unpickled,
)
from polyturn.rollout.episode import play_episode
from polyturn.types import Episode, Message, PolicyInfo, Sampling, Span, Task, Tool, Turn
from polyturn.waits import GRACE_S, Expired, Waiting, waits, within

TELL_S: Final = 1.0
"""How often a worker tells who waits for whom in it."""
MOST_WAITS: Final = 50
"""So many of the oldest waits are told."""
NO_TASK: Final = Task("", "")
"""Stands for the task on the way back: who gave it knows it."""


class Pipe(Protocol):
    """A worker's way to its leader. It is called from several threads."""

    def send(self, data: bytes) -> None:
        """Hands a frame to the leader."""
        ...

    def receive(self) -> bytes | None:
        """The next frame, waited for; None when there is no leader any more."""
        ...


def work(pipe: Pipe) -> None:
    """The life of a worker, until it is told the end or its leader is gone."""
    asyncio.run(Member(pipe).work())


class Member:
    """One worker at work: all episodes that it was given, in one event loop."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.playing: dict[int, asyncio.Task[None]] = {}
        """Order -> its play."""
        self._pickled: dict[int, bytes] = {}
        self._suites: dict[int, Suite] = {}
        self._asks = itertools.count()
        self._open: dict[int, Future[Answer]] = {}
        self._over = asyncio.Event()

    async def work(self) -> None:
        """Works until the end; then closes what is open."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop,), name="listener", daemon=True).start()
        self.say(Ready(os.getpid(), platform.node()))
        telling = asyncio.create_task(self._tell())
        await self._over.wait()
        tasks = [*self.playing.values(), telling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for suite in self._suites.values():
            with suppress(Expired):
                await within(suite.close(), GRACE_S)

    async def _tell(self) -> None:
        """Tells who waits for whom, as long as somebody does."""
        told: tuple[Waiting, ...] = ()
        while True:
            await asyncio.sleep(TELL_S)
            before, told = told, tuple(waits()[:MOST_WAITS])
            if told or before:
                now = time.monotonic()
                self.say(Stands(tuple((*each.said(), now - each.since, each.deadline_s) for each in told)))

    def say(self, message: Heard) -> None:
        """Sends a message. Raises: BadInput for one that cannot be sent."""
        self.pipe.send(frame(message))

    def ask(self, question: Callable[[int], Sample | Count]) -> tuple[int, Future[Answer]]:
        """The number of a question, and its answer, which comes from another thread."""
        number, future = next(self._asks), Future[Answer]()
        self._open[number] = future
        self.say(question(number))
        return number, future

    def forget(self, number: int) -> None:
        """Waits no longer for an answer."""
        if self._open.pop(number, None) is not None:
            self.say(Forget(number))

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread that reads: an answer is handed on at once, for the loop itself may wait for it."""
        try:
            while (data := self.pipe.receive()) is not None and not loop.is_closed():
                message = told(data)
                if isinstance(message, Answer):
                    self._answered(message)
                else:
                    loop.call_soon_threadsafe(self._do, message)
        finally:
            with suppress(RuntimeError):  # the loop is closed: it has ended already
                loop.call_soon_threadsafe(self._over.set)

    def _answered(self, message: Answer) -> None:
        future = self._open.pop(message.ask, None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(message)

    def _do(self, message: Told) -> None:
        if isinstance(message, Begin):
            find_modules(message)
        elif isinstance(message, Meet):
            self._pickled[message.suite] = message.pickled
        elif isinstance(message, Play):
            self.playing[message.order] = asyncio.create_task(self._play(message))
        elif isinstance(message, Drop):
            if message.order in self.playing:
                self.playing[message.order].cancel()
        elif isinstance(message, Ping):
            self.say(Pong(tuple(self.playing)))
        elif isinstance(message, End):
            self._over.set()

    async def _play(self, order: Play) -> None:
        try:
            match = replace(unpickled(order.match), suite=self._suite(order.suite))
            policies = {key: Asked(self, order, key) for key in order.policies}
            episode = await play_episode(
                match, policies, order.place, recorder=Teller(self, order.order), call_timeout_s=order.call_timeout_s)
            self.say(Played(order.order, replace(episode, task=NO_TASK)))
        except Exception as error:
            self.say(Refused(order.order, type(error).__name__, plain_words(error)))
        finally:
            del self.playing[order.order]

    def _suite(self, number: int) -> Suite:
        if number not in self._suites:
            self._suites[number] = unpickled(self._pickled.pop(number))
        return self._suites[number]


@dataclass(frozen=True, slots=True)
class Teller:
    """Tells the leader each turn as it is sampled; a :class:`polyturn.protocols.Witness`."""

    member: Member
    order: int

    def turn(self, episode_id: str, turn: Turn, messages: Mapping[int, Message], spans: Mapping[int, Span]) -> None:
        """Sends a turn, which the leader records. Raises: as the record, for what has no exact form there."""
        turn_row(episode_id, turn, messages, spans)
        self.member.say(Recorded(self.order, turn, messages, spans))

    def episode(self, episode: Episode) -> None:
        """Nothing: the whole episode is sent when it is played."""


class Asked:
    """A :class:`polyturn.protocols.Policy` that answers elsewhere: at the leader, whose samplers it uses."""

    def __init__(self, member: Member, order: Play, key: str) -> None:
        self._member, self._order, self._key = member, order, key
        self.name, self.limit = order.policies[key]

    def info(self) -> PolicyInfo:
        """Its name alone; the leader puts in the rest when the episode has ended."""
        return PolicyInfo(self.name)

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of the prompt; every episode of this worker waits for the answer."""
        number, future = self._member.ask(
            lambda ask: Count(ask, self._order.order, self._key, tuple(messages), tuple(tools)))
        seconds = self._order.call_timeout_s
        try:
            with Waiting(f"episode {self._order.place.id}", f"policy {self.name}", "a count of tokens", seconds):
                answer = future.result(seconds)
        except TimeoutError:
            self._member.forget(number)
            raise DeadlinePassed(f"policy {self.name!r} did not count tokens within {seconds:g} s") from None
        if answer.count is None:
            raise error_of(answer.error, answer.words)
        return answer.count

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """The reply that the leader's policy gives. Raises: what it raises."""
        pieces = tuple(written(message) for message in messages)
        number, future = self._member.ask(lambda ask: Sample(
            ask, self._order.order, self._key, tuple(messages), tuple(tools), sampling, pieces))
        try:
            answer = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._member.forget(number)
            raise
        if answer.completion is None:
            raise error_of(answer.error, answer.words)
        return answer.completion


def error_of(name: str, words: str) -> Exception:
    """An error of another process: of the same type where that is one of ours or of Python, else PolicyFailed.

    >>> error_of("BudgetSpent", "tokens: 4 spent"), error_of("Strange", "what?")
    (BudgetSpent('tokens: 4 spent'), PolicyFailed('Strange: what?'))
    """
    kind = getattr(errors, name, None) or getattr(builtins, name, None)
    if not isinstance(kind, type) or not issubclass(kind, Exception):
        return PolicyFailed(f"{name}: {words}")
    if issubclass(kind, PolyturnError):
        found: Exception = kind.__new__(kind)
        found.args = (words,)
        return found
    try:
        return kind(words)
    except TypeError:  # one that wants more than words
        return PolicyFailed(f"{name}: {words}")


def plain_words(error: Exception) -> str:
    """What an error says, as text that can be sent."""
    words = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return words.encode("utf-8", "replace").decode()


def find_modules(begin: Begin) -> None:
    """Makes the leader's modules importable here, as far as their files are here."""
    sys.path.extend(path for path in begin.paths if path not in sys.path)
    for name, file in begin.files.items():
        if name not in sys.modules and os.path.isfile(file):
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None and spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
