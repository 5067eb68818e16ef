"""Two hundred environments for two seconds: nothing is lost, and what disagrees is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load import TURNS, run, slope


def test_counts_agree(tmp_path: Path) -> None:
    found = run(tmp_path / "run", 200, 2.0, 0.05)
    assert found["ended"] >= 200 and found["turns_on_record"] == TURNS * found["ended"] == found["taken"]
    assert found["begun"] == found["closed"] == found["episodes_on_record"] == found["ended"]


def test_slope_by_hand() -> None:
    # 10 MiB at 0 s, 11 at 60 s, 12 at 120 s, 13 at 180 s: the second half rises by 1 MiB a minute
    memory = [(60.0 * k, (10 + k) * 2**20) for k in range(6)]
    assert slope(memory) == pytest.approx(1.0)
    assert slope(memory[:2]) != slope(memory[:2])
