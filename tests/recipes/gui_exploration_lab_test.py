"""Two iterations of each arm with a tiny model, what their records hold, and a run that is gone on with."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from polyturn.audit.report import audit_run
from polyturn.cli.study import study_of
from polyturn.errors import BadInput
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.recipes.gui_exploration_lab import Settings, held_out, lab_of, main, text
from polyturn.record.read import read_episodes, read_metrics
from polyturn.record.write import open_run

SMALL: dict[str, Any] = {
    "model": "tiny", "brief": True, "branching": "3,2", "sft_updates": 2, "sft_tasks": 2, "sft_lr": 1e-3,
    "iterations": 2, "tasks": 1, "steps": 2, "rollouts": 2, "lr": 1e-3, "max_tokens": 6, "test_tasks": 4,
    "save_every": 1,
}


async def finished(folder: Path, *, resume: bool = False, **more: Any) -> Run:
    recorder = open_run(folder, recipe="gui_exploration_lab", resume=resume)
    run = Run(folder, recorder, make_progress(StringIO()), deterministic=True)
    try:
        await main(Settings(**{**SMALL, **more}), run)
    finally:
        run.recorder.close()
    return run


@pytest.mark.parametrize(("arm", "stages"), [
    ("sft", ["sft", "sft", "sft_longer", "sft_longer"]), ("st_rl", ["sft", "sft", "st_rl", "st_rl"]),
    ("mt_rl", ["sft", "sft", "st_rl", "mt_rl"]),
])
async def test_two_iterations(tmp_path: Path, arm: str, stages: list[str]) -> None:
    run = await finished(tmp_path / "run", arm=arm)
    assert [row["stage"] for row in read_metrics(run.folder)] == stages
    outcome = run.results["outcome"]
    assert outcome.keys() == {"success", "imitated", "reached", "static", "path", "train"}
    assert all(0 <= value <= 1 for value in outcome.values())
    assert "success" in text(run.results)
    episodes = list(read_episodes(run.folder))
    assert not any(one.stop.kind == "error" for one in episodes)
    single = [one for one in episodes if one.id.startswith("st_rl.")]
    assert len(single) == stages.count("st_rl") * 2 * 2
    known = {one.id for one in episodes}
    assert all(one.parent.partition("#")[0] in known and len(one.trajectories[0].turns) == 1 for one in single)
    assert audit_run(run.folder).faults == []


async def test_the_papers_form_of_words(tmp_path: Path) -> None:
    run = await finished(tmp_path / "run", brief=False, iterations=0, max_tokens=24, test_tasks=2)
    shown = next(one for one in read_episodes(run.folder) if one.id.startswith("played-test."))
    assert "start_box=" in shown.trajectories[0].messages[0].text
    assert "History: Null" in shown.trajectories[0].messages[0].text


async def test_a_finished_run_gone_on_with_changes_nothing(tmp_path: Path) -> None:
    first = (await finished(tmp_path / "run")).results["outcome"]
    assert (await finished(tmp_path / "run", resume=True)).results["outcome"] == first


def test_held_out_matches_and_settings() -> None:
    settings = Settings(**SMALL)
    matches = held_out(settings)
    assert len(matches) == 4 and [match.task for match in matches] == list(lab_of(settings).tasks("test"))
    assert lab_of(settings).drawn.app != lab_of(Settings(**{**SMALL, "seed": 1})).drawn.app
    with pytest.raises(BadInput, match="branching"):
        lab_of(Settings(branching="5;3"))


def test_the_study_names_settings_that_exist() -> None:
    name, study = study_of("gui_exploration_lab")
    assert name == "gui_exploration_lab" and set(study.arms) == {"sft", "st_rl", "mt_rl"}
