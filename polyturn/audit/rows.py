"""Rows counted for rollouts: a baseline in which a rollout counts as often as it has turns, contexts or sub-agents.

Where every turn or every context of a rollout is a training row, a mean over rows is not the mean over attempts: long
rollouts pull it towards themselves. Seen as: within each group the advantages are ``s * (score - c)``, and c is the
mean over rows and not the mean over rollouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from polyturn.advantages.group import counted_B, spoken_BK
from polyturn.arrays import BoolArray
from polyturn.audit.found import fault
from polyturn.audit.paths import leaves
from polyturn.audit.update import Update
from polyturn.types import Finding, FloatArray

CLOSE = 1e-5
FEWEST = 3
"""Rollouts of a group: two always lie on a line."""


def rows_for_rollouts(update: Update) -> Iterator[Finding]:
    """One finding for an update, at the rollout with the most rows, with the mean that was used. Where the stage says
    that every step is a sample, a mean over steps is right too.

    Nothing is said of groups of two, nor where tokens would count the same as rows: a statistic over tokens is a method
    (REINFORCE++).
    """
    turns = update.turns
    if update.imitates:
        return
    counted, alike_B, many_WB = counted_B(turns), update.alike_B(), _rows_B(update)
    by_step = many_WB["kept turns"] if "steps" in update.waivers else None
    if by_step is not None:
        many_WB = {name: rows_B for name, rows_B in many_WB.items() if name not in ("turns", "kept turns")}
    for channel in range(len(turns.channels)):
        total_B = np.nansum(turns.reward_CBK[channel], axis=1)
        used: dict[str, list[tuple[float, float, float]]] = {name: [] for name in many_WB}
        for members in _sets(update, counted & np.isfinite(alike_B)):
            centre = _centre(total_B[members], alike_B[members])
            if centre is None:
                continue
            plain, by_token = total_B[members].mean(), _mean(total_B, _tokens_B(update), members)
            right = (plain,) if by_step is None else (plain, _mean(total_B, by_step, members))
            for name, rows_B in many_WB.items():
                by_row = _mean(total_B, rows_B, members)
                if all(abs(by_row - other) > 100 * CLOSE for other in (*right, by_token)):
                    used[name].append((centre, by_row, right[-1]))
        for name, seen in used.items():
            if seen and all(abs(centre - by_row) < CLOSE for centre, by_row, _ in seen):
                b = int(np.where(counted, many_WB[name], -1).argmax())
                centre, _, expected = seen[0]
                yield fault("rows_for_rollouts", update.row_place(b), centre, f"the baseline of "
                            f"{turns.channels[channel]!r} is its mean over {name}, {centre:.6g}, and not over "
                            f"{'rollouts' if by_step is None else 'steps'}, {expected:.6g}")
                return


def _rows_B(update: Update) -> Mapping[str, FloatArray]:
    """How many rows each root's rollout has, by what may be taken for a row; sub-seats count for their root."""
    turns, sources = update.turns, update.tokens.trajectories
    spoken_B = spoken_BK(turns).sum(axis=1)
    per = {
        "turns": spoken_B, "kept turns": turns.kept_BK.sum(axis=1), "trajectories": (spoken_B > 0).astype(np.int64),
        "contexts": np.array([len(leaves(source.trajectory)) for source in sources], np.int64),
    }
    return {name: np.bincount(turns.root_B, count_B, len(sources)).astype(np.float64) for name, count_B in per.items()}


def _tokens_B(update: Update) -> FloatArray:
    return np.bincount(update.tokens.trajectory_N, update.held_N, len(update.tokens.trajectories)).astype(np.float64)


def _sets(update: Update, counts: BoolArray) -> Iterator[NDArray[np.int64]]:
    """The members of each group and seat."""
    turns = update.turns
    for group, seat in sorted(set(zip(turns.group_B.tolist(), turns.seat_B.tolist(), strict=True))):
        yield np.flatnonzero(counts & (turns.group_B == group) & (turns.seat_B == seat))


def _mean(total_B: FloatArray, weight_B: FloatArray, members: NDArray[np.int64]) -> float:
    weight = weight_B[members]
    return float((total_B[members] * weight).sum() / max(float(weight.sum()), 1e-12))


def _centre(total: FloatArray, credit: FloatArray) -> float | None:
    """The c of ``credit = s * (total - c)``; None where it is no such line."""
    if len(total) < FEWEST or np.ptp(total) < 1e-9 or np.ptp(credit) < 1e-9:
        return None
    slope, start = np.polyfit(total, credit, 1)
    fits = np.abs(slope * total + start - credit).max() < CLOSE * np.abs(credit).max()
    return float(-start / slope) if fits else None
