"""Live control of a run at work: what somebody asks of it stands in a file, and it obeys between two iterations.

While episodes are only played (a rating, demonstrations) there are none, so ``stop`` is obeyed between two episodes.

``control.jsonl`` in the run folder holds checksummed lines: orders (``ask``), and what the run did about each
(``did``). Whoever may write the folder may ask; there is no port. What was *set* belongs to the run: an attempt that
resumes sets it again at the iteration at which it was set, so that a resumed run equals the one left alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from polyturn.errors import BadInput, Stopped, UnknownName
from polyturn.protocols import Match
from polyturn.record.run import is_locked, read_info
from polyturn.record.table import as_line, is_whole, lines_from
from polyturn.types import EMPTY, Limits
from polyturn.waits import Waiting

FILE = "control.jsonl"
COMMANDS = {
    "pause": "wait after this iteration", "resume": "go on", "checkpoint": "save now, and go on",
    "stop": "save after this iteration, or leave a rating after this episode, and end",
    "set": "change limits from the next iteration on",
}
LIMITS = tuple(f.name for f in fields(Limits))
SETTINGS = (*LIMITS, "max_tokens", "temperature", "concurrency", "call_seconds")
"""What can be set: the limits of a seat in an episode; the longest reply and the temperature of the seats that learn;
how many episodes are played at once; the longest wait for one reply. All of it reaches the record with each turn, and a
token is learned from at the temperature that it was drawn at, so that nothing else has to know."""
REAL = ("seconds", "temperature", "call_seconds")
"""Settings that need not be whole numbers."""
POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Order:
    """One order: ``Order(3, "set", {"tokens": 64}, by="ctl")``, and once it was obeyed where and what was said."""

    id: int
    command: str
    settings: Mapping[str, float | None] = field(default_factory=dict)
    """For ``set``: the new value of each; None = the recipe's own again."""
    asked: float = 0.0
    by: str = ""
    stage: str | None = None
    iteration: int | None = None
    attempt: int = 0
    said: str | None = None
    """What the run did; None = not yet."""


def ask(
    folder: Path | str, command: str, settings: Mapping[str, float | None] = EMPTY, *, by: str = "",
    clock: Callable[[], float] = time.time,
) -> Order:
    """Asks a run at work for something; the order as it stands in the file.

    Raises: UnknownName for another command or setting, BadInput for settings that are no positive numbers, for ``set``
    without any (others with), and for a run that is not at work.
    """
    folder = Path(folder)
    _check(command, settings)
    info = read_info(folder)
    if not is_locked(folder):
        status = "killed" if info.status == "running" else info.status
        raise BadInput(f"{folder} is not at work ({status}), so it obeys nobody; polyturn run --resume goes on with it")
    order = Order(0, command, dict(settings), clock(), by)

    def row(known: list[Order]) -> dict[str, Any]:
        return {"ask": {"id": len(known) + 1, "command": command, "settings": dict(settings), "time": order.asked,
                        "by": by}}

    return _append(folder, row)[-1]


def _check(command: str, settings: Mapping[str, float | None]) -> None:
    if command not in COMMANDS:
        raise UnknownName("command to a run", command, COMMANDS)
    if (command == "set") != bool(settings):
        raise BadInput(f"{command} was given {dict(settings) or 'nothing'}; expected "
                       + ("NAME=VALUE, as tokens=64" if command == "set" else "no settings"))
    for name, value in settings.items():
        if name not in SETTINGS:
            raise UnknownName("setting of a run at work", name, SETTINGS)
        kind, most = ("number", float("inf")) if name in REAL else ("whole number of 63 bits", 2.0**63)
        if value is not None and not (0 < value < most and (name in REAL or float(value).is_integer())):
            raise BadInput(f"{name} is {value}; expected a {kind} above 0, or none")


def orders(folder: Path | str) -> list[Order]:
    """All orders in the order in which they were asked for."""
    known: dict[int, Order] = {}
    for line in lines_from(Path(folder) / FILE):
        if not is_whole(line.data):
            continue
        try:
            _add(known, line.row())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{folder}/{FILE}, line {line.number}: is no order ({type(error).__name__}: {error})"
                           ) from None
    return list(known.values())


def _add(known: dict[int, Order], row: Mapping[str, Any]) -> None:
    if "ask" in row:
        asked = row["ask"]
        known[asked["id"]] = Order(
            asked["id"], asked["command"], dict(asked["settings"]), asked["time"], asked["by"])
    else:
        did = row["did"]
        known[did["id"]] = replace(
            known[did["id"]], stage=did["stage"], iteration=did["iteration"], attempt=did["attempt"], said=did["said"])


def is_paused(folder: Path | str, attempt: int) -> bool:
    """Whether this attempt of a run waits for ``resume``."""
    told = [o.command for o in orders(folder) if o.said is not None and o.attempt == attempt]
    return next((name == "pause" for name in reversed(told) if name in {"pause", "resume", "stop"}), False)


def _append(folder: Path, row: Callable[[list[Order]], Mapping[str, Any]]) -> list[Order]:
    """Adds a line behind the last whole one, alone; the orders afterwards."""
    file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        last = list(lines_from(folder / FILE))[-1:]
        os.ftruncate(file, last[0].offset + len(last[0].data) if last else 0)
        os.write(file, as_line(row(orders(folder)), "order"))
        return orders(folder)
    finally:
        os.close(file)


@dataclass
class Control:
    """The run's side. ``between`` is called before every iteration; ``settings`` holds what is set at the moment."""

    folder: Path
    attempt: int = 1
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    settings: dict[str, float | None] = field(default_factory=dict)
    _past: list[Order] | None = None
    """What earlier attempts set and this one has yet to set again."""
    _seen: int = -1
    """Bytes of the file when it was last read."""

    async def between(
        self, stage: str, i: int, save: Callable[[], None], *, note: Callable[[str], None] = lambda text: None
    ) -> None:
        """Obeys what was asked for since, before iteration ``i`` of a stage; ``save`` writes a checkpoint.

        Waits while paused, however long. Raises: Stopped after a ``stop``, with the checkpoint saved.
        """
        self._recall(stage, i)
        paused = False
        while True:
            for order in self._waiting():
                if order.command in {"checkpoint", "stop"}:
                    save()
                if order.command == "set":
                    self._set(order.settings)
                paused = order.command == "pause" or (paused and order.command != "resume")
                said = _said(order, stage, i)
                self._did(order, stage, i, said)
                note(f"{said} ({order.by})" if order.by else said)
                if order.command == "stop":
                    raise self._stopped(order, said)
            if not paused:
                return
            with Waiting("the loop", "somebody", f"polyturn ctl {self.folder} resume, or stop"):
                await self.sleep(POLL_S)

    def within(self, stage: str, done: int) -> None:
        """Obeys a ``stop`` after ``done`` episodes of a stage that only plays; other orders wait for an iteration.

        Raises: Stopped; nothing is saved.
        """
        waiting = self._waiting()
        stop = next((order for order in waiting if order.command == "stop"), None)
        if stop is not None:
            said = f"stopped after episode {done} of {stage}, which is played again"
            self._did(stop, stage, done, said)
            raise self._stopped(stop, said)
        if waiting:
            self._seen = -1  # they are to be read again before an iteration

    def _stopped(self, order: Order, said: str) -> Stopped:
        return Stopped(f"{said}, as asked for by {order.by or 'somebody'}; polyturn run --resume {self.folder} goes on")

    def limits(self, own: Limits) -> Limits:
        """The limits of a match under what is set."""
        given = {name: value if name in REAL else int(value)
                 for name, value in self.settings.items() if name in LIMITS and value is not None}
        return replace(own, **given)  # type: ignore[arg-type]

    def match(self, own: Match) -> Match:
        """A match under what is set: its limits, and how the seats that learn are drawn."""
        most, heat = self.settings.get("max_tokens"), self.settings.get("temperature")
        return replace(
            own, limits=self.limits(own.limits), max_tokens=own.max_tokens if most is None else int(most),
            temperature=own.temperature if heat is None else heat)

    def concurrency(self, own: int) -> int:
        """How many episodes are played at once."""
        value = self.settings.get("concurrency")
        return own if value is None else int(value)

    def call_seconds(self, own: float) -> float:
        """The longest wait for one reply."""
        value = self.settings.get("call_seconds")
        return own if value is None else value

    def _set(self, settings: Mapping[str, float | None]) -> None:
        self.settings.update(settings)

    def _recall(self, stage: str, i: int) -> None:
        """Sets again what earlier attempts set up to this iteration."""
        if self._past is None:
            old = [o for o in orders(self.folder) if o.command == "set" and o.said is not None]
            self._past = sorted((o for o in old if o.attempt < self.attempt), key=lambda o: (o.stage == stage, o.id))
        due = [o for o in self._past if o.stage != stage or (o.iteration or 0) <= i]
        for order in sorted(due, key=lambda o: (o.stage == stage, o.iteration or 0, o.id)):
            self._set(order.settings)
        self._past = [o for o in self._past if o not in due]

    def _waiting(self) -> list[Order]:
        path = self.folder / FILE
        size = path.stat().st_size if path.exists() else 0
        if size == self._seen:
            return []
        self._seen = size
        return [o for o in orders(self.folder) if o.said is None and o.asked >= self._begun()]

    def _begun(self) -> float:
        """When this attempt began: an order to an attempt that is over is not for this one."""
        return read_info(self.folder).attempts[-1].started

    def _did(self, order: Order, stage: str, i: int, said: str) -> None:
        row = {"did": {"id": order.id, "stage": stage, "iteration": i, "attempt": self.attempt, "time": self.clock(),
                       "said": said}}
        _append(self.folder, lambda known: row)


def _said(order: Order, stage: str, i: int) -> str:
    where = f"before iteration {i} of {stage}"
    if order.command == "set":
        told = ", ".join(f"{name} {'as the recipe says' if value is None else f'{value:g}'}"
                         for name, value in order.settings.items())
        return f"{told} from iteration {i} of {stage} on"
    return {"pause": "paused", "resume": "gone on", "checkpoint": "saved", "stop": "saved and stopped"}[
        order.command] + f" {where}"
