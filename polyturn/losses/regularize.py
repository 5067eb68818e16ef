"""Terms beside the policy gradient: divergence from a reference, entropy, and the error of a value head."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from polyturn.errors import BadInput, UnknownName
from polyturn.losses.learned import Learned, Loss, Metrics, unit_of
from polyturn.losses.terms import needed, of_unit, total, trained


@of_unit("token")
def kl(learned: Learned, *, estimator: Literal["k1", "k2", "k3"] = "k3") -> tuple[Tensor, Metrics]:
    """KL(policy, reference) by sampled tokens, with ``d = reference - logprob``:

    - "k1": ``-d``. Unbiased as a value; its gradient is 0 in expectation, so that it belongs into rewards.
    - "k2": ``d**2 / 2``. Its gradient is that of the KL on tokens of the present policy.
    - "k3": ``exp(d) - 1 - d``, never negative, of low variance; its gradient is that of the KL in the other direction.

    Metrics: ``kl/loss``, ``kl/value`` (k3 summed over trained tokens, whatever the estimator), ``kl/count``. Raises:
    BadInput without ``reference_N``.
    """
    learned = trained(learned)
    reference_N = needed(learned.reference_N, "reference_N", "give the learner a reference model").detach()
    difference_N = reference_N - learned.logprob_N
    terms = {
        "k1": lambda: -difference_N, "k2": lambda: difference_N**2 / 2,
        "k3": lambda: torch.expm1(difference_N) - difference_N,
    }
    if estimator not in terms:
        raise UnknownName("estimator of KL", estimator, terms)
    loss = (learned.weight_N.detach() * terms[estimator]()).sum()
    value = total(torch.expm1(difference_N) - difference_N)
    return loss, {"kl/loss": total(loss), "kl/value": value, "kl/count": float(len(difference_N))}


@of_unit("token")
def entropy(learned: Learned) -> tuple[Tensor, Metrics]:
    """``term = -entropy``, so that a positive coefficient keeps replies varied.

    Metrics: ``entropy/loss``, ``entropy/value`` (nats, summed over trained tokens), ``entropy/count``. Raises: BadInput
    without ``entropy_N``.
    """
    learned = trained(learned)
    entropy_N = needed(learned.entropy_N, "entropy_N", "let the learner compute entropies")
    loss = -(learned.weight_N.detach() * entropy_N).sum()
    count = float(len(entropy_N))
    return loss, {"entropy/loss": total(loss), "entropy/value": total(entropy_N), "entropy/count": count}


@of_unit("token")
def value_error(learned: Learned, *, head: str = "value", clip: float | None = None) -> tuple[Tensor, Metrics]:
    """``term = (V - target)**2 / 2`` for a head that predicts ``target_N``.

    With ``clip`` > 0 the larger of this and the same for ``old + clamp(V - old, -clip, clip)``, where ``old`` is the
    head before the update: a step further than ``clip`` earns nothing.

    Metrics: ``value/loss``, ``value/square`` (squared errors), ``value/clipped``, ``value/count``, each over trained
    tokens. Raises: BadInput without ``target_N``, without that head, or for a clip out of range.
    """
    learned = trained(learned)
    target_N = needed(learned.target_N, "target_N", "pass target_N= to update (value_target_N makes it)").detach()
    value_N = needed(learned.heads.get(head), f"the head {head!r}", f"it has: {', '.join(learned.heads) or 'none'}")
    square_N = (value_N - target_N) ** 2
    worst_N = square_N
    if clip is not None:
        if not clip > 0:
            raise BadInput(f"clip is {clip}; expected a number > 0, or None")
        old_N = needed(learned.old_heads.get(head), f"the head {head!r} before the update", "measure it").detach()
        near_N = old_N + (value_N - old_N).clamp(-clip, clip)
        worst_N = torch.maximum(square_N, (near_N - target_N) ** 2)
    loss = (learned.weight_N.detach() * worst_N).sum() / 2
    return loss, {
        "value/loss": total(loss), "value/square": total(square_N),
        "value/clipped": total(worst_N.detach() > square_N.detach()), "value/count": float(len(square_N)),
    }


@of_unit("token")
def with_term(learned: Learned, *, main: Loss, term: Loss, coefficient: float) -> tuple[Tensor, Metrics]:
    """``main + coefficient * term`` with the metrics of both; ``partial(with_term, main=policy_gradient, term=entropy,
    coefficient=0.01)`` is a loss. Raises: BadInput where one of them needs more than its own token at a time."""
    for loss in (main, term):
        if unit_of(loss) != "token":
            raise BadInput(f"{getattr(loss, '__name__', loss)} is of unit {unit_of(loss)!r}; expected losses by token")
    (value, seen), (more, also) = main(learned), term(learned)
    return value + coefficient * more, {**seen, **also}
