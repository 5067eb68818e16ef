"""What runs in the process: answers lines of JSON with a function of an adapter's file.

Run by :mod:`polyturn.envs.outside.process` as ``python -I -S child.py SITE SCRIPT MEGABYTES``, with the standard
library and SITE alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

LONGEST_LOG = 2**26
"""Bytes that the package may print, all told."""
SET_DEATH_SIGNAL = 1


def main(site: str, script: str, megabytes: str) -> None:
    """Serves until nobody asks any more. What the package prints goes to standard error, never among the answers."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (int(megabytes) * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LONGEST_LOG, LONGEST_LOG))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path.insert(0, site)
    answer = runpy.run_path(script)["answer"]
    send(answers, {"ready": True})
    for line in sys.stdin.buffer:
        order = json.loads(line)
        send(answers, {"id": order["id"], **answered(answer, order["request"])})


def answered(answer: Callable[[Any], Any], request: Any) -> dict[str, Any]:
    """``{"value": ...}`` or ``{"error": ...}``; a value that JSON cannot hold exactly is an error."""
    try:
        value = answer(request)
        json.dumps(value, allow_nan=False)
    except Exception as error:
        refused = isinstance(error, ValueError) and str(error).startswith("refused: ")
        return {"error": str(error) if refused else traceback.format_exc(limit=-4)}
    return {"value": value}


def send(answers: BinaryIO, value: Mapping[str, Any]) -> None:
    """One line."""
    answers.write(json.dumps(value, allow_nan=False).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:4])
