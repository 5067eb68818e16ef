"""How a conformance check fails, and its traps: the network, the global generators, what is left behind."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from polyturn.errors import PolyturnError

LOCAL = ("127.", "::1", "localhost")


class CheckFailed(AssertionError, PolyturnError):
    """A part broke its contract; the message names the likely mistake."""


def demand(holds: bool, message: str) -> None:
    """Nothing, where the condition holds. Raises: CheckFailed with the message."""
    if not holds:
        raise CheckFailed(message)


@contextmanager
def no_network(who: str) -> Iterator[None]:
    """While inside, a connection to anything but this machine fails the check."""
    kept = (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo)
    tried: list[str] = []

    def guard(original: Any) -> Any:
        def call(self: Any, address: Any, *more: Any) -> Any:
            if isinstance(address, tuple) and not str(address[0]).startswith(LOCAL):
                tried.append(f"{address[0]}:{address[1]}")
                raise OSError(f"{who} may not use the network, but connects to {address[0]}")
            return original(self, address, *more)

        return call

    def look_up(host: Any, *more: Any, **named: Any) -> Any:
        if not str(host).startswith(LOCAL):
            tried.append(str(host))
            raise OSError(f"{who} may not use the network, but looks up {host}")
        return kept[2](host, *more, **named)

    socket.socket.connect, socket.socket.connect_ex = guard(kept[0]), guard(kept[1])  # type: ignore[method-assign]
    socket.getaddrinfo = look_up
    try:
        yield
    finally:
        socket.socket.connect, socket.socket.connect_ex = kept[0], kept[1]  # type: ignore[method-assign]
        socket.getaddrinfo = kept[2]
    demand(not tried, f"{who} used the network ({', '.join(sorted(set(tried)))}); ship the data with the package")


@contextmanager
def own_generators(who: str, seed: int = 0) -> Iterator[None]:
    """While inside, the global generators of ``random`` and ``numpy`` stand at a state of ``seed``, where they must
    still stand at the end; afterwards they stand where they stood before."""
    before = (random.getstate(), np.random.get_state())
    random.seed(seed)
    np.random.seed(seed)
    inside = (random.getstate(), _plain(np.random.get_state()))
    try:
        yield
        demand(random.getstate() == inside[0], f"{who} drew from, or seeded, Python's global generator: results would "
               "depend on whatever else runs. Draw from a generator of the seed that make() is given")
        demand(_plain(np.random.get_state()) == inside[1], f"{who} drew from, or seeded, numpy's global generator. "
               "Draw from numpy.random.default_rng of the seed that make() is given")
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _plain(state: Any) -> tuple[Any, ...]:
    return tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in state)


def running() -> tuple[set[threading.Thread], set[int], set[Any]]:
    """The threads (without those of asyncio's pool), child processes and tasks that run now."""
    import psutil

    threads = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}
    children = {child.pid for child in psutil.Process().children(recursive=True) if _lives(child)}
    return threads, children, asyncio.all_tasks()


def _lives(process: Any) -> bool:
    """Whether a child still runs and is not Python's own resource tracker; it may end while it is looked at."""
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE) and "resource_tracker" not in " ".join(_words(process))
    except psutil.NoSuchProcess:
        return False


def _words(process: Any) -> list[str]:
    import psutil

    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words


async def check_nothing_left(
    before: tuple[set[threading.Thread], set[int], set[Any]], who: str, *, grace_s: float = 3.0,
) -> None:
    """Nothing, when all that was started since ``before`` ends within ``grace_s``.

    Raises: CheckFailed that names what still runs.
    """
    until = time.monotonic() + grace_s
    while True:
        now = running()
        threads, children, tasks = now[0] - before[0], now[1] - before[1], now[2] - before[2]
        if not (threads or children or tasks) or time.monotonic() > until:
            break
        await asyncio.sleep(0.02)
    demand(not threads, f"{who} left threads running: {sorted(thread.name for thread in threads)}; end them in close()")
    demand(not children, f"{who} left processes running: {sorted(children)}; end and wait for them in close()")
    demand(not tasks, f"{who} left asyncio tasks running: {[task.get_name() for task in tasks]}; cancel and await "
           "them in close()")
