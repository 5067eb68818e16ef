"""Two iterations of every arm with the tiny model, killed and gone on with, and what the recipe says of itself."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from polyturn.audit.report import audit_run
from polyturn.learn.run import Run
from polyturn.policies.tiny import open_model
from polyturn.progress import make_progress
from polyturn.recipes.archer import STUDY, Settings, held_out, main, make_work, text, texts
from polyturn.record.read import read_credit, read_episodes, read_metrics
from polyturn.record.write import open_run

SMALL: dict[str, Any] = {
    "model": "tiny", "words": 4, "questions": 4, "env_steps": 16, "episodes": 3, "critic_updates": 2,
    "actor_updates": 1,
    "batch": 4, "warmup": 1, "lr": 1e-3, "test_tasks": 2, "save_every": 1,
}


def opened(folder: Path, *, resume: bool = False, shown: IO[str] | None = None) -> Run:
    progress = make_progress(shown or StringIO())
    return Run(folder, open_run(folder, recipe="archer", resume=resume), progress, deterministic=True)


async def finished(folder: Path, settings: Settings, *, resume: bool = False, shown: IO[str] | None = None) -> Run:
    run = opened(folder, resume=resume, shown=shown)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


@pytest.mark.parametrize(("arm", "more"), [
    ("archer", {"baseline": True, "imitate": 2}), ("reinforce", {}), ("no_replay", {}), ("no_v", {}),
])
async def test_iterations_until_the_steps_are_spent(tmp_path: Path, arm: Any, more: dict[str, Any]) -> None:
    settings = Settings(**{**SMALL, **more}, arm=arm)
    run = await finished(tmp_path / "run", settings)
    rows = [row["values"] for row in read_metrics(run.folder) if row["stage"] == "archer"]
    taken = [row["loop/env_steps"] for row in rows]
    assert taken == sorted(taken) and taken[-1] >= 16 and all(value < 16 for value in taken[:-1])
    games = [episode for episode in read_episodes(run.folder) if episode.id.startswith("archer.")]
    assert sum(turn.branch == "" for e in games for t in e.trajectories for turn in t.turns) == taken[-1]
    again = [episode for episode in read_episodes(run.folder) if episode.id.startswith("actor.")]
    learned = {row["episode"] for row in read_credit(run.folder) if row["stage"] == "archer"}
    if arm == "reinforce":
        assert not again and learned == {episode.id for episode in games}
    else:
        assert "actor/loss" not in rows[0] and all("actor/loss" in row for row in rows[1:])  # the warm-up
        assert all("critic/q1" in row for row in rows)
        assert learned == {episode.id for episode in again}
        known = {f"{e.id}#{turn.at}" for e in games for t in e.trajectories for turn in t.turns}
        assert {episode.parent for episode in again} <= known
    assert run.results["outcome"].keys() == run.results["before"].keys() == {"return", "score", "found"}
    assert -4 <= run.results["outcome"]["return"] <= 0
    assert audit_run(run.folder).faults == []


async def test_a_run_gone_on_with_has_its_ring_again_and_ends_as_one_left_alone(tmp_path: Path) -> None:
    settings = Settings(**SMALL, imitate=0)
    whole = await finished(tmp_path / "whole", settings)
    run = opened(tmp_path / "cut")
    model = open_model("tiny", lambda: texts(settings), deterministic=True)
    work = make_work(settings, run, model)
    metrics = await work._iterate(0)
    run.recorder.metrics(0, metrics, stage="archer")
    run.save("archer", 1, {"actor": work.actor, "critic": work.critic, "curriculum": work.curriculum})
    ring = work.ring.rows
    run.recorder.close()
    model.close()
    resumed = opened(tmp_path / "cut", resume=True)
    model = open_model("tiny", lambda: texts(settings), deterministic=True)
    again = make_work(settings, resumed, model)
    again._refill()
    model.close()
    resumed.recorder.close()
    assert [(row.episode.id, row.at, row.reward) for row in again.ring.rows] == [
        (row.episode.id, row.at, row.reward) for row in ring]
    assert all(np.array_equal(a.prompt, b.prompt) for a, b in zip(again.ring.rows, ring, strict=True))
    ended = await finished(tmp_path / "cut", settings, resume=True)
    assert ended.results["outcome"] == whole.results["outcome"]


async def test_it_shows_no_end_that_it_does_not_know_and_says_what_was_before(tmp_path: Path) -> None:
    shown = StringIO()
    run = await finished(tmp_path / "run", Settings(**SMALL, arm="reinforce"), shown=shown)
    lines = [line for line in shown.getvalue().splitlines() if "archer" in line]
    assert lines[0] == "stage archer" and lines[1].startswith("archer · 1 · ") and " gone" in lines[1]
    before, after = run.results["before"], run.results["outcome"]
    assert text(run.results).startswith(f"on held-out games return {before['return']:.3f} -> {after['return']:.3f}, ")
    assert text({}).startswith("no result")


def test_what_it_says_of_itself() -> None:
    for arm in STUDY.arms:
        Settings(**STUDY.settings(arm, 0, 1))
    assert {settings["arm"] for settings in STUDY.arms.values()} == {"archer", "reinforce", "no_replay", "no_v"}
    assert len(held_out(Settings(test_tasks=5))) == 5
    assert any("Is it an animal?" in line for line in texts(Settings()))
