"""Who waits for whom in this process at this moment, so that a run that stands still can be asked why.

Whatever waits says so while it does: a seat for its policy, an episode for its environment, the loop for the learner.
That is one entry in a mapping, put there and taken away; a thread of the record writes them down
(:mod:`polyturn.record.waits`). Nobody waits longer or shorter because of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
GRACE_S = 5.0
"""How long what is past its deadline may tidy up, before it is closed where it stands."""
CHARS = 300
FRAMES = 4
"""How many of a thread's innermost places are told."""
_NUMBERS = itertools.count()
_OPEN: dict[int, Waiting] = {}
_ELSEWHERE: dict[str, list[Waiting]] = {}


class Idle:
    """How long somebody has been in no named wait: ``open`` = named waits that are open, ``since`` = when the last one
    ended."""

    __slots__ = ("open", "since")

    def __init__(self) -> None:
        self.open, self.since = 0, time.monotonic()

    def left(self, seconds: float) -> float:
        """How much of so many seconds is left now; all of them while a wait is open."""
        return seconds if self.open else self.since + seconds - time.monotonic()


_IDLE: ContextVar[Idle | None] = ContextVar("idle", default=None)


@dataclass(slots=True)
class Waiting:
    """One wait, open while it is entered: ``with Waiting("seat agent of e.0", "policy main", "a reply", 600): ...``.

    ``what`` may be a function, called when somebody looks. ``deadline_s`` is the most that this wait may take; None
    where it may take for ever, as for a person.
    """

    who: str
    whom: str
    what: str | Callable[[], str]
    deadline_s: float | None = None
    since: float = 0.0
    """On the clock ``time.monotonic``."""
    number: int = -1
    idle: Idle | None = None

    def __enter__(self) -> Waiting:
        self.since = time.monotonic()
        self.idle = _IDLE.get()
        if self.idle is not None:
            self.idle.open += 1
        self.number = next(_NUMBERS)
        _OPEN[self.number] = self
        return self

    def said(self) -> tuple[str, str, str]:
        """Who, whom and what, as text that can be written and sent, cut to :data:`CHARS`."""
        try:
            what = self.what if isinstance(self.what, str) else self.what()
        except Exception as error:  # it is asked while the program goes on: a mapping that grows cannot be counted
            what = f"cannot be said at the moment ({type(error).__name__})"
        who, whom, what = (text.encode("utf-8", "replace").decode()[:CHARS] for text in (self.who, self.whom, what))
        return who, whom, what

    def __exit__(self, *raised: object) -> None:
        _OPEN.pop(self.number, None)
        if self.idle is not None:
            self.idle.since = time.monotonic()
            self.idle.open -= 1


class Expired(Exception):
    """A deadline of :func:`within` passed; an answer's own ``TimeoutError`` stays what it is."""


async def within(answer: Awaitable[T], seconds: float) -> T:
    """What ``answer`` gives, within so many seconds.

    What never waits is handed on without a timer: it could not be interrupted by one. What comes after the deadline is
    no answer, and what then goes on as if nothing had happened is closed :data:`GRACE_S` later. Raises: Expired.
    """
    until = asyncio.get_running_loop().time() + seconds
    running = answer.__await__()
    try:
        waits_for = next(running)
    except StopIteration as done:
        value: T = done.value
        return value
    return cast(T, await _timed(running, waits_for, seconds, until))


async def unless_idle(answer: Awaitable[T], seconds: float) -> T:
    """The same, unless it is in no named wait for so many seconds. Raises: Expired."""
    before = _IDLE.set(Idle())
    running = answer.__await__()
    try:
        waits_for = next(running)
        return cast(T, await _timed(running, waits_for, seconds, None))
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        _IDLE.reset(before)


async def _timed(
    running: Generator[object, object, object], waits_for: object, seconds: float, until: float | None
) -> object:
    """What an awaitable that has begun, and waits, gives ``until`` then; None = until it was idle for ``seconds``."""
    try:
        last_at = None if until is None else until + GRACE_S
        async with asyncio.timeout_at(last_at) as last, asyncio.timeout_at(until) as deadline:
            with contextlib.nullcontext() if until is not None else _looked_at(seconds, deadline, last):
                answered = await _Rest(running, waits_for, last)
    except Exception as error:
        if deadline.expired():
            raise Expired(f"nothing came within {seconds:g} s") from error
        raise
    if deadline.expired():
        raise Expired(f"nothing came within {seconds:g} s")
    return answered


@contextlib.contextmanager
def _looked_at(seconds: float, deadline: asyncio.Timeout, last: asyncio.Timeout) -> Generator[None, None, None]:
    """Sets both deadlines when ``seconds`` have passed without a named wait."""
    loop, idle = asyncio.get_running_loop(), _IDLE.get()
    assert idle is not None
    looks: list[asyncio.TimerHandle] = []

    def look() -> None:
        now, left = loop.time(), idle.left(seconds)
        if left > 0:
            looks[:] = [loop.call_at(now + left, look)]
        else:
            deadline.reschedule(now)
            last.reschedule(now + GRACE_S)

    looks.append(loop.call_at(loop.time() + seconds, look))
    try:
        yield
    finally:
        looks[0].cancel()


@dataclass(slots=True)
class _Rest:
    """An awaitable that has begun, and what it waits for."""

    running: Generator[object, object, object]
    waits_for: object
    last: asyncio.Timeout
    """When it is closed, whatever it does."""

    def __await__(self) -> Generator[object, object, object]:
        """Goes on as ``await`` would."""
        running, waits_for = self.running, self.waits_for
        while True:
            try:
                try:
                    got = yield waits_for
                except GeneratorExit:
                    running.close()
                    raise
                except BaseException as error:
                    if self.last.expired():
                        with contextlib.suppress(Exception):
                            running.close()
                        raise
                    waits_for = running.throw(error)
                else:
                    waits_for = running.send(got)
            except StopIteration as done:
                return done.value


def waited(who: str, whom: str, what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that is a wait for as long as it computes: ``@waited("the loop", "the learner", "an update")``."""
    def of(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def told(*args: P.args, **kwargs: P.kwargs) -> R:
            with Waiting(who, whom, what):
                return function(*args, **kwargs)

        return told

    return of


def waits() -> list[Waiting]:
    """The open waits of the process, and those that its workers told last, the oldest first.

    >>> with Waiting("a", "b", "an answer", 5.0):
    ...     [(wait.who, wait.whom, wait.deadline_s) for wait in waits() if wait.who == "a"]
    [('a', 'b', 5.0)]
    """
    told = [wait for found in list(_ELSEWHERE.values()) for wait in found]
    return sorted([*list(_OPEN.values()), *told], key=lambda wait: wait.since)


def elsewhere(where: str, found: Sequence[tuple[str, str, str, float, float | None]]) -> None:
    """Puts beside the waits of this process those that another one tells, in place of what it told before: who, whom,
    what, seconds so far, deadline. Empty where it has ended or nobody waits."""
    now = time.monotonic()
    _ELSEWHERE[where] = [Waiting(f"{who} in {where}", whom, what, deadline_s, now - seconds)
                         for who, whom, what, seconds, deadline_s in found]
    if not found:
        del _ELSEWHERE[where]


def places() -> dict[str, list[str]]:
    """Name of each thread -> where it is, the innermost first: ``learner.py:220 update``. Asked from another thread,
    it tells what the main thread computes or hangs in."""
    frames = _frames()
    own = threading.get_ident()
    return {thread.name: _place(frames[thread.ident]) for thread in threading.enumerate()
            if thread.ident in frames and thread.ident != own}


def _frames() -> dict[int, FrameType]:
    """The innermost frame of each thread. A collection that begins inside of the call would hold a lock of the
    interpreter while it lets other threads run, and with Python before 3.12 they may then wait for each other for
    ever."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if collecting:
            gc.enable()


def _place(frame: FrameType | None) -> list[str]:
    found: list[str] = []
    while frame is not None and len(found) < FRAMES:
        code = frame.f_code
        found.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return found
