"""Credit that ends at an observation: what is paid later does not reach the turns before it.

A return that is reset at every masked token (verl issue 6376) leaves each turn with its own reward alone, so whatever
was done before a tool answered earns nothing. Seen as: among turns that others of their trajectory follow, those with
equal rewards of their own all have one advantage, though what was paid after them differs; and the last turns, for
whom it is the same thing, do differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polyturn.audit.found import fault
from polyturn.audit.update import Update
from polyturn.types import Finding, FloatArray

FEWEST = 3
"""Turns that must be seen before anything is said."""


def credit_reset(update: Update) -> Iterator[Finding]:
    """One finding, at the last token before the first observation that credit did not cross.

    A rule that pays every turn for itself on purpose (``gamma`` 0 and no critic) is found too.
    """
    turns, first_BK = update.turns, update.first_BK()
    has_BK = np.isfinite(first_BK)
    place_BK = np.arange(has_BK.shape[1])[None, :]
    last_B = np.where(has_BK, place_BK, -1).max(axis=1, initial=-1)
    several_B = has_BK.sum(axis=1) >= 2
    earlier_BK = has_BK & (place_BK < last_B[:, None]) & several_B[:, None]
    rows = np.flatnonzero(several_B)
    if not _differ(first_BK[rows, last_B[rows]]) or not turns.channels:
        return
    paid_CBK = np.nan_to_num(turns.reward_CBK)
    later_CBK = np.flip(np.cumsum(np.flip(paid_CBK, 2), 2), 2) - paid_CBK
    own_IC = paid_CBK[:, earlier_BK].T
    _, kind_I = np.unique(own_IC, axis=0, return_inverse=True)
    kind_I, credit_I, later_IC = kind_I.reshape(-1), first_BK[earlier_BK], later_CBK[:, earlier_BK].T
    kinds = range(int(kind_I.max(initial=-1)) + 1)
    if any(_differ(credit_I[kind_I == kind]) for kind in kinds):
        return
    blind = sum(int((kind_I == kind).sum()) for kind in kinds
                if any(_differ(column) for column in later_IC[kind_I == kind].T))
    if blind >= FEWEST:
        b, k = (int(index[0]) for index in np.nonzero(earlier_BK))
        n = int(np.flatnonzero((update.tokens.trajectory_N == b) & (update.tokens.turn_N == k))[-1])
        yield fault("credit_reset", update.place(n), blind,
                    "what was paid after the next observation did not reach this turn, nor any other: each turn has "
                    "credit for its own reward alone")


def _differ(values: FloatArray) -> bool:
    """Whether two of the numbers differ by more than rounding."""
    return len(values) > 1 and bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))
