"""The benchmark of the dashboard, cut down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.dashboard import large_run, main
from polyturn.record.read import read_episodes
from polyturn.record.rules import broken_rules


def test_the_record_is_whole_and_keeps_the_rules(tmp_path: Path) -> None:
    episodes = list(read_episodes(large_run(tmp_path / "run", 300)))
    assert len({episode.id for episode in episodes}) == 300
    assert {episode.iteration for episode in episodes} == {0, 1} and episodes[-1].id == "learn.1.5.3"
    assert [finding for episode in episodes for finding in broken_rules(episode)] == []
    assert all(episode.scores["score"]["agent"].value == episode.trial % 2 for episode in episodes)


@pytest.mark.timeout(300)
def test_it_tells_seconds_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--episodes", "300", "--repeats", "1", "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["benchmark"] == "dashboard: 300 recorded episodes"
    assert told["limits"].keys() == {f"{what} within 1 s" for what in ("first page", "a run", "an episode")}
    assert told["limits"]["first page within 1 s"] == pytest.approx(1 / told["details"]["first page"][0])
    assert told["details"]["recorded"] > 0 and told["details"]["indexed"] > 0
