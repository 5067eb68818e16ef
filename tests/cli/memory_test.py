"""The peak of a process tree."""

from __future__ import annotations

import subprocess
import sys
import time

from polyturn.cli.memory import PeakMemory, tree_bytes

MIB = 2**20


def test_memory_that_was_freed_counts_for_the_peak() -> None:
    before = tree_bytes()
    with PeakMemory(every_s=0.01) as peak:
        block = bytearray(b"x" * (200 * MIB))
        time.sleep(0.2)
        del block
    assert peak.bytes > before + 150 * MIB


def test_children_count() -> None:
    script = "x = bytearray(b'x' * (150 * 2**20)); print('up', flush=True); input()"
    with PeakMemory(every_s=0.01) as peak:
        before = tree_bytes()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
            time.sleep(0.1)
            child.communicate("\n", timeout=10)
    assert peak.bytes > before + 100 * MIB
