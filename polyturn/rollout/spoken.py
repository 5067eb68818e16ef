"""The texts of scripted play: what a tiny model's tokenizer is learned from."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any

from polyturn.agents.chat import AnswerAgent
from polyturn.policies.dictated import Dictated
from polyturn.protocols import Match, Player, Suite
from polyturn.rollout.pool import Pool, play
from polyturn.types import Limits, Task


async def spoken(suite: Suite, *, tasks: int = 48, seed: int = 0, steps: int = 40) -> list[str]:
    """All that is said and read while the suite's oracle plays its first ``tasks`` training tasks, ``steps`` each.

    Raises: what the suite's ``oracle`` raises, where it has none.
    """
    oracle: Any = suite.oracle  # type: ignore[attr-defined]

    def player(task: Task) -> Player:
        return Player(partial(_agent, oracle, task), "dictated")

    matches = [
        Match(suite, task, dict.fromkeys(suite.spec.seats, player(task)), seed, limits=Limits(env_steps=steps))
        for task in islice(suite.tasks("train"), tasks)
    ]
    groups = await play(matches, {"dictated": Dictated()}, label="spoken", pool=Pool())
    trajectories = [trajectory for group in groups for episode in group for trajectory in episode.trajectories]
    return [message.text for trajectory in trajectories for message in trajectory.messages if message.text]


def _agent(oracle: Any, task: Task) -> AnswerAgent:
    return AnswerAgent(oracle(task))
