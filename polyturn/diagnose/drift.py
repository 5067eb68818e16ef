"""How far one distribution over replies is from another, turn by turn: exact over the vocabulary, or from samples.

``q`` is the policy that wrote a reply in its context, ``p`` a reference that reads the same reply. All are means over
the tokens of the reply, in nats, of raw log-probabilities at temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyturn.errors import BadInput, NotFinite
from polyturn.protocols import Scoring
from polyturn.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Divergence:
    """One reply seen by two distributions: ``Divergence(kl=0.31, reverse=0.27, js=0.06, sampled=0.35, sampled_k3=0.33,
    tokens=12)``."""

    kl: float
    """Mean KL(q || p) over the reply's positions; infinite where p gives 0 to what q does not."""
    reverse: float
    """Mean KL(p || q)."""
    js: float
    """Mean Jensen-Shannon divergence, in 0..ln 2."""
    sampled: float
    """Mean ``log q(y) - log p(y)`` of the tokens said: unbiased for the KL where q drew y, may be negative."""
    sampled_k3: float
    """Mean ``r - 1 - log r``, ``r = p(y) / q(y)``: unbiased as well, never negative."""
    tokens: int


def kl_T(q_TV: FloatArray, p_TV: FloatArray) -> FloatArray:
    """``sum_v q (log q - log p)`` at each position, from log-probabilities; a token with q = 0 adds nothing.

    >>> kl_T(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])).round(6).tolist()      # 0.5 ln 2 + 0.5 ln (2/3)
    [0.143841]
    """
    _check(q_TV, p_TV)
    q = np.exp(q_TV)
    with np.errstate(invalid="ignore"):
        terms = np.where(q > 0, q * (q_TV - p_TV), 0.0)
    found: FloatArray = terms.sum(-1)
    return found


def js_T(q_TV: FloatArray, p_TV: FloatArray) -> FloatArray:
    """``(KL(q || m) + KL(p || m)) / 2`` with ``m = (q + p) / 2`` at each position.

    >>> js_T(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])).round(6).tolist()
    [0.033822]
    """
    _check(q_TV, p_TV)
    m_TV = np.logaddexp(q_TV, p_TV) - np.log(2.0)
    return 0.5 * (kl_T(q_TV, m_TV) + kl_T(p_TV, m_TV))


def sampled_kl(q_T: FloatArray, p_T: FloatArray) -> tuple[float, float]:
    """The two estimates of KL(q || p) from the log-probabilities of the tokens said: mean ``log q - log p`` and mean
    ``r - 1 - log r``. For logs that hold nothing else.

    >>> [round(value, 6) for value in sampled_kl(np.log([0.5, 0.5]), np.log([0.25, 0.75]))]
    [0.143841, 0.143841]
    """
    if q_T.shape != p_T.shape or q_T.ndim != 1 or not len(q_T):
        raise BadInput(f"log-probabilities of shapes {q_T.shape} and {p_T.shape}; expected two equal rows of tokens")
    if not (np.isfinite(q_T).all() and np.isfinite(p_T).all()):
        raise NotFinite("a token's log-probability is not finite: it was not recorded, or cannot have been drawn")
    log_r_T = p_T - q_T
    return float(-log_r_T.mean()), float((np.expm1(log_r_T) - log_r_T).mean())


def divergence(q_TV: FloatArray, p_TV: FloatArray, reply: Sequence[int] | IntArray) -> Divergence:
    """All measures of one reply, from log-probabilities [tokens, V] of both at its positions.

    Raises: BadInput for shapes that do not fit, NotFinite for rows that are no distributions.
    """
    ids = np.asarray(reply, np.int64)
    if len(ids) != len(q_TV) or not len(ids):
        raise BadInput(f"{len(q_TV)} positions for a reply of {len(ids)} tokens; expected one row for each, at least 1")
    kl, reverse, js = kl_T(q_TV, p_TV), kl_T(p_TV, q_TV), js_T(q_TV, p_TV)
    place = np.arange(len(ids))
    sampled, k3 = sampled_kl(q_TV[place, ids], p_TV[place, ids])
    means = [max(float(value.mean()), 0.0) for value in (kl, reverse, js)]  # rounding may give -1e-17
    return Divergence(means[0], means[1], means[2], sampled, k3, len(ids))


def _check(q_TV: FloatArray, p_TV: FloatArray) -> None:
    if q_TV.shape != p_TV.shape or q_TV.ndim != 2:
        raise BadInput(
            f"distributions of shapes {q_TV.shape} and {p_TV.shape}; expected two of the same [positions, vocabulary]: "
            "an exact divergence needs models with one vocabulary"
        )
    for name, rows in (("q", q_TV), ("p", p_TV)):
        off = np.abs(np.exp(rows).sum(-1) - 1.0)
        if not (off < 1e-3).all():
            raise NotFinite(f"row {int(np.argmax(~(off < 1e-3)))} of {name} sums to 1 {off.max():+.2g}; expected "
                            "log-probabilities of the whole vocabulary")


async def turn_divergence(
    policy: Scoring, reference: Scoring, prompt: IntArray, reference_prompt: IntArray, reply: IntArray
) -> Divergence:
    """How far ``policy`` after ``prompt`` is from ``reference`` after ``reference_prompt`` on the same reply.

    One scored path of each: two forward passes, in which what stands before the reply may come from a cache.
    Raises: BadInput for an empty prompt or reply, and as :func:`divergence`.
    """
    rows = []
    for scoring, before in ((policy, prompt), (reference, reference_prompt)):
        if not len(before) or not len(reply):
            raise BadInput(f"a prompt of {len(before)} and a reply of {len(reply)} tokens; expected at least one each")
        path = np.concatenate([before, reply]).astype(np.int32)
        rows.append((await scoring.distributions(path, first=len(before) - 1))[:-1])
    return divergence(rows[0], rows[1], reply)
