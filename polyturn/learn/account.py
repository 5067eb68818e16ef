"""The account of an update: by which rule and stages its credit came about, what clipped, what pushed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polyturn.arrays import Measured, Tokens
from polyturn.learn.split import Columns, push_N
from polyturn.learn.words import clipping, in_words
from polyturn.losses.learned import Loss
from polyturn.record.credit import Account
from polyturn.told import Told


def account_of(
    loss: Loss, tokens: Tokens, measured: Measured | None, last: Measured, columns: Columns, *,
    rule: Mapping[str, Any] | None = None, told: Sequence[Told] = (), updates: int = 1,
) -> Account:
    """What the record keeps beside the numbers of a batch's tokens. ``last`` is what the model said before the last of
    ``updates`` steps (``Learner.last``), ``measured`` what they called old (None: the same), ``rule`` what else is to
    be said of the rule, as JSON values.

    A token is clipped where the part of the loss that clips gives it no gradient, though its weight and advantage are
    not 0. No model is run.
    """
    clip = clipping(loss)
    push = push_N(loss, tokens, measured, last, columns)
    clipped_N = None
    if clip is not None:
        alone = push if clip[0] is loss else push_N(clip[0], tokens, measured, last, columns)
        advantage_N, weight_N = columns["advantage_N"], columns["weight_N"]
        assert advantage_N is not None and weight_N is not None
        clipped_N = (weight_N != 0) & (advantage_N != 0) & (np.nan_to_num(alone, nan=1.0) == 0)
    words = {**(rule or {}), "loss": in_words(loss), "clip": None if clip is None else clip[1], "updates": updates}
    return Account(words, told, last.old_N if updates > 1 else None, push, clipped_N)
