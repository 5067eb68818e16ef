"""Weights that average a loss, made once for the whole batch, so that no loss divides and no split of it matters.

Every function here returns ``weight_N``: 0 for tokens that are not trained (turns that were taken back, trajectories
that were not scored or broke), and otherwise shares that sum to 1 over the batch (but for :func:`constant`). The mean
over what is the whole difference between them:

| function | every ... counts the same |
|---|---|
| token_mean | token |
| turn_mean | turn |
| trajectory_mean | trajectory (a sub-seat is one of its own) |
| rollout_mean | rollout of a seat, its sub-seats included |
| group_mean | group |
| family_mean | task family, with any of the others inside it |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyturn.arrays import BoolArray, Tokens, Turns, Weighting
from polyturn.errors import BadInput
from polyturn.types import FloatArray


def trained_N(turns: Turns, tokens: Tokens) -> BoolArray:
    """True for tokens that are trained: their turn was kept, their trajectory was scored and did not break."""
    row_B = turns.valid_B & (turns.stop_B != "error")
    trained: BoolArray = (turns.kept_BK & row_B[:, None])[tokens.trajectory_N, tokens.turn_N]
    return trained


def token_mean(turns: Turns, tokens: Tokens) -> FloatArray:
    """``1 / N`` for each of the N trained tokens."""
    return _shared(trained_N(turns, tokens), np.zeros(len(tokens), np.int64))


def turn_mean(turns: Turns, tokens: Tokens) -> FloatArray:
    """``1 / (turns * tokens of the turn)``, counting trained turns and tokens."""
    return _shared(trained_N(turns, tokens), tokens.trajectory_N * max(turns.kept_BK.shape[1], 1) + tokens.turn_N)


def trajectory_mean(turns: Turns, tokens: Tokens) -> FloatArray:
    """``1 / (trajectories * tokens of the trajectory)``, counting trained ones."""
    return _shared(trained_N(turns, tokens), tokens.trajectory_N)


def rollout_mean(turns: Turns, tokens: Tokens) -> FloatArray:
    """``1 / (rollouts * tokens of the rollout)``; a rollout is a root trajectory with its sub-seats."""
    return _shared(trained_N(turns, tokens), turns.root_B[tokens.trajectory_N])


def group_mean(turns: Turns, tokens: Tokens) -> FloatArray:
    """``1 / (groups * tokens of the group)``, counting groups with trained tokens."""
    return _shared(trained_N(turns, tokens), turns.group_B[tokens.trajectory_N])


def constant(turns: Turns, tokens: Tokens, *, divisor: float) -> FloatArray:
    """``1 / divisor`` for each trained token, as with (rollouts * longest reply allowed): no length is favoured
    (Dr. GRPO). Raises: BadInput unless ``divisor`` > 0."""
    if not 0 < divisor < float("inf"):
        raise BadInput(f"divisor is {divisor}; expected a finite number > 0")
    return np.where(trained_N(turns, tokens), 1.0 / divisor, 0.0)


def family_mean(turns: Turns, tokens: Tokens, *, inner: Weighting = token_mean) -> FloatArray:
    """Every task family's weights sum to ``1 / families``; within one they are in the proportions of ``inner``."""
    weight_N = inner(turns, tokens)
    family_N = np.unique(turns.family_B, return_inverse=True)[1].reshape(-1)[tokens.trajectory_N]
    sum_J = np.bincount(family_N, weight_N)
    share_J = 1.0 / np.where(sum_J > 0, sum_J, 1.0) / max(int((sum_J > 0).sum()), 1)
    return weight_N * share_J[family_N]


def masked(
    turns: Turns, tokens: Tokens, *, keep: Callable[[Turns], BoolArray], inner: Weighting = token_mean
) -> FloatArray:
    """``inner`` over the turns for which ``keep(turns)`` (``keep_BK``) is True; the others weigh 0 and are not counted.

    Raises: BadInput if ``keep`` gives another shape.
    """
    keep_BK = keep(turns)
    if keep_BK.shape != turns.kept_BK.shape:
        raise BadInput(f"keep gave shape {keep_BK.shape}; expected {turns.kept_BK.shape} (trajectories, turns)")
    return inner(replace(turns, kept_BK=turns.kept_BK & keep_BK), tokens)


def not_cut(turns: Turns) -> BoolArray:
    """``keep_BK`` for :func:`masked`: False for replies that hit their length limit or the budget."""
    return ~np.isin(turns.finish_BK, ("length", "budget", "abort"))


def _shared(trained: BoolArray, key_N: NDArray[Any]) -> FloatArray:
    """1 / (segments * tokens of the segment) for trained tokens; segments are equal keys with a trained token."""
    weight_N = np.zeros(len(trained))
    _, place, size = np.unique(key_N[trained], return_inverse=True, return_counts=True)
    weight_N[trained] = 1.0 / (max(len(size), 1) * size[place.reshape(-1)])
    return weight_N
