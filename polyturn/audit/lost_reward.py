"""Reward that no trained token learned from: it stood on a masked token, or on a turn that the update left out.

A trajectory was scored, its score is neither 0 nor its group's mean, and yet nothing pushes any of its tokens: weight
times advantage is 0 on all of them. Where a horizon or a budget cut the play, leaving it out is a method (an overlong
mask), and nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polyturn.arrays import BoolArray
from polyturn.audit.found import fault
from polyturn.audit.update import Update
from polyturn.types import Finding


def lost_reward(update: Update) -> Iterator[Finding]:
    """A finding for each such trajectory, at its last token, with its reward."""
    turns, tokens = update.turns, update.tokens
    if not turns.channels or update.waiver == "demonstrations":
        return
    pushed_N = np.nan_to_num(update.weight_N * update.advantage_N) != 0
    rows = len(tokens.trajectories)
    pushed_B = np.bincount(tokens.trajectory_N, pushed_N, rows) > 0
    held_B = np.bincount(tokens.trajectory_N, update.held_N, rows) > 0
    root_B = turns.root_B == np.arange(rows)
    silent_B = held_B & ~pushed_B & root_B & turns.valid_B & ~np.isin(turns.stop_B, ("truncated", "budget", "error"))
    for b in np.flatnonzero(silent_B & _stands_out_B(update)).tolist():
        paid = {name: float(np.nansum(turns.reward_CBK[c, b])) for c, name in enumerate(turns.channels)}
        n = int(np.flatnonzero(tokens.trajectory_N == b)[-1])
        said = ", ".join(f"{name} {value:g}" for name, value in paid.items() if value)
        yield fault("lost_reward", update.place(n), said, "the trajectory was paid, and none of its tokens is moved by "
                    "it: the reward stands where nothing is trained")


def _stands_out_B(update: Update) -> BoolArray:
    """True where a trajectory's total differs from 0 and from the mean of its group and seat in every channel, so that
    it does not matter which of them the credit was made of. A verifier that also pays by turn (channels ``name/...``)
    is no such channel."""
    turns = update.turns
    by_turn = {name.split("/")[0] for name in turns.channels if "/" in name}
    whole = [c for c, name in enumerate(turns.channels) if "/" not in name and name not in by_turn]
    total_CB = np.nansum(turns.reward_CBK[whole], axis=2)
    _, key_B = np.unique(np.stack([turns.group_B, np.unique(turns.seat_B, return_inverse=True)[1].reshape(-1)]),
                         axis=1, return_inverse=True)
    found_B = np.zeros(len(turns.group_B), np.bool_)
    for key in range(int(key_B.max(initial=-1)) + 1):
        members = np.flatnonzero((key_B.reshape(-1) == key) & turns.valid_B)
        if len(members) and whole:
            total_CM = total_CB[:, members]
            off_CM = np.abs(total_CM - total_CM.mean(axis=1, keepdims=True))
            found_B[members] = ((off_CM > 1e-9) & (np.abs(total_CM) > 1e-9)).all(axis=0)
    return found_B
