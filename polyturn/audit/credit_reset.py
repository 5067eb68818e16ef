"""Credit that ends at an observation: what is paid later does not reach the turns before it.

A return that is reset at every masked token (verl issue 6376) leaves each turn with its own reward alone, so whatever
was done before a tool answered earns nothing. Seen as: among the k-th turns of a group that others of their trajectory
follow, those with equal rewards of their own all have one advantage, though what was paid after them differs; and the
last turns of that group, for whom it is the same thing, do differ. Turns of different steps of the environment, or of
different places among the kept turns, can speak against the fault and not for it: a method that compares turns with
those of their own step or place gives 0 to each that stands alone there, whatever was paid later. Sub-seats are not
looked at: they take their root's credit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from polyturn.advantages.group import counted_B
from polyturn.arrays import BoolArray
from polyturn.audit.channels import whole_channels
from polyturn.audit.found import fault
from polyturn.audit.update import Update
from polyturn.types import Finding, FloatArray, IntArray

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
    several_B = counted_B(turns) & (has_BK.sum(axis=1) >= 2)
    earlier_BK = has_BK & (place_BK < last_B[:, None]) & several_B[:, None]
    paid_CBK = np.nan_to_num(turns.reward_CBK)
    later_CBK = np.flip(np.cumsum(np.flip(paid_CBK, 2), 2), 2) - paid_CBK
    blind_BK = np.zeros(has_BK.shape, np.bool_)
    channels = whole_channels(turns)
    for rows in _sets(update, several_B):
        inside_BK = earlier_BK & np.isin(np.arange(len(last_B)), rows)[:, None]
        if any(differ(first_BK[kind_BK]) for kind_BK in _alike(inside_BK, paid_CBK)):
            return
        if not channels or not differ(first_BK[rows, last_B[rows]]):
            continue
        for kind_BK in _alike(inside_BK, paid_CBK, turns.step_BK, np.cumsum(turns.kept_BK, axis=1)):
            if all(differ(later_CBK[channel][kind_BK]) for channel in channels):
                blind_BK |= kind_BK
    if blind_BK.sum() >= FEWEST:
        b, k = (int(index[0]) for index in np.nonzero(blind_BK))
        n = int(np.flatnonzero((update.tokens.trajectory_N == b) & (update.tokens.turn_N == k))[-1])
        yield fault("credit_reset", update.place(n), int(blind_BK.sum()),
                    "what was paid after the next observation did not reach this turn, nor any other: each turn has "
                    "credit for its own reward alone")


def _sets(update: Update, several_B: BoolArray) -> Iterator[NDArray[np.int64]]:
    """The rows of several turns of each group and seat; of the whole batch, where every group is one rollout."""
    turns = update.turns
    keys = list(zip(turns.group_B.tolist(), turns.seat_B.tolist(), strict=True))
    if len(set(keys)) == len(keys):
        yield np.flatnonzero(several_B)
        return
    for key in sorted(set(keys)):
        yield np.flatnonzero(several_B & np.array([other == key for other in keys]))


def _alike(inside_BK: BoolArray, paid_CBK: FloatArray, *more_BK: IntArray) -> Iterator[BoolArray]:
    """The turns of each kind: those at one place of their rollouts, with equal rewards of their own in all channels,
    and equal in ``more_BK``."""
    columns = [*paid_CBK[:, inside_BK], np.nonzero(inside_BK)[1], *(one_BK[inside_BK] for one_BK in more_BK)]
    if not inside_BK.any():
        return
    _, kind_I = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    for kind in range(int(kind_I.max()) + 1):
        found_BK = np.zeros(inside_BK.shape, np.bool_)
        found_BK[inside_BK] = kind_I.reshape(-1) == kind
        yield found_BK


def differ(values: FloatArray) -> bool:
    """Whether two of the numbers differ by more than rounding."""
    return len(values) > 1 and bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))
