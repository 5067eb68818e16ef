"""Every start that is timed works."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks.start import FLOORS, STARTS, seconds


@pytest.mark.parametrize("name", [name for name in STARTS if "oad" not in name])
def test_what_is_timed_works(name: str) -> None:
    assert seconds(STARTS[name]) > 0


def test_a_start_that_fails_is_no_figure() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        seconds(["-c", "raise SystemExit(3)"])
    assert {*FLOORS, *FLOORS.values()} <= set(STARTS)
