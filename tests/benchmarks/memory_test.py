"""The line through a run's memory, and what a process and its children take."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.memory import Look, family, look, slope, tell, watch
from benchmarks.report import Report

HOLDS = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "b = bytearray(32 * 2**20); b[::4096] = b'x' * len(b[::4096]);"
                          "print('held', flush=True); input()"], stdin=subprocess.PIPE)
child.wait()
"""


def test_slope_by_hand() -> None:
    # 100 + 6 MiB an hour, looked at every minute of an hour: the line is exact, and so is its interval
    at = [60.0 * k for k in range(61)]
    found = slope(at, [100 + 6 * t / 3600 for t in at])
    assert (found.mean, found.low, found.high) == pytest.approx((6.0, 6.0, 6.0))


def test_four_means_by_hand() -> None:
    # means 1, 3, 2, 4 at 0.5, 1.5, 2.5, 3.5 h: slope (-1.5*-1.5 + -.5*.5 + .5*-.5 + 1.5*1.5) / 5 = 4 / 5; residuals
    # -0.3, 0.9, -0.9, 0.3, their squares 1.8; error sqrt(1.8 / 2 / 5) = 0.424264; t of 0.975 with 2 degrees 4.302653
    at = [0.0, 3600.0 * 0.999, 3600.0 * 1.001, 3600.0 * 1.999, 3600.0 * 2.001, 3600.0 * 2.999, 3600.0 * 3.001, 14400.0]
    found = slope(at, [1, 1, 3, 3, 2, 2, 4, 4], blocks=4)
    assert found.mean == pytest.approx(0.8, abs=2e-3)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.424264, abs=5e-3)


def test_noise_without_growth_has_zero_within_and_growth_has_not() -> None:
    draw = np.random.default_rng(0)
    at = np.arange(720) * 5.0
    flat, grown = 100 + draw.normal(0, 1, 720), 100 + draw.normal(0, 1, 720) + at / 3600 * 5
    assert slope(at.tolist(), flat.tolist()).low < 0 < slope(at.tolist(), flat.tolist()).high
    assert slope(at.tolist(), grown.tolist()).low > 0


def test_too_little_is_unknown() -> None:
    assert all(math.isnan(slope(at, [1.0] * len(at)).mean) for at in ([], [0.0, 1.0], [1.0, 1.0, 1.0]))


def test_children_count() -> None:
    running = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE)
    try:
        assert running.stdout is not None and running.stdout.readline() == b"held\n"
        pids = family(running.pid)
        alone, both = look(pids[1], 0.0), look(running.pid, 0.0)
        assert len(pids) == 2 and alone is not None and both is not None
        assert both.processes == 2 and both.rss > alone.rss > 32 * 2**20 and 32 * 2**20 < both.pss < both.rss
    finally:
        for pid in reversed(family(running.pid)):
            subprocess.run(["kill", str(pid)], check=False)
        running.wait()
    assert look(running.pid, 0.0) is None


def test_a_run_that_ends_early_is_an_error() -> None:
    running = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="with 3"):
        list(watch(running, 60.0, 0.2))


def test_what_came_before_the_warm_up_is_not_counted() -> None:
    report = Report("", "")
    looks = [Look(60.0 * k, 2**20 * (k if k < 10 else 10), 2**20 * 7, 1) for k in range(61)]
    tell(report, looks, 600.0)
    assert report.details["rss_mib_per_hour"] == pytest.approx([0, 0, 0], abs=1e-9)
    assert len(report.details["looks"]) == 61
