"""DART's step-wise credit, selection and losses once more, in plain loops over lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One episode: its name, its reward, and the mean entropy of each of its steps."""

    name: str
    reward: float
    entropy: Sequence[float]


def credit(groups: Sequence[Sequence[Row]], *, by_rollout: bool = False) -> dict[tuple[str, int], float]:
    """(episode, step) -> its advantage if it is learned from, else 0; ``by_rollout`` is the wrong unit."""
    found: dict[tuple[str, int], float] = {}
    for rows in groups:
        rewards = [row.reward for row in rows for _ in (row.entropy if not by_rollout else [0.0])]
        mean = sum(rewards) / len(rewards)
        deviation = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
        bound = quantile([value for row in rows for value in row.entropy], 0.2)
        for row in rows:
            for step, value in enumerate(row.entropy):
                advantage = 0.0 if deviation < 1e-12 else (row.reward - mean) / deviation
                found[row.name, step] = advantage if value >= bound - 1e-9 else 0.0
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Between two values in proportion."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    return ordered[low] + (at - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def loss(
    new: Sequence[float], old: Sequence[float], behavior: Sequence[float], advantage: Sequence[float],
    turn: Sequence[int], official: bool, truncate: float | None,
) -> float:
    """The mean over tokens of the paper's or the released term."""
    total = 0.0
    for n in range(len(new)):
        inside = [m for m in range(len(new)) if turn[m] == turn[n]] if official else [n]
        ratio = math.exp(sum(new[m] - old[m] for m in inside) / len(inside))
        low, high = (0.9, 1.28) if official else (0.8, 1.28)
        gain = min(ratio * advantage[n], min(max(ratio, low), high) * advantage[n])
        if official and advantage[n] < 0:
            gain = max(gain, 10 * advantage[n])
        weight = 1.0 if truncate is None else min(math.exp(old[n] - behavior[n]), truncate)
        total -= weight * gain / len(new)
    return total
