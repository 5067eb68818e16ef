"""Groups whose members all scored alike: they teach nothing, and must not teach noise.

Two faults. *Noise*: scores that differ by rounding alone are divided by their own deviation, and the advantages of such
a group are as large as those of any other. *No signal*: a stage in which every group of every update was all equal and
nothing was moved, so that its curve is flat for a reason that no curve shows. The share of such groups is counted in
every run and is no fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from polyturn.advantages.group import counted_B
from polyturn.audit.found import fault
from polyturn.audit.update import Update
from polyturn.types import Finding

ROUNDING = 1e-9
FEWEST = 10
"""Updates without any signal from which on a stage is said to have none."""


def noise_in_equal_groups(update: Update) -> Iterator[Finding]:
    """A finding for each group whose scores are equal but for rounding, and whose advantages are not."""
    turns, alike_B = update.turns, update.alike_B()
    counts_B = counted_B(turns) & np.isfinite(alike_B)
    for channel, name in enumerate(turns.channels):
        total_B = np.nansum(turns.reward_CBK[channel], axis=1)
        for group in np.unique(turns.group_B[counts_B]).tolist():
            members = np.flatnonzero(counts_B & (turns.group_B == group))
            total, credit = total_B[members], alike_B[members]
            spread = float(np.ptp(total))
            if not 0 < spread <= ROUNDING * float(np.abs(total).max()) or np.ptp(credit) < 1e-3:
                continue
            if all(np.ptp(credit[total == value]) < 1e-3 for value in np.unique(total)):
                yield fault("noise_in_equal_group", update.row_place(int(members[np.abs(credit).argmax()])),
                            float(np.abs(credit).max()), f"the group's {name!r} differs by rounding alone ({spread:.1g}"
                            f"), and its advantages reach {np.abs(credit).max():.3g}")


@dataclass(slots=True)
class Signal:
    """How many groups of a stage could teach: told of each update, then asked once."""

    equal: int = 0
    groups: int = 0
    updates: int = 0
    moved: int = 0
    """Updates in which a token was moved."""
    last: dict[str, int | str] = field(default_factory=dict)

    def see(self, update: Update) -> None:
        """Counts an update's groups of at least two rollouts; one that has none (imitation, single replies) is not
        counted."""
        turns = update.turns
        counts_B = counted_B(turns)
        total_CB = np.nansum(turns.reward_CBK, axis=2)
        sets = [np.flatnonzero(counts_B & (turns.group_B == g)) for g in np.unique(turns.group_B[counts_B]).tolist()]
        several = [members for members in sets if len(members) > 1]
        if update.imitates or not several:
            return
        self.groups += len(several)
        self.equal += sum(bool((np.ptp(total_CB[:, members], axis=1) <= ROUNDING).all()) for members in several)
        self.updates += 1
        self.moved += bool((np.nan_to_num(update.weight_N * update.advantage_N) != 0).any())
        self.last = {"stage": update.stage, "iteration": update.iteration}

    def faults(self) -> Iterator[Finding]:
        """One finding where nothing was ever moved since all groups were equal."""
        if self.updates >= FEWEST and not self.moved and self.equal == self.groups:
            yield fault("no_signal", self.last, self.equal, f"all {self.groups} groups of all {self.updates} updates "
                        "scored alike within themselves: nothing was learned. Sample more rollouts, or easier or "
                        "harder tasks")
