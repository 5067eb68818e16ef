"""SUPO in plain Python: floats and loops over rollouts and their segments, straight from the equation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rollout:
    """``segments``: per segment the pairs (logprob, old) of its sampled tokens; ``finished``: it answered."""

    reward: float
    finished: bool
    segments: Sequence[Sequence[tuple[float, float]]]


def advantages(group: Sequence[Rollout], *, statistics: str, sample: bool, epsilon: float) -> list[float]:
    """(R - mean) / (std + epsilon), one vote a rollout; 0 for a group that has nothing to compare."""
    counted = [rollout.reward for rollout in group if statistics == "all" or rollout.finished]
    if not counted:
        return [0.0 for _ in group]
    mean = sum(counted) / len(counted)
    squares = sum((reward - mean) ** 2 for reward in counted)
    found = []
    for rollout in group:
        counts = statistics == "all" or rollout.finished
        if not counts or len(counted) == 1 or max(counted) == min(counted):
            found.append(0.0)
        else:
            deviation = math.sqrt(squares / (len(counted) - 1 if sample else len(counted)))
            found.append((rollout.reward - mean) / (deviation + epsilon))
    return found


def advantages_by_rows(group: Sequence[Rollout], *, epsilon: float) -> list[float]:
    """The wrong unit: every segment votes."""
    votes = [rollout.reward for rollout in group for _ in rollout.segments]
    mean = sum(votes) / len(votes)
    deviation = math.sqrt(sum((vote - mean) ** 2 for vote in votes) / len(votes))
    return [0.0 if deviation == 0 else (rollout.reward - mean) / (deviation + epsilon) for rollout in group]


def loss(
    groups: Sequence[Sequence[Rollout]], *, mask: bool, statistics: str, denominator: str, sample: bool,
    epsilon: float = 1e-6, low: float = 0.2, high: float = 0.2,
) -> float:
    """The objective, to be minimised."""
    tokens, total = 0, 0.0
    for group in groups:
        given = advantages(group, statistics=statistics, sample=sample, epsilon=epsilon)
        for rollout, advantage in zip(group, given, strict=True):
            trained = rollout.finished or not mask
            for segment in rollout.segments:
                for logprob, old in segment:
                    if trained or denominator == "all":
                        tokens += 1
                    if trained:
                        ratio = math.exp(logprob - old)
                        clipped = min(max(ratio, 1 - low), 1 + high)
                        total += min(ratio * advantage, clipped * advantage)
    return -total / tokens if tokens else 0.0
