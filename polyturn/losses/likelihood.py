"""Learning to say what was said: the likelihood loss of demonstrations and of filtered play."""

from __future__ import annotations

from torch import Tensor

from polyturn.losses.learned import Learned, Metrics
from polyturn.losses.terms import of_unit, total, trained


@of_unit("token")
def likelihood(learned: Learned) -> tuple[Tensor, Metrics]:
    """``term = -logprob``: the cross-entropy of the trained tokens. ``advantage_N`` is not looked at.

    Metrics: ``likelihood/loss``, ``likelihood/logprob`` (its sum over trained tokens), ``likelihood/count``.
    """
    learned = trained(learned)
    loss = -(learned.weight_N.detach() * learned.logprob_N).sum()
    return loss, {
        "likelihood/loss": total(loss), "likelihood/logprob": total(learned.logprob_N),
        "likelihood/count": float(len(learned.weight_N)),
    }
