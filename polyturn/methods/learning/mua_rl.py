"""MUA-RL: reinforcement learning of tool use with a user in the loop (arXiv 2508.18669).

The agent talks to a simulated user and acts on a database of its own; the reward is terminal and binary,

    R = 1 if sha256(final database) == sha256(gold database) and every required output was said, else 0,

and credit is relative to the ``n = 8`` rollouts of one task: ``A = (R - mean R) / (std R + 1e-6)`` with the sample
deviation (n - 1), copied to all tokens that the agent wrote. Loss: the clipped surrogate plus ``0.001 * KL`` (k3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Final

import numpy as np

from polyturn.advantages.group import group_standardised
from polyturn.agents.chat import ChatAgent
from polyturn.arrays import Turns
from polyturn.desk import Desk
from polyturn.envs.dialogue import AGENT, Rules
from polyturn.losses.learned import Loss
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.regularize import kl
from polyturn.losses.terms import Sum
from polyturn.paper import Paper
from polyturn.protocols import Ask
from polyturn.types import Episode, FloatArray, Group, Message, Seat

PAPER = Paper(
    title="MUA-RL: Multi-turn User-interacting Agent Reinforcement Learning for agentic tool use", arxiv="2508.18669",
    year=2025,
    claim="Reinforcement learning with a simulated user in the loop teaches an agent to ask for what it was not told; "
          "training on fixed first messages cannot.",
    adds=("CutEnds: Agent", "mua_advantage: Advantage", "mua_loss: Loss", "valid_only: Filter", "RULES: Rules"),
    axes={"task": "agentic, instruction", "method": "model: reinforcement learning; external: simulated user, tools",
          "challenge": "tool use while the wish is revealed bit by bit"},
    deviations=(
        "A rollout whose user failed is invalid and enters neither the statistics of its group nor the gradient; the "
        "released code ends it as a normal stop and rewards it.",
        "All tokens that the agent sampled are trained as they were sampled, also calls after the first, which are not "
        "run; the released code rebuilds the message from the first call and tokenizes it again.",
        "Required outputs are part of the training reward; the released script empties them in its training files.",
        "Rollouts do not wait for each other's users: every seat is asked asynchronously.",
        "A reply that hits its length limit ends the episode, as in the released code, and is scored by the state that "
        "it left.",
        "The user of the recipe is a rule that holds one fact back (or a policy), not GPT-4o.",
    ),
)
RULES: Final = Rules(cap=30, unparsable="end")
"""The state machine: user replies and tool executions together at most 30; a call that cannot be read ends it."""
GROUP: Final = 8
KL: Final = 0.001


def mua_advantage(turns: Turns) -> FloatArray:
    """``advantage_BK = (R - mean R) / (std R + 1e-6)`` over the valid rollouts of each group, with the deviation of a
    sample; 0 for all others, and for a batch without a valid rollout (every user failed)."""
    if not turns.valid_B.any():
        return np.zeros(turns.kept_BK.shape)
    return group_standardised(turns, scale="sample", epsilon=1e-6)


def mua_loss(*, kl_weight: float = KL, clip: float = 0.2) -> Loss:
    """The clipped policy gradient plus ``kl_weight`` times the low-variance KL to the reference; entropy has no part.

    With ``kl_weight`` 0 no reference is needed.
    """
    clipped = partial(policy_gradient, clip_low=clip, clip_high=clip)
    if not kl_weight:
        return clipped
    return Sum((1.0, clipped), (kl_weight, kl))


def valid_only(groups: Sequence[Group]) -> list[Group]:
    """The groups without rollouts that broke or that the verifier gave no score (their user failed); a group with none
    left is gone."""
    kept = [tuple(episode for episode in group if is_valid(episode)) for group in groups]
    return [group for group in kept if group]


def is_valid(episode: Episode, seat: Seat = AGENT) -> bool:
    """Whether an episode did not break and no verifier abstained from scoring the agent."""
    values = [by_seat[seat].value for by_seat in episode.scores.values() if seat in by_seat]
    return episode.stop.kind != "error" and bool(values) and None not in values


@dataclass
class CutEnds:
    """An :class:`polyturn.protocols.Agent` around a chat agent: a reply that was cut by its length limit says so
    (status ``error``), which ends the dialogue. Its tokens stay the agent's own."""

    inner: ChatAgent

    async def act(self, ask: Ask, desk: Desk) -> Message:
        """The reply of the chat agent."""
        reply = await self.inner.act(ask, desk)
        turns = desk.log.grown(desk.seat, desk.policy, desk.parent).turns
        cut = turns[-1].finish in ("length", "budget")
        return reply.edited(status="error") if cut else reply


# ---------------------------------------------------------------- what is reported beside success


def ask_rate(episodes: Sequence[Episode]) -> float:
    """The share of valid episodes in which the user told everything that it held back because it was asked; NaN for no
    valid episode."""
    valid = [episode for episode in episodes if is_valid(episode)]
    return sum(asked(episode) for episode in valid) / len(valid) if valid else nan


def asked(episode: Episode) -> bool:
    """Whether a fact was told on request, and none without."""
    told = (episode.final or {}).get("revealed", {})
    return bool(told) and all(told.values())


def user_drift(episodes: Sequence[Episode]) -> dict[str, float]:
    """How far the user kept to its part, as shares of the episodes: ``leaked`` a secret unasked, ``stopped_early``
    before the database was as it should be, ``failed`` (said nothing, broke, or spent its budget)."""
    leaked = early = failed = 0
    for episode in episodes:
        told = (episode.final or {}).get("revealed", {})
        leaked += any(not on_request for on_request in told.values())
        stops = [event for event in episode.events if event.kind == "user_stop"]
        early += any(not event.content["reached"] for event in stops)
        failed += not is_valid(episode)
    count = max(len(episodes), 1)
    return {"leaked": leaked / count, "stopped_early": early / count, "failed": failed / count}
