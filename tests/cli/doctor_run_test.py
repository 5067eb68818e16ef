"""``polyturn doctor --run`` beside runs that really hang: in another process, at work, blocked, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from polyturn.cli.doctor_run import as_text, faults_of
from polyturn.cli.main import main
from polyturn.record.waits import Standing, Wait, standing
from polyturn.record.write import open_run

ROOT = Path(__file__).parents[2]


@contextmanager
def at_work(folder: Path, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run of ``hanging.py`` in a process of its own, dead afterwards."""
    command = [sys.executable, "-m", "polyturn", "run", str(ROOT / "tests" / "cli" / "hanging.py"), "--folder",
               str(folder), "--kind", kind]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            yield process
        finally:
            process.kill()


def until(folder: Path, holds: Callable[[Standing], bool], seconds: float = 60) -> Standing:
    ends = time.monotonic() + seconds
    while True:
        if (folder / "run.json").exists():
            found = standing(folder)
            if holds(found):
                return found
        assert time.monotonic() < ends, "the run never stood so"
        time.sleep(0.1)


def asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["doctor", "--run", str(folder), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_whoever_waits_is_named_with_whom_and_until_when(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    with at_work(folder, "all") as process:
        until(folder, lambda s: sum("step()" in w.what or "reply" in w.what for w in s.waits) == 4)
        code, told = asked(folder, capsys)
        assert (code, told["status"], told["pid"], told["findings"]) == (0, "running", process.pid, [])
        rows = {wait["whom"]: wait for wait in told["waits"]}
        asleep, threaded, mute = (rows[f"environment {n}"] if n != "mute" else rows["policy mute"]
                                  for n in ("asleep", "threaded", "mute"))
        assert (asleep["who"], asleep["what"], asleep["deadline_s"]) == ("episode play.0.0", "step()", 50.0)
        assert (threaded["who"], threaded["deadline_s"]) == ("episode play.1.0", 40.0)
        thread = next(wait for whom, wait in rows.items() if whom.startswith("its thread env-InThread-"))
        assert (thread["who"], thread["what"], thread["deadline_s"]) == ("environment InThread", "step()", 40.0)
        assert (mute["who"], mute["deadline_s"]) == ("seat agent of episode play.2.0", 600.0)
        assert 0 <= asleep["seconds"] < 50 and asleep["left"] == pytest.approx(50 - asleep["seconds"])
        assert rows["episodes of play"]["what"].startswith("0 of 3 have ended")
        stuck = next(places for name, places in told["threads"].items() if name.startswith("env-"))
        assert any("waits_for_a_lock_that_nobody_frees" in place for place in stuck)
        assert told["process"]["cores"] < 0.9  # it waits, it does not compute
        assert main(["doctor", "--run", str(folder)]) == 0
        text = capsys.readouterr().out
        assert "environment asleep" in text and "policy mute" in text and "hanging.py" in text

        os.kill(process.pid, signal.SIGSTOP)
        until(folder, lambda s: not s.turns, 20)
        code, told = asked(folder, capsys)
        assert code == 1 and "(stopped)" in told["findings"][0]

        process.kill()
        process.wait(10)
        code, told = asked(folder, capsys)
        assert (code, told["status"], told["process"]) == (1, "killed", {})
        assert {"environment asleep", "environment threaded", "policy mute"} <= {w["whom"] for w in told["waits"]}


def test_a_call_that_keeps_the_loop_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its deadline cannot be kept: nothing in the program runs that would keep it."""
    folder = tmp_path / "run"
    with at_work(folder, "block"):
        until(folder, lambda s: any(w.left is not None and w.left < -1 for w in s.waits))
        code, told = asked(folder, capsys)
        assert code == 1 and "does not turn" in told["findings"][0]
        late = next(wait for wait in told["waits"] if wait["whom"] == "environment blocking")
        assert late["left"] < -1
        assert "hanging.py" in told["threads"]["MainThread"][0] and "step" in told["threads"]["MainThread"][0]


def test_runs_that_are_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_run(tmp_path / "run").close()
    assert main(["doctor", "--run", str(tmp_path / "run")]) == 0
    assert "finished" in capsys.readouterr().out
    open_run(tmp_path / "broken").close("failed", "no")
    assert main(["doctor", "--run", str(tmp_path / "broken")]) == 1
    assert main(["doctor", "--run", str(tmp_path / "nowhere")]) == 2
    assert "no run folder" in capsys.readouterr().err


def test_words_for_a_reader() -> None:
    waits = tuple(Wait(f"w{n}", "x", "y", 100.0 - n, None) for n in range(40))
    found = Standing("running", 1000.0, waits, 300, {"MainThread": ("a.py:1 f", "b.py:2 g")}, 999.5, 7, "here",
                     {"turns": 997.0})
    text = as_text(Path("run"), found, {"state": "sleeping", "cores": 0.02}, faults_of(found, {}))
    assert "and 270 more" in text and "turns 3.0 s ago" in text and "a.py:1 f < b.py:2 g" in text
    assert "uses 0.0 cores" in text and "none" in text
    passed = Standing("running", 1000.0, (Wait("a", "b", "c", 70.0, 60.0),), 1, {}, 999.5, 7, "here")
    assert "passed 10 s ago" in as_text(Path("run"), passed, {}, []) and len(faults_of(passed, {})) == 1
    assert "told nothing yet" in faults_of(Standing("running", 1000.0), {})[0]
