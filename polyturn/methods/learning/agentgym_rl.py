"""AgentGym-RL: reinforcement learning over many turns whose interaction horizon grows with training (ScalingInter-RL).

Claim (arXiv 2509.08755): long horizons from the start raise the score early and then collapse, short ones are stable
and level off; a horizon raised step by step is both stable and ends highest. At training step t (from 1)

    h(t) = horizons[min(floor((t - 1) / every), len(horizons) - 1)]

environment steps are the most that a rollout may take. Nothing counts: the horizon follows from the iteration's number,
so a resume at any iteration gives the same series. A rollout that the horizon cut stops ``truncated``; what it is paid
is what the verifier says of the state it reached.

The estimators (GRPO, RLOO, REINFORCE++, GAE) run over generated tokens alone, and a score lands on the last turn that
was written, whatever observation followed: none can lose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from polyturn.advantages.group import group_standardised, leave_one_out, live_BK, normalise_I
from polyturn.advantages.returns import token_gae, token_returns
from polyturn.arrays import Advantage, Turns
from polyturn.errors import BadInput
from polyturn.learn.curriculum import restore_into, state_of
from polyturn.paper import Paper
from polyturn.protocols import Curriculum, Match
from polyturn.types import FloatArray, Group, Limits

PAPER = Paper(
    title="AgentGym-RL: Training LLM Agents for Long-Horizon Decision Making through Multi-Turn Reinforcement Learning",
    arxiv="2509.08755", year=2025,
    claim="Raising the number of interactions that a rollout may take by a fixed rule during training is more stable "
          "than long horizons from the start, and ends higher than any fixed horizon.",
    adds=("ScalingHorizon: Curriculum", "reinforce_plus_plus: Advantage", "ESTIMATORS"),
    axes={
        "task": "agentic: many environments, long horizons", "method": "model: reinforcement learning",
        "challenge": "stable training on long interactions",
    },
    deviations=(
        "The horizon is a function of the iteration. The released scheduler counts, and after a resume the stage "
        "switches a step late, or twice at a multiple of the interval.",
        "Rollouts whose environment failed are dropped, not scored 0.",
        "The score lands on the last generated token. Released GAE and REINFORCE++ multiply rewards by the mask of "
        "generated tokens, and the score on a closing observation is lost.",
        "Tokens are those that were sampled; released code encodes the dialogue again for training.",
        "Episodes run side by side, not in lock-step rounds.",
        "The recipe walks through a grid, whose tasks need 1 to 12 steps, instead of WebArena, search, TextCraft, "
        "BabyAI and ScienceWorld; polyturn/envs/crafting.py is built after TextCraft.",
    ),
)

# ---------------------------------------------------------------- the horizon


def horizon(iteration: int, horizons: Sequence[int], every: int) -> int:
    """The most environment steps of a rollout in an iteration (from 0, so t = iteration + 1).

    >>> [horizon(i, (10, 20, 30), 100) for i in (0, 99, 100, 199, 200, 5000)]
    [10, 10, 20, 20, 30, 30]
    """
    return horizons[min(iteration // every, len(horizons) - 1)]


@dataclass(frozen=True, slots=True)
class ScalingHorizon:
    """A :class:`polyturn.protocols.Curriculum` around another one: its matches, at most :func:`horizon` steps long.

    A match that is shorter by its own limits stays so. It remembers nothing itself. Raises: BadInput for horizons that
    do not rise, or an interval below 1.
    """

    inner: Curriculum
    horizons: Sequence[int]
    every: int = 100
    """Iterations between two horizons."""

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in pairwise(self.horizons))
        if not self.horizons or self.horizons[0] < 1 or not rising or self.every < 1:
            raise BadInput(f"horizons are {list(self.horizons)} and every is {self.every}; expected rising numbers "
                           "of at least 1, and an interval of at least 1")

    def propose(self, iteration: int) -> Sequence[Match]:
        """The inner matches under this iteration's horizon."""
        limits = Limits(env_steps=horizon(iteration, self.horizons, self.every))
        return [replace(match, limits=match.limits.tightest(limits)) for match in self.inner.propose(iteration)]

    def observe(self, groups: Sequence[Group]) -> None:
        """Tells the inner curriculum."""
        self.inner.observe(groups)

    def state(self) -> Mapping[str, Any]:
        """The inner curriculum's state, if it has one."""
        return {"inner": state_of(self.inner)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        restore_into(self.inner, state["inner"])


# ---------------------------------------------------------------- estimators


def reinforce_plus_plus(
    turns: Turns, *, channels: Sequence[str] = ("score",), gamma: float = 1.0, epsilon: float = 1e-8
) -> FloatArray:
    """``advantage_N = (G - mean G) / (std G + epsilon)``, with G the return discounted by ``gamma`` for each generated
    token that follows, and the statistics (std with n - 1) over all tokens of the batch that can have credit."""
    return_N = token_returns(turns, channels=channels, gamma=gamma)
    live_N = live_BK(turns)[turns.tokens.trajectory_N, turns.tokens.turn_N]
    whitened_N = normalise_I(
        return_N, np.zeros(len(return_N), np.int32), live_N.astype(np.float64), scale="sample", epsilon=epsilon
    )
    return np.where(live_N, whitened_N, 0.0)


ESTIMATORS: Mapping[str, Advantage] = {
    "grpo": partial(group_standardised, scale="sample"), "rloo": leave_one_out,
    "reinforce_plus_plus": reinforce_plus_plus, "gae": token_gae,
}
"""By name, each with the paper's constants; ``gae`` needs a value head that was measured."""
