"""Runs for the page, against what was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyturn.dashboard.overview import axis, compared, rated, run_rows, run_view
from polyturn.dashboard.watch import Watch
from polyturn.errors import BadInput
from polyturn.types import Episode, PolicyInfo, Score, Task
from tests.dashboard.made import made_run


def watched(top: Path) -> Watch:
    found = Watch((top,))
    found.look()
    found.read_on(5)
    return found


def test_a_row_counts_what_was_recorded(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=2)
    row, = run_rows(watched(tmp_path))
    assert (row["episodes"], row["turns"], row["tokens"], row["errors"], row["course"]) == (4, 16, 48, 0, [0.5, 0.5])
    assert row["progress"] == {"read": row["progress"]["there"], "there": row["progress"]["there"], "damaged": 0,
                               "whole": True}


def test_the_axis_runs_through_the_stages_in_the_order_of_play(tmp_path: Path) -> None:
    recorder = made_run(tmp_path / "run", iterations=2, close=False)
    recorder.metrics(0, {"x": 1.0}, stage="second")
    recorder.close()
    assert axis(watched(tmp_path).run("run").index) == [["learn", 0], ["learn", 1], ["second", 0]]


def test_what_was_played_outside_training_is_clustered_by_task(tmp_path: Path) -> None:
    recorder = made_run(tmp_path / "run", iterations=1, close=False)
    for n, values in enumerate(((1.0, 0.0), (1.0, 1.0), (0.0, 0.0))):
        for trial, value in enumerate(values):
            name = f"after.{n}.{trial}"
            recorder.episode(Episode(name, Task(f"t{n}", "guessing"), n, f"after.{n}", trial,
                                     cast={"agent": PolicyInfo("main")}))
            recorder.scores("score", {name: {"agent": Score(value)}})
    recorder.close()
    found, = rated(watched(tmp_path).run("run").index)
    assert (found["stage"], found["mean"], found["groups"], found["episodes"]) == ("after", 0.5, 3, 6)
    # tasks' sums off the mean: 0, 1, -1; v = 3/2 * 2 / 36 = 1/12, n = (1/4) / v = 3; Wilson's with t(2) = 4.303:
    # (p + t^2/2n - t sqrt(p(1-p)/n + t^2/4n^2)) / (1 + t^2/n)
    t, n = 4.302653, 3.0
    low = (0.5 + t * t / (2 * n) - t * (0.25 / n + t * t / (4 * n * n)) ** 0.5) / (1 + t * t / n)
    assert found["low"] == pytest.approx(low, abs=1e-6)


def test_results_that_are_no_json_are_said(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=1)
    (tmp_path / "run" / "results.json").write_text("{")
    watch = watched(tmp_path)
    with pytest.raises(BadInput, match="not JSON"):
        run_view("run", watch.run("run"))


def test_equal_settings_do_not_differ(tmp_path: Path) -> None:
    made_run(tmp_path / "a", iterations=1)
    made_run(tmp_path / "b", iterations=1)
    watch = watched(tmp_path)
    assert compared(dict(watch.runs))["settings"] == {}
