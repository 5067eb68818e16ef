"""The benchmark of slow environments: its waits, and a small run of all schedules."""

from __future__ import annotations

import pytest

from benchmarks.decoupled import Outcome, Work, batches, measured, report_of, waits


def test_waits_are_those_of_the_task_and_its_play() -> None:
    assert waits("t0", 1, 6) == waits("t0", 1, 6) and waits("t0", 1, 6) != waits("t0", 2, 6)
    every = [seconds for i in range(2000) for seconds in waits(f"t{i}", 0, 6)]
    assert min(every) == 0.05 and max(every) == 2.0
    # the log-normal of mean 0.3 and sigma 1 has median 0.3 e^-0.5 = 0.182; clipping takes its mean to about 0.28
    assert sorted(every)[len(every) // 2] == pytest.approx(0.182, rel=0.05)
    assert sum(every) / len(every) == pytest.approx(0.28, abs=0.02)


def test_ratios_by_hand() -> None:
    work = Work(environments=8, episodes=32)
    assert list(batches(work)) == [2, 4, 8]
    found = {"decoupled": [Outcome(2.0, 32, 0.6, 0.9, 1)], "synchronous, batches of 8": [Outcome(8.0, 32, 0.2, 0.3)],
             "synchronous, batches of 16": [Outcome(4.0, 32, 0.4, 0.5)]}
    report = report_of(work, found)
    assert report.ratios == {"synchronous, batches of 8": 4.0, "synchronous, batches of 16": 2.0,
                             "our synchronous loop at its best batch": 2.0}
    assert report.details["best_batch"] == "synchronous, batches of 16" and "episodes/s" in report.text()


def test_every_schedule_trains_on_all_episodes() -> None:
    found = measured(Work(environments=4, episodes=16, turns=2, replicas=2, scale=0.01), 1)
    assert set(found) == {"decoupled", *(f"synchronous, batches of {n}" for n in (4, 8, 16))}
    for runs in found.values():
        assert [run.episodes for run in runs] == [16]
        assert all(0 < run.busy <= run.occupied for run in runs)
    assert [run.fewest_serving for run in found["decoupled"]] == [1]
