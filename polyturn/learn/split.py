"""Whether an update depended on how its batch was cut: measured beside every step, on the numbers of the step itself.

A loss is a sum over tokens that never divides, so that the gradients of parts add up to that of the whole. One that
takes a mean of what it sees learns something else with every size of micro-batch (transformers issue 34198, TRL issues
2175 and 3021), and no curve shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from polyturn.arrays import BoolArray, Measured, Tokens
from polyturn.learn.gradient import Batch, Reading, make_batch, unit_numbers
from polyturn.losses.learned import Loss, unit_of
from polyturn.types import FloatArray, IntArray

Columns: TypeAlias = Mapping[str, FloatArray | None]


def split_gaps(
    loss: Loss, tokens: Tokens, measured: Measured | None, read: Measured, columns: Columns, accumulated: float
) -> dict[str, float]:
    """``audit/split`` and ``audit/accumulated`` of the update that was just made; 0 = the batch might have been cut
    anywhere.

    ``split``: the largest difference between a token's derivative of the loss over the whole batch and over one of two
    parts that keep the loss's unit whole, in parts of the largest derivative; left out where there is only one unit.
    ``accumulated``: how far the loss that the learner added up over its passes is from that of the whole batch, in
    parts of the summed derivatives and the loss. ``read`` = what the model said before the step (``Learner.last``),
    ``measured`` = what the step called old (None: the same). ``columns``: ``advantage_N``, ``weight_N``, ``target_N``.
    No model is run. Raises: what the loss raises.
    """
    old = read if measured is None else measured
    weight_N = columns["weight_N"]
    assert weight_N is not None
    if not weight_N.any():
        return {}
    known = Measured(_filled(old.old_N), None if old.reference_N is None else _filled(old.reference_N))
    batch = make_batch(tokens, known, columns, torch.zeros(0, dtype=torch.float64))
    everything = np.arange(len(batch.tokens), dtype=np.int32)
    value, slopes = _slopes(loss, batch, read, everything)
    size = sum(float(slope.abs().sum()) for slope in slopes.values()) + abs(value)
    gaps = {"audit/accumulated": abs(accumulated - value) / size if size else 0.0}
    part_N = first_part(unit_numbers(batch.tokens, unit_of(loss)), len(everything))
    if part_N.any() and not part_N.all():
        gaps["audit/split"] = 0.0
        largest = max(float(slope.abs().max()) for slope in slopes.values())
        for index_N in (everything[part_N], everything[~part_N]):
            _, apart = _slopes(loss, batch, read, index_N)
            miss = max(float((apart[name] - slope[index_N]).abs().max()) for name, slope in slopes.items())
            gaps["audit/split"] = max(gaps["audit/split"], miss / largest if largest else miss)
    return gaps


def push_N(
    loss: Loss, tokens: Tokens, measured: Measured | None, read: Measured, columns: Columns
) -> FloatArray:
    """The derivative of the loss by each token's log-probability, before any clipping of the whole gradient's norm:
    what the update does with the token, all things told. NaN for tokens of weight zero, which it never saw.

    Arguments as for :func:`split_gaps`. Where weight and advantage are not 0 and this is, the loss's clip took the
    token's gradient away. No model is run. Raises: what the loss raises.
    """
    old = read if measured is None else measured
    weight_N = columns["weight_N"]
    assert weight_N is not None
    push = np.full(len(weight_N), np.nan)
    if weight_N.any():
        known = Measured(_filled(old.old_N), None if old.reference_N is None else _filled(old.reference_N))
        batch = make_batch(tokens, known, columns, torch.zeros(0, dtype=torch.float64))
        _, slopes = _slopes(loss, batch, read, np.arange(len(batch.tokens), dtype=np.int32))
        push[batch.kept_N] = slopes["logprob_N"].numpy()
    return push


def first_part(unit_N: IntArray | None, count: int) -> BoolArray:
    """A mask of about half of the tokens that keeps every unit whole and cuts everything larger unevenly."""
    number_N = np.arange(count) if unit_N is None else np.unique(unit_N, return_inverse=True)[1].reshape(-1)
    part: BoolArray = np.isin(number_N % 5, (0, 3))
    return part


def _filled(values: FloatArray) -> FloatArray:
    """Unknown as 0: what was read is unknown where the weight is 0, and such tokens are left out."""
    return np.nan_to_num(values, nan=0.0)


def _slopes(loss: Loss, batch: Batch, read: Measured, index_N: IntArray) -> tuple[float, dict[str, Tensor]]:
    """The loss of some tokens, and its derivative by what the model says of each."""
    def leaf(values: FloatArray) -> Tensor:
        return torch.as_tensor(_filled(values)[batch.kept_N][index_N], dtype=torch.float64).requires_grad_()

    entropy_N = np.zeros(len(read.old_N)) if read.entropy_N is None else read.entropy_N
    reading = Reading(leaf(read.old_N), leaf(entropy_N), {name: leaf(value) for name, value in read.heads.items()})
    value, _ = loss(batch.learned(index_N, reading))
    parts = reading.parts()
    found = torch.autograd.grad(value, list(parts.values()), allow_unused=True) if value.requires_grad else ()
    slopes = {name: torch.zeros_like(part) if slope is None else slope
              for (name, part), slope in zip(parts.items(), found or [None] * len(parts), strict=True)}
    return float(value.detach()), slopes
