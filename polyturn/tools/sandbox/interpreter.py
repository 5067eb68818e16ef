"""The parent's side: starts the child, gives it code, answers its tool calls, ends it at the deadline.

Nothing that comes from the child is believed: lines are bounded and read as JSON, their shape is checked, nothing is
unpickled, and a child that says anything unexpected is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from polyturn.errors import BadInput, NotIsolated, UnknownName
from polyturn.tools.functions import ToolFailed
from polyturn.tools.pipes import close_pipes
from polyturn.tools.sandbox.isolation import ENVIRONMENT, INSTALL, LEVELS, Bounds, Level, missing, refused, start
from polyturn.waits import Waiting

Answer: TypeAlias = Callable[[str, Sequence[Any], Mapping[str, Any]], Awaitable[Any]]
"""(tool, positional arguments, named arguments) -> a JSON value; raises ToolFailed with what the code shall read."""
LINE_BYTES: Final = 2**20
"""The longest line that is read from a child."""
START_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run went: ``Ran("ok", "3\\n")``."""

    status: Literal["ok", "error", "timeout", "died"]
    output: str = ""
    """What it printed, at most ``Bounds.output_chars`` of it."""
    error: str = ""
    """The traceback, or what ended the interpreter."""
    dropped: int = 0
    """Characters of the output that were not kept."""
    lost: bool = False
    """True: the interpreter was ended, so the next run starts without any variables."""
    calls: int = 0
    """Tool calls made."""

    def text(self) -> str:
        """All of it as one observation; empty where the code printed nothing and nothing went wrong.

        >>> Ran("timeout", "begun\\n", "stopped after 2 s", lost=True).text()
        'begun\\nstopped after 2 s\\nThe interpreter was ended: its variables are lost.'
        """
        cut = f"[{self.dropped} more characters were cut]" if self.dropped else ""
        lost = "The interpreter was ended: its variables are lost." if self.lost else ""
        parts = [self.output, cut, self.error, lost]
        return "\n".join(part.rstrip("\n") for part in parts if part)


class _Broken(Exception):
    """The child said something that it may not say, or nothing more."""


class Sandbox:
    """A Python interpreter for code that nobody trusts; its variables stay from run to run.

    ``least``: the weakest level of isolation that is accepted; the best one that works here is used and stands in
    ``level`` once the first code was run, or :meth:`open` was awaited. ``limits`` protects against accidents, not
    against malice, so it is used only where it was asked for. ``tools``: name -> description, each a function in the
    code's namespace, answered by the ``answer`` of :meth:`run`. ``packages``: folders of Python packages that the code
    may import. ``after_timeout``: ``keep`` first interrupts code that ran too long, which keeps the variables where
    the code lets itself be interrupted; ``restart`` always ends the interpreter.

    >>> async def sums() -> str:
    ...     async with Sandbox() as sandbox:
    ...         await sandbox.run("x = 40")
    ...         return (await sandbox.run("print(x + 2)")).output
    >>> asyncio.run(sums())
    '42\\n'
    """

    def __init__(
        self, *, least: Level = "namespaces", only: Level | None = None, tools: Mapping[str, str] | None = None,
        bounds: Bounds = Bounds(), packages: Sequence[str | Path] = (),
        after_timeout: Literal["keep", "restart"] = "keep",
    ) -> None:
        for name in (least, only or least):
            if name not in LEVELS:
                raise UnknownName("level of isolation", name, LEVELS)
        self.level: Level | None = None
        self.bounds = bounds
        self.after_timeout = after_timeout
        self._levels = (only,) if only else LEVELS[: LEVELS.index(least) + 1]
        self._least = only or least
        self._tools = dict(tools or {})
        self._packages = [str(Path(path).resolve()) for path in packages]
        self._process: asyncio.subprocess.Process | None = None
        self._folder: Path | None = None
        self._runs = 0
        self._busy = self._given_up = False

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def open(self) -> Level:
        """Starts the interpreter, unless it is there; the level reached.

        Raises: NotIsolated where no accepted level works here, with what each one lacks and what to install.
        """
        if self._process is not None and not self._dead:
            assert self.level is not None
            return self.level
        await self.close()
        reasons = []
        for level in self._levels if self.level is None else (self.level,):
            reason = missing(level) or await self._started(level)
            if not reason:
                self.level = level
                return level
            reasons.append(f"{level}: {reason}")
        raise NotIsolated(f"untrusted code needs isolation of level {self._least!r} or better, and none works here: "
                          f"{'; '.join(reasons)}. To get it, {INSTALL}")

    async def _started(self, level: Level) -> str:
        """Why a child did not come up; empty = it stands ready in ``self._process``."""
        self._folder = Path(tempfile.mkdtemp(prefix="polyturn-sandbox-"))
        with tempfile.NamedTemporaryFile(prefix="polyturn-canary-") as canary:
            how = start(level, self._folder, canary=canary.name, bounds=self.bounds, tools=self._tools,
                        packages=self._packages)
            process = await asyncio.create_subprocess_exec(
                *how.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, env=_environment(level, self._folder), cwd=self._folder,
                limit=LINE_BYTES, start_new_session=True,
            )
            self._process = process
            try:
                ready = (await self._line(START_S)).get("ready")
                reason = refused(level, ready) if isinstance(ready, dict) else "the child did not say that it is ready"
            except (_Broken, TimeoutError) as error:
                _kill(process)
                assert process.stderr is not None
                said = (await process.stderr.read(4000)).decode("utf-8", "replace").strip().splitlines()
                reason = said[-1] if said else str(error) or f"no answer within {START_S:g} s"
            except BaseException:
                _kill(process)
                raise
        if reason:
            await self.close()
        return reason

    async def run(self, code: str, *, answer: Answer | None = None) -> Ran:
        """Runs code with the variables of the runs before. What the code does wrong is in the answer, never raised.

        A tool called inside the code is answered by ``answer`` while the code and its clock stand still; what
        ``answer`` raises, but for ToolFailed, ends the interpreter and goes through. Raises: BadInput for a second run
        at the same time; NotIsolated.
        """
        if self._busy:
            raise BadInput("this sandbox is running code already; one run at a time, or a sandbox for each")
        if len(code) > self.bounds.code_chars:
            return Ran("error", error=f"the code has {len(code)} characters; at most {self.bounds.code_chars} are run")
        self._busy = True
        try:
            if self._process is not None and self._dead:
                await self.close()
                return Ran("died", error="the interpreter had ended before this code could run", lost=True)
            await self.open()
            self._runs += 1
            return await self._ran(code, answer)
        except BaseException:
            if self._process is not None:
                self._given_up = True
                _kill(self._process)
            raise
        finally:
            self._busy = False

    @property
    def _dead(self) -> bool:
        return self._given_up or self._process is None or self._process.returncode is not None

    async def _ran(self, code: str, answer: Answer | None) -> Ran:
        bounds, calls = self.bounds, 0
        keep = self.after_timeout == "keep"
        left = bounds.run_s + (bounds.grace_s if keep else 0.0)
        order: dict[str, Any] = {"run": self._runs, "code": code, "seconds": bounds.run_s if keep else 0.0}
        try:
            while True:
                since = time.monotonic()
                await self._order(order, left)
                said = await self._line(left - (time.monotonic() - since))
                left -= time.monotonic() - since
                if "done" in said:
                    return _as_ran(said, self._runs, bounds, calls)
                calls += 1
                if calls > bounds.calls:
                    raise _Broken(f"it made more than {bounds.calls} tool calls")
                order = await self._answered(said, answer)
        except TimeoutError:
            await self.close()
            return Ran("timeout", error=_late(bounds), lost=True, calls=calls)
        except _Broken as error:
            await self.close()
            return Ran("died", error=str(error), lost=True, calls=calls)

    async def _answered(self, said: Mapping[str, Any], answer: Answer | None) -> dict[str, Any]:
        name, args, kwargs = said.get("call"), said.get("args"), said.get("kwargs")
        known = isinstance(name, str) and name in self._tools and isinstance(args, list) and isinstance(kwargs, dict)
        if not known or said.get("run") != self._runs:
            raise _Broken("the interpreter broke its protocol")
        assert isinstance(name, str) and isinstance(args, list) and isinstance(kwargs, dict)
        if answer is None:
            return {"error": f"{name}() cannot be called now: nobody answers tool calls"}
        try:
            return {"result": await answer(name, args, kwargs)}
        except ToolFailed as error:
            return {"error": str(error)}

    async def _order(self, order: Mapping[str, Any], seconds: float) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._process.stdin.drain()
        except OSError as error:
            raise _Broken(f"the interpreter ended ({type(error).__name__})") from error

    async def _line(self, seconds: float) -> dict[str, Any]:
        """The next line as an object. Raises: _Broken, TimeoutError."""
        assert self._process is not None and self._process.stdout is not None
        seconds = max(seconds, 0.0)
        what = f"the end or a tool call of code {self._runs}"
        with Waiting("an agent", f"its interpreter {self._process.pid}", what, seconds):
            async with asyncio.timeout(seconds):
                try:
                    line = await self._process.stdout.readline()
                except ValueError as error:
                    raise _Broken(f"the interpreter sent a line of more than {LINE_BYTES} bytes") from error
        if not line.endswith(b"\n"):
            raise _Broken("the interpreter ended by itself: out of memory, a crash, or an exit")
        try:
            said = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise _Broken("the interpreter broke its protocol") from error
        if not isinstance(said, dict):
            raise _Broken("the interpreter broke its protocol")
        return said

    async def close(self) -> None:
        """Ends the interpreter with all that it started; again: nothing."""
        process, self._process = self._process, None
        folder, self._folder = self._folder, None
        self._given_up = False
        if process is not None:
            _kill(process)
            close_pipes(process)
            await process.wait()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _environment(level: Level, folder: Path) -> dict[str, str]:
    own = {"HOME": str(folder), "TMPDIR": str(folder)} if level == "limits" else {}
    return {**ENVIRONMENT, **own}


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kills the whole group; in a process namespace, the death of its first process ends all others."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _late(bounds: Bounds) -> str:
    return f"TimeIsUp: the code ran longer than {bounds.run_s:g} s and was stopped."


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _as_ran(said: Mapping[str, Any], run: int, bounds: Bounds, calls: int) -> Ran:
    """A checked and bounded answer. Raises: _Broken."""
    status, output, error, dropped = (said.get(name) for name in ("status", "output", "error", "dropped"))
    if (said["done"] != run or status not in ("ok", "error", "timeout") or not isinstance(output, str)
            or not isinstance(error, str) or not isinstance(dropped, int)):
        raise _Broken("the interpreter broke its protocol")
    most = bounds.output_chars
    cut = max(0, len(output) - most)
    if status == "timeout":
        error = _late(bounds)
    return Ran(status, _clean(output[:most]), _clean(error[: most + 100]), max(0, dropped) + cut, calls=calls)


def _clean(text: str) -> str:
    """Without half surrogate pairs, which no tokenizer reads."""
    return text.encode("utf-8", "replace").decode("utf-8")
