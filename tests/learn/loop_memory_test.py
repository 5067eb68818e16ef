"""Rules that change with the iteration, losses with memory, value heads with a target, and stages that end early."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.advantages.group import RoleBaseline
from polyturn.advantages.returns import token_gae
from polyturn.arrays import Turns
from polyturn.learn.curriculum import StepBudget
from polyturn.learn.learner import Learner
from polyturn.learn.loop import Rule, Stage, train
from polyturn.losses.learned import Learned
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.regularize import entropy, value_error
from polyturn.losses.terms import Sum
from polyturn.losses.weighting import token_mean
from polyturn.progress import make_progress
from polyturn.record.read import read_metrics
from tests.learn.loop_test import a_run, numbers, stage, weights
from tests.policies.tiny import tiny_local


@dataclass
class Remembering:
    """The entropy bonus towards the mean entropy of the batches before; writes down when it is called and told."""

    told: list[float] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def __call__(self, learned: Learned) -> Any:
        self.log.append("loss")
        assert learned.entropy_N is not None
        goal = float(np.mean(self.told)) if self.told else 1.0
        loss, metrics = policy_gradient(learned)
        return loss + (learned.weight_N * (learned.entropy_N - goal) ** 2).sum(), metrics

    def observe(self, turns: Turns) -> None:
        self.log.append("told")
        assert turns.measured is not None and turns.measured.entropy_N is not None
        assert np.isfinite(turns.measured.entropy_N).all() and np.isfinite(turns.measured.old_N).all()
        self.told.append(float(turns.measured.entropy_N.mean()))

    def state(self) -> dict[str, Any]:
        return {"told": list(self.told)}

    def restore(self, state: Any) -> None:
        self.told = list(state["told"])


def remembering(model: Any, iterations: int, *, on_policy: bool = False) -> tuple[Stage, Remembering]:
    loss = Remembering()
    rule = Rule(RoleBaseline(), token_mean, loss, on_policy=on_policy)
    made = stage(model, iterations=iterations, rule=rule)
    return replace(made, memory={"loss": loss, "credit": rule.advantage}), loss  # type: ignore[dict-item]


@pytest.mark.parametrize("on_policy", [False, True])
async def test_a_loss_is_told_of_each_batch_once_after_its_update(tmp_path: Path, on_policy: bool) -> None:
    made, loss = remembering(tiny_local(deterministic=True), 3, on_policy=on_policy)
    await train(a_run(tmp_path), made)
    assert [entry for k, entry in enumerate(loss.log) if loss.log[k - 1 : k] != [entry]] == ["loss", "told"] * 3
    assert len(loss.told) == 3 and len(set(loss.told)) == 3


async def test_what_a_loss_remembers_survives_a_resume_to_the_same_weights(tmp_path: Path) -> None:
    whole, first, second = (tiny_local(deterministic=True) for _ in range(3))
    made, loss = remembering(whole, 4)
    run = a_run(tmp_path / "whole")
    await train(run, made)
    begun, _ = remembering(first, 2)
    before = a_run(tmp_path / "cut")
    await train(before, begun)
    before.recorder.close()
    rest, again = remembering(second, 4)
    after = a_run(tmp_path / "cut", resume=True)
    await train(after, rest)
    assert again.told == loss.told
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(second).items())
    assert numbers(after) == numbers(run)


async def test_without_its_memory_the_resumed_loss_is_another(tmp_path: Path) -> None:
    """The test above could fail: a loss that is left out of the stage's memory forgets."""
    whole, first, second = (tiny_local(deterministic=True) for _ in range(3))
    await train(a_run(tmp_path / "whole"), remembering(whole, 4)[0])
    before = a_run(tmp_path / "cut")
    begun, _ = remembering(first, 2)
    await train(before, replace(begun, memory={"credit": begun.memory["credit"]}))
    before.recorder.close()
    rest, _ = remembering(second, 4)
    await train(a_run(tmp_path / "cut", resume=True), replace(rest, memory={"credit": rest.memory["credit"]}))
    assert not all(torch.equal(value, weights(whole)[name]) for name, value in weights(second).items())


async def test_a_rule_that_depends_on_the_iteration_alone(tmp_path: Path) -> None:
    asked: list[int] = []

    def rule(iteration: int) -> Rule:
        asked.append(iteration)
        bonus = 0.5 if iteration < 2 else 0.25
        return Rule(RoleBaseline(), token_mean, Sum((1.0, policy_gradient), (bonus, entropy)))

    model = tiny_local(deterministic=True)
    made = replace(stage(model, iterations=3), rule=rule)
    assert made.rule_at(1).loss.terms[1][0] == 0.5  # type: ignore[attr-defined]
    run = a_run(tmp_path)
    await train(run, made)
    assert sorted(set(asked)) == [0, 1, 2]
    for row in read_metrics(run.folder):
        found, bonus = row["values"], 0.5 if row["iteration"] < 2 else 0.25
        assert found["learner/loss"] == pytest.approx(found["policy/loss"] + bonus * found["entropy/loss"], abs=1e-6)


def test_a_sum_tells_its_terms_of_the_batch() -> None:
    found: list[Any] = []

    @dataclass
    class Told:
        def __call__(self, learned: Learned) -> Any:
            return policy_gradient(learned)

        def observe(self, turns: Any) -> None:
            found.append(turns)

    batch: Any = object()
    Sum((1.0, policy_gradient), (2.0, Told()), (0.5, Sum((1.0, Told())))).observe(batch)
    assert found == [batch, batch]


async def test_a_value_head_learns_its_target(tmp_path: Path) -> None:
    model = tiny_local(deterministic=True)
    made = stage(model, iterations=10)
    rule = Rule(
        token_gae, token_mean, Sum((1.0, policy_gradient), (1.0, value_error)),
        target=lambda turns: np.ones(len(turns.tokens)),
    )
    learner = Learner(model.model, lr=3e-3, heads=("value",))
    run = a_run(tmp_path)
    await train(run, replace(made, rule=rule, learner=learner, memory={}))
    squares = [row["values"]["value/square"] / row["values"]["value/count"] for row in read_metrics(run.folder)]
    assert squares[0] == 1.0 and squares[-1] < 0.5


async def test_a_budget_of_steps_ends_a_stage_and_survives_a_resume(tmp_path: Path) -> None:
    def budgeted(model: Any, iterations: int) -> tuple[Stage, StepBudget]:
        made = stage(model, iterations=iterations)
        budget = StepBudget(made.curriculum, 40)
        return replace(made, curriculum=budget), budget

    # 2 groups of 4 rollouts of 2 steps are 16 an iteration: after three, 48 of 40 are taken
    model = tiny_local(deterministic=True)
    made, budget = budgeted(model, 50)
    run, shown = a_run(tmp_path / "whole"), StringIO()
    run.progress = make_progress(shown)
    await train(run, made, enough=budget.is_spent)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "stage play" and lines[1].startswith("play · 1 · ") and " gone" in lines[1]  # no total is known
    assert [row["iteration"] for row in read_metrics(run.folder)] == [0, 1, 2] and budget.taken == 48
    cut = a_run(tmp_path / "cut")
    first, started = budgeted(tiny_local(deterministic=True), 1)
    await train(cut, first, enough=started.is_spent)
    cut.recorder.close()
    other = tiny_local(deterministic=True)
    rest, left = budgeted(other, 50)
    again = a_run(tmp_path / "cut", resume=True)
    await train(again, rest, enough=left.is_spent)
    assert left.taken == 48 and numbers(again) == numbers(run)
    assert all(torch.equal(value, weights(model)[name]) for name, value in weights(other).items())
