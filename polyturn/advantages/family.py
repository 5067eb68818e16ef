"""Credit for mixtures of tasks: another rule for each family, and one scale so that no task drowns another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyturn.advantages.group import normalise_BK
from polyturn.arrays import Advantage, Turns
from polyturn.errors import BadInput
from polyturn.types import FloatArray


@dataclass(frozen=True, slots=True)
class ByFamily:
    """``advantage_BK`` whose rows come from the rule of their task's family, then divided by the family's root mean
    square over rollouts (``scaled``): ``A / sqrt(mean A**2)``, so that every task pushes equally hard.

    Remembers nothing itself; rules that do (a role baseline) are observed, saved and restored through it.
    """

    rules: Mapping[str, Advantage]
    scaled: bool = True

    def __call__(self, turns: Turns) -> FloatArray:
        """Raises: BadInput for a family without a rule."""
        unknown = sorted(set(turns.family_B.tolist()) - self.rules.keys())
        if unknown:
            raise BadInput(f"no advantage for the task families {unknown}; there are rules for {sorted(self.rules)}")
        advantage_BK = np.zeros(turns.kept_BK.shape)
        for family in np.unique(turns.family_B).tolist():
            rows = turns.family_B == family
            advantage_BK[rows] = self.rules[family](turns)[rows]
        if not self.scaled:
            return advantage_BK
        return normalise_BK(
            advantage_BK, turns, key=("family",), unit="rollout", centre="none", scale="root_mean_square",
            singleton="keep",
        )

    def observe(self, turns: Turns) -> None:
        """Hands the batch to every rule with memory."""
        for rule in self.rules.values():
            observe = getattr(rule, "observe", None)
            if observe is not None:
                observe(turns)

    def state(self) -> Mapping[str, Any]:
        """The states of the rules with memory, by family."""
        return {name: rule.state() for name, rule in self.rules.items() if hasattr(rule, "state")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        for name, value in state.items():
            getattr(self.rules[name], "restore")(value)  # noqa: B009
