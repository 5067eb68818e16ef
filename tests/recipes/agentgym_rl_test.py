"""The recipe of ScalingInter-RL with the tiny model: every arm and estimator, the budget, and a resume."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from polyturn.audit.report import audit_run
from polyturn.learn.curriculum import steps_of
from polyturn.learn.run import Run
from polyturn.policies.tiny import open_model
from polyturn.progress import make_progress
from polyturn.recipes.agentgym_rl import STUDY, Settings, held_out, main, stage_of, text
from polyturn.record.read import read_episodes, read_metrics
from polyturn.record.write import open_run

SMALL = Settings(
    model="tiny", groups=2, rollouts=2, horizons=(2, 3, 5), every=1, env_steps=20, test_tasks=4, lr=1e-3, save_every=1,
)


async def finished(folder: Path, settings: Settings, *, resume: bool = False) -> Run:
    run = Run(folder, open_run(folder, recipe="agentgym_rl", resume=resume), make_progress(StringIO()), True)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


def steps_by_iteration(run: Run) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for episode in read_episodes(run.folder):
        if episode.id.startswith("learn."):
            found.setdefault(int(episode.id.split(".")[1]), []).append(steps_of(episode))
    return found


@pytest.mark.parametrize(("arm", "more", "most"), [
    ("scaled", {}, [2, 3, 5, 5]), ("short", {"kl": 0.0, "warm_updates": 1}, [2] * 9),
    ("long", {"estimator": "rloo"}, [5] * 9),
    ("scaled", {"estimator": "reinforce_plus_plus", "mask": False}, [2, 3, 5, 5]),
    ("scaled", {"estimator": "gae", "kl": 0.0}, [2, 3, 5, 5]),
])
async def test_every_arm_keeps_its_horizon_and_its_budget(
    tmp_path: Path, arm: Any, more: dict[str, Any], most: list[int]
) -> None:
    run = await finished(tmp_path, replace(SMALL, arm=arm, **more))
    steps = steps_by_iteration(run)
    assert all(max(steps[i]) <= most[i] for i in steps)
    whole = [sum(steps[i]) for i in sorted(steps)]
    assert sum(whole) >= 20 > sum(whole[:-1])  # it ended at the first iteration that spent the budget
    assert run.results["outcome"]["env_steps"] == sum(whole) and run.results["outcome"]["iterations"] == len(whole)
    assert "environment steps" in text(run.results)
    cut = sum(e.stop.kind == "truncated" for e in read_episodes(run.folder) if e.id.startswith("learn."))
    assert cut == sum(row["values"]["rollout/truncated"] for row in read_metrics(run.folder)
                      if row["stage"] == "learn") > 0
    assert audit_run(run.folder).faults == []


async def test_a_finished_run_gone_on_with_changes_nothing(tmp_path: Path) -> None:
    first = (await finished(tmp_path, SMALL)).results["outcome"]
    again = await finished(tmp_path, SMALL, resume=True)
    assert {**again.results["outcome"]} == first


def test_held_out_tasks_are_rated_at_the_last_horizon_whatever_the_arm() -> None:
    for arm in ("scaled", "short", "long"):
        matches = held_out(replace(SMALL, arm=arm))  # type: ignore[arg-type]
        assert len(matches) == 4 and {match.limits.env_steps for match in matches} == {5}
    assert STUDY.baseline == "long" and STUDY.arms.keys() == {"scaled", "short", "long"}
    assert "did not come" in text({})


def test_the_most_iterations_are_what_the_budget_allows(tmp_path: Path) -> None:
    run = Run(tmp_path, open_run(tmp_path, recipe="agentgym_rl"), make_progress(StringIO()))
    model = open_model("tiny", lambda: ["north south west east"])
    try:
        stage, budget = stage_of(SMALL, run, model)
    finally:
        model.close()
        run.recorder.close()
    assert stage.iterations == 20 // 4 + 1 and budget.steps == 20
