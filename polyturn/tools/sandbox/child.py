"""What runs inside: binds itself by limits, then executes what comes over a pipe and keeps the variables.

This file is run by itself (``python -I -S -c <its text> <settings as JSON>``) and imports nothing but the standard
library. It binds itself before the first line of foreign code and reports whether that worked; after that the parent
trusts nothing that it says. Orders come on descriptor 0 and answers leave on descriptor 1, one JSON object a line.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import json
import linecache
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, BinaryIO

NULL = "/dev/null"
SET_DEATH_SIGNAL, SET_NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER, DROP_BOUNDING = 1, 38, 22, 2, 24
CAPABILITY_VERSION_3 = 0x20080522
OWN_FILE = "<string>"
"""The file name of ``python -c``, in tracebacks."""


class TimeIsUp(BaseException):
    """The code ran longer than it may; raised into it, so that its variables can be kept."""


class ToolError(Exception):
    """A tool could not do what it was called for."""


# ---------------------------------------------------------------- binding itself


def bind(settings: dict[str, Any]) -> dict[str, Any]:
    """Limits, no capabilities, the filter of system calls; then what can still be done, by trying it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    for name, most in settings["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    for capability in range(64):
        libc.prctl(DROP_BOUNDING, capability, 0, 0, 0)
    libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc.capset(header, sets)
    lines = bytes.fromhex(settings["filter"])
    buffer = ctypes.create_string_buffer(lines, len(lines))
    program = struct.pack("@HP", len(lines) // 8, ctypes.addressof(buffer))
    if libc.prctl(SET_SECCOMP, FILTER, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel took no seccomp filter")
    libc.capget(header, sets)
    return {
        "capable": any(sets), "outside": os.path.exists(settings["canary"]), "fork": _possible(_fork),
        "network": _possible(_socket), "system": settings["isolated"] and os.access("/", os.W_OK),
        "processes": os.path.exists("/proc/sys"),
    }


def _possible(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _socket() -> None:
    import _socket

    _socket.socket().close()


# ---------------------------------------------------------------- talking


class Channel:
    """The two pipes, moved away from where foreign code would write by accident."""

    def __init__(self) -> None:
        self._orders: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._answers = os.dup(1)
        null = os.open(NULL, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)

    def send(self, answer: dict[str, Any]) -> None:
        """One line. Raises: TypeError, ValueError for what is no JSON."""
        rest = memoryview(json.dumps(answer, allow_nan=False).encode() + b"\n")
        while rest:
            rest = rest[os.write(self._answers, rest):]

    def receive(self) -> dict[str, Any] | None:
        """The next order; None when the parent is gone."""
        line = self._orders.readline()
        return json.loads(line) if line else None


class Kept:
    """A text file that keeps the first characters and counts the rest."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: list[str] = []
        self._kept = 0
        self.dropped = 0

    def write(self, text: str) -> int:
        """Keeps what still fits."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes a str, not {type(text).__name__}")
        part = text[: self._most - self._kept]
        if part:
            self._parts.append(part)
            self._kept += len(part)
        self.dropped += len(text) - len(part)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Keeps of each line what still fits."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        """It is no terminal."""
        return False

    def text(self) -> str:
        """What was kept."""
        return "".join(self._parts)


# ---------------------------------------------------------------- running


class Interpreter:
    """The variables, the tools, and the clock of the code that runs."""

    def __init__(self, channel: Channel, settings: dict[str, Any]) -> None:
        self._channel = channel
        self._most = settings["output_chars"]
        self._number = 0
        self.variables: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins, "ToolError": ToolError}
        self.variables.update({name: self._tool(name, doc) for name, doc in settings["tools"].items()})
        signal.signal(signal.SIGALRM, _time_is_up)

    def _tool(self, name: str, doc: str) -> Callable[..., Any]:
        def tool(*args: Any, **kwargs: Any) -> Any:
            left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                self._channel.send({"call": name, "args": args, "kwargs": kwargs, "run": self._number})
                answer = self._channel.receive()
            finally:
                signal.setitimer(signal.ITIMER_REAL, left)
            if answer is None:
                os._exit(0)
            if "error" in answer:
                raise ToolError(answer["error"])
            return answer["result"]

        tool.__name__ = tool.__qualname__ = name
        tool.__doc__ = doc
        return tool

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Executes the code of an order; what it printed, and how it ended."""
        self._number = order["run"]
        file = f"<code {self._number}>"
        kept = Kept(self._most)
        sys.stdout = sys.stderr = kept
        status, error = "ok", ""
        try:
            signal.setitimer(signal.ITIMER_REAL, order["seconds"])
            try:
                self._execute(order["code"], file)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except TimeIsUp:
            status = "timeout"
        except BaseException as raised:
            status, error = "error", self._shown(raised, file)
        sys.stdout = sys.stderr = Kept(0)
        return {"done": self._number, "status": status, "output": kept.text(), "dropped": kept.dropped, "error": error}

    def _execute(self, code: str, file: str) -> None:
        """Runs the statements; the value of a last expression is printed, as in a notebook."""
        linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
        tree = ast.parse(code, file)
        last = tree.body[-1] if tree.body else None
        value: CodeType | None = None
        if isinstance(last, ast.Expr):
            tree.body.pop()
            value = compile(ast.Expression(last.value), file, "eval")
        exec(compile(tree, file, "exec"), self.variables)
        if value is not None:
            found = eval(value, self.variables)
            if found is not None:
                print(repr(found))

    def _shown(self, raised: BaseException, file: str) -> str:
        """The traceback without the lines of this file, its end kept where it is long."""
        try:
            found = traceback.TracebackException.from_exception(raised)
            own = [frame for frame in found.stack if frame.filename != OWN_FILE]
            found.stack = traceback.StackSummary.from_list(own)
            text = "".join(found.format()) if own else "".join(found.format_exception_only())
        except Exception as error:
            text = f"{type(raised).__name__} (its text could not be read: {type(error).__name__})\n"
        return text if len(text) <= self._most else "...\n" + text[len(text) - self._most:]


def _time_is_up(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp


def main() -> None:
    """Binds itself, says so, serves until the parent is gone."""
    settings = json.loads(sys.argv[1])
    channel = Channel()
    os.chdir(settings["work"])
    sys.path.extend(settings["paths"])
    found = bind(settings)
    os.dup2(1, 2)
    channel.send({"ready": found})
    interpreter = Interpreter(channel, settings)
    sys.stdout = sys.stderr = Kept(0)
    while (order := channel.receive()) is not None:
        channel.send(interpreter.run(order))


if __name__ == "__main__":
    main()
