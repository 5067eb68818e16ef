"""A recipe whose curve stays flat: four doors, a wait, and a return that loses its way. See why-did-it-fail.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from polyturn.advantages.group import group_centred
from polyturn.agents.chat import ChatAgent
from polyturn.arrays import Turns
from polyturn.envs.score import FinalScore
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.learner import Learner
from polyturn.learn.loop import Rule, Stage, train
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.policies.tiny import open_model
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.protocols import Player, Spec
from polyturn.types import FloatArray, Sampling, Score, Task


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    seed: int = 0
    """Fixes the model and every draw."""
    credit: Literal["mine", "library"] = "mine"
    """Whose advantage is learned from."""
    iterations: int = 30
    """Updates."""
    lr: float = 1e-3
    """Learning rate."""


async def doors(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """The agent opens a door, is told to wait, waits or goes; only the door matters."""
    opened = await table.ask("agent", "Four doors. Which one?", legal=("red", "green", "blue", "grey"))
    await table.ask("agent", f"You opened {opened.text}. Wait or go?", legal=("wait", "go"))
    return {"score": float(opened.text == "blue")}


def my_advantage(turns: Turns, *, gamma: float = 1.0) -> FloatArray:
    """The return of every turn, against the batch's mean. Observations stand between the turns, with mask 0."""
    reward_BK = turns.reward_BK()
    return_BK = np.zeros(reward_BK.shape)
    for b in range(len(reward_BK)):
        later = 0.0
        for k in reversed(range(reward_BK.shape[1])):
            for mask in (1, 0):  # the turn itself, then the observation before it
                if mask:
                    later = reward_BK[b, k] + gamma * later
                    return_BK[b, k] = later
                later *= mask
    return np.where(turns.kept_BK, return_BK - return_BK[turns.kept_BK].mean(), 0.0)


async def main(settings: Settings, run: Run) -> None:
    """Trains a tiny model on the doors."""
    read = lambda final: {"agent": Score(final["score"])}  # noqa: E731
    tasks = [Task(f"doors-{i}", "doors") for i in range(16)]
    suite = ProgramSuite(Spec("doors"), as_env(doors), {"train": tasks}, verifier=FinalScore(("agent",), read))
    texts = ["Four doors. Which one?", "You opened red green blue grey. Wait or go?", "wait", "go"]
    model = open_model("tiny", lambda: texts, seed=settings.seed, deterministic=run.deterministic)
    player = Player(lambda: ChatAgent(sampling=Sampling(max_tokens=8), mask=True), "main")
    share = Share(suite, lambda task: {"agent": player}, frozenset({"agent"}), groups=4, rollouts=8)
    rule = Rule(my_advantage if settings.credit == "mine" else group_centred, token_mean, policy_gradient)
    learner = Learner(model.model, lr=settings.lr)
    stage = Stage(
        "doors", Mixture([share], settings.seed), {"main": model}, model, learner, rule, settings.iterations)
    try:
        await train(run, stage)
    finally:
        model.close()
