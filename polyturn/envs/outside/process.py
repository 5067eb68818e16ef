"""A process that sees only the packages installed for it, asked by lines of JSON, each under a deadline.

For packages whose requirements clash with Polyturn's: ``polyturn envs --install NAME`` puts them into a folder of their
own, and a small program of the adapter runs there, under this very Python without its site packages. Requests are
answered one at a time and keep nothing, so that a process that was killed is simply started again: a play sends all
that it has done so far. What comes back is bounded, read as JSON and checked by the adapter; nothing is unpickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from polyturn.errors import BadInput, DeadlinePassed, EnvironmentFailed, PolyturnError
from polyturn.tools.pipes import close_pipes
from polyturn.waits import Expired, Waiting, within

CHILD: Final = Path(__file__).with_name("child.py")
LINE_BYTES: Final = 2**24
"""The longest answer."""
START_S: Final = 60.0
IDLE_S: Final = 1.0
"""How long a process waits for the next play after the last one has ended."""
PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR")
"""The variables of the environment that the process sees; no keys among them."""


def command(site: Path, script: Path, memory_mb: int) -> list[str]:
    """The command line of a process."""
    return [sys.executable, "-I", "-S", str(CHILD), str(site), str(script), str(memory_mb)]


def variables() -> dict[str, str]:
    """The environment variables of a process."""
    return {**{name: os.environ[name] for name in PASSED_ON if name in os.environ}, "PYTHONHASHSEED": "0"}


def ask_once(
    name: str, site: Path, script: Path, request: Mapping[str, Any], *, timeout_s: float = 120.0, memory_mb: int = 2048
) -> Any:
    """As :meth:`Outside.ask`, of a process for this request alone, where no event loop runs; it blocks."""
    line = json.dumps({"id": 1, "request": request}, allow_nan=False) + "\n"
    try:
        done = subprocess.run(command(site, script, memory_mb), input=line, capture_output=True, text=True,
                              encoding="utf-8", errors="replace", timeout=timeout_s, env=variables(),
                              cwd=tempfile.gettempdir(), check=False)
    except subprocess.TimeoutExpired:
        raise DeadlinePassed(f"waited for the worker of {name}: its one request was not answered within {timeout_s:g} "
                             "s; it was killed") from None
    try:
        ready, said = (json.loads(answer) for answer in done.stdout.splitlines())
        if ready != {"ready": True} or said["id"] != 1 or ("value" in said) == ("error" in said):
            raise ValueError("no answer")
    except (ValueError, TypeError, KeyError):
        raise EnvironmentFailed(f"the worker of {name} ended with {done.returncode} and no answer; it said: "
                                f"{done.stderr[-2000:].strip()}") from None
    return _value(name, said)


async def _exchanged(into: asyncio.StreamWriter, out: asyncio.StreamReader, line: bytes) -> bytes:
    """The line that comes after ``line`` was sent."""
    if line:
        into.write(line)
        await into.drain()
    return await out.readline()


def _value(name: str, said: Mapping[str, Any]) -> Any:
    if "value" in said:
        return said["value"]
    words = str(said["error"])
    if words.startswith("refused: "):
        raise BadInput(f"{name}: {words.removeprefix('refused: ')}")
    raise EnvironmentFailed(f"the worker of {name} failed: {words}")


class Outside:
    """One process beside ``site``, the folder of its packages, that runs ``script``; begins with the first request.

    ``script`` is a file with a function ``answer(request)`` from JSON value to JSON value; what it raises becomes
    EnvironmentFailed, and ``ValueError("refused: ...")`` BadInput. Each play holds a lease while it lives
    (:meth:`lease`, :meth:`release`); without leases the process ends after a moment, and with :meth:`close` at once.
    A process may use ``memory_mb`` of memory, and no request longer than ``timeout_s``: then it is killed with all that
    it started, the request raises DeadlinePassed, and the next one starts another process.
    """

    def __init__(
        self, name: str, site: Path, script: Path, *, timeout_s: float = 30.0, memory_mb: int = 2048,
    ) -> None:
        if not timeout_s > 0:
            raise BadInput(f"timeout_s is {timeout_s}; expected a number above 0")
        self.name, self.timeout_s = name, timeout_s
        self._command = command(site, script, memory_mb)
        self._process: asyncio.subprocess.Process | None = None
        self._said: IO[bytes] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()
        self._number = self._leases = 0
        self._idle: asyncio.TimerHandle | None = None
        self.starts = 0
        """How often a process was started."""

    def lease(self) -> None:
        """Keeps the process until :meth:`release`."""
        self._leases += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def release(self) -> None:
        """Gives a lease back; with the last one the process ends, unless another play begins within a moment."""
        self._leases -= 1
        if self._leases <= 0 and self._process is not None:
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._kill)

    async def ask(self, request: Mapping[str, Any]) -> Any:
        """What the process answers, as JSON values. Raises: BadInput where it refuses; EnvironmentFailed where it
        fails, ends or says what is no answer; DeadlinePassed."""
        self._of_this_loop()
        async with self._turn:
            await self._running()
            self._number += 1
            line = json.dumps({"id": self._number, "request": request}, allow_nan=False).encode() + b"\n"
            try:
                said = await self._line(line, self.timeout_s, f"request {self._number}")
            except BaseException as error:
                if not isinstance(error, PolyturnError):
                    self._kill()
                raise
        return self._checked(said)

    async def close(self) -> None:
        """Ends the process; again: nothing."""
        process = self._process
        self._kill()
        if process is not None and self._loop is asyncio.get_running_loop():
            await process.wait()

    def _of_this_loop(self) -> None:
        """A process belongs to the event loop that started it; in another one it is started again.

        Raises: BadInput while that loop still runs: a suite is played by one loop at a time.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and self._loop.is_running():
                raise BadInput(f"{self.name} is played by another event loop at the same time; make a suite for each")
            self._kill()
            self._loop, self._turn = loop, asyncio.Lock()

    async def _running(self) -> None:
        if self._process is not None and self._process.returncode is None:
            return
        self._kill()
        self._said = tempfile.TemporaryFile(prefix="polyturn-outside-")  # noqa: SIM115
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._said,
            env=variables(), cwd=tempfile.gettempdir(), limit=LINE_BYTES, start_new_session=True,
        )
        self.starts += 1
        try:
            ready = await self._line(b"", START_S, "the start")
        except BaseException:
            self._kill()
            raise
        if ready != {"ready": True}:
            self._kill()
            raise EnvironmentFailed(f"the worker of {self.name} said {str(ready)[:200]} when it started")

    async def _line(self, line: bytes, seconds: float, what: str) -> dict[str, Any]:
        """The next line after ``line`` was sent, as an object."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            with Waiting(f"environment {self.name}", f"its process {process.pid}", what, seconds):
                data = await within(_exchanged(process.stdin, process.stdout, line), seconds)
        except Expired:
            self._kill()
            raise DeadlinePassed(f"waited for the worker of {self.name}: {what} was not answered within {seconds:g} s; "
                                 "it was killed") from None
        except (OSError, ValueError) as error:
            raise self._broken(f"broke off at {what} ({type(error).__name__}: {error})") from None
        if not data.endswith(b"\n"):
            raise self._broken(f"ended at {what}")
        try:
            said = json.loads(data)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise self._broken(f"sent a line that is no JSON object at {what}")
        return said

    def _checked(self, said: Mapping[str, Any]) -> Any:
        if said.get("id") != self._number or ("value" in said) == ("error" in said):
            raise self._broken(f"sent {str(said)[:200]}; expected an answer to request {self._number}")
        return _value(self.name, said)

    def _broken(self, what: str) -> EnvironmentFailed:
        last = ""
        if self._said is not None:
            size = self._said.seek(0, os.SEEK_END)
            self._said.seek(max(0, size - 2000))
            last = self._said.read().decode("utf-8", "replace").strip()
        self._kill()
        return EnvironmentFailed(f"the worker of {self.name} {what}{f'; it said: {last}' if last else ''}")

    def _kill(self) -> None:
        """Kills the process with its session, at once."""
        process, self._process = self._process, None
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._said is not None:
            self._said.close()
            self._said = None
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if self._loop is not None and not self._loop.is_closed():
                close_pipes(process)
