"""Episodes for tests of credit: what each seat said, written in one line, laid out by the real functions.

``episode({"agent": [Said(2, {"score": 1.0})]})`` is an episode of one turn of two tokens that earned 1.0.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from polyturn.arrays import Measured, Turns, as_turns, lay_out
from polyturn.types import Episode, Finish, Group, Sampling, Score, Seat, Span, Stop, Task, Trajectory, Turn, root_of


@dataclass(frozen=True)
class Said:
    """One turn: so many sampled tokens (or these very ids), and what was paid for it."""

    tokens: int | Sequence[int] = 1
    rewards: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    """None: the turn's place among the turns of its seat."""
    at: int | None = None
    """None: after all turns listed before it."""
    purpose: str = "act"
    finish: Finish = "stop"
    dropped: str = ""
    branch: str = ""
    prompt: Sequence[int] = (1, 2)
    logprobs: Sequence[float] | None = None
    sampled: bool = True
    version: int = 0
    temperature: float = 1.0
    support: tuple[tuple[int, ...], ...] | None = None
    policy: str = "main"

    def ids(self) -> list[int]:
        """The ids of the reply; a number stands for that many ids 10, 11, 12 ..."""
        return list(range(10, 10 + self.tokens)) if isinstance(self.tokens, int) else list(self.tokens)


def trajectory(seat: Seat, policy: str, said: Sequence[Said], at: int = 0, stop: Stop | None = None) -> Trajectory:
    """One chain of spans: prompt, reply, prompt, reply ..."""
    spans: list[Span] = []
    turns: list[Turn] = []
    for k, one in enumerate(said):
        spans.append(Span(len(spans) - 1, np.array(one.prompt, np.int32)))
        logprobs = np.full(len(one.ids()), -1.0) if one.logprobs is None else np.array(one.logprobs, np.float64)
        spans.append(Span(
            len(spans) - 1, np.array(one.ids(), np.int32), one.sampled, logprobs if one.sampled else None, one.version,
            one.support,
        ))
        turns.append(Turn(
            at=at + k if one.at is None else one.at, seat=seat, policy=policy, prompt=(), reply=k,
            spans=(len(spans) - 1,), finish=one.finish, purpose=one.purpose, branch=one.branch,
            step=k if one.step is None else one.step, sampling=Sampling(temperature=one.temperature),
            rewards=one.rewards, dropped=one.dropped,
        ))
    parent = None if "/" not in seat else (seat.rsplit("/", 1)[0], policy)
    return Trajectory(seat, policy, parent, (), tuple(turns), tuple(spans), stop)


def episode(
    seats: Mapping[Seat, Sequence[Said]], *, name: str = "e", family: str = "game", trial: int = 0,
    scores: Mapping[str, Mapping[Seat, Score]] | None = None, stop: Stop = Stop("done"),
    train: frozenset[Seat] | None = None,
) -> Episode:
    """An episode in which every root seat trains, unless ``train`` says otherwise."""
    trajectories = []
    at = 0
    for seat, said in seats.items():
        for policy in dict.fromkeys(one.policy for one in said):
            trajectories.append(trajectory(seat, policy, [one for one in said if one.policy == policy], at))
            at += len(trajectories[-1].turns)
    roots = frozenset(root_of(seat) for seat in seats)
    return Episode(
        id=f"{name}.{trial}", task=Task(name, family), seed=0, group=name, trial=trial,
        train=roots if train is None else train, trajectories=tuple(trajectories), stop=stop, scores=scores or {},
    )


def batch(groups: Sequence[Group], measure: Callable[[int, int], Measured] | None = None) -> Turns:
    """The turns of ``main``; ``measure(n_tokens, n_trajectories)`` makes what the learner read."""
    tokens = lay_out(groups, "main")
    return as_turns(tokens, measure(len(tokens), len(tokens.trajectories)) if measure else None)


def scored(*values: float | None, name: str = "e", family: str = "game") -> Group:
    """A group of one-seat episodes of one turn of one token, with these scores."""
    return tuple(
        episode({"agent": [Said()]}, name=name, family=family, trial=trial, scores={"score": {"agent": Score(value)}})
        for trial, value in enumerate(values)
    )


def random_groups(draw: random.Random, *, families: Sequence[str] = ("a", "b"), workers: bool = True) -> list[Group]:
    """One to four groups of one to five episodes with one or two seats, workers, dropped turns, cut replies, rewards by
    turn in quarters, abstentions and cut episodes."""
    return [
        tuple(
            _random_episode(draw, f"g{g}", family, trial, seats, workers) for trial in range(draw.randint(1, 5))
        )
        for g in range(draw.randint(1, 4))
        for family, seats in [(draw.choice(families), draw.choice((("agent",), ("p0", "p1"))))]
    ]


@cache
def random_batch(seed: int) -> tuple[list[Group], Turns]:
    """Random groups with what the learner read: a value before each token and one after each end, from 0..1."""
    groups = random_groups(random.Random(seed))
    draw = np.random.default_rng(seed)

    def measure(n: int, b: int) -> Measured:
        read = draw.normal(size=(2, n))
        return Measured(*read, None, {"value": draw.random(n)}, {"value": draw.random(b)})

    return groups, batch(groups, measure)


def _random_episode(
    draw: random.Random, name: str, family: str, trial: int, seats: Sequence[Seat], workers: bool
) -> Episode:
    said = {seat: [_random_turn(draw) for _ in range(draw.randint(1, 4))] for seat in seats}
    for worker in range(draw.randint(0, 2) if workers else 0):
        said[f"{seats[0]}/worker.{worker}"] = [
            replace(_random_turn(draw), rewards={}) for _ in range(draw.randint(1, 3))
        ]
    _interleave(draw, said)
    value = None if draw.random() < 0.1 else draw.choice((0.0, 0.25, 0.5, 1.0))
    scores = {"score": {seat: Score(value if value is None else value + i) for i, seat in enumerate(seats)}}
    stop = Stop("truncated") if draw.random() < 0.3 else Stop("done")
    return episode(said, name=name, family=family, trial=trial, scores=scores, stop=stop)


def _interleave(draw: random.Random, said: dict[Seat, list[Said]]) -> None:
    """Gives every turn a step and an order in the episode; both rise within a seat."""
    order = []
    for seat, turns in said.items():
        moments = sorted((draw.randint(0, 3), draw.random()) for _ in turns)
        order += [(*moment, seat, k) for k, moment in enumerate(moments)]
    for at, (step, _, seat, k) in enumerate(sorted(order)):
        said[seat][k] = replace(said[seat][k], at=at, step=step)


def _random_turn(draw: random.Random) -> Said:
    return Said(
        tokens=draw.randint(0 if draw.random() < 0.1 else 1, 3),
        rewards={"score": draw.choice((-0.25, 0.25, 0.5))} if draw.random() < 0.5 else {},
        dropped="window" if draw.random() < 0.2 else "", finish="length" if draw.random() < 0.2 else "stop",
    )
