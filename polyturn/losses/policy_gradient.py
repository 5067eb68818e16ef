"""Clipped policy gradients, with the ratio taken by token, by turn or by trajectory.

``term = -c * min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`` with ``r = exp(logprob - old)`` and, for tokens that
another implementation or older weights drew, ``c = min(exp(old - behavior), truncate)``. Gradients flow through
``logprob_N`` alone: ``old``, ``behavior``, ``A`` and ``c`` are constants.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from polyturn.errors import BadInput, NotFinite, NotTrainable, UnknownName
from polyturn.losses.learned import Learned, Metrics
from polyturn.losses.terms import of_unit, segments, sum_by, total, trained

INFINITE = float("inf")
Unknown: TypeAlias = Literal["refuse", "old"]


@of_unit("token")
def policy_gradient(
    learned: Learned, *, clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float | None = None,
    truncate: float | None = None, unknown: Unknown = "refuse",
) -> tuple[Tensor, Metrics]:
    """The clipped policy gradient with one ratio per token.

    ``clip_low`` 0..1 (1 = no lower clip), ``clip_high`` >= 0 (inf = no upper clip). ``dual_clip`` > 1: where A < 0 the
    term is at most ``-dual_clip * A`` (before c). ``truncate`` > 0 weighs each token by c; None = off, and
    ``behavior_N`` is not looked at. ``unknown`` says what a token without a recorded log-probability is then: "refuse",
    or "old", as if the weights before the update had drawn it (c = 1): for stored play that a script wrote.

    Metrics, over trained tokens: ``policy/loss``, ``policy/count``, ``policy/clipped`` (tokens whose gradient the clip
    took away), ``policy/ratio``, ``policy/ratio_square``, ``policy/old_kl`` (k3 estimate of KL(old, present)); with
    ``truncate`` also ``policy/importance`` and ``policy/truncated``.

    Raises: BadInput for options out of range, NotTrainable for an unknown ``behavior`` with ``truncate``, NotFinite
    for log-probabilities or advantages that are no numbers.
    """
    learned = trained(learned)
    log_ratio_N = learned.logprob_N - learned.old_N.detach()
    return _clipped(learned, log_ratio_N, (clip_low, clip_high), dual_clip, truncate, unknown)


@of_unit("turn")
def policy_gradient_by_turn(
    learned: Learned, *, clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float | None = None,
    truncate: float | None = None, unknown: Unknown = "refuse",
) -> tuple[Tensor, Metrics]:
    """As :func:`policy_gradient` with one ratio per turn: ``r = exp(mean of logprob - old over the turn's trained
    tokens)``."""
    learned = trained(learned)
    log_ratio_N = _mean_by(learned, learned.trajectory_N, learned.turn_N)
    return _clipped(learned, log_ratio_N, (clip_low, clip_high), dual_clip, truncate, unknown)


@of_unit("trajectory")
def policy_gradient_by_trajectory(
    learned: Learned, *, clip_low: float = 3e-4, clip_high: float = 4e-4, dual_clip: float | None = None,
    truncate: float | None = None, unknown: Unknown = "refuse",
) -> tuple[Tensor, Metrics]:
    """As :func:`policy_gradient` with one ratio per trajectory: ``r = exp(mean of logprob - old over its trained
    tokens)`` (GSPO, with its narrow clip)."""
    learned = trained(learned)
    log_ratio_N = _mean_by(learned, learned.trajectory_N)
    return _clipped(learned, log_ratio_N, (clip_low, clip_high), dual_clip, truncate, unknown)


def _mean_by(learned: Learned, *key_N: Tensor) -> Tensor:
    """The mean of ``logprob - old`` over each token's segment."""
    segment_N, count = segments(*key_N)
    difference_N = learned.logprob_N - learned.old_N.detach()
    size = sum_by(torch.ones_like(difference_N), segment_N, count)
    return (sum_by(difference_N, segment_N, count) / size)[segment_N]


def _clipped(
    learned: Learned, log_ratio_N: Tensor, clip: tuple[float, float], dual_clip: float | None, truncate: float | None,
    unknown: Unknown,
) -> tuple[Tensor, Metrics]:
    _check_options(clip, dual_clip, truncate)
    if unknown not in ("refuse", "old"):
        raise UnknownName("rule for tokens without a recorded log-probability", unknown, ("refuse", "old"))
    advantage_N = learned.advantage_N.detach()
    for name, value_N in (("logprob", learned.logprob_N), ("old", learned.old_N), ("advantage", advantage_N)):
        _check_finite(name, value_N)
    ratio_N = torch.exp(log_ratio_N)
    plain_N = ratio_N * advantage_N
    gain_N = torch.minimum(plain_N, torch.clamp(ratio_N, 1 - clip[0], 1 + clip[1]) * advantage_N)
    if dual_clip is not None:
        floor_N = dual_clip * advantage_N
        gain_N = torch.where(advantage_N < 0, torch.maximum(gain_N, floor_N), gain_N)
    weight_N = learned.weight_N.detach()
    drift_N = (learned.old_N - learned.logprob_N).detach()
    metrics: Metrics = {
        "policy/count": float(len(weight_N)), "policy/clipped": total(gain_N.detach() != plain_N.detach()),
        "policy/ratio": total(ratio_N), "policy/ratio_square": total(ratio_N**2),
        "policy/old_kl": total(torch.expm1(drift_N) - drift_N),
    }
    if truncate is not None:
        importance_N = _importance(learned, unknown)
        metrics["policy/importance"] = total(importance_N)
        metrics["policy/truncated"] = total(importance_N > truncate)
        weight_N = weight_N * importance_N.clamp(max=truncate)
    loss = (weight_N * -gain_N).sum()
    return loss, {"policy/loss": total(loss), **metrics}


def _importance(learned: Learned, unknown: Unknown) -> Tensor:
    """``exp(old - behavior)``, a constant."""
    unknown_N = torch.isnan(learned.behavior_N)
    if unknown == "refuse" and bool(unknown_N.any()):
        raise NotTrainable(
            f"{int(unknown_N.sum())} of {len(unknown_N)} trained tokens have no recorded log-probability, so truncate= "
            "cannot weigh them; sample with a policy that records it, or pass truncate=None"
        )
    return torch.where(unknown_N, 1.0, torch.exp(learned.old_N - learned.behavior_N)).detach()


def _check_options(clip: tuple[float, float], dual_clip: float | None, truncate: float | None) -> None:
    if not 0 <= clip[0] <= 1:
        raise BadInput(f"clip_low is {clip[0]}; expected a number in 0..1 (1 = no lower clip)")
    if not clip[1] >= 0:
        raise BadInput(f"clip_high is {clip[1]}; expected a number >= 0 (inf = no upper clip)")
    if dual_clip is not None and not dual_clip > 1:
        raise BadInput(f"dual_clip is {dual_clip}; expected a number > 1, or None")
    if truncate is not None and not truncate > 0:
        raise BadInput(f"truncate is {truncate}; expected a number > 0, or None")


def _check_finite(name: str, value_N: Tensor) -> None:
    wrong_N = ~torch.isfinite(value_N.detach())
    if bool(wrong_N.any()):
        place = int(wrong_N.nonzero()[0])
        raise NotFinite(
            f"{name}_N is no number for {int(wrong_N.sum())} of {len(value_N)} trained tokens; the first is trained "
            f"token {place} with {float(value_N[place].detach())}"
        )
