"""Placeholders for log-probabilities: numbers that fill a column and were never measured.

Zeros where none were known (rLLM issue 816), or one constant for all (SkyRL pull request 758), enter the ratio between
sampler and learner as if the sampler had been certain.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from polyturn.arrays import BoolArray
from polyturn.audit.found import fault
from polyturn.audit.update import Update
from polyturn.types import Finding

CERTAIN = 0.01
"""A learner that is less sure than this, in nats, contradicts a log-probability of exactly 0."""
SAME = 4
"""Different tokens of one span with the very same log-probability, all bits of it, that no measurement gives."""


def placeholder_logprobs(update: Update) -> Iterator[Finding]:
    """A finding for each span whose recorded log-probabilities are filled in: exact zeros that the learner contradicts,
    or one number for tokens that the learner tells apart. A token whose mask allowed no other id may be 0."""
    tokens = update.tokens
    free_N = np.ones(len(tokens), np.bool_)
    free_N[[n for n, allowed in tokens.support.items() if len(allowed) == 1]] = False
    trained_N = (update.weight_N != 0) & tokens.sampled_N & free_N & np.isfinite(tokens.behavior_N)
    key_N = tokens.trajectory_N.astype(np.int64) * (int(update.span_N.max(initial=0)) + 1) + update.span_N
    order = np.flatnonzero(trained_N)
    for index in np.split(order, np.flatnonzero(np.diff(key_N[order])) + 1) if len(order) else ():
        bad = _filled_in(update, index)
        if bad.any():
            first = int(index[bad.argmax()])
            value = float(tokens.behavior_N[first])
            yield fault("placeholder_logprob", update.place(first), value, f"{int(bad.sum())} of {len(index)} tokens "
                        f"have the log-probability {value:g}, and the learner measured "
                        f"{update.old_N[index[bad]].mean():.4g} on average: a placeholder, never measured")


def _filled_in(update: Update, index: NDArray[np.int64]) -> BoolArray:
    """Of the tokens of one span, those with a placeholder."""
    said, old = update.tokens.behavior_N[index], update.old_N[index]
    zero = (said == 0) & (old < -CERTAIN)
    different = len(np.unique(update.tokens.id_N[index])) >= SAME and float(np.ptp(old)) > CERTAIN
    constant = np.full(len(index), different and bool((said == said[0]).all()) and said[0] != 0, np.bool_)
    filled: BoolArray = zero | constant
    return filled
