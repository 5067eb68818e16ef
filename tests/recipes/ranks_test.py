"""Every recipe that says ``RANKS`` on two ranks: the updates of one process, and a record without faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from polyturn.audit.report import audit_run
from polyturn.cli.recipe import load, shipped
from polyturn.learn.ranks.group import Ranks, open_ranks
from polyturn.learn.run import Run
from polyturn.progress import make_progress
from polyturn.record.read import read_metrics
from polyturn.record.write import open_run
from tests.policies.tiny import tiny_folder

pytestmark = pytest.mark.timeout(600)  # processes that start on a busy machine
TESTED = {"dart", "group_rl"}
"""With tests of their own, ``<name>_ranks_test.py``."""
SMALL: Mapping[str, Mapping[str, Any]] = {
    "agentgym_rl": {"groups": 2, "rollouts": 2, "horizons": (2, 3, 5), "every": 1, "env_steps": 20, "test_tasks": 2,
                    "lr": 1e-3, "kl": 0.1, "estimator": "gae"},
    "codeact": {"trajectories": 4, "updates": 2, "tokens": 150, "mix": 0.0, "test_tasks": 1, "before_tasks": 1,
                "reply_tokens": 4, "test_most": 6},
    "context_drift": {"conversations": 2, "turns": 3, "reply_tokens": 3, "at": "2", "warm_updates": 2,
                      "reference": "checkpoint"},
    "epo": {"iterations": 2, "groups": 2, "rollouts": 2, "horizon": 4, "test_tasks": 2, "lr": 1e-3, "coefficient": 0.1},
    "gui_exploration_lab": {"brief": True, "branching": "3,2", "sft_updates": 2, "sft_tasks": 2, "sft_lr": 1e-3,
                            "iterations": 2, "tasks": 1, "steps": 2, "rollouts": 2, "lr": 1e-3, "max_tokens": 6,
                            "test_tasks": 2},
    "igpo": {"people": 4, "fresh": True, "listed": True, "steps": 3, "warm_updates": 1, "iterations": 2, "groups": 2,
             "rollouts": 2, "test_tasks": 2, "lr": 1e-3, "warm_lr": 1e-3},
    "mem1": {"warm_updates": 2, "warm_episodes": 2, "iterations": 2, "groups": 2, "rollouts": 2, "test_tasks": 1,
             "warm_lr": 1e-3, "max_tokens": 8},
    "mua_rl": {"warm_updates": 2, "warm_episodes": 4, "iterations": 2, "groups": 2, "rollouts": 2, "test_tasks": 2,
               "trials": 1, "max_tokens": 8, "lr": 1e-3, "kl": 0.1},
    "multi_turn_preference": {"steps": 1, "sft_updates": 2, "sft_episodes": 4, "sft_lr": 1e-3, "rounds": 2,
                              "prompts": 3, "samples": 2, "pairs": 2, "test_tasks": 2, "lr": 1e-3},
    "quickstart": {"warm_updates": 2, "warm_episodes": 2, "iterations": 2, "groups": 1, "rollouts": 4, "test_tasks": 1,
                   "trials": 1, "control": True, "warm_lr": 1e-3, "lr": 1e-3},
    "spiral": {"iterations": 2, "batch": 4, "warm_updates": 1, "measure_every": 1, "test_games": 2, "mask": True,
               "rules": False, "lr": 1e-3},
    "supo": {"warm_updates": 2, "warm_episodes": 2, "iterations": 2, "groups": 2, "rollouts": 2, "test_tasks": 1,
             "warm_lr": 1e-3, "parts": 4, "steps": 8},
}


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with open_ranks(2, deadline_s=300.0, device="cpu") as made:
        yield made


async def updates(name: str, folder: Path, model: str, ranks: Ranks | None) -> list[dict[str, float]]:
    """The metrics of every iteration that learned."""
    recipe = load(name)
    run = Run(folder, open_run(folder, recipe=name), make_progress(StringIO()), deterministic=True, ranks=ranks)
    try:
        await recipe.main(recipe.settings(model=model, **SMALL[name]), run)
    finally:
        run.recorder.close()
    assert audit_run(folder).faults == []
    return [row["values"] for row in read_metrics(folder) if "learner/grad_norm" in row["values"]]


def test_each_recipe_with_ranks_is_tested() -> None:
    assert {name for name in shipped() if load(name).ranks} == SMALL.keys() | TESTED


@pytest.mark.parametrize("name", sorted(SMALL))
async def test_two_ranks_make_the_updates_of_one_process(name: str, tmp_path: Path, ranks: Ranks) -> None:
    model = str(tiny_folder(tmp_path / "model")) if name == "quickstart" else "tiny"
    one = await updates(name, tmp_path / "one", model, None)
    two = await updates(name, tmp_path / "two", model, ranks)
    assert len(one) == len(two) >= 2
    assert any(row["learner/grad_norm"] > 1e-3 for row in one)
    for first, second in zip(one, two, strict=True):
        assert second["learner/ranks"] >= 2 and "learner/ranks" not in first
        assert second["learner/tokens"] == first["learner/tokens"]
        assert second["learner/grad_norm"] == pytest.approx(first["learner/grad_norm"], rel=1e-3, abs=1e-5)
