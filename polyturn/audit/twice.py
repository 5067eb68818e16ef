"""Advantages that were normalised twice: divided by the deviation of their group, and then by that of the batch.

The second division undoes nothing and adds a factor of its own: the deviation of numbers of which some are 0 (groups
that all scored alike) or counted by token, so that the step grows with the share of dead groups (gem issue 113). Seen
as: the advantages are ``c * G + d``, with G the score standardised within its group, by far more exactly than they are
``c * (score - mean of its group) + d``; c is not 1; and over the batch they have mean 0 and deviation 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polyturn.advantages.group import Scale, group_relative
from polyturn.advantages.turn import as_tokens
from polyturn.audit.found import fault
from polyturn.audit.update import Update
from polyturn.types import Finding, FloatArray

CLOSE = 1e-4
"""How exactly a form must fit, in parts of the advantages' size (epsilons of the methods are below it)."""


def normalised_twice(update: Update) -> Iterator[Finding]:
    """One finding for an update, at its largest advantage, with the factor that the second division brought."""
    turns, held = update.turns, update.held_N
    found_N = update.advantage_N[held]
    if len(found_N) < 4 or np.ptp(found_N) < 1e-9:
        return
    for channel in turns.channels:
        centred_N = as_tokens(group_relative(turns, channels=(channel,)), turns)[held]
        if _fit(centred_N, found_N)[2] < 100 * CLOSE:
            continue
        standard = [as_tokens(group_relative(turns, channels=(channel,), scale=scale), turns)[held]
                    for scale in _SCALES]
        fits = [fit for fit in (_fit(standard_N, found_N) for standard_N in standard) if fit[2] < CLOSE]
        once = any(abs(factor - 1) < 0.01 and abs(shift) < 0.01 for factor, shift, _ in fits)
        if fits and not once and _whitened(update):
            n = int(np.flatnonzero(held)[np.abs(found_N).argmax()])
            yield fault("normalised_twice", update.place(n), fits[0][0], f"the advantages are {fits[0][0]:.4g} times "
                        f"those of {channel!r} standardised by group, and have deviation 1 over the batch: they were "
                        "divided by a deviation twice")
            return


_SCALES: tuple[Scale, ...] = ("population", "sample")


def _fit(known: FloatArray, found: FloatArray) -> tuple[float, float, float]:
    """``found = c * known + d`` by least squares: c, d and the largest miss in parts of the largest advantage."""
    if np.ptp(known) < 1e-9:
        return 0.0, float(found.mean()), float("inf")
    factor, shift = np.polyfit(known, found, 1)
    return float(factor), float(shift), float(np.abs(factor * known + shift - found).max() / np.abs(found).max())


def _whitened(update: Update) -> bool:
    """Whether mean and deviation over the batch are 0 and 1, counted by token, by turn or by rollout."""
    first_BK, alike_B = update.first_BK(), update.alike_B()
    counts = (update.advantage_N[update.held_N], first_BK[np.isfinite(first_BK)], alike_B[np.isfinite(alike_B)])
    return any(abs(values.mean()) < 0.01 and min(abs(values.std(ddof=free) - 1) for free in (0, 1)) < 0.01
               for values in counts if len(values) > 1)
