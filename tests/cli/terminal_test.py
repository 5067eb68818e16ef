"""Lines from a person, and episodes printed as they are played."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys

import pytest

from polyturn.cli.terminal import Watcher, read_line
from polyturn.types import Call, Episode, Score, Stop, Task, Turn, assistant, user


async def test_lines_until_the_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo"))
    assert [await read_line("> ") for _ in range(3)] == ["one", "", "two"]
    assert capsys.readouterr().err == "> > > "
    with pytest.raises(EOFError):
        await read_line()


async def test_the_loop_goes_on_while_a_line_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = os.pipe()
    with os.fdopen(near) as stdin, os.fdopen(far, "w") as typed:
        monkeypatch.setattr("sys.stdin", stdin)
        line = asyncio.ensure_future(read_line())
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert not line.done()
        typed.write("late\n")
        typed.flush()
        assert await line == "late"


def test_ctrl_c_does_not_wait_for_a_line() -> None:
    script = "import asyncio, sys\nfrom polyturn.cli.terminal import read_line\nprint('up', flush=True)\n" \
             "asyncio.run(read_line())"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as child:
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == "up\n"
        for _ in range(100):
            os.kill(child.pid, signal.SIGINT)
            try:
                child.wait(timeout=0.3)
                break
            except subprocess.TimeoutExpired:
                continue
        assert child.returncode not in (None, 0)


def test_the_watcher_prints_each_message_once_and_the_end() -> None:
    lines: list[str] = []
    watcher = Watcher(lines.append, frozenset({"person"}))
    watcher.turn("e", Turn(0, "a", "main", (0,), 1, ()), {0: user("Move?"), 1: assistant("5")}, {})
    watcher.turn("e", Turn(1, "b", "person", (0,), 1, ()), {0: user("Move?"), 1: assistant("6")}, {})
    asked = assistant("", calls=(Call("c", "move", {"to": 5}),))
    watcher.turn("e", Turn(2, "a", "main", (0,), 1, ()), {1: asked}, {})
    watcher.episode(Episode("e", Task("t1", "f"), 0, stop=Stop("truncated", "too long")))
    watcher.scores("score", {"e": {"a": Score(0.5), "b": Score(None)}})
    watcher.credit(0, [])
    watcher.metrics(0, {}, stage="x")
    assert lines == ["to a: Move?", "a (main): 5", 'a (main): move({"to": 5})', "-- t1: truncated, too long",
                     "-- e: score of a 0.500", "-- e: score of b abstained"]
