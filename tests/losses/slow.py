"""Slow twins of the losses: plain floats and loops, straight from the definitions. Columns in, (loss, metrics) out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

Result = tuple[float, dict[str, float]]


@dataclass(frozen=True)
class Columns:
    """One number per token in each."""

    logprob: list[float]
    old: list[float] = field(default_factory=list)
    behavior: list[float] = field(default_factory=list)
    advantage: list[float] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    trajectory: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    target: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    old_value: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.logprob)


def trained(c: Columns) -> list[int]:
    return [n for n in range(len(c)) if c.weight[n] != 0]


def policy_gradient(
    c: Columns, level: str, clip: tuple[float, float], dual_clip: float | None, truncate: float | None
) -> Result:
    loss = 0.0
    names = ("loss", "count", "clipped", "ratio", "ratio_square", "old_kl") + (
        () if truncate is None else ("importance", "truncated")
    )
    metrics = {f"policy/{name}": 0.0 for name in names}
    key: Callable[[int], object] = {
        "token": lambda m: m, "turn": lambda m: (c.trajectory[m], c.turn[m]), "trajectory": lambda m: c.trajectory[m],
    }[level]
    for n in trained(c):
        mates = [m for m in trained(c) if key(m) == key(n)]
        ratio = math.exp(sum(c.logprob[m] - c.old[m] for m in mates) / len(mates))
        advantage = c.advantage[n]
        gain = min(ratio * advantage, min(max(ratio, 1 - clip[0]), 1 + clip[1]) * advantage)
        if dual_clip is not None and advantage < 0:
            gain = max(gain, dual_clip * advantage)
        weight = c.weight[n]
        if truncate is not None:
            importance = math.exp(c.old[n] - c.behavior[n])
            metrics["policy/importance"] += importance
            metrics["policy/truncated"] += importance > truncate
            weight *= min(importance, truncate)
        loss -= weight * gain
        drift = c.old[n] - c.logprob[n]
        metrics["policy/count"] += 1
        metrics["policy/clipped"] += gain != ratio * advantage
        metrics["policy/ratio"] += ratio
        metrics["policy/ratio_square"] += ratio**2
        metrics["policy/old_kl"] += math.exp(drift) - 1 - drift
    metrics["policy/loss"] = loss
    return loss, metrics


def kl(c: Columns, estimator: str) -> Result:
    loss = value = 0.0
    for n in trained(c):
        d = c.reference[n] - c.logprob[n]
        third = math.exp(d) - 1 - d
        loss += c.weight[n] * {"k1": -d, "k2": d * d / 2, "k3": third}[estimator]
        value += third
    return loss, {"kl/loss": loss, "kl/value": value, "kl/count": float(len(trained(c)))}


def entropy(c: Columns) -> Result:
    loss = -sum(c.weight[n] * c.entropy[n] for n in trained(c))
    value = sum(c.entropy[n] for n in trained(c))
    return loss, {"entropy/loss": loss, "entropy/value": value, "entropy/count": float(len(trained(c)))}


def likelihood(c: Columns) -> Result:
    loss = -sum(c.weight[n] * c.logprob[n] for n in trained(c))
    value = sum(c.logprob[n] for n in trained(c))
    return loss, {"likelihood/loss": loss, "likelihood/logprob": value, "likelihood/count": float(len(trained(c)))}


def value_error(c: Columns, clip: float | None) -> Result:
    loss = square = clipped = 0.0
    for n in trained(c):
        plain = worst = (c.value[n] - c.target[n]) ** 2
        if clip is not None:
            near = c.old_value[n] + min(max(c.value[n] - c.old_value[n], -clip), clip)
            worst = max(plain, (near - c.target[n]) ** 2)
        loss += c.weight[n] * worst / 2
        square += plain
        clipped += worst > plain
    return loss, {
        "value/loss": loss, "value/square": square, "value/clipped": clipped, "value/count": float(len(trained(c))),
    }


def margin(c: Columns, trajectory: int) -> float:
    return sum(c.logprob[n] - c.reference[n] for n in trained(c) if c.trajectory[n] == trajectory)


def dpo(c: Columns, beta: float) -> Result:
    sides = {c.trajectory[n]: (c.group[n], c.advantage[n]) for n in trained(c)}
    loss, right, gaps = 0.0, 0.0, []
    for group in sorted(set(c.group)):
        found = [
            margin(c, good) - margin(c, bad)
            for good, (g, up) in sides.items() for bad, (h, down) in sides.items()
            if g == h == group and up > 0 > down
        ]
        term = sum(math.log(1 + math.exp(-beta * gap)) for gap in found) / max(len(found), 1)
        loss += term * sum(c.weight[n] for n in trained(c) if c.group[n] == group)
        gaps += found
    right = float(sum(gap > 0 for gap in gaps))
    return loss, {"dpo/loss": loss, "dpo/pairs": float(len(gaps)), "dpo/right": right, "dpo/margin": sum(gaps)}


def kto(c: Columns, beta: float, desirable: float, undesirable: float, point: float) -> Result:
    sides = {c.trajectory[n]: c.advantage[n] for n in trained(c)}
    loss = total = 0.0
    for trajectory, side in sides.items():
        m = margin(c, trajectory)
        weight = sum(c.weight[n] for n in trained(c) if c.trajectory[n] == trajectory)
        if side > 0:
            loss += weight * desirable * (1 - 1 / (1 + math.exp(-beta * (m - point))))
            total += m
        if side < 0:
            loss += weight * undesirable * (1 - 1 / (1 + math.exp(-beta * (point - m))))
            total -= m
    return loss, {
        "kto/loss": loss, "kto/desirable": float(sum(side > 0 for side in sides.values())),
        "kto/undesirable": float(sum(side < 0 for side in sides.values())), "kto/margin": total,
    }
