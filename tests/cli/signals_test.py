"""The first signal is answered at once and the update under way is ended; the second ends the program."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polyturn.cli.signals import STOPPING, Terminated, name_folder, stoppable, with_signal
from polyturn.record.run import read_info

COMPUTES = '''
"""One update that computes, and so never waits."""
import asyncio, time
from dataclasses import dataclass

@dataclass(frozen=True)
class Settings:
    """None but these."""
    seed: int = 0
    """Fixes every draw."""
    seconds: float = 2.0
    """Of the update."""

class Part:
    def state(self):
        return 1
    def restore(self, state):
        pass

async def main(settings, run):
    for i in range(3):
        await run.heed("learn", i, {"part": Part()})
        await asyncio.sleep(0.01)
        run.progress.note(f"update {i} begun")
        until = time.monotonic() + settings.seconds
        while time.monotonic() < until:
            time.sleep(0.05)
        run.progress.note(f"update {i} ended")
'''


@contextmanager
def computing(folder: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A run whose first update has begun."""
    (folder / "computes.py").write_text(COMPUTES)
    command = [sys.executable, "-m", "polyturn", "run", "computes.py", "--folder", "mine", "--seconds", str(seconds)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder) as child:
        assert child.stderr is not None and child.stderr.readline() == "update 0 begun\n"
        yield child


@pytest.mark.parametrize(("sent", "code", "told"), [
    (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_the_first_is_answered_at_once_and_what_was_finished_is_saved(
    sent: signal.Signals, code: int, told: str, tmp_path: Path
) -> None:
    with computing(tmp_path, 2.0) as child:
        child.send_signal(sent)
        _, said = child.communicate(timeout=60)
    assert said.splitlines() == [
        STOPPING, "update 0 ended",
        f"polyturn: {told}; what was finished is kept; polyturn run --resume mine goes on"]
    assert child.returncode == code
    assert read_info(tmp_path / "mine").status == "stopped"
    assert '"learn:1"' in (tmp_path / "mine/metrics.jsonl").read_text()  # the checkpoint after the update


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_ends_the_program_where_it_stands(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    with computing(tmp_path, 300.0) as child:
        assert child.stderr is not None
        child.send_signal(sent)
        assert child.stderr.readline() == f"{STOPPING}\n"
        child.send_signal(sent)
        _, said = child.communicate(timeout=60)
    assert len(said.splitlines()) == 1 and "polyturn run --resume mine goes on" in said
    assert child.returncode == code


def test_only_signals_that_are_taken_already_are_taken() -> None:
    """A script of one's own ends by SIGTERM as it did, and one that ignores ctrl-C goes on ignoring it."""
    before = with_signal(signal.SIGINT, signal.SIG_IGN)

    async def work() -> list[object]:
        with stoppable(print):
            return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    try:
        assert asyncio.run(work()) == [signal.SIG_IGN, signal.SIG_DFL]
    finally:
        with_signal(signal.SIGINT, before)


def test_a_signal_at_the_very_end_is_not_forgotten() -> None:
    told: list[str] = []

    async def work() -> None:
        with stoppable(told.append):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(work())
    until = time.monotonic() + 10
    while not told and time.monotonic() < until:
        time.sleep(0.01)
    assert told == [STOPPING]


def test_a_cancelling_that_no_signal_asked_for_stays_one() -> None:
    async def work() -> None:
        with stoppable(print):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())


def test_a_folder_is_named_once_a_run_is_in_it(tmp_path: Path) -> None:
    error = Terminated()
    name_folder(error, "eval", None)
    name_folder(error, "eval", tmp_path)
    assert not hasattr(error, "__notes__")
    (tmp_path / "run.json").touch()
    name_folder(error, "eval", tmp_path)
    assert error.__notes__ == [f"polyturn eval --resume {tmp_path} goes on"]
