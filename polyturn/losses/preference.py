"""Preferences between whole trajectories, over as many turns as they have: DPO and KTO.

The margin of a trajectory is ``m = sum(logprob - reference)`` over its trained tokens: observations are not part of it.
A preference is the sign of the advantage: above 0 chosen, below 0 rejected, 0 not looked at.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from polyturn.arrays import Turns
from polyturn.errors import BadInput
from polyturn.losses.learned import Learned, Metrics
from polyturn.losses.terms import needed, of_unit, segments, sum_by, total, trained
from polyturn.types import FloatArray


@of_unit("group")
def dpo(learned: Learned, *, beta: float = 0.1) -> tuple[Tensor, Metrics]:
    """``term = mean over pairs of -log sigmoid(beta (m_chosen - m_rejected))``, the same for every trained token of a
    group; pairs are all chosen with all rejected trajectories of the group, whatever their seats.

    With ``weighting.group_mean`` the loss is the mean over groups. A group without a pair adds 0. Metrics:
    ``dpo/loss``, ``dpo/pairs``, ``dpo/right`` (pairs whose margins are in order), ``dpo/margin`` (summed over pairs).

    Raises: BadInput without ``reference_N``, for ``beta`` <= 0, or for a trajectory with advantages of both signs.
    """
    learned = trained(learned)
    _check_positive("beta", beta)
    margin_S, sign_S, group_S, _ = _margins(learned)
    group_N, count = segments(learned.group_N)
    weight_G = sum_by(learned.weight_N.detach(), group_N, count)
    pairs = ((sign_S[:, None] > 0) & (sign_S[None, :] < 0) & (group_S[:, None] == group_S[None, :])).nonzero()
    gap_P = margin_S[pairs[:, 0]] - margin_S[pairs[:, 1]]
    pair_group_P = group_S[pairs[:, 0]]
    size_G = sum_by(torch.ones_like(gap_P), pair_group_P, count).clamp(min=1)
    loss = ((weight_G / size_G)[pair_group_P] * -logsigmoid(beta * gap_P)).sum()
    return loss, {
        "dpo/loss": total(loss), "dpo/pairs": float(len(gap_P)), "dpo/right": total(gap_P > 0),
        "dpo/margin": total(gap_P),
    }


@of_unit("trajectory")
def kto(
    learned: Learned, *, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0,
    reference_point: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """``term = desirable (1 - sigmoid(beta (m - z)))`` where the advantage is above 0, ``undesirable (1 - sigmoid(beta
    (z - m)))`` where it is below; the same for every trained token of a trajectory.

    ``z = reference_point`` stands for the divergence from the reference and is a constant of the whole batch: see
    :func:`reference_point`. Metrics: ``kto/loss``, ``kto/desirable`` and ``kto/undesirable`` (trajectories),
    ``kto/margin`` (m summed over trajectories, with the sign of its advantage).

    Raises: BadInput as :func:`dpo`.
    """
    learned = trained(learned)
    for name, value in (("beta", beta), ("desirable", desirable), ("undesirable", undesirable)):
        _check_positive(name, value)
    margin_S, sign_S, _, segment_N = _margins(learned)
    weight_S = sum_by(learned.weight_N.detach(), segment_N, len(margin_S))
    cost_S = 1 - torch.sigmoid(sign_S * beta * (margin_S - reference_point))
    factor_S = desirable * (sign_S > 0) + undesirable * (sign_S < 0)
    loss = (weight_S * factor_S * cost_S).sum()
    return loss, {
        "kto/loss": total(loss), "kto/desirable": total(sign_S > 0), "kto/undesirable": total(sign_S < 0),
        "kto/margin": total(sign_S * margin_S),
    }


def reference_point(turns: Turns, weight_N: FloatArray) -> float:
    """The ``z`` of :func:`kto`: ``max(0, mean m)`` over the trajectories with trained tokens, at the weights before the
    update (``old_N``). Raises: BadInput without a measured reference."""
    measured = turns.measured
    if measured is None or measured.reference_N is None:
        raise BadInput("the reference point needs reference_N; give the learner a reference model and measure")
    margin_N = np.where(weight_N != 0, measured.old_N - measured.reference_N, 0.0)
    rows = np.unique(turns.tokens.trajectory_N[weight_N != 0])
    return max(0.0, float(margin_N.sum()) / max(len(rows), 1))


def _margins(learned: Learned) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per trajectory S: its margin, the sign of its advantage, its group (0, 1, 2 ...); and each token's trajectory."""
    reference_N = needed(learned.reference_N, "reference_N", "give the learner a reference model").detach()
    segment_N, count = segments(learned.trajectory_N)
    margin_S = sum_by(learned.logprob_N - reference_N, segment_N, count)
    sign_N = torch.sign(learned.advantage_N.detach())
    sum_S, size_S = sum_by(sign_N, segment_N, count), sum_by(sign_N.abs(), segment_N, count)
    if bool((sum_S.abs() != size_S).any()):
        raise BadInput(
            "a trajectory has advantages of both signs, and a preference is the sign of the advantage: use one "
            "advantage for the whole rollout, as group_centred gives"
        )
    group_N, _ = segments(learned.group_N)
    group_S = torch.zeros(count, dtype=torch.long, device=group_N.device).index_copy(0, segment_N, group_N)
    return margin_S, torch.sign(sum_S), group_S, segment_N


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise BadInput(f"{name} is {value}; expected a finite number > 0")
