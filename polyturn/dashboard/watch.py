"""The runs that are looked at, and the thread that keeps their indexes up to date while they are written."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import BadInput, PolyturnError, UnknownName
from polyturn.record.index import Index, Progress
from polyturn.record.run import RunInfo, is_locked, read_info

DEPTH = 3
"""How deep below a given folder runs are looked for."""


def run_folders(given: Iterable[Path]) -> dict[str, Path]:
    """Name -> folder of the given runs and of those below given folders. A name is the folder's, behind its parent's
    where two are alike."""
    found: list[Path] = []
    for top in given:
        if (top / "run.json").is_file():
            found.append(top)
        else:
            for depth in range(1, DEPTH + 1):
                found += sorted(path.parent for path in top.glob("*/" * depth + "run.json"))
    folders = list(dict.fromkeys(path.resolve() for path in found))
    names = [path.name for path in folders]
    return {
        path.name if names.count(path.name) == 1 else f"{path.parent.name}~{path.name}": path for path in folders
    }


@dataclass
class Watched:
    """One run: its index, a number that grows with every change, and what went wrong when it was read."""

    folder: Path
    index: Index
    version: int = 0
    progress: Progress = Progress(0, 1, 0)
    trouble: str = ""
    seen: tuple[Any, ...] = ()
    _kept: dict[str, tuple[int, Any]] = field(default_factory=dict)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made once for each state of the index."""
        known = self._kept.get(name)
        if known is None or known[0] != self.version:
            known = self._kept[name] = (self.version, make())
        return known[1]

    def info(self) -> RunInfo:
        """What ``run.json`` says now."""
        return read_info(self.folder)

    def status(self) -> str:
        """running, finished, failed, stopped or killed."""
        status: str = self.info().status
        return "killed" if status == "running" and not is_locked(self.folder) else status

    def results(self) -> Mapping[str, Any]:
        """What the recipe found; empty before it ended."""
        path = self.folder / "results.json"
        if not path.is_file():
            return {}
        try:
            found = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError as error:
            raise BadInput(f"{path} is not JSON ({error})") from None
        return found if isinstance(found, dict) else {}

    def read_on(self, seconds: float) -> None:
        """Reads what was appended, where anything changed."""
        names = ("run.json", "results.json", "control.jsonl", "turns.jsonl", "episodes.jsonl", "scores.jsonl",
                 "credit.jsonl", "metrics.jsonl")
        sizes = tuple((path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None
                      for path in (self.folder / name for name in names))
        seen = (*sizes, is_locked(self.folder))
        if seen == self.seen and self.progress.whole:
            return
        try:
            self.progress = self.index.update(seconds=seconds)
            self.trouble = ""
        except (PolyturnError, OSError, sqlite3.Error) as error:
            self.trouble = str(error)
        self.seen = seen
        self.version += 1


@dataclass
class Watch:
    """All runs below the given folders; :meth:`start` begins a thread that reads on once a second."""

    given: tuple[Path, ...]
    every_s: float = 1.0
    runs: dict[str, Watched] = field(default_factory=dict)
    broken: dict[str, tuple[Path, str]] = field(default_factory=dict)
    """Runs that cannot be read at all: name -> folder, and why."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def look(self) -> None:
        """Finds runs that came or went. Raises: BadInput if there are none at all."""
        found = run_folders(self.given)
        broken = {}
        for name, folder in found.items():
            try:
                if name not in self.runs:
                    self.runs[name] = Watched(folder, Index(folder))
            except (PolyturnError, OSError, sqlite3.Error) as error:
                broken[name] = (folder, str(error))
        self.broken = broken
        for name in set(self.runs) - set(found):
            del self.runs[name]
        if not found:
            where = ", ".join(map(str, self.given))
            raise BadInput(f"no run in {where}: no run.json there, or up to {DEPTH} folders below")

    def run(self, name: str) -> Watched:
        """A run by name. Raises: UnknownName."""
        if name in self.broken:
            raise BadInput(self.broken[name][1])
        if name not in self.runs:
            raise UnknownName("run", name, self.runs)
        return self.runs[name]

    def read_on(self, seconds: float) -> bool:
        """Gives each run so many seconds to be read on; whether all are read."""
        for watched in list(self.runs.values()):
            watched.read_on(seconds)
        return all(watched.progress.whole for watched in self.runs.values())

    def start(self) -> None:
        """Begins to read on in the background, until :meth:`stop`."""
        self._thread = threading.Thread(target=self._work, name="polyturn-view", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except (PolyturnError, OSError, sqlite3.Error) as error:
                for watched in self.runs.values():
                    watched.trouble = str(error)
            whole = self.read_on(0.1)
            self._stop.wait(self.every_s if whole else 0.03)

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
