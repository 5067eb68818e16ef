"""The benchmark of the recorder, cut down: what it says, and that it notices what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.record import main, steps, write


def test_it_tells_seconds_limits_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--episodes", "60", "--repeats", "2", "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["benchmark"] == "record: 60 episodes of 2,000 tokens"
    assert told["limits"].keys() == {"written within 0.18 s", "token columns within 0.018 s"}
    for name in ("written", "closed", "token columns", "opened and counted"):
        assert len(told["details"][name]["cpu_s"]) == 2 and min(told["details"][name]["wall_s"]) > 0
    # 0.18 s is the target for 60 of 10,000 episodes in 30 s
    assert told["limits"]["written within 0.18 s"] == pytest.approx(0.18 / max(told["details"]["written"]["cpu_s"]))
    assert told["details"]["mib_beyond_the_start"] >= 0


def test_a_missing_episode_fails(tmp_path: Path) -> None:
    write(tmp_path / "run", 9)
    found = steps(tmp_path / "run", 10)
    with pytest.raises(AssertionError, match="9000"):
        found["token columns"]()
    with pytest.raises(AssertionError):
        found["opened and counted"]()
