"""DART's recipe with the tiny model: every arm for two updates, free and by ticket, and a run that is gone on with."""

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
from polyturn.recipes import dart
from polyturn.recipes.dart import STUDY, Settings, held_out, main, text
from polyturn.record.read import read_credit, read_episodes, read_metrics
from polyturn.record.write import open_run

SMALL = Settings(
    model="tiny", env_steps=60, groups=2, rollouts=3, tasks=6, horizon=5, lr=1e-3, kl=0.0, environments=4, max_lag=1)


async def finished(folder: Path, settings: Settings, *, resume: bool = False, deterministic: bool = True) -> Run:
    recorder = open_run(folder, recipe="dart", resume=resume)
    run = Run(folder, recorder, make_progress(StringIO()), deterministic=deterministic)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


@pytest.fixture(autouse=True)
def few_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dart, "TEST_TASKS", 3)


@pytest.mark.parametrize(("arm", "more"), [
    ("dart", {}), ("dart", {"form": "official", "kl": 0.05}), ("no_pool", {"truncate": False, "warm_updates": 1}),
    ("plain", {}),
])
async def test_every_arm_by_ticket(tmp_path: Path, arm: Any, more: dict[str, Any]) -> None:
    run = await finished(tmp_path, replace(SMALL, arm=arm, **more))
    found = run.results["outcome"]
    assert found["env_steps"] >= 60 and found["updates"] >= 1 and "held-out" in text(run.results)
    report = audit_run(run.folder)
    assert report.faults == []
    rows = [row["values"] for row in read_metrics(run.folder) if row["stage"] == "learn"]
    assert max(row["decoupled/lag_most"] for row in rows) <= (99 if arm == "dart" else 1)
    hard = {e.id for e in read_episodes(run.folder) if e.group.startswith("stored.") and e.task.payload["need"] >= 6}
    trained = {row["episode"] for row in read_credit(run.folder) if row["weight"].any()}
    assert bool(hard & trained) == (arm == "dart")  # what nobody found is learned from the pool alone
    if arm != "dart":
        assert (report.waivers.get("steps", 0) > 0) == any(name.startswith("learn.") for name in trained)


async def test_free_with_two_replicas(tmp_path: Path) -> None:
    run = await finished(tmp_path, replace(SMALL, arm="dart", replicas=2), deterministic=False)
    assert audit_run(run.folder).faults == [] and run.results["outcome"]["updates"] >= 1
    rows = [row["values"] for row in read_metrics(run.folder) if row["stage"] == "learn"]
    assert min(row["decoupled/fewest_serving"] for row in rows) >= 1


async def test_a_run_that_ended_early_and_is_gone_on_with_comes_to_the_same_end(tmp_path: Path) -> None:
    whole = await finished(tmp_path / "whole", replace(SMALL, env_steps=120))
    cut = replace(SMALL, env_steps=120)
    recorder = open_run(tmp_path / "cut", recipe="dart")
    run = Run(tmp_path / "cut", recorder, make_progress(StringIO()), deterministic=True)

    def boom(i: int, metrics: Any) -> None:
        if i == 1 and metrics:  # a rating counts its episodes without any
            raise KeyboardInterrupt

    object.__setattr__(run.progress, "iteration", boom)
    with pytest.raises(KeyboardInterrupt):
        await main(cut, run)
    recorder.close("stopped")
    again = await finished(tmp_path / "cut", cut, resume=True)
    states = [checkpoint.load(one.folder / "checkpoints" / "state")["parts"] for one in (whole, again)]
    assert states[0]["curriculum"] == states[1]["curriculum"]
    assert again.results["outcome"] == whole.results["outcome"]
    assert audit_run(again.folder).faults == []


async def test_what_is_refused_and_what_stands_around_a_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="by ticket"):
        await finished(tmp_path, replace(SMALL, replicas=2))
    assert len(held_out(SMALL)) == 3 and {m.limits.env_steps for m in held_out(SMALL)} == {5}
    assert "did not come" in text({}) and STUDY.arms.keys() == {"dart", "no_pool", "plain"}
