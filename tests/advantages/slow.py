"""Slow twins of the advantages: plain floats and loops over episodes, no arrays, straight from the definitions.

Every function gives one list per trajectory in the order of the episodes, with one number per turn of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polyturn.types import Episode, Group, Trajectory, Turn

Rows = list[list[float]]


@dataclass(frozen=True)
class Rules:
    """How items are normalised."""

    centre: str = "mean"
    scale: str = "none"
    epsilon: float = 1e-6
    singleton: str = "zero"


def rows(groups: Sequence[Group]) -> list[tuple[int, Episode, Trajectory]]:
    return [(g, made, t) for g, group in enumerate(groups) for made in group for t in made.trajectories]


def root(made: Episode, trajectory: Trajectory) -> Trajectory:
    name = trajectory.seat.split("/")[0]
    return next(t for t in made.trajectories if t.seat == name)


def valid(made: Episode, trajectory: Trajectory) -> bool:
    score = made.scores["score"].get(root(made, trajectory).seat)
    return score is None or score.value is not None


def paid(made: Episode, trajectory: Trajectory) -> list[float]:
    """What each turn was paid, with the score on the last."""
    found = [turn.rewards.get("score", 0.0) for turn in trajectory.turns]
    score = made.scores["score"].get(trajectory.seat)
    if score is not None and score.value is not None:
        found[-1] += score.value
    return found


def live(made: Episode, trajectory: Trajectory, turn: Turn) -> bool:
    return not turn.dropped and valid(made, trajectory)


def count(trajectory: Trajectory, turn: Turn) -> int:
    return sum(len(trajectory.spans[i].ids) for i in turn.spans)


# ---------------------------------------------------------------- normalise


def compare(value: float, others: Sequence[tuple[float, float]], me: int, rules: Rules) -> float:
    """``(value - centre) / scale`` of item ``me`` among ``others`` = (value, weight) pairs."""
    weights = [w for _, w in others]
    whole = sum(weights)
    if whole == 0:
        return 0.0
    if whole < 1.5:
        return value if rules.singleton == "keep" else 0.0
    counted = [v for v, w in others if w > 0]
    same = max(counted) - min(counted) <= 1e-12 * max(abs(v) for v in counted)
    mean = sum(v * w for v, w in others) / whole
    if rules.centre == "none":
        off = value
    elif same and others[me][1] > 0:
        off = 0.0
    elif rules.centre == "mean":
        off = value - mean
    else:
        rest = [(v, w) for i, (v, w) in enumerate(others) if i != me]
        off = value - sum(v * w for v, w in rest) / sum(w for _, w in rest)
    if rules.scale == "none":
        return off
    if rules.scale == "root_mean_square":
        square = sum(w * v * v for v, w in others) / whole
        return off if square == 0 else off / (math.sqrt(square) + rules.epsilon)
    if same:
        return off
    squares = sum(w * (v - mean) ** 2 for v, w in others)
    return off / (math.sqrt(squares / (whole - (rules.scale == "sample"))) + rules.epsilon)


def group_relative(groups: Sequence[Group], with_seat: bool, rules: Rules) -> Rows:
    found = []
    for g, made, trajectory in rows(groups):
        mine = root(made, trajectory)
        items, me = [], -1
        for h, other, t in rows(groups):
            if h == g and "/" not in t.seat and (t.seat == mine.seat or not with_seat) and valid(other, t):
                if other is made and t is mine:
                    me = len(items)
                items.append((sum(paid(other, t)), 1.0))
        value = compare(sum(paid(made, mine)), items, me, rules) if valid(made, trajectory) else 0.0
        found.append([value if live(made, trajectory, turn) else 0.0 for turn in trajectory.turns])
    return found


def normalised_turns(groups: Sequence[Group], values: Rows, unit: str, rules: Rules) -> Rows:
    """Turns of one family compared with each other, counted by ``unit``."""
    families: dict[str, list[tuple[float, float]]] = {}
    places: list[list[int]] = []
    for row, (_, made, trajectory) in zip(values, rows(groups), strict=True):
        items = families.setdefault(made.task.family, [])
        lively = sum(live(made, trajectory, turn) for turn in trajectory.turns)
        places.append([])
        for value, turn in zip(row, trajectory.turns, strict=True):
            weight = {"turn": 1.0, "token": float(count(trajectory, turn)), "rollout": 1 / max(lively, 1)}[unit]
            counts = "/" not in trajectory.seat and live(made, trajectory, turn)
            places[-1].append(len(items))
            items.append((value, weight if counts else 0.0))
    return [
        [
            compare(value, families[made.task.family], me, rules) if live(made, trajectory, turn) else 0.0
            for value, me, turn in zip(row, mine, trajectory.turns, strict=True)
        ]
        for row, mine, (_, made, trajectory) in zip(values, places, rows(groups), strict=True)
    ]


def role_baseline(groups: Sequence[Group], baseline: dict[tuple[str, str], float]) -> Rows:
    found = []
    for _, made, trajectory in rows(groups):
        mine = root(made, trajectory)
        value = sum(paid(made, mine)) - baseline.get((made.task.family, mine.seat), 0.0)
        found.append([value if live(made, trajectory, turn) else 0.0 for turn in trajectory.turns])
    return found


def moved_baseline(
    groups: Sequence[Group], baseline: dict[tuple[str, str], float], alpha: float
) -> dict[tuple[str, str], float]:
    moved = dict(baseline)
    for _, made, t in rows(groups):
        if "/" not in t.seat and valid(made, t):
            role = (made.task.family, t.seat)
            moved[role] = alpha * moved.get(role, 0.0) + (1 - alpha) * sum(paid(made, t))
    return moved


# ---------------------------------------------------------------- over time


def served(made: Episode, trajectory: Trajectory) -> list[int]:
    """For each turn of a sub-seat, the place of the root's turn that it served; -1 if the root kept none."""
    mine = root(made, trajectory)
    if mine is trajectory:
        return list(range(len(trajectory.turns)))
    kept = [(turn.at, k, turn.step) for k, turn in enumerate(mine.turns) if not turn.dropped]
    found = []
    for turn in trajectory.turns:
        later = [(at, k) for at, k, step in kept if step >= turn.step]
        before = [(at, k) for at, k in later if at <= turn.at]
        if not kept:
            found.append(-1)
        elif before:
            found.append(max(before)[1])
        elif later:
            found.append(min(later)[1])
        else:
            found.append(max(kept)[1])
    return found


def rewards(made: Episode, trajectory: Trajectory) -> list[float]:
    """What each turn was paid; a sub-seat from its root's purse."""
    mine = root(made, trajectory)
    purse = paid(made, mine)
    if mine is trajectory:
        return purse
    places = [max(place, 0) for place in served(made, trajectory)]
    ends = [*places[1:], len(purse)]
    return [sum(purse[start:end]) for start, end in zip(places, ends, strict=True)]


def bootstrap(made: Episode, value: float) -> float:
    return value if made.stop.kind == "truncated" else 0.0


def compact(steps: Sequence[tuple[bool, float]]) -> list[float]:
    """The rewards of the live steps; what was paid at another goes to the last live one before it."""
    found: list[float] = []
    for lively, reward in steps:
        if lively:
            found.append(reward)
        elif found:
            found[-1] += reward
    return found


def gae(
    steps: Sequence[tuple[bool, float]], values: Sequence[float], end: float, gamma: float, lambda_: float
) -> list[float]:
    """``A_t = sum over l of (gamma lambda)^l delta_(t+l)`` over the live steps, 0 at the others. ``values`` are those
    of the live steps."""
    found = compact(steps)
    after = [*values[1:], end][: len(found)] if found else []
    deltas = [r + gamma * s - v for r, s, v in zip(found, after, values, strict=True)]
    sums = [
        sum((gamma * lambda_) ** length * delta for length, delta in enumerate(deltas[t:])) for t in range(len(deltas))
    ]
    rest = iter(sums)
    return [next(rest) if lively else 0.0 for lively, _ in steps]


def returns(groups: Sequence[Group], gamma: float, ends: Sequence[float]) -> Rows:
    found = []
    for (_, made, trajectory), end in zip(rows(groups), ends, strict=True):
        steps = [
            (live(made, trajectory, turn), reward)
            for turn, reward in zip(trajectory.turns, rewards(made, trajectory), strict=True)
        ]
        found.append(gae(steps, [0.0] * sum(on for on, _ in steps), bootstrap(made, end), gamma, 1.0))
    return found


def over_time(
    groups: Sequence[Group], read: Callable[[int], float], ends: Sequence[float], rates: tuple[float, float],
    by_token: bool,
) -> Rows:
    """GAE by turn (one number per turn) or by token (one per token); ``read(n)`` is the value before token n."""
    found, n = [], 0
    for (_, made, trajectory), end in zip(rows(groups), ends, strict=True):
        steps, values, is_token = [], [], []
        for turn, reward in zip(trajectory.turns, rewards(made, trajectory), strict=True):
            size, on = count(trajectory, turn), live(made, trajectory, turn)
            if by_token:
                steps += [(on, 0.0)] * size + [(False, reward)]
                is_token += [True] * size + [False]
                values += [read(n + i) for i in range(size) if on]
            else:
                steps.append((on and size > 0, reward))
                is_token.append(True)
                values += [read(n)] if on and size else []
            n += size
        row = gae(steps, values, bootstrap(made, end), *rates)
        found.append([value for value, token in zip(row, is_token, strict=True) if token])
    return found


def turn_relative(groups: Sequence[Group], gamma: float, ends: Sequence[float], rules: Rules) -> Rows:
    """The k-th kept turns of each seat in a group compared, sub-seats after their root."""
    value = returns(groups, gamma, ends)
    everything = rows(groups)
    normal: Rows = []
    for b, (g, made, trajectory) in enumerate(everything):
        row = []
        for k, turn in enumerate(trajectory.turns):
            place = sum(not u.dropped for u in trajectory.turns[:k])
            items, me = [], -1
            for c, (h, other, t) in enumerate(everything):
                for j, u in enumerate(t.turns):
                    same = h == g and t.seat == trajectory.seat and sum(not v.dropped for v in t.turns[:j]) == place
                    if same and live(other, t, u):
                        if (b, k) == (c, j):
                            me = len(items)
                        items.append((value[c][j], 1.0))
            row.append(compare(value[b][k], items, me, rules) if live(made, trajectory, turn) else 0.0)
        normal.append(row)
    found = []
    for _, made, trajectory in everything:
        mine = next(c for c, (_, other, t) in enumerate(everything) if other is made and t is root(made, trajectory))
        found.append([
            normal[mine][place] if live(made, trajectory, turn) and place >= 0 else 0.0
            for turn, place in zip(trajectory.turns, served(made, trajectory), strict=True)
        ])
    return found


def family_scale(groups: Sequence[Group], values: Rows, epsilon: float) -> Rows:
    """Divided by the root of the family's mean square: over a rollout's tokens, then over root rollouts."""
    means: dict[str, list[float]] = {}
    for (_, made, t), row in zip(rows(groups), values, strict=True):
        tokens = [
            v for turn, v in zip(t.turns, row, strict=True) if live(made, t, turn) for _ in range(count(t, turn))
        ]
        if "/" not in t.seat and tokens:
            means.setdefault(made.task.family, []).append(sum(v * v for v in tokens) / len(tokens))
    found = []
    for (_, made, _), row in zip(rows(groups), values, strict=True):
        squares = means.get(made.task.family, [])
        scale = math.sqrt(sum(squares) / len(squares)) + epsilon if len(squares) > 1 and any(squares) else 1.0
        found.append([v / scale for v in row])
    return found
