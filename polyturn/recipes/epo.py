"""EPO on any environment with one sparse reward: group-relative policy gradient with entropy held in a band.

The arms share everything but the term beside the policy gradient: ``none``, a plain entropy ``bonus``, the band's
``hinge``, the hinge weighted by the phase of training (``hinge_phase``), and the ``official`` constant penalty, whose
update is that of the bonus. Held-out tasks give the success; the record gives the entropy of every iteration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from polyturn.advantages.group import group_standardised
from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.cli.subject import held_out as test_matches
from polyturn.cli.subject import suite_of
from polyturn.errors import BadInput
from polyturn.evaluate.benchmark import evaluate
from polyturn.evaluate.study import Study
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.loop import Stage, imitation, passed, train
from polyturn.learn.run import Run
from polyturn.methods.learning.epo import EntropyHistory, epo_rule
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import is_tiny, open_model
from polyturn.protocols import AgentMaker, Match, Player, Policy
from polyturn.record.read import read_metrics
from polyturn.rollout.spoken import spoken
from polyturn.seeds import derive
from polyturn.types import Limits, Sampling, Seat, Task

ORDER = ("warm", "learn")
STUDY = Study(
    outcome="success", baseline="none", curve="learner/entropy",
    arms={"none": {"arm": "none"}, "bonus": {"arm": "bonus"}, "hinge": {"arm": "hinge"},
          "hinge_phase": {"arm": "hinge_phase"}},
    tried=({"coefficient": 0.02}, {"coefficient": 0.1}), more=("before", "entropy_std", "entropy_last"),
    fixed={"model": "tiny", "warm_updates": 25, "warm_lr": 3e-3, "groups": 16, "rollouts": 4, "iterations": 40,
           "horizon": 12, "test_tasks": 64, "lr": 3e-4, "low": 0.5, "high": 1.2},
    shares=("success", "before"),
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    environment: str = "grid"
    """A name that ``polyturn envs`` lists, or a .py file with a function suite(); one seat."""
    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes tasks, worlds and every draw."""
    arm: Literal["none", "bonus", "hinge", "hinge_phase", "official"] = "hinge_phase"
    """What stands beside the policy gradient."""
    iterations: int = 8
    """Updates."""
    groups: int = 4
    """Tasks in an update."""
    rollouts: int = 4
    """Plays of each task."""
    horizon: int = 16
    """Environment steps of a play, in training and in the table."""
    lr: float = 2e-5
    """Learning rate."""
    coefficient: float = 0.001
    """Lambda: of the entropy and its band together."""
    low: float = 0.5
    """Lower end of the band, in shares of the mean entropy so far."""
    high: float = 1.5
    """Upper end of the band."""
    alpha: float = 2.0
    """Slope of the hinge; the constant of the official penalty."""
    scope: Literal["token", "turn"] = "token"
    """Whose entropy is compared with the band: each token's, or its turn's mean."""
    warm_updates: int = 0
    """Updates on play by the environment's oracle, before, each on ``groups * rollouts`` tasks."""
    warm_lr: float = 3e-5
    """Learning rate of these."""
    mask: bool = True
    """Only replies that the rules allow, where the environment lists them."""
    max_tokens: int = 24
    """The longest reply."""
    test_tasks: int = 32
    """Held-out tasks."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers to sample and compute with; weights are float32 always."""


NEEDS = (
    (("coefficient",), {"arm": ("bonus", "hinge", "hinge_phase", "official")}),
    (("low", "high", "alpha", "scope"), {"arm": ("hinge", "hinge_phase", "official")}),
    (("warm_lr",), {"warm_updates": ()}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Warms up if asked, trains, and rates held-out tasks before and after."""
    dtype: Any = "float32" if run.deterministic else settings.dtype
    suite = suite_of(settings.environment)
    try:
        if len(suite.spec.seats) != 1:
            raise BadInput(f"{suite.spec.name} has the seats {list(suite.spec.seats)}; this recipe plays one")
        texts = await spoken(suite) if is_tiny(settings.model) else []
        model = open_model(
            settings.model, lambda: texts, seed=settings.seed, dtype=dtype, deterministic=run.deterministic,
            progress=run.progress.note,
        )
        try:
            await imitate(settings, run, model, suite)
            if run.at is None or run.at[0] == "warm":
                run.keep(before=await success(settings, run, model, suite, "before"))
            await learn(settings, run, model, suite)
            after = await success(settings, run, model, suite, "after")
        finally:
            model.close()
    finally:
        await suite.close()
    before = run.results["before"]
    run.keep(after=after, outcome={"success": after, "before": before, **entropy_figures(run)})


def held_out(settings: Settings) -> list[Match]:
    """The held-out matches."""
    return matches_of(settings, suite_of(settings.environment))


def text(results: Mapping[str, Any]) -> str:
    """What was found, in words."""
    found = results.get("outcome")
    if found is None:
        return "no result: the run did not come to its end"
    said = f"success on held-out tasks {results['before']:.3f} -> {found['success']:.3f}; "
    if "entropy_last" not in found:
        return said + "no token was trained: the plays of every task scored alike"
    return said + (
        f"entropy of a token {found['entropy_last']:.3f} nats at the end, standard deviation over iterations "
        f"{found['entropy_std']:.3f}"
    )


def player(settings: Settings) -> AgentMaker:
    """A maker of the agent that plays: full history, one call for each ask."""
    return partial(ChatAgent, sampling=Sampling(max_tokens=settings.max_tokens), mask=settings.mask)


def matches_of(settings: Settings, suite: Any) -> list[Match]:
    """The held-out tasks at the horizon of training."""
    found = test_matches(suite, tasks=settings.test_tasks, trials=1, agent=player(settings))
    return [Match(m.suite, m.task, m.cast, m.seed, limits=Limits(env_steps=settings.horizon)) for m in found]


async def success(settings: Settings, run: Run, model: Local, suite: Any, label: str) -> float:
    """The mean score on held-out tasks."""
    matches = matches_of(settings, suite)
    found = await evaluate(
        matches, {"main": model}, policy="main", label=label, recorder=run.recorder,
        finished=run.plays(f"rating {label}", matches),
    )
    return found.mixture.estimate.mean


async def imitate(settings: Settings, run: Run, model: Local, suite: Any) -> None:
    """Likelihood of the oracle's play."""
    if not settings.warm_updates or passed(run, "warm", ORDER):
        return
    rule = imitation()
    plays = settings.groups * settings.rollouts
    share = replace(share_of(settings, suite, lambda task: partial(scripted, suite, task)), groups=plays, rollouts=1)
    policy = Dictated(name="main", chat=model.chat)
    await train(run, Stage(
        "warm", Mixture((share,), derive("warm", settings.seed)), {"main": policy}, model,
        run.learner(model, lr=settings.warm_lr), rule, settings.warm_updates,
    ))


async def learn(settings: Settings, run: Run, model: Local, suite: Any) -> None:
    """Reinforcement learning by the arm's rule, its history in the checkpoint."""
    history = EntropyHistory()
    rule = epo_rule(
        settings.arm, group_standardised, history, whole=settings.iterations, coefficient=settings.coefficient,
        low=settings.low, high=settings.high, alpha=settings.alpha, scope=settings.scope, on_policy=True,
    )
    policies: dict[str, Policy] = {"main": model}
    share = share_of(settings, suite, lambda task: player(settings))
    await train(run, Stage(
        "learn", Mixture((share,), settings.seed, first=settings.warm_updates * settings.rollouts), policies, model,
        run.learner(model, lr=settings.lr), rule, settings.iterations, memory={"history": history},
    ))


def share_of(settings: Settings, suite: Any, make: Any) -> Share:
    """The training matches."""
    seat: Seat = suite.spec.seats[0]

    def cast(task: Task) -> dict[Seat, Player]:
        return {seat: Player(make(task), "main")}

    limits = Limits(env_steps=settings.horizon)
    return Share(suite, cast, frozenset({seat}), settings.groups, settings.rollouts, limits)


def scripted(suite: Any, task: Task) -> AnswerAgent:
    """The oracle."""
    return AnswerAgent(suite.oracle(task))


def entropy_figures(run: Run) -> dict[str, float]:
    """From the record: the standard deviation over iterations of the mean entropy of a trained token, and its last."""
    rows = [row["values"] for row in read_metrics(run.folder) if row["stage"] == "learn"]
    found = [row["learner/entropy"] for row in rows if row["learner/tokens"]]
    return {"entropy_std": float(np.std(found)), "entropy_last": float(found[-1])} if found else {}
