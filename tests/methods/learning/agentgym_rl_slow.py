"""The slow twin of AgentGym-RL: rollouts as whole sequences of masked positions, floats and loops."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Rollout:
    """One sequence: for each position whether the policy generated it (else it is an observation) and the critic's
    value before it; the score stands on the last position, whatever that is."""

    group: int
    generated: tuple[bool, ...]
    values: tuple[float, ...]
    score: float


def horizons(listed: list[int], every: int, steps: int) -> list[int]:
    """The horizon of each training step from 1 on, by counting up."""
    found, stage = [], 0
    for step in range(1, steps + 1):
        if step > 1 and (step - 1) % every == 0 and stage < len(listed) - 1:
            stage += 1
        found.append(listed[stage])
    return found


def resumed_with_a_counter(listed: list[int], every: int, steps: int, at: int) -> list[int]:
    """As a scheduler that counts: the counter of the checkpoint is restored, the trainer goes on at the next step."""
    found = horizons(listed, every, at)
    counter = max(at - 1, 0)
    for _ in range(at + 1, steps + 1):
        found.append(listed[min(counter // every, len(listed) - 1)])
        counter += 1
    return found


def rewards(rollout: Rollout, carried: bool) -> list[float]:
    """The score on its position. ``carried``: on the last generated one; else as released, times the mask."""
    found = [0.0] * len(rollout.generated)
    if carried:
        for place in range(len(found) - 1, -1, -1):
            if rollout.generated[place]:
                found[place] = rollout.score
                return found
        return found
    found[-1] = rollout.score if rollout.generated[-1] else 0.0
    return found


def grpo(rollouts: list[Rollout], *, by_token: bool = False) -> list[float]:
    """One number a rollout: against its group, divided by the sample deviation + 1e-6. ``by_token``: the wrong unit,
    every generated token votes."""
    found = []
    for one in rollouts:
        scores = [other.score for other in rollouts if other.group == one.group
                  for _ in range(sum(other.generated) if by_token else 1)]
        mean = sum(scores) / len(scores)
        if len(scores) < 2 or max(scores) == min(scores):
            found.append(0.0)
        else:
            spread = sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1))
            found.append((one.score - mean) / (spread + 1e-6))
    return found


def rloo(rollouts: list[Rollout]) -> list[float]:
    """One number a rollout: n / (n - 1) (r - mean)."""
    found = []
    for one in rollouts:
        scores = [other.score for other in rollouts if other.group == one.group]
        n = len(scores)
        found.append(0.0 if n < 2 else n / (n - 1) * (one.score - sum(scores) / n))
    return found


def returns(rollout: Rollout, gamma: float, carried: bool = True) -> list[float]:
    """Discounted over generated positions alone; one number for each of them."""
    found, after = [], 0.0
    paid = rewards(rollout, carried)
    for place in range(len(paid) - 1, -1, -1):
        if rollout.generated[place]:
            after = paid[place] + gamma * after
            found.append(after)
    return found[::-1]


def reinforce_plus_plus(rollouts: list[Rollout], gamma: float, carried: bool = True) -> list[list[float]]:
    """Returns, whitened over all generated positions of the batch."""
    all_returns = [returns(one, gamma, carried) for one in rollouts]
    flat = [value for one in all_returns for value in one]
    if len(flat) < 2 or max(flat) == min(flat):
        return [[0.0] * len(one) for one in all_returns]
    mean = sum(flat) / len(flat)
    spread = sqrt(sum((value - mean) ** 2 for value in flat) / (len(flat) - 1))
    return [[(value - mean) / (spread + 1e-8) for value in one] for one in all_returns]


def gae(rollout: Rollout, gamma: float, lam: float, carried: bool = True) -> list[float]:
    """Generated positions alone are steps: an observation passes the trace and the next value on."""
    found, trace, after = [], 0.0, 0.0
    paid = rewards(rollout, carried)
    for place in range(len(paid) - 1, -1, -1):
        if rollout.generated[place]:
            delta = paid[place] + gamma * after - rollout.values[place]
            trace = delta + gamma * lam * trace
            after = rollout.values[place]
            found.append(trace)
    return found[::-1]
