"""Two iterations of search with a tiny model, for each arm; the imperfect player; a run gone on with."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from itertools import islice
from pathlib import Path

import pytest

from polyturn.audit.report import audit_run
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.recipes.igpo import STUDY, Settings, held_out, imperfect, main, suite_of, text, texts_of
from polyturn.record.read import read_episodes, read_metrics
from polyturn.record.write import open_run
from tests.envs.drive import drive

SMALL = Settings(model="tiny", people=4, fresh=True, listed=True, steps=3, warm_updates=1, iterations=2, groups=2,
                 rollouts=2, test_tasks=3, save_every=1, lr=1e-3, warm_lr=1e-3)


async def finished(folder: Path, settings: Settings, *, resume: bool = False) -> Run:
    run = Run(folder, open_run(folder, recipe="igpo", resume=resume), make_progress(StringIO()), deterministic=True)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


async def test_two_iterations_and_gone_on_with(tmp_path: Path) -> None:
    run = await finished(tmp_path / "run", SMALL)
    assert run.results["outcome"].keys() == {"success", "support", "zero_groups", "silent_groups"}
    assert [row["stage"] for row in read_metrics(run.folder)] == ["warm", "search", "search"]
    assert audit_run(run.folder).faults == []
    searched = [e for e in read_episodes(run.folder) if e.id.startswith("search.")]
    assert len(searched) == 2 * 2 * 2
    for made in searched:
        score, turns = made.scores["belief"]["agent"], made.trajectories[0].turns
        assert list(score.parts) == [f"p{t}" for t in range(len(turns))]
        assert list(score.turns) == [turn.at for turn in turns[:-1]]
        assert all(0 < value < 1 for value in score.parts.values())
    assert "success: " in text(run.results)
    again = await finished(tmp_path / "run", SMALL, resume=True)
    assert again.results["outcome"] == run.results["outcome"]


@pytest.mark.parametrize("arm", ["igpo_joint", "igpo_log", "snapshot", "grpo"])
async def test_every_arm_runs(tmp_path: Path, arm: str) -> None:
    settings = replace(SMALL, arm=arm, iterations=1, warm_updates=0, kl=0.0, gamma=0.95)  # type: ignore[arg-type]
    run = await finished(tmp_path / "run", settings)
    assert audit_run(run.folder).faults == []


async def test_the_imperfect_player() -> None:
    suite = suite_of(SMALL)
    task = next(iter(suite.tasks("train")))
    driven = await drive(suite, task, 0, {"agent": imperfect(suite, task, replace(SMALL, skill=1.0))})
    assert driven.final["answer"] == task.payload["answers"][0]
    driven = await drive(suite, task, 0, {"agent": imperfect(suite, task, replace(SMALL, skill=0.0))})
    assert all(command in ("search", "answer") for command, _ in driven.final["commands"])
    assert not driven.kinds()


async def test_the_imperfect_player_goes_on_after_its_answer_was_not_played() -> None:
    suite = suite_of(replace(SMALL, steps=8))
    for task in islice(suite.tasks("train"), 20):
        driven = await drive(suite, task, 0, {"agent": imperfect(suite, task, replace(SMALL, skill=0.6))})
        assert driven.final["answer"] is not None or len(driven.final["commands"]) == 8


def test_what_is_played_and_read() -> None:
    assert len(held_out(SMALL)) == 3
    words = texts_of(suite_of(SMALL), tasks=2)
    assert any(text.startswith("search: ") for text in words) and any(text.startswith("Name the ") for text in words)
    for arm in STUDY.arms:
        Settings(**STUDY.settings(arm, 0, 0))
