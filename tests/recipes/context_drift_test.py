"""A small run of the recipe with a tiny model, for each kind of reference and schedule."""

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
from polyturn.recipes.context_drift import Settings, held_out, main, schedule_of, text
from polyturn.record.read import read_episodes
from polyturn.record.write import open_run


@pytest.mark.parametrize("more", [
    {"warm_updates": 2, "reference": "checkpoint"}, {"schedule": "threshold", "threshold": 0.0},
    {"arm": "reminders", "schedule": "budgeted", "threshold": 0.0, "reference": "second"},
])
async def test_a_small_run(tmp_path: Path, more: dict[str, Any]) -> None:
    settings = Settings("tiny", conversations=3, turns=6, reply_tokens=5, at="3", **more)
    run = Run(tmp_path / "run", open_run(tmp_path / "run", recipe="context_drift"), make_progress(StringIO()))
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    found = run.results
    arms = ["none", "reminders"] if settings.arm == "both" else [settings.arm]
    assert list(found["arms"]) == arms and found["outcome"].keys() == {"kl", "js", "kept"}
    assert all(len(row["by_turn"]) == 6 for row in found["arms"].values())
    assert found["costs"]["reminders"]["reminders"] == found["arms"]["reminders"]["reminders"] > 0
    assert ("paired" in found) == (settings.arm == "both") and "verdict" in text(found)
    assert len(list(read_episodes(run.folder))) >= 3 * len(arms)
    assert audit_run(run.folder).faults == []


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(BadInput, match="numbers of turns"):
        schedule_of(Settings(at="3, four"))


def test_the_study_and_the_conversations() -> None:
    assert study_of("context_drift")[1].baseline == "none"
    assert len(held_out(Settings(conversations=4))) == 4
    assert text({}).startswith("no report")
