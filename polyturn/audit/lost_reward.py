"""Reward that no trained token learned from: it stood on a masked token, or on a turn that the update left out.

A return whose reward lies where the mask is 0 is the return of a rollout that was paid nothing. Seen as: two rollouts
of a group that took the same steps were paid differently, and every turn of the one is pushed (its advantage, where
there is weight) exactly as that of the other; and they are not pushed at all, or the other was paid 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from polyturn.advantages.group import counted_B, spoken_BK
from polyturn.arrays import BoolArray
from polyturn.audit.channels import whole_channels
from polyturn.audit.found import fault
from polyturn.audit.update import Update
from polyturn.types import Finding, FloatArray

SAME = 1e-9


def lost_reward(update: Update) -> Iterator[Finding]:
    """A finding for each such rollout, at its last token, with what it was paid.

    Nothing is said of rollouts that a horizon or a budget cut, nor of those of which no token has weight while all have
    an advantage: to leave those out is a method (an overlong mask).
    """
    turns = update.turns
    channels = whole_channels(turns)
    if not channels or update.imitates:
        return
    total_CB = np.nansum(turns.reward_CBK[channels], axis=2)
    push_BK = _pushes_BK(update)
    for rows in _twins(update, _judged_B(update)):
        order = rows[np.lexsort((*total_CB[:, rows], *push_BK[rows].T))]
        for one, other in pairwise(order.tolist()):
            apart = np.abs(total_CB[:, one] - total_CB[:, other]) > SAME
            alike = np.abs(push_BK[one] - push_BK[other]).max(initial=0.0) <= SAME
            smaller = np.minimum(np.abs(total_CB[:, one]), np.abs(total_CB[:, other]))
            if apart.all() and alike and (not push_BK[one].any() or (smaller <= SAME).all()):
                yield _lost(update, max((one, other), key=lambda b: np.abs(total_CB[:, b]).max()))


def _lost(update: Update, b: int) -> Finding:
    turns = update.turns
    paid = {name: float(np.nansum(turns.reward_CBK[c, b])) for c, name in enumerate(turns.channels)}
    said = ", ".join(f"{name} {value:g}" for name, value in paid.items() if value)
    n = int(np.flatnonzero(update.tokens.trajectory_N == b)[-1])
    return fault("lost_reward", update.place(n), said, "the rollout was paid, and its tokens are pushed as those of "
                 "one that was paid otherwise: its reward stands where nothing is trained")


def _pushes_BK(update: Update) -> FloatArray:
    """Per turn, the largest advantage by size among its tokens with weight; 0 where there is none."""
    push_N = np.where((update.weight_N != 0) & update.held_N, np.nan_to_num(update.advantage_N), 0.0)
    order = np.argsort(np.abs(push_N), kind="stable")
    push_BK = np.zeros(update.turns.kept_BK.shape)
    push_BK[update.tokens.trajectory_N[order], update.tokens.turn_N[order]] = push_N[order]
    return push_BK


def _judged_B(update: Update) -> BoolArray:
    """Roots that came to their own end and kept every turn, with tokens that an update could have moved."""
    turns, rows_N = update.turns, update.tokens.trajectory_N
    rows = len(turns.root_B)
    held_B = np.bincount(rows_N, update.held_N, rows)
    left_out_B = np.bincount(rows_N, update.held_N & (update.weight_N == 0) & (update.advantage_N != 0), rows)
    whole_B = counted_B(turns) & (turns.stop_B == "done") & (turns.kept_BK == spoken_BK(turns)).all(axis=1)
    judged: BoolArray = whole_B & (held_B > 0) & (left_out_B < held_B)
    return judged


def _twins(update: Update, judged_B: BoolArray) -> Iterator[NDArray[np.int64]]:
    """Rows of one group and seat whose kept turns answered the same environment steps."""
    turns = update.turns
    sets: dict[tuple[object, ...], list[int]] = {}
    for b in np.flatnonzero(judged_B).tolist():
        key = (int(turns.group_B[b]), str(turns.seat_B[b]), tuple(turns.step_BK[b][turns.kept_BK[b]].tolist()))
        sets.setdefault(key, []).append(b)
    yield from (np.array(rows, np.int64) for rows in sets.values() if len(rows) > 1)
