"""The slow twin of IGPO's credit: groups of rollouts as plain lists, floats and loops."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rollout:
    """``gains`` of all turns but the last (None = not read), the outcome of the last, and tokens of each turn."""

    gains: list[float | None]
    outcome: float
    tokens: list[int]


def belief(logprobs: list[float]) -> float:
    """exp of the mean."""
    total = 0.0
    for value in logprobs:
        total += value
    return math.exp(total / len(logprobs))


def belief_as_a_product(logprobs: list[float]) -> float:
    """The wrong unit: the probability of the whole answer, so that a long answer is believed less."""
    found = 1.0
    for value in logprobs:
        found *= math.exp(value)
    return found


def gains(beliefs: list[float]) -> list[tuple[float, float]]:
    """Of all turns but the last: by how much it raised the belief, and the logarithm of the belief."""
    found = []
    for t in range(1, len(beliefs)):
        found.append((beliefs[t] - beliefs[t - 1], math.log(beliefs[t]) - math.log(beliefs[t - 1])))
    return found


def credit(group: list[Rollout], pool: str, gamma: float, zero: str, epsilon: float = 1e-6) -> list[list[float]]:
    """Per rollout, per turn: its advantage."""
    gains, outcomes = [], []
    for i, rollout in enumerate(group):
        for t, gain in enumerate(rollout.gains):
            if gain is not None and not (zero == "drop" and gain == 0):
                gains.append((i, t, gain))
        outcomes.append((i, len(rollout.gains), rollout.outcome))
    normal = {}
    for chosen in ([gains + outcomes] if pool == "joint" else [gains, outcomes]):
        normal.update(standardised(chosen, epsilon))
    found = []
    for i, rollout in enumerate(group):
        row, after = [0.0] * len(rollout.tokens), 0.0
        for t in range(len(rollout.tokens) - 1, -1, -1):
            if (i, t) in normal:
                after = normal[i, t] + gamma * after
            row[t] = after
        found.append(row)
    return found


def standardised(chosen: list[tuple[int, int, float]], epsilon: float) -> dict[tuple[int, int], float]:
    """(rollout, turn) -> its reward, standardised."""
    if not chosen:
        return {}
    mean = sum(value for _, _, value in chosen) / len(chosen)
    variance = sum((value - mean) ** 2 for _, _, value in chosen) / len(chosen)
    if max(value for _, _, value in chosen) == min(value for _, _, value in chosen):
        return {(i, t): 0.0 for i, t, _ in chosen}
    return {(i, t): (value - mean) / (math.sqrt(variance + 1e-8) + epsilon) for i, t, value in chosen}


def by_token(group: list[Rollout], pool: str, gamma: float, zero: str) -> list[list[float]]:
    """The wrong unit: a turn's reward counts once for each of its tokens."""
    rows: list[tuple[int, int, float]] = []
    for i, rollout in enumerate(group):
        for t, value in enumerate([*rollout.gains, rollout.outcome]):
            if value is not None and not (zero == "drop" and value == 0 and t < len(rollout.gains)):
                rows += [(i, t, value)] * rollout.tokens[t]
    normal = standardised(rows, 1e-6)
    return [[normal.get((i, t), 0.0) for t in range(len(rollout.tokens))] for i, rollout in enumerate(group)]


def snapshot(group: list[Rollout], between: int) -> list[list[float]]:
    """The withdrawn first code, token column by token column: per rollout, per policy token. ``between`` tool tokens
    stand before each turn but the first."""
    returns, masks = [], []
    for rollout in group:
        rewards, mask = [], []
        for t, count in enumerate(rollout.tokens):
            if t:
                rewards += [0.0] * between
                mask += [0] * between
            value = ([0.0 if gain is None else gain for gain in rollout.gains] + [rollout.outcome])[t]
            rewards += [0.0] * (count - 1) + [value]
            mask += [1] * count
        masks.append(mask)
        returns.append(rewards)
    width = max(len(mask) for mask in masks)
    for row, mask in zip(returns, masks, strict=True):
        row.extend([0.0] * (width - len(row)))
        mask.extend([0] * (width - len(mask)))
        after = 0.0
        for t in range(width - 1, -1, -1):
            row[t] += after
            after = row[t] * mask[t]
    means = [sum(row[t] for row in returns) / len(returns) for t in range(width)]
    return [[row[t] - means[t] for t in range(width) if mask[t]] for row, mask in zip(returns, masks, strict=True)]
