"""ScalingInter-RL: walks through a grid, the steps that a rollout may take raised as training goes on.

The arms differ in the horizon alone: ``short`` and ``long`` keep the first and the last of ``horizons``, ``scaled``
goes through all, a stage every ``every`` iterations. All arms get the same number of environment steps, and all are
rated on the same held-out tasks at the last horizon, since a horizon changes what a score means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import nan
from statistics import fmean
from typing import Any, Literal

from polyturn.advantages.returns import value_target_N
from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.cli.subject import held_out as test_matches
from polyturn.envs.grid import Grid, grid
from polyturn.evaluate.benchmark import evaluate
from polyturn.evaluate.study import Study
from polyturn.evaluate.trials import score_of
from polyturn.learn.curriculum import Mixture, Share, StepBudget
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.run import Run
from polyturn.losses.learned import Loss
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.regularize import kl, value_error
from polyturn.losses.terms import Sum
from polyturn.losses.weighting import token_mean
from polyturn.methods.learning.agentgym_rl import ESTIMATORS, ScalingHorizon
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import is_tiny, open_model
from polyturn.protocols import AgentMaker, Match, Player
from polyturn.rollout.pool import Pool
from polyturn.rollout.spoken import spoken
from polyturn.seeds import derive
from polyturn.types import Limits, Sampling, Seat, Task

ORDER = ("warm", "learn")
STUDY = Study(
    outcome="success", baseline="long", curve="score/grid",
    arms={"scaled": {"arm": "scaled"}, "short": {"arm": "short"}, "long": {"arm": "long"}},
    tried=({"lr": 3e-4}, {"lr": 1e-3}), more=("before", "near", "far", "iterations", "env_steps"),
    fixed={"model": "tiny", "warm_updates": 25, "warm_lr": 3e-3, "env_steps": 12_000, "every": 10, "groups": 16,
           "rollouts": 4, "test_tasks": 64, "kl": 0.0},
    shares=("success", "before", "near", "far"),
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes tasks, worlds and every draw."""
    arm: Literal["scaled", "short", "long"] = "scaled"
    """Which of the horizons are used."""
    horizons: tuple[int, ...] = (3, 8, 20)
    """Environment steps of a rollout, stage by stage."""
    every: int = 4
    """Iterations between two horizons."""
    env_steps: int = 800
    """Environment steps of training, whatever the arm."""
    estimator: Literal["grpo", "rloo", "reinforce_plus_plus", "gae"] = "grpo"
    """How a score becomes credit."""
    groups: int = 4
    """Tasks in an update."""
    rollouts: int = 4
    """Plays of each task."""
    lr: float = 2e-5
    """Learning rate."""
    warm_updates: int = 0
    """Updates on play by the oracle, before, each on ``groups * rollouts`` tasks; a model that knows nothing needs
    them. The paper starts from an instructed model."""
    warm_lr: float = 3e-5
    """Learning rate of these."""
    kl: float = 0.001
    """Coefficient of the divergence from the first weights (k3); 0 = none, and no reference is kept."""
    mask: bool = True
    """Only replies that the rules allow."""
    max_tokens: int = 8
    """The longest reply."""
    test_tasks: int = 32
    """Held-out tasks."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers to sample and compute with; weights are float32 always."""
    save_every: int = 10
    """Iterations between checkpoints."""
    concurrency: int = 64
    """Episodes played at once."""


NEEDS = (
    (("every",), {"arm": ("scaled",)}),
    (("warm_lr",), {"warm_updates": ()}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Trains until the environment steps are spent, and rates held-out tasks before and after."""
    dtype: Any = "float32" if run.deterministic else settings.dtype
    texts = await spoken(grid()) if is_tiny(settings.model) else []
    model = open_model(
        settings.model, lambda: texts, seed=settings.seed, dtype=dtype, deterministic=run.deterministic,
        progress=run.progress.note,
    )
    try:
        await imitate(settings, run, model)
        if run.at is None or run.at[0] == "warm":
            run.keep(before=await rated(settings, run, model, "before"))
        stage, budget = stage_of(settings, run, model)
        await train(run, stage, save_every=settings.save_every, enough=budget.is_spent)
        after = await rated(settings, run, model, "after")
    finally:
        model.close()
    used = {"env_steps": float(budget.taken), "iterations": float(stage.learner.version - settings.warm_updates)}
    run.keep(after=after, outcome={**after, "before": run.results["before"]["success"], **used})


def held_out(settings: Settings) -> list[Match]:
    """The held-out tasks at the last horizon, whatever the arm was trained with."""
    found = test_matches(suite_of(settings), tasks=None, trials=1, agent=player(settings))
    return [Match(m.suite, m.task, m.cast, m.seed, limits=Limits(env_steps=settings.horizons[-1])) for m in found]


def text(results: Mapping[str, Any]) -> str:
    """What was found, in words."""
    found, before = results.get("outcome"), results.get("before", {})
    if found is None:
        return "no result: the run did not come to its end"
    near, far = (found.get(kind, nan) for kind in ("near", "far"))
    return (
        f"success on held-out tasks at the last horizon {before['success']:.3f} -> {found['success']:.3f} (tasks of up "
        f"to 4 steps {near:.3f}, longer ones {far:.3f}); {found['env_steps']:.0f} environment steps in "
        f"{found['iterations']:.0f} updates"
    )


def suite_of(settings: Settings) -> Grid:
    """The walks."""
    return grid(test_tasks=settings.test_tasks)


def player(settings: Settings) -> AgentMaker:
    """A maker of the agent that plays: full history, one call for each ask."""
    return partial(ChatAgent, sampling=Sampling(max_tokens=settings.max_tokens), mask=settings.mask)


def horizons_of(settings: Settings) -> tuple[int, ...]:
    """The horizons that the arm goes through."""
    return {"scaled": settings.horizons, "short": settings.horizons[:1], "long": settings.horizons[-1:]}[settings.arm]


async def rated(settings: Settings, run: Run, model: Local, label: str) -> dict[str, float]:
    """The mean score on held-out tasks: of all, of those that need up to 4 steps, and of longer ones, where there are
    such."""
    matches = held_out(settings)
    found = await evaluate(
        matches, {"main": model}, policy="main", label=label, recorder=run.recorder,
        finished=run.plays(f"rating {label}", matches), pool=Pool(settings.concurrency),
    )
    played = [episode for group in found.groups for episode in group]
    near = [episode for episode in played if episode.task.payload["need"] <= 4]
    far = [episode for episode in played if episode.task.payload["need"] > 4]
    kinds = {"success": played, "near": near, "far": far}
    return {name: fmean(map(score_of, episodes)) for name, episodes in kinds.items() if episodes}


async def imitate(settings: Settings, run: Run, model: Local) -> None:
    """Likelihood of the oracle's play."""
    if not settings.warm_updates or passed(run, "warm", ORDER):
        return
    suite = suite_of(settings)

    def cast(task: Task) -> dict[Seat, Player]:
        return {"agent": Player(lambda: AnswerAgent(suite.oracle(task)), "main")}

    share = Share(suite, cast, frozenset({"agent"}), settings.groups * settings.rollouts, 1)
    rule = imitation()
    await train(run, Stage(
        "warm", Mixture((share,), derive("warm", settings.seed)), {"main": Dictated(name="main", chat=model.chat)},
        model, run.learner(model, lr=settings.warm_lr), rule, settings.warm_updates, pool=Pool(settings.concurrency),
    ))


def stage_of(settings: Settings, run: Run, model: Local) -> tuple[Stage, StepBudget]:
    """The one stage of training, and its budget of environment steps, which ends it: its iterations are only the most
    that the budget allows, for a play takes at least one step."""
    suite, seat, first = suite_of(settings), "agent", settings.warm_updates * settings.rollouts

    def cast(task: Task) -> dict[Seat, Player]:
        return {seat: Player(player(settings), "main")}

    share = Share(suite, cast, frozenset({seat}), settings.groups, settings.rollouts)
    scaling = ScalingHorizon(Mixture((share,), settings.seed, first=first), horizons_of(settings), settings.every)
    budget = StepBudget(scaling, settings.env_steps)
    heads = ("value",) if settings.estimator == "gae" else ()
    learner = run.learner(model, lr=settings.lr, heads=heads, reference="initial" if settings.kl else None)
    stage = Stage(
        "learn", budget, {"main": model}, model, learner, rule_of(settings),
        settings.env_steps // (settings.groups * settings.rollouts) + 1, pool=Pool(settings.concurrency),
    )
    return stage, budget


def rule_of(settings: Settings) -> Rule:
    """The estimator with clipped policy gradient, and the divergence from the first weights."""
    terms: list[tuple[float, Loss]] = [(1.0, policy_gradient)]
    if settings.kl:
        terms.append((settings.kl, partial(kl, estimator="k3")))
    gae = settings.estimator == "gae"
    if gae:
        terms.append((0.5, value_error))
    return Rule(
        ESTIMATORS[settings.estimator], token_mean, Sum(*terms), target=value_target_N if gae else None,
        on_policy=not gae, proportional=len(terms) == 1,
    )
