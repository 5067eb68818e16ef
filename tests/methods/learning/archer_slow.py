"""Slow twins of ArCHer: floats and loops over replies, straight from the definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def targets(
    rewards: Sequence[float], over: Sequence[bool], value: Mapping[str, Sequence[float]],
    fresh: Mapping[str, Sequence[float]], gamma: float,
) -> dict[str, list[float]]:
    """The four targets of every row; ``value`` and ``fresh`` are what the target copy says."""
    found: dict[str, list[float]] = {"q1": [], "q2": [], "v1": [], "v2": []}
    for r in range(len(rewards)):
        for twin in ("1", "2"):
            later = 0.0 if over[r] else gamma * value["v" + twin][r]
            found["q" + twin].append(rewards[r] + later)
            found["v" + twin].append(fresh["q" + twin][r])
    return found


def critic_loss(heads: Mapping[str, Sequence[float]], aims: Mapping[str, Sequence[float]]) -> float:
    """The sum of four means of squared errors."""
    loss = 0.0
    for name, values in heads.items():
        loss += sum((value - aim) ** 2 for value, aim in zip(values, aims[name], strict=True)) / len(values)
    return loss


def advantage(heads: Mapping[str, Sequence[float]]) -> list[float]:
    """min Q - min V of every row."""
    rows = range(len(heads["q1"]))
    return [min(heads["q1"][r], heads["q2"][r]) - min(heads["v1"][r], heads["v2"][r]) for r in rows]


def actor_loss(worth: Sequence[float], logprobs: Sequence[Sequence[float]]) -> float:
    """- mean over rows of A times the sum over tokens."""
    return -sum(a * sum(row) for a, row in zip(worth, logprobs, strict=True)) / len(worth)


def actor_loss_with_baseline(
    worth: Sequence[float], logprobs: Sequence[Sequence[float]], base: Sequence[Sequence[float]]
) -> float:
    """The policy part as a mean over rows, the value part as a mean over all positions of the padded batch."""
    longest = max(len(row) for row in logprobs)
    policy = square = 0.0
    for a, row, values in zip(worth, logprobs, base, strict=True):
        for logprob, b in zip(row, values, strict=True):
            policy -= (a - b) * logprob
            square += (a - b) ** 2
    return policy / len(worth) + square / (len(worth) * longest)


def monte_carlo(rewards: Sequence[float], gamma: float) -> list[float]:
    """Discounted sums."""
    return [sum(gamma ** (j - k) * rewards[j] for j in range(k, len(rewards))) for k in range(len(rewards))]
