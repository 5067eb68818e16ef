"""A contender in a process of its own that does one piece of work whenever it is told to, and says what that took."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from benchmarks.timing import forget_peak, peak

GO = "go\n"


class Called:
    """The contender's side. What it and its libraries print goes to stderr; stdout holds one JSON object a line."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = (0.0, 0.0)

    def tell(self, **found: Any) -> None:
        """Says something."""
        print(json.dumps(found), file=self._out, flush=True)

    def begin(self) -> bool:
        """Waits until the next piece of work is asked for and starts the clock; False where none is any more."""
        if sys.stdin.readline() != GO:
            return False
        gc.collect()
        forget_peak()
        self._began = time.perf_counter(), time.process_time()
        return True

    def end(self, **found: Any) -> None:
        """Stops the clock and says ``seconds``, ``cpu_seconds``, ``peak`` (bytes) and what else was found."""
        began, spent = self._began
        self.tell(
            seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - spent, peak=peak(), **found)


@dataclass
class Contender:
    """The benchmark's side: a process with a :class:`Called` in it."""

    process: subprocess.Popen[str]
    heard: Path
    """Where its stderr goes."""

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Contender:
        """Runs a command."""
        file, name = tempfile.mkstemp(prefix="contender-", suffix=".log")
        with os.fdopen(file, "w") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=None if environment is None else {**os.environ, **environment},
            )
        return cls(process, Path(name))

    def told(self) -> dict[str, Any]:
        """What it says next. Raises: RuntimeError with its last words where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            words = self.heard.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}: {words}")
        found: dict[str, Any] = json.loads(line)
        return found

    def go(self) -> dict[str, Any]:
        """One piece of work, and what it took."""
        assert self.process.stdin is not None
        self.process.stdin.write(GO)
        self.process.stdin.flush()
        return self.told()

    def close(self) -> None:
        """Ends it."""
        self.process.communicate()
        self.heard.unlink(missing_ok=True)
