"""What happens at interventions: their mean change against other turns, tested by permuting the turns they stood at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, inf

import numpy as np

from polyturn.arrays import BoolArray
from polyturn.diagnose.dynamics import Series, shape_of
from polyturn.errors import BadInput
from polyturn.seeds import generator
from polyturn.types import FloatArray


@dataclass(frozen=True, slots=True)
class EventEffect:
    """What happens at interventions: ``difference`` = mean change on marked turns minus mean change on the others."""

    difference: float
    marked: int
    others: int
    p_value: float
    """Of "which turns were marked does not matter", by permutation of turn positions."""
    positions: float
    """How many arrangements were compared; the least p-value is 1 over that."""


def event_effect(
    series: Sequence[Series], interventions: Sequence[Sequence[bool]], *, seed: int = 0, most: int = 2000
) -> EventEffect:
    """The mean change of marked turns against the others, with a permutation test over turn positions.

    Series with the same marks are permuted together, for what happens at a turn of a common script is common to them.
    All arrangements are compared where there are at most ``most`` (one schedule), else ``most`` drawn ones.
    Raises: BadInput without marked or without other changes.
    """
    changes = [np.diff(np.asarray(one, np.float64)) for one in series]
    marks = [np.asarray(mark[1:], bool) for _, mark in shape_of(series, interventions)]
    known = [np.isfinite(change) for change in changes]
    marked = sum(int((k & m).sum()) for k, m in zip(known, marks, strict=True))
    others = sum(int((k & ~m).sum()) for k, m in zip(known, marks, strict=True))
    if not marked or not others:
        raise BadInput(f"{marked} changes at interventions and {others} at other turns; expected at least one of each")
    schedules = {mark.tobytes(): mark for mark in marks}
    own = {name: [(c, k) for c, k, m in zip(changes, known, marks, strict=True) if m.tobytes() == name]
           for name in schedules}
    observed = _difference(own, schedules)
    drawn = _arrangements(schedules, seed, most)
    found = np.array([_difference(own, arranged) for arranged in drawn])
    far = np.abs(found) >= abs(observed) - 1e-12
    return EventEffect(observed, marked, others, float((far.sum() + 1) / (len(found) + 1)), float(len(found) + 1))


def _difference(
    own: dict[bytes, list[tuple[FloatArray, BoolArray]]], schedules: dict[bytes, BoolArray]
) -> float:
    inside, outside = [], []
    for name, mark in schedules.items():
        for change, known in own[name]:
            inside.append(change[known & mark])
            outside.append(change[known & ~mark])
    both = [np.concatenate(part) for part in (inside, outside)]
    return float(both[0].mean() - both[1].mean()) if min(map(len, both)) else inf


def _arrangements(schedules: dict[bytes, BoolArray], seed: int, most: int) -> list[dict[bytes, BoolArray]]:
    """Other places for the marks, the observed ones left out where all are listed."""
    if len(schedules) == 1:
        ((name, mark),) = schedules.items()
        size, count = len(mark), int(mark.sum())
        if comb(size, count) <= most:
            every = [np.isin(np.arange(size), places) for places in combinations(range(size), count)]
            return [{name: one} for one in every if one.tobytes() != name]
    draws = generator("dynamics", "events", seed)
    return [{name: draws.permutation(mark) for name, mark in schedules.items()} for _ in range(most)]
