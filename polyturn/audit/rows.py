"""Rows counted for rollouts: a baseline in which a rollout counts as often as it has turns, contexts or sub-agents.

Where every turn or every context of a rollout is a training row, a mean over rows is not the mean over attempts: long
rollouts pull it towards themselves. Seen as: in every group of the update the advantages are ``s * (score - c)`` with
one ``s > 0``, and c is the mean over rows; and in one group at least c is no baseline of a method: the mean or median
of the rollouts or of their tokens, of the group or of the batch, or 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from polyturn.advantages.group import counted_B, spoken_BK
from polyturn.arrays import BoolArray
from polyturn.audit.found import fault
from polyturn.audit.paths import leaves
from polyturn.audit.update import Update
from polyturn.types import Finding, FloatArray

CLOSE = 1e-5
"""How near to a mean a baseline is that mean; ten times as far it is another."""
FEWEST = 3
"""Rollouts of a group from which on it can show the fault: two always lie on a line, and can only speak against it."""


def rows_for_rollouts(update: Update) -> Iterator[Finding]:
    """One finding for an update, at the rollout with the most rows, with the mean that was used. Where the stage says
    that every step is a sample, a mean over steps is right too.

    Nothing is said where a rollout's turns differ in credit, nor where any group contradicts the mean over rows, nor
    where tokens would count the same as rows: a statistic over tokens is a method (REINFORCE++).
    """
    turns, counted, alike_B = update.turns, counted_B(update.turns), update.alike_B()
    tokens_B, many_WB = _tokens_B(update), _rows_B(update)
    if update.imitates or (counted & (tokens_B > 0) & np.isnan(alike_B)).any():
        return
    by_step = many_WB["kept turns"] if "steps" in update.waivers else None
    if by_step is not None:
        many_WB = {name: rows_B for name, rows_B in many_WB.items() if name not in ("turns", "kept turns")}
    right_WB = [np.ones(len(tokens_B)), (tokens_B > 0).astype(np.float64), tokens_B]
    right_WB += [] if by_step is None else [by_step]
    for channel, of in enumerate(turns.channels):
        total_B = np.nansum(turns.reward_CBK[channel], axis=1)
        lines = [(members, centre) for members in _sets(update, counted)
                 if (centre := _centre(total_B[members], alike_B[members])) is not None]
        for name, rows_B in many_WB.items():
            if not all(abs(centre - _mean(total_B, rows_B, members)) < CLOSE for members, centre in lines):
                continue
            shown = [(members, centre) for members, centre in lines if np.isfinite(alike_B[members]).sum() >= FEWEST
                     and all(abs(centre - other) > 10 * CLOSE
                             for other in _baselines(total_B, right_WB, members, np.flatnonzero(counted)))]
            if shown:
                members, centre = shown[0]
                expected = _mean(total_B, right_WB[0] if by_step is None else by_step, members)
                b = int(np.where(counted, rows_B, -1).argmax())
                yield fault("rows_for_rollouts", update.row_place(b), centre, f"the baseline of {of!r} is its mean "
                            f"over {name}, {centre:.6g}, and not over {'rollouts' if by_step is None else 'steps'}, "
                            f"{expected:.6g}")
                return


def _baselines(total_B: FloatArray, right_WB: Sequence[FloatArray], members: NDArray[np.int64],
               counted: NDArray[np.int64]) -> Iterator[float]:
    """What a method may compare the members with: means by each of the counts and the median, of the group and of the
    batch, or nothing."""
    yield 0.0
    for rows in (members, counted):
        yield float(np.median(total_B[rows]))
        yield from (_mean(total_B, count_B, rows) for count_B in right_WB)


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
    """The c of ``credit = s * (total - c)``, of those with credit; NaN where it is no rising line, None where all
    totals are equal."""
    total, credit = total[np.isfinite(credit)], credit[np.isfinite(credit)]
    if len(total) < 2 or np.ptp(total) < 1e-9:
        return None
    slope, start = np.polyfit(total, credit, 1)
    fits = np.abs(slope * total + start - credit).max() < CLOSE * np.abs(credit).max()
    return float(-start / slope) if fits and slope > 0 and np.ptp(credit) >= 1e-9 else float("nan")
