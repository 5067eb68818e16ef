"""Two iterations of the recipe with a tiny model, in every arm, and with a model in the user's seat."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from polyturn.audit.report import audit_run
from polyturn.cli.study import study_of
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.recipes.mua_rl import Settings, held_out, main, text
from polyturn.record.read import read_metrics
from polyturn.record.write import open_run

SMALL: dict[str, Any] = {"model": "tiny", "warm_updates": 2, "warm_episodes": 4, "iterations": 2, "groups": 2,
                         "rollouts": 2, "test_tasks": 3, "trials": 1, "max_tokens": 8, "lr": 1e-3}


@pytest.mark.parametrize("more", [{"arm": "live"}, {"arm": "fixed", "kl": 0.0}, {"arm": "sft"}, {"user": "model"}])
async def test_two_iterations(tmp_path: Path, more: dict[str, Any]) -> None:
    settings = Settings(**{**SMALL, **more})
    run = Run(tmp_path / "run", open_run(tmp_path / "run", recipe="mua_rl"), make_progress(StringIO()))
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    assert run.results["user"].keys() == {"leaked", "stopped_early", "failed"}
    if settings.user == "rule":  # an untrained model in the user's seat may say nothing at all: then nothing is known
        assert run.results["outcome"].keys() == {"success", "ask_rate", "sft_success", "sft_ask_rate"}
    stages = [row["stage"] for row in read_metrics(run.folder)]
    assert stages == ["sft"] * 2 + ["rl"] * (0 if settings.arm == "sft" else 2)
    assert audit_run(run.folder).faults == []
    assert text(run.results)


def test_held_out_tasks_all_need_asking() -> None:
    matches = held_out(Settings(test_tasks=5))
    assert len(matches) == 5 and all(match.task.payload["hidden"] for match in matches)
    assert all(match.suite.rules.live for match in matches)  # type: ignore[attr-defined]


def test_the_study_and_the_text() -> None:
    assert study_of("mua_rl")[1].baseline == "fixed"
    assert text({}).startswith("no table")
