"""Decoupled training whose learner runs on two ranks: the updates of one process, while others play."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from polyturn.audit.report import audit_run
from polyturn.learn.ranks.group import Ranks, open_ranks
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.recipes import dart
from polyturn.recipes.dart import Settings, main
from polyturn.record.read import read_metrics
from polyturn.record.write import open_run

pytestmark = pytest.mark.timeout(600)  # processes that start on a busy machine


async def updates(folder: Path, ranks: Ranks | None) -> list[dict[str, float]]:
    """The metrics of every update."""
    settings = Settings(model="tiny", env_steps=60, groups=2, rollouts=3, tasks=6, horizon=5, lr=1e-3, kl=0.05,
                        environments=4, max_lag=1, warm_updates=1)
    run = Run(folder, open_run(folder, recipe="dart"), make_progress(StringIO()), deterministic=True, ranks=ranks)
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    assert audit_run(folder).faults == []
    return [row["values"] for row in read_metrics(folder)]


async def test_two_ranks_make_the_updates_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dart, "TEST_TASKS", 2)
    one = await updates(tmp_path / "one", None)
    with open_ranks(2, deadline_s=300.0, device="cpu") as ranks:
        two = await updates(tmp_path / "two", ranks)
    assert len(one) == len(two)
    learned = [(a, b) for a, b in zip(one, two, strict=True) if "learner/grad_norm" in a | b]
    assert len(learned) > 2  # an update may have nothing to learn from
    for first, second in learned:
        assert second["learner/grad_norm"] == pytest.approx(first["learner/grad_norm"], rel=1e-4, abs=1e-6)
        assert second["learner/tokens"] == first["learner/tokens"] and second["learner/ranks"] == 2
