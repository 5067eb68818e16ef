from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from polyturn.audit.report import audit_run
from polyturn.cli.policy import model_folder
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.recipes import quickstart
from polyturn.recipes.quickstart import Settings
from polyturn.record.read import read_episodes
from polyturn.record.write import open_run
from tests.policies.tiny import tiny_folder

ROWS = {"null", "random", "base", "stage1", "stage1_longer", "stage2", "oracle"}


async def finished(folder: Path, settings: Settings, *, resume: bool = False) -> Run:
    progress = make_progress(StringIO())
    run = Run(folder, open_run(folder, recipe="quickstart", resume=resume), progress, deterministic=True)
    try:
        await quickstart.main(settings, run)
    finally:
        run.recorder.close()
    return run


async def test_the_whole_recipe_with_a_tiny_model(tmp_path: Path) -> None:
    settings = Settings(
        model=str(tiny_folder(tmp_path / "model")), warm_updates=2, warm_episodes=2, iterations=2, groups=1, rollouts=4,
        test_tasks=4, trials=1, control=True, save_every=1, warm_lr=1e-3, lr=1e-3,
    )
    run = await finished(tmp_path / "run", settings)
    results = run.results
    assert results["table"].keys() == ROWS
    for row in results["table"].values():
        assert row["environments"].keys() == {"guess_the_number", "kuhn_poker_vs_random", "tic_tac_toe"}
        assert row["mixture"]["errors"] == 0 and row["mixture"]["n_trials"] == 12
    oracle = results["table"]["oracle"]["mixture"]
    assert oracle["mean"] > results["table"]["random"]["mixture"]["mean"] and oracle["illegal"] == 0.0
    assert results["paired"].keys() == {"stage2_minus_stage1", "stage2_minus_stage1_longer"}
    assert results["exploitability"].keys() == {"base", "stage1", "stage2", "stage1_longer"}
    assert set(results["trained_tokens"]) == {"stage1", "stage2", "stage1_longer"}
    report = audit_run(run.folder)
    assert list(report.faults) == [] and report.tokens > 0
    for stage in ("stage1", "stage2", "stage1_longer"):
        assert (run.model_folder(stage) / "model.safetensors").exists()
    assert model_folder(run.folder) == run.model_folder("stage2")

    text = quickstart.text(results)
    again = await finished(tmp_path / "run", settings, resume=True)  # everything is there: nothing is played again
    assert quickstart.text(again.results) == text
    ids = [episode.id for episode in read_episodes(run.folder)]
    assert len(ids) == len(set(ids))


def test_what_it_takes_is_foreseen() -> None:
    foreseen = quickstart.foresee(Settings())
    assert foreseen["seconds"] == pytest.approx(sum(foreseen["stages"].values())) and foreseen["bytes"] < 8 * 2**30
    assert len(quickstart.held_out(Settings())) == 3 * 64
