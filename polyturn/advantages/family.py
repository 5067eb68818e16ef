"""Credit for mixtures of tasks: another rule for each family, and one scale so that no task drowns another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from polyturn.advantages.group import units_BK
from polyturn.advantages.turn import as_tokens
from polyturn.arrays import Advantage, Turns
from polyturn.errors import BadInput, UnknownName
from polyturn.told import among, tell
from polyturn.types import FloatArray


@runtime_checkable
class Estimator(Protocol):
    """An advantage with memory: called any number of times, then told of the batch once."""

    def __call__(self, turns: Turns) -> FloatArray:
        """An advantage for each row."""
        ...

    def observe(self, turns: Turns) -> None:
        """Told of the whole batch, once; only this changes what it remembers."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What it remembers, as JSON values and arrays."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        ...


def only(turns: Turns, family: str) -> Turns:
    """The same batch in which rows of other families count as not scored: no credit, no part in any statistic."""
    return replace(turns, valid_B=turns.valid_B & (turns.family_B == family))


@dataclass(frozen=True, slots=True)
class ByFamily:
    """``advantage_N`` in which each family has its own rule: ``ByFamily({"guess": group_centred, "kuhn":
    RoleBaseline()})``; then, if ``scaled``, divided by the family's root mean square in this batch, as by
    :class:`FamilyScale`.

    A rule sees the other families' rows as not scored. It remembers nothing itself; ``observe``, ``state`` and
    ``restore`` reach the rules with memory. Calling raises UnknownName for a family of the batch without a rule.
    """

    rules: Mapping[str, Advantage]
    scaled: bool = True

    def __call__(self, turns: Turns) -> FloatArray:
        credit_N = np.zeros(len(turns.tokens))
        for family in sorted(set(turns.family_B.tolist())):
            if family not in self.rules:
                raise UnknownName("family with an advantage", family, self.rules)
            part = only(turns, family)
            with among(turns.family_B == family):
                credit_N = credit_N + as_tokens(self.rules[family](part), part)
        return divided_N(turns, credit_N, squares(turns, credit_N), 1e-6) if self.scaled else credit_N

    def observe(self, turns: Turns) -> None:
        """Tells each rule with memory of its family's rows."""
        for family, rule in self._with_memory().items():
            rule.observe(only(turns, family))

    def state(self) -> Mapping[str, Any]:
        """Family -> state of its rule, for those with memory."""
        return {family: rule.state() for family, rule in self._with_memory().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave. Raises: BadInput if the families with memory are others."""
        rules = self._with_memory()
        if set(state) != set(rules):
            raise BadInput(f"the state is of families {sorted(state)}; with memory here are {sorted(rules)}")
        for family, rule in rules.items():
            rule.restore(state[family])

    def _with_memory(self) -> dict[str, Estimator]:
        return {family: rule for family, rule in self.rules.items() if isinstance(rule, Estimator)}


@dataclass(slots=True)
class FamilyScale:
    """``advantage_N / (scale[family] + epsilon)``: each family's advantages come out with a root mean square near 1.

    ``scale**2`` is the mean of squared advantages (:func:`squares`). With ``decay`` 0 it is this batch's own. Otherwise
    it is a running mean, as it was before the batch: ``square <- decay square + (1 - decay) square of the batch`` at
    ``observe``; a family never seen before uses this batch's own and starts from it. A family without a square is not
    divided, and moves nothing.
    """

    advantage: Advantage
    decay: float = 0.0
    epsilon: float = 1e-6
    square: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise BadInput(f"decay is {self.decay}; expected a number in [0, 1)")

    def __call__(self, turns: Turns) -> FloatArray:
        credit_N = as_tokens(self.advantage(turns), turns)
        return divided_N(turns, credit_N, squares(turns, credit_N) | self.square, self.epsilon)

    def observe(self, turns: Turns) -> None:
        """Moves the running squares (by the inner advantage as it was for this batch), then tells the inner one."""
        if self.decay:
            for family, new in squares(turns, as_tokens(self.advantage(turns), turns)).items():
                old = self.square.get(family, new)
                self.square[family] = self.decay * old + (1 - self.decay) * new
        if isinstance(self.advantage, Estimator):
            self.advantage.observe(turns)

    def state(self) -> Mapping[str, Any]:
        """The running squares, and the inner advantage's state if it has one."""
        inner = self.advantage.state() if isinstance(self.advantage, Estimator) else None
        return {"square": dict(self.square), "advantage": inner}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave. Raises: BadInput if the one advantage has memory and the other none."""
        if isinstance(self.advantage, Estimator) != (state["advantage"] is not None):
            raise BadInput("the state was taken from an advantage with memory and this one has none, or the reverse")
        self.square = {family: float(value) for family, value in state["square"].items()}
        if isinstance(self.advantage, Estimator):
            self.advantage.restore(state["advantage"])


def squares(turns: Turns, credit_N: FloatArray) -> dict[str, float]:
    """Family -> mean of squared advantages, within a rollout over its tokens, then over root rollouts.

    Left out: a family whose advantages are all 0, and one with a single rollout (its scale would only be itself).
    """
    weight_BK = units_BK(turns, "token")
    weight_BK = weight_BK / np.maximum(weight_BK.sum(axis=1, keepdims=True), 1) / np.maximum(turns.tokens_BK, 1)
    weight_N = weight_BK[turns.tokens.trajectory_N, turns.tokens.turn_N]
    found = {}
    for family in sorted(set(turns.family_B.tolist())):
        of_family_N = np.where((turns.family_B == family)[turns.tokens.trajectory_N], weight_N, 0.0)
        mean = float((of_family_N * credit_N**2).sum() / max(of_family_N.sum(), 1.0))
        if mean > 0 and of_family_N.sum() > 1.5:
            found[family] = mean
    return found


def divided_N(turns: Turns, credit_N: FloatArray, square: Mapping[str, float], epsilon: float) -> FloatArray:
    """``credit_N / (sqrt(square[family]) + epsilon)``; as it is where the family has no square."""
    scale_B = np.array([
        np.sqrt(square[family]) + epsilon if family in square else 1.0 for family in turns.family_B.tolist()
    ], np.float64)
    divided: FloatArray = credit_N / scale_B[turns.tokens.trajectory_N]
    tell("scale", "N", divided, value=credit_N, divisor=scale_B[turns.tokens.trajectory_N], key=["family"])
    return divided
