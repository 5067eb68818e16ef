"""The recipe on two ranks: the run of one process, the same audit, and checkpoints that go on in either."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from polyturn.audit.report import audit_run
from polyturn.cli.main import main as command
from polyturn.learn.ranks.group import Ranks, open_ranks
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.recipes.group_rl import Settings, main
from polyturn.record.read import read_metrics
from polyturn.record.write import open_run
from tests.policies.tiny import tiny_folder

pytestmark = pytest.mark.timeout(600)  # processes that start on a busy machine
SMALL: dict[str, Any] = {"iterations": 3, "groups": 2, "rollouts": 3, "test_tasks": 2, "trials": 1, "max_tokens": 4,
                         "lr": 1e-3, "warm_lr": 1e-3, "warm_episodes": 2, "warm_updates": 1, "save_every": 1}


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    with open_ranks(2, deadline_s=300.0, device="cpu") as made:
        yield made


async def finished(folder: Path, settings: Settings, ranks: Ranks | None, *, resume: bool = False,
                   until: int | None = None) -> Run:  # fmt: skip
    """A run, which breaks off in iteration ``until`` of its last stage."""
    run = Run(folder, open_run(folder, recipe="group_rl", resume=resume), make_progress(StringIO()), deterministic=True,
              ranks=ranks)  # fmt: skip
    shown = run.progress.iteration

    def boom(i: int, metrics: Any) -> None:
        shown(i, metrics)
        if i == until and metrics:  # a rating counts its episodes without any
            raise KeyboardInterrupt

    run.progress.iteration = boom  # type: ignore[method-assign]
    try:
        await main(settings, run)
    finally:
        run.recorder.close()
    return run


def check_same(one: Run, two: Run) -> None:
    weights = [load_file(run.model_folder("learn") / "model.safetensors") for run in (one, two)]
    for name, value in weights[0].items():
        assert float((value - weights[1][name]).norm() / value.norm()) < 1e-5, name


async def test_two_ranks_make_the_run_of_one_process_and_either_goes_on_with_the_other(
    tmp_path: Path, ranks: Ranks,
) -> None:
    settings = Settings("guess_the_number", str(tiny_folder(tmp_path / "model")), **SMALL)
    one = await finished(tmp_path / "one", settings, None)
    two = await finished(tmp_path / "two", settings, ranks)
    rows = [[row["values"] for row in read_metrics(run.folder)] for run in (one, two)]
    assert len(rows[0]) == len(rows[1]) == 4
    for first, second in zip(*rows, strict=True):
        assert second["learner/ranks"] == 2 and "learner/ranks" not in first
        for name in ("learner/grad_norm", "learner/loss", "learner/entropy", "rollout/tokens"):
            assert second[name] == pytest.approx(first[name], rel=1e-4, abs=1e-6)
    assert any(row["learner/grad_norm"] > 0.01 for row in rows[1])
    assert audit_run(two.folder).faults == []
    check_same(one, two)
    for name, before, after in (("there", ranks, None), ("back", None, ranks)):
        with pytest.raises(KeyboardInterrupt):
            await finished(tmp_path / name, settings, before, until=1)
        check_same(one, await finished(tmp_path / name, settings, after, resume=True))


def test_recipes_that_keep_their_learners_refuse_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["run", "archer", "--ranks", "2", "--folder", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "archer learns in one process" in said and "take one of agentgym_rl, codeact" in said
    assert command(["run", "group_rl", "--ranks", "0", "--folder", str(tmp_path / "run")]) == 2
    assert "--ranks is 0; expected at least 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_command_runs_on_two_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLYTURN_DEVICE", "cpu")
    values = replace(Settings("guess_the_number", str(tiny_folder(tmp_path / "model"))), **SMALL)
    words = [word for name in SMALL for word in (f"--{name.replace('_', '-')}", str(getattr(values, name)))]
    assert command(["run", "group_rl", "--model", values.model, *words, "--ranks", "2",
                    "--folder", str(tmp_path / "run")]) == 0
    assert "after - before" in capsys.readouterr().out
    assert all(row["values"]["learner/ranks"] == 2 for row in read_metrics(tmp_path / "run"))
