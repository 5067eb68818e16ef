"""What a run writes of who waits for whom: ``waits.json``, renewed by a thread every second while waits change.

It is there while a run is at work, and stays as it was last when the run is killed. It is no part of the record:
a reader of episodes never looks at it, and where it cannot be written the run goes on without.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import BadInput
from polyturn.record.run import is_locked, read_info
from polyturn.record.table import TABLES
from polyturn.waits import Waiting, places, waits

FILE = "waits.json"
EVERY_S = 1.0
MOST_WAITS, MOST_THREADS = 200, 24
"""So many of the oldest waits, and of the threads, are written; of the others their number."""
LATE_S = 5.0
"""A file that is older than this was not renewed: its process does not turn."""


class WaitsFile:
    """Renews the file of a run in a thread of its own, until :meth:`close`, which takes it away."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._path = folder / FILE
        self._attempt = attempt
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="polyturn-waits", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.wait(EVERY_S):
            with contextlib.suppress(OSError):  # a full disk is told by whoever writes the record
                self.write()

    def write(self) -> None:
        """Writes what is waited for now, in one step."""
        beside = self._path.with_name(f".{FILE}.{os.getpid()}")
        beside.write_bytes(orjson.dumps(as_told(self._attempt)))
        beside.replace(self._path)

    def close(self) -> None:
        """Ends the thread; nobody waits any more, so the file goes."""
        self._stop.set()
        self._thread.join(timeout=EVERY_S)
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def as_told(attempt: int) -> dict[str, Any]:
    """What is written: who waits, since when (seconds since 1970) and until when, and where the threads are."""
    now, since = time.time(), time.monotonic()
    found, threads = waits(), places()
    return {
        "attempt": attempt, "pid": os.getpid(), "host": platform.node(), "time": now, "count": len(found),
        "waits": [_row(wait, now - since) for wait in found[:MOST_WAITS]],
        "threads": dict(sorted(threads.items(), key=lambda one: one[0] != "MainThread")[:MOST_THREADS]),
        "thread_count": len(threads),
    }


def _row(wait: Waiting, shift: float) -> dict[str, Any]:
    who, whom, what = wait.said()
    return {"who": who, "whom": whom, "what": what, "since": wait.since + shift, "deadline_s": wait.deadline_s}


# ---------------------------------------------------------------- read


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait as it was told: ``Wait("seat agent of e.0", "policy main", "a reply", 41.0, 600.0)``."""

    who: str
    whom: str
    what: str
    seconds: float
    """How long it had lasted when it was looked at."""
    deadline_s: float | None
    """The most it may take; None = no deadline."""

    @property
    def left(self) -> float | None:
        """Seconds to its deadline, negative where it is passed."""
        return None if self.deadline_s is None else self.deadline_s - self.seconds


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands at the moment ``at``: what it tells itself, and what its files show."""

    status: str
    """As in ``run.json``; ``running`` only while a process holds the folder, else ``killed``."""
    at: float
    waits: tuple[Wait, ...] = ()
    """The oldest first; of a run that is over, as they were when it was last heard of."""
    count: int = 0
    threads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    told: float | None = None
    """When the run last told (seconds since 1970); None = it never did."""
    pid: int | None = None
    host: str = ""
    written: Mapping[str, float] = field(default_factory=dict)
    """Table -> when something was last added."""

    @property
    def turns(self) -> bool:
        """Whether the process of a run at work renews what it tells."""
        return self.status == "running" and self.told is not None and self.at - self.told <= LATE_S


def standing(folder: Path | str, *, now: float | None = None) -> Standing:
    """How a run stands. Raises: BadInput for a folder that holds no run, and for a file that no run wrote."""
    folder = Path(folder)
    info = read_info(folder)
    at = time.time() if now is None else now
    status: str = info.status
    if status == "running" and not is_locked(folder):
        status = "killed"
    tables = ((name, folder / f"{name}.jsonl") for name in TABLES)
    written = {name: path.stat().st_mtime for name, path in tables if path.is_file() and path.stat().st_size}
    last = info.attempts[-1] if info.attempts else None
    found = Standing(status, at, written=written, pid=last.pid if last else None,
                     host=last.host if last else "")
    path = folder / FILE
    try:
        told = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return found
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); remove it: a run at work writes it anew") from None
    return _told(found, told, path)


def _told(found: Standing, told: Any, path: Path) -> Standing:
    try:
        heard = float(told["time"])
        until = found.at if found.status == "running" else heard
        waits = tuple(Wait(str(row["who"]), str(row["whom"]), str(row["what"]), until - float(row["since"]),
                           None if row["deadline_s"] is None else float(row["deadline_s"])) for row in told["waits"])
        threads = {str(name): tuple(map(str, places)) for name, places in told["threads"].items()}
        return Standing(found.status, found.at, waits, int(told["count"]), threads, heard, int(told["pid"]),
                        str(told["host"]), found.written)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is no file of waits ({type(error).__name__}: {error}); remove it: a run at work writes "
                       "it anew") from None
