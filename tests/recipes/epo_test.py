"""EPO's recipe with the tiny model: every arm for two iterations, and a run that is gone on with."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from polyturn.audit.report import audit_run
from polyturn.errors import BadInput
from polyturn.learn import checkpoint
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.recipes.epo import STUDY, Settings, held_out, main, text
from polyturn.record.read import read_episodes, read_metrics
from polyturn.record.write import open_run

SMALL = Settings(model="tiny", iterations=2, groups=2, rollouts=2, horizon=4, test_tasks=3, lr=1e-3, coefficient=0.1)


async def finished(folder: Path, settings: Settings, *, resume: bool = False) -> Run:
    run = Run(folder, open_run(folder, recipe="epo", resume=resume), make_progress(StringIO()), deterministic=True)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


@pytest.mark.parametrize(("arm", "more"), [
    ("none", {}), ("bonus", {"warm_updates": 1}), ("hinge", {"scope": "turn"}), ("hinge_phase", {"high": 0.6}),
    ("official", {"environment": "crafting"}),
    pytest.param("hinge", {"environment": "coin_collector"}, marks=pytest.mark.model),
])
async def test_two_iterations_of_every_arm(tmp_path: Path, arm: Any, more: dict[str, Any]) -> None:
    run = await finished(tmp_path, replace(SMALL, arm=arm, **more))
    assert run.results["outcome"].keys() >= {"success"} and "success on held-out" in text(run.results)
    rows = [row["values"] for row in read_metrics(run.folder) if row["stage"] == "learn"]
    assert len(rows) == 2 and audit_run(run.folder).faults == []
    assert ("epo/penalty" in rows[1]) == (arm not in ("none", "bonus"))
    if arm in ("hinge", "hinge_phase", "official"):
        assert rows[0]["epo/penalty"] == 0.0  # no history yet
        kept = checkpoint.load(run.folder / "checkpoints" / "state")["parts"]["history"]
        assert max(kept["batches"]) == 2 and all(value > 0 for value in kept["sum"][:1])
    if arm == "hinge_phase":
        assert rows[1]["epo/above"] > 0 and rows[1]["epo/penalty"] > 0


@pytest.mark.parametrize(("environment", "horizon"), [
    ("coin_collector", 3), pytest.param("science_world", 2, marks=pytest.mark.long),
])
@pytest.mark.timeout(900)
async def test_worlds_of_other_packages(tmp_path: Path, environment: str, horizon: int) -> None:
    run = await finished(tmp_path, replace(
        SMALL, environment=environment, horizon=horizon, groups=1, iterations=1, warm_updates=1, test_tasks=1))
    episodes = list(read_episodes(run.folder))
    assert {episode.task.family for episode in episodes} == {environment}
    assert not [episode.error for episode in episodes if episode.error]
    assert [row["stage"] for row in read_metrics(run.folder)] == ["warm", "learn"]
    assert audit_run(run.folder).faults == []


async def test_a_run_that_ended_early_and_is_gone_on_with_has_the_same_history_and_success(tmp_path: Path) -> None:
    settings = replace(SMALL, arm="hinge", iterations=3)  # type: ignore[arg-type]
    whole = await finished(tmp_path / "whole", settings)
    await finished(tmp_path / "cut", replace(settings, iterations=1))
    again = await finished(tmp_path / "cut", settings, resume=True)
    states = [checkpoint.load(one.folder / "checkpoints" / "state")["parts"]["history"] for one in (whole, again)]
    assert states[0] == states[1] and max(states[0]["batches"]) == 3
    assert again.results["outcome"] == whole.results["outcome"]


async def test_an_environment_with_several_seats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="plays one"):
        await finished(tmp_path, replace(SMALL, environment="kuhn_poker"))


def test_what_stands_around_a_run() -> None:
    matches = held_out(SMALL)
    assert len(matches) == 3 and {match.limits.env_steps for match in matches} == {4}
    assert "did not come" in text({})
    assert STUDY.arms.keys() == {"none", "bonus", "hinge", "hinge_phase"}
