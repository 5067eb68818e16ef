"""A command that ends with its parent, started as the tools start it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "polyturn" / "tools" / "tethered.py"
PARENT = (
    "import os, subprocess, sys, time\n"
    "own = [sys.executable, '-I', '-S', sys.argv[1], str(os.getpid()), sys.argv[2]]\n"
    "held = subprocess.Popen([*own, 'sleep', '600'])\n"
    "print(held.pid, flush=True)\n"
    "time.sleep(600)\n"
)


def test_it_becomes_the_command_and_dies_with_the_parent(tmp_path: Path) -> None:
    note = tmp_path / "process"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(SCRIPT), str(note)], stdout=subprocess.PIPE,
                          text=True) as parent:
        assert parent.stdout is not None
        held = int(parent.stdout.readline())
        status = Path(f"/proc/{held}/status")
        deadline = time.monotonic() + 20
        while "Name:\tsleep" not in status.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "Name:\tsleep" in status.read_text() and note.read_text() == str(held)
        parent.send_signal(signal.SIGKILL)
    while status.exists() and "State:\tZ" not in status.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_it_starts_nothing_for_a_parent_that_is_gone_and_says_what_cannot_start(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(SCRIPT)]
    done = subprocess.run([*command, "1", str(tmp_path / "a"), "echo", "started"], check=False, capture_output=True,
                          text=True)
    assert (done.returncode, done.stdout) == (1, "")
    script = "import os, subprocess, sys; sys.exit(subprocess.call([*sys.argv[1:5], str(os.getpid()), *sys.argv[5:]]))"
    done = subprocess.run([sys.executable, "-c", script, *command, str(tmp_path / "b"), "/no/such"],
                          check=False, capture_output=True, text=True)
    assert done.returncode == 1 and "/no/such: No such file" in done.stderr
