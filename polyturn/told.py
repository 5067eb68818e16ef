"""What a computation tells of its stages while somebody listens: names and numbers, never a change of the result.

An advantage is composed of stages (channels, normalise, inherit, accumulate ...). Each calls :func:`tell` with what it
made; :func:`listen` collects that for the record, so that one token's credit can be spelled out afterwards. Nobody
listens by default, and then telling costs a look at a variable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from polyturn.arrays import BoolArray
from polyturn.types import FloatArray, IntArray

Axis: TypeAlias = Literal["B", "BK", "N"]


@dataclass(frozen=True, slots=True)
class Told:
    """One stage: ``Told("normalise", "B", out, {"value": value_B, "centre": mean_B, "key": ["group", "seat"]})``."""

    stage: str
    axis: Axis
    out: FloatArray
    numbers: Mapping[str, Any]
    """Arrays of the same axis, and constants that JSON knows."""
    rows_B: BoolArray | None = None
    """The rows that it speaks of; None = all."""

    def at(self, b: int, k: int, index_N: IntArray) -> dict[str, Any] | None:
        """The stage for tokens ``index_N`` of turn ``k`` of row ``b``, as JSON; None where it does not speak of it."""
        if self.rows_B is not None and not self.rows_B[b]:
            return None
        place: Any = {"B": b, "BK": (b, k), "N": index_N}[self.axis]

        def read(value: Any) -> Any:
            return _plain(value[place]) if isinstance(value, np.ndarray) else value

        return {"stage": self.stage, "out": read(self.out), **{name: read(v) for name, v in self.numbers.items()}}


def _plain(value: Any) -> Any:
    """JSON values; unknown numbers as None."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not np.isfinite(number) else number


_heard: ContextVar[list[Told] | None] = ContextVar("heard", default=None)
_among: ContextVar[BoolArray | None] = ContextVar("among", default=None)


def tell(stage: str, axis: Axis, out: FloatArray, **numbers: Any) -> None:
    """Tells of one stage, if somebody listens. Array names carry no axis letters: the axis is said once."""
    heard = _heard.get()
    if heard is not None:
        heard.append(Told(stage, axis, out, numbers, _among.get()))


@contextmanager
def listen() -> Iterator[list[Told]]:
    """The stages told within, in order."""
    heard: list[Told] = []
    before = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(before)


@contextmanager
def among(rows_B: BoolArray) -> Iterator[None]:
    """What is told within speaks of these rows only."""
    outer = _among.get()
    before = _among.set(rows_B if outer is None else rows_B & outer)
    try:
        yield
    finally:
        _among.reset(before)
