"""Rounds in which contenders take turns."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.timing import fastest, forget_peak, interleaved, peak, sweep


def test_every_contender_runs_in_every_round_and_the_first_round_is_not_counted() -> None:
    ran: list[str] = []
    found = interleaved({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, repeats=3)
    assert ran == ["a", "b", "b", "a", "a", "b", "b", "a"], "the order turns, so that nobody is always first"
    assert {name: len(timing.seconds) for name, timing in found.items()} == {"a": 3, "b": 3}
    assert all(timing.worst >= timing.median > 0 for timing in found.values())


def test_a_sweep_finds_the_setting_that_takes_least() -> None:
    found = sweep([3_000_000, 10], lambda size: sum(range(size)))
    assert min(found, key=found.__getitem__) == 10


def test_the_fastest_for_its_work_that_takes_little_enough() -> None:
    ran: list[int] = []

    def work(size: int) -> None:
        ran.append(size)
        sum(range(size))

    best, found = fastest([2_000_000, 20], work)
    assert best == 20 and ran == [2_000_000, 2_000_000, 20] and found[20][0] < found[2_000_000][0]
    assert fastest([2_000_000, 20], work, per=float)[0] == 2_000_000, "less time for each of its numbers"
    with pytest.raises(ValueError, match="empty"):
        fastest([1], work, most=1e-6)


def test_what_would_take_more_memory_than_there_is_is_not_tried() -> None:
    held = [b""]

    def hold(mib: int) -> None:
        held[0] = b""
        held[0] = b"x" * (mib * 2**20)

    forget_peak()
    now_gib = peak() / 2**30
    most_mib = 1024 * now_gib + 64 + 128  # 64 take about this process and 64; four times as much is more than this
    best, found = fastest([64, 256, 1024], hold, holds=most_mib / 1024)
    assert list(found) == [64] and best == 64
    assert list(fastest([64, 65], hold, holds=4 * most_mib / 1024)[1]) == [64, 65]


PEAKS = """
from benchmarks.timing import forget_peak, peak
forget_peak()
before = peak()
held = bytearray(64 * 2**20)
held[::4096] = b"x" * len(held[::4096])
most = peak()
del held
forget_peak()
print(before, most, peak())
"""


def test_the_peak_is_of_what_came_since_it_was_forgotten() -> None:
    # In a process of its own: one that has lived for long gives back what it likes.
    told = subprocess.run([sys.executable, "-c", PEAKS], check=True, capture_output=True, text=True, timeout=100)
    before, most, after = (int(word) / 2**20 for word in told.stdout.split())
    assert most > before + 60 and after < before + 40
