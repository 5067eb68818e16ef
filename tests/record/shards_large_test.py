"""10,000 episodes of 2,000 tokens: nothing is lost, memory stays bounded. How fast: ``python -m benchmarks.record``."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from benchmarks.record import steps


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_ten_thousand_episodes_are_recorded_closed_and_read_in_bounded_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for work in steps(tmp_path / "run", 10_000).values():
        work()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 1500
