"""Columns of trained tokens for tests of losses, as plain lists and as what a loss sees."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from polyturn.losses.learned import Learned, Loss, Metrics
from tests.losses.slow import Columns


def columns(logprob: Sequence[float], **more: Sequence[float]) -> Columns:
    """Columns of one trajectory and turn with weight 1, where nothing else is said."""
    n = len(logprob)
    same = {"old": logprob, "behavior": logprob, "reference": logprob}
    given: dict[str, Sequence[float]] = {f.name: [0] * n for f in fields(Columns)} | {"weight": [1.0] * n} | same | more
    return Columns(**{**{name: list(value) for name, value in given.items()}, "logprob": list(logprob)})  # type: ignore[arg-type]


def learned(c: Columns, **replaced: Tensor) -> Learned:
    """What a loss sees, in float64; ``logprob_N``, ``entropy_N`` and the head carry gradients."""

    def number(values: Sequence[float], grad: bool = False) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, requires_grad=grad)

    def index(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long)

    made = Learned(
        logprob_N=number(c.logprob, True), old_N=number(c.old), behavior_N=number(c.behavior),
        advantage_N=number(c.advantage), weight_N=number(c.weight), turn_N=index(c.turn),
        trajectory_N=index(c.trajectory), group_N=index(c.group), version_N=index([0] * len(c)),
        entropy_N=number(c.entropy, True), reference_N=number(c.reference), target_N=number(c.target),
        heads={"value": number(c.value, True)}, old_heads={"value": number(c.old_value)},
    )
    return replace(made, **replaced)  # type: ignore[arg-type]


def random_columns(seed: int, *, whole: bool = False) -> Columns:
    """Up to 3 groups of 3 trajectories of 3 turns of 4 tokens; a fifth of the tokens weigh 0. ``whole``: one advantage
    for each trajectory."""
    draw = random.Random(seed)
    place: list[tuple[int, int, int]] = []
    row = 0
    for group in range(draw.randint(1, 3)):
        for _ in range(draw.randint(1, 3)):
            place += [(group, row, turn) for turn in range(draw.randint(1, 3)) for _ in range(draw.randint(1, 4))]
            row += 1
    of_row = [draw.choice((-1.0, -0.5, 0.0, 0.7)) for _ in range(row)]

    def numbers(low: float, high: float) -> list[float]:
        return [draw.uniform(low, high) for _ in place]

    old = numbers(-3.0, -0.1)
    near = draw.choice((0.02, 0.3, 1.0))
    return Columns(
        logprob=[v + draw.uniform(-near, near) for v in old], old=old, behavior=[v + draw.uniform(-1, 1) for v in old],
        advantage=[of_row[t] for _, t, _ in place] if whole else numbers(-2.0, 2.0),
        weight=[0.0 if draw.random() < 0.2 else draw.uniform(0.1, 1.0) for _ in place],
        turn=[k for _, _, k in place], trajectory=[t for _, t, _ in place], group=[g for g, _, _ in place],
        reference=[v + draw.uniform(-0.5, 0.5) for v in old], entropy=numbers(0.0, 3.0), target=numbers(-1.0, 1.0),
        value=numbers(-1.0, 1.0), old_value=numbers(-1.0, 1.0),
    )


def part(c: Columns, keep: Sequence[int]) -> Columns:
    """Some of the tokens."""
    return Columns(**{f.name: [getattr(c, f.name)[n] for n in keep] for f in fields(Columns)})


def gradient(loss: Loss, made: Learned, of: Callable[[Learned], Tensor] = lambda made: made.logprob_N) -> list[float]:
    """The gradient of the loss by a column."""
    (found,) = torch.autograd.grad(loss(made)[0], of(made), allow_unused=True)
    return [0.0] * len(made.logprob_N) if found is None else found.tolist()


def parts_add_up(loss: Loss, c: Columns, unit: Sequence[object]) -> bool:
    """Whether loss, metrics and gradients of the units by themselves sum to those of the whole."""
    whole, metrics = loss(learned(c))
    slope = gradient(loss, learned(c))
    total, sums = 0.0, dict.fromkeys(metrics, 0.0)
    for one in dict.fromkeys(unit):
        index = [n for n, u in enumerate(unit) if u == one]
        value, named = loss(learned(part(c, index)))
        total += float(value.detach())
        sums = {name: sums[name] + named[name] for name in sums}
        for n, g in zip(index, gradient(loss, learned(part(c, index))), strict=True):
            slope[n] -= g
    return close(total, float(whole.detach())) and same_metrics(sums, metrics) and all(close(g, 0.0) for g in slope)


def same_metrics(found: Metrics, expected: Mapping[str, float]) -> bool:
    """Whether the names are equal and the numbers close."""
    return found.keys() == expected.keys() and all(close(found[name], expected[name]) for name in expected)


def close(found: float, expected: float) -> bool:
    """Equal within 1e-9."""
    return abs(found - expected) <= 1e-9 * max(1.0, abs(expected))
