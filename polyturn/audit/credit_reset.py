"""Credit that ends at an observation: what is paid later does not reach the turns before it.

A return that is reset at every masked token (verl issue 6376) leaves each turn with its own reward alone, so whatever
was done before a tool answered earns nothing. Seen as: among the k-th turns of a group that others of their trajectory
follow, those with equal rewards of their own all have one advantage, though what was paid after them differs; and the
last turns of that group, for whom it is the same thing, do differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from polyturn.arrays import BoolArray
from polyturn.audit.channels import whole_channels
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
    paid_CBK = np.nan_to_num(turns.reward_CBK)
    later_CBK = np.flip(np.cumsum(np.flip(paid_CBK, 2), 2), 2) - paid_CBK
    blind_BK = np.zeros(has_BK.shape, np.bool_)
    for rows in _sets(update, several_B):
        if len(rows) < 2 or not differ(first_BK[rows, last_B[rows]]):
            continue
        inside_BK = earlier_BK & np.isin(np.arange(len(last_B)), rows)[:, None]
        for kind_BK in _alike(paid_CBK, inside_BK):
            if differ(first_BK[kind_BK]):
                return
            channels = whole_channels(turns)
            if channels and all(differ(later_CBK[channel][kind_BK]) for channel in channels):
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


def _alike(paid_CBK: FloatArray, inside_BK: BoolArray) -> Iterator[BoolArray]:
    """The turns of each kind: those at one place of their rollouts, with equal rewards of their own in all channels."""
    own_IC = np.concatenate([paid_CBK[:, inside_BK], np.nonzero(inside_BK)[1][None, :]]).T
    if not own_IC.size:
        return
    _, kind_I = np.unique(own_IC, axis=0, return_inverse=True)
    for kind in range(int(kind_I.max()) + 1):
        found_BK = np.zeros(inside_BK.shape, np.bool_)
        found_BK[inside_BK] = kind_I.reshape(-1) == kind
        yield found_BK


def differ(values: FloatArray) -> bool:
    """Whether two of the numbers differ by more than rounding."""
    return len(values) > 1 and bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))
