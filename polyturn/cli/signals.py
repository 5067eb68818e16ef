"""SIGINT (ctrl-C) and SIGTERM, taken alike: the first is answered at once and ends the work at its next wait, another
ends the program where it stands."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None
STOPPING = "stopping, once an update under way has ended; what was finished is kept (Ctrl-C again ends at once)"


class Terminated(BaseException):
    """SIGTERM came: ended like ctrl-C, with its own exit code."""


ENDS: dict[int, type[BaseException]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


def end(number: int, frame: FrameType | None) -> None:
    """A handler that ends the program where it stands."""
    raise ENDS[number]


def with_signal(number: int, handler: Handler) -> Handler:
    """Sets a signal handler where that is possible, in the main thread, and returns the one before."""
    if handler is None or threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(number, handler)


@contextmanager
def stoppable(say: Callable[[str], None]) -> Iterator[None]:
    """Within it the first signal is told by ``say``, from a thread of its own, and cancels the running task.

    A task is cancelled where it waits, so what computes is ended first; the next signal does not wait for that. Only
    signals that somebody takes already are taken, since a program may be told to ignore them.
    Raises: KeyboardInterrupt or Terminated in place of the cancelling.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    came: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise ENDS[number]
        threading.Thread(target=say, args=(STOPPING,), name="stopping", daemon=True).start()
        task.cancel()
        loop.call_soon_threadsafe(lambda: None)  # a loop that sleeps wakes

    before = {number: with_signal(number, handler) for number in ENDS if callable(signal.getsignal(number))}
    try:
        yield
    except asyncio.CancelledError:
        if not came:
            raise
    finally:
        for number, old in before.items():
            with_signal(number, old)
    if came:
        raise ENDS[came[0]]


def name_folder(error: BaseException, command: str, folder: Path | None) -> None:
    """Notes on an error how to go on with the run in ``folder``, where one was begun."""
    if folder is not None and (folder / "run.json").exists():
        error.add_note(f"polyturn {command} --resume {folder} goes on")
