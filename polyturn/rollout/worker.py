"""Plain synchronous environments in a thread or a process of their own, each call under a deadline."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copyreg
import io
import itertools
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from polyturn.errors import BadInput, DeadlinePassed, EnvironmentFailed, PolyturnError
from polyturn.protocols import Step
from polyturn.rollout.worker_lines import (
    ANSWER_BYTES,
    as_answer,
    as_refusal,
    as_request,
    read_answer,
    read_request,
)
from polyturn.types import Message, Seat
from polyturn.waits import Expired, Waiting, within

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_NUMBERS = itertools.count(1)
PARENT_CHECK_S = 1.0
"""How often a process looks whether the one that started it is still there."""


@runtime_checkable
class SyncEnv(Protocol):
    """The four methods of an environment as plain functions. Whatever is bound to a thread is made in ``start``."""

    def start(self, state: bytes | None = None) -> Step:
        """As :meth:`polyturn.protocols.Env.start`."""
        ...

    def step(self, replies: Mapping[Seat, Message]) -> Step:
        """As :meth:`polyturn.protocols.Env.step`."""
        ...

    def final(self) -> Mapping[str, Any]:
        """As :meth:`polyturn.protocols.Env.final`."""
        ...

    def close(self) -> None:
        """As :meth:`polyturn.protocols.Env.close`."""
        ...


Source: TypeAlias = SyncEnv | Callable[[], SyncEnv]


def in_worker(
    source: Source, kind: Literal["thread", "process"] = "thread", timeout_s: float = 60.0, *, name: str = "",
) -> Worker:
    """An :class:`polyturn.protocols.Env` around a plain environment, or around what a factory makes in the worker.

    ``thread``: every call runs in the same thread, which is this environment's alone. ``process``: a process of its
    own (started fresh; the environment or its factory must be picklable). A call that takes longer than ``timeout_s``
    raises DeadlinePassed, and the environment is given up: its process is killed with all that it started; a thread
    cannot be killed, so it is left behind under the name that the error gives. What the environment raises becomes
    EnvironmentFailed with its text; errors of Polyturn pass unchanged.

    Raises: BadInput for another kind or a timeout that is not positive.
    """
    if kind not in ("thread", "process"):
        raise BadInput(f"kind is {kind!r}; expected 'thread' or 'process'")
    if not timeout_s > 0:
        raise BadInput(f"timeout_s is {timeout_s}; expected a number above 0")
    return Worker(source, kind, timeout_s, name or _name_of(source))


def _name_of(source: Source) -> str:
    return getattr(source, "__name__", type(source).__name__)


def _made(source: Source) -> SyncEnv:
    if isinstance(source, SyncEnv) and not isinstance(source, type):
        return source
    return source()


class Worker:
    """The environment that :func:`in_worker` gives. It has ``save`` exactly if the plain one given has."""

    save: Callable[[], Awaitable[bytes]]

    def __init__(self, source: Source, kind: Literal["thread", "process"], timeout_s: float, name: str) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._kind = kind
        self._room = _Room(source, f"env-{name}-{next(_NUMBERS)}", _Remote(source, name) if kind == "process" else None)
        self._given_up = ""
        self._closed = False
        if hasattr(source, "save"):
            self.save = self._save

    async def start(self, state: bytes | None = None) -> Step:
        """As the environment's own. Raises: DeadlinePassed, EnvironmentFailed."""
        step: Step = await self._call("start", state)
        return step

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """As the environment's own. Raises: DeadlinePassed, EnvironmentFailed."""
        step: Step = await self._call("step", replies)
        return step

    async def final(self) -> Mapping[str, Any]:
        """As the environment's own. Raises: DeadlinePassed, EnvironmentFailed."""
        final: Mapping[str, Any] = await self._call("final")
        return final

    async def _save(self) -> bytes:
        state: bytes = await self._call("save")
        return state

    async def close(self) -> None:
        """Closes the environment and frees its thread and process; again: nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._given_up:
                await self._call("close")
        finally:
            self._room.leave()

    async def _call(self, method: str, *arguments: Any) -> Any:
        if self._given_up:
            raise EnvironmentFailed(f"{self.name}.{method}() was called, but the environment was given up: "
                                    f"{self._given_up}")
        if self._closed and method != "close":
            raise BadInput(f"{self.name}.{method}() was called after close()")
        future = self._room.ask(method, arguments)
        whom = f"its {self._kind} {self._room.name}"
        try:
            with Waiting(f"environment {self.name}", whom, f"{method}()", self.timeout_s):
                return await within(asyncio.wrap_future(future), self.timeout_s)
        except Expired as error:
            self._give_up(f"{method}() did not answer within {self.timeout_s:g} s")
            raise DeadlinePassed(f"waited for {self.name}: {self._given_up}") from error
        except asyncio.CancelledError:
            self._give_up(f"its {method}() was cancelled")
            raise
        except PolyturnError:
            raise
        except Exception as error:
            raise self._failed(method, error) from error

    def _failed(self, method: str, error: Exception) -> EnvironmentFailed:
        text = "".join(traceback.format_exception(error))
        return EnvironmentFailed(f"{self.name}.{method}() raised {type(error).__name__}: {error}\n{text}")

    def _give_up(self, reason: str) -> None:
        fate = self._room.abandon()
        self._given_up = f"{reason}; {fate}"


class _Room:
    """One thread that serves one environment, call by call; it begins with the first call."""

    def __init__(self, source: Source, name: str, remote: _Remote | None) -> None:
        self.remote = remote
        self.name = name
        self._source = source
        self._jobs: queue.SimpleQueue[tuple[Future[Any], str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def ask(self, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        """The future result of a call in the thread."""
        if not self._thread.is_alive():
            self._thread.start()
        future: Future[Any] = Future()
        self._jobs.put((future, method, arguments))
        return future

    def abandon(self) -> str:
        """Kills the process, or leaves the thread to close its environment if it ever comes back; says which."""
        if self.remote is not None:
            killed = self.remote.kill()
            self.leave()
            return f"its process and everything that it started ({killed} in all) were killed"
        self._jobs.put((Future(), "close", ()))
        self._jobs.put(None)
        return f"its thread {self._thread.name!r} cannot be killed and is left behind"

    def leave(self) -> None:
        """Lets the thread end, and waits a moment for it."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join(0.5)

    def _serve(self) -> None:
        env: Any = self.remote
        while (job := self._jobs.get()) is not None:
            future, method, arguments = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                env = env or _made(self._source)
                future.set_result(getattr(env, method)(*arguments))
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:
                future.set_exception(EnvironmentFailed(f"{method}() raised {type(error).__name__}: {error}"))


# ---------------------------------------------------------------- processes


class _Remote:
    """A plain environment whose calls are carried out by a process. Its calls block. What comes back is JSON, bounded
    and read by the shape of what was asked for: nothing that a process says is unpickled."""

    def __init__(self, source: Source, name: str) -> None:
        self.name = name
        self._source = source
        self._process: Any = None
        self._connection: Connection | None = None
        self._killed = False

    def start(self, state: bytes | None = None) -> Any:
        """Starts the process, then the environment in it."""
        self._spawn()
        return self._call("start", state)

    def step(self, replies: Mapping[Seat, Message]) -> Any:
        """As in the process."""
        return self._call("step", dict(replies))

    def final(self) -> Any:
        """As in the process."""
        return self._call("final")

    def save(self) -> Any:
        """As in the process."""
        return self._call("save")

    def close(self) -> None:
        """Closes the environment; the process ends, by itself or killed."""
        if self._process is None:
            return
        try:
            self._call("close")
            self._process.join(2.0)
        finally:
            self.kill()
            if self._connection is not None:
                self._connection.close()

    def kill(self) -> int:
        """How many processes were killed: this one and all that it started."""
        self._killed = True
        if self._process is None or self._process.pid is None:
            return 0
        atexit.unregister(self.kill)
        killed = kill_tree(self._process.pid)
        self._process.join(5.0)
        return killed

    def _spawn(self) -> None:
        from multiprocessing import get_context

        try:
            payload = packed(self._source)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise BadInput(f"{self.name} cannot be sent to a process: {error}; give in_worker a factory that stands "
                           "at the top level of a module") from error
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve_process, args=(theirs, payload, os.getpid()), name=self.name)
        atexit.register(self.kill)
        self._process.start()
        theirs.close()
        if self._killed:
            self.kill()

    def _call(self, method: str, *arguments: Any) -> Any:
        if self._connection is None:
            raise BadInput(f"{self.name}.{method}() was called before start()")
        try:
            self._connection.send_bytes(as_request(method, arguments))
            said = self._connection.recv_bytes(ANSWER_BYTES)
        except (EOFError, OSError) as error:
            self._process.join(1.0)
            raise EnvironmentFailed(f"the process of {self.name} ended during {method}() "
                                    f"(exit code {self._process.exitcode})") from error
        return read_answer(self.name, method, said)


def packed(value: Any) -> bytes:
    """The pickle of a value, read-only mappings included.

    >>> pickle.loads(packed(MappingProxyType({"a": 1})))["a"]
    1
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer)
    pickler.dispatch_table = copyreg.dispatch_table.copy()
    pickler.dispatch_table[MappingProxyType] = lambda view: (_read_only, (dict(view),))
    pickler.dump(value)
    return buffer.getvalue()


def _read_only(values: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(values)


def kill_tree(pid: int) -> int:
    """How many processes were killed: this one and all its descendants, which are gone afterwards."""
    import psutil

    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return 0
    killed = 0
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            killed += 1
    psutil.wait_procs(family[:-1], timeout=5.0)  # the root is waited for by who began it
    return killed


def _serve_process(connection: Connection, payload: bytes, parent: int) -> None:
    """The life of a process: one environment, call by call, until it is closed or nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, args=(parent,), daemon=True).start()
    env: SyncEnv | None = None
    method = ""
    with contextlib.suppress(EOFError):
        while method != "close":
            method, arguments = read_request(connection.recv_bytes())
            try:
                env = env or _made(pickle.loads(payload))  # the one thing that is unpickled, and by the process itself
                answer = as_answer(method, getattr(env, method)(*arguments))
            except Exception as error:
                text = "".join(traceback.format_exception(error))
                refused = isinstance(error, BadInput)
                words = str(error) if refused else f"{type(error).__name__}: {error}\n{text}"
                answer = as_refusal(words, refused)
            connection.send_bytes(answer)


def watch(parent: int) -> None:
    """Waits for the end of the process that started this one, and ends this one and all that it started."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    kill_tree(os.getpid())
