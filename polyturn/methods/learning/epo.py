"""EPO: entropy-regularised policy optimisation whose entropy is held in a band around its own history.

Claim (arXiv 2509.22576): over many turns with one reward at the end, a policy commits too early, and a plain entropy
bonus makes late turns chaotic; a band around the average entropy of earlier rollouts prevents both. With the entropy h
of each trained token (or the mean of its turn), and ``Hbar[k]`` the mean entropy of turn k over all earlier batches:

    L = L_PG - lambda (mean h - beta_i mean P),
    hinge:     P = alpha (relu(kappa_low Hbar - h) + relu(h - kappa_high Hbar)),
    official:  P = 0 if kappa_low Hbar < h < kappa_high Hbar, else alpha; a constant, so its gradient is 0,

where beta_i is 1, or a weight by the phase of training (:func:`phase_weight`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import exp
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from polyturn.arrays import Advantage, Turns, Weighting
from polyturn.errors import BadInput, UnknownName
from polyturn.learn.loop import Rule
from polyturn.losses.learned import Learned, Loss, Metrics, Unit
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.regularize import entropy
from polyturn.losses.terms import Sum, needed, segments, sum_by, total, trained
from polyturn.losses.weighting import token_mean
from polyturn.paper import Paper
from polyturn.types import FloatArray

PAPER = Paper(
    title="EPO: Entropy-regularized Policy Optimization for LLM Agents Reinforcement Learning",
    arxiv="2509.22576", year=2025,
    claim="Holding the entropy of every turn in a band around its history, with a weight that grows with training, "
          "prevents early commitment and late chaos in long episodes with one sparse reward.",
    adds=("SmoothedEntropy: Loss", "EntropyHistory: Stateful", "phase_weight", "epo_rule: Rule by iteration"),
    axes={
        "task": "agentic: many turns, one sparse reward", "method": "model: reinforcement learning",
        "challenge": "exploration that neither dies early nor grows late",
    },
    deviations=(
        "The penalty is a hinge, so that it has a gradient. The released penalty is constant: its update equals plain "
        "entropy regularisation. It is kept as form='official'.",
        "alpha is a slope of the hinge (default 2): it must pass 1 to outweigh the bonus outside the band.",
        "A turn that no earlier batch reached has no band. Released code pads short batches with zeros on the left, "
        "which mixes zeros into early turns and shifts the index.",
        "The history holds batches before the one that is trained, and only tokens that are trained: released code "
        "counts rows of finished environments too.",
        "The released gate (penalty only if the micro-batch holds a turn past half of 50) is left out: it depends on "
        "how a batch is cut.",
        "Phase weight: the paper describes a rising one, released code a falling one; 'rising' is the falling one read "
        "backwards, and the default.",
    ),
)

Form: TypeAlias = Literal["hinge", "official"]
Scope: TypeAlias = Literal["token", "turn"]
Arm: TypeAlias = Literal["none", "bonus", "hinge", "hinge_phase", "official"]

# ---------------------------------------------------------------- memory


@dataclass(slots=True)
class EntropyHistory:
    """For each turn index k, the mean over batches of the batch's mean token entropy at turn k, in nats.

    Every batch that reached a turn counts the same for it, however many tokens it had there.
    """

    sum_K: list[float] = field(default_factory=list)
    batches_K: list[int] = field(default_factory=list)

    def mean_K(self) -> FloatArray:
        """The mean of each turn; NaN for one that no batch reached."""
        known = zip(self.sum_K, self.batches_K, strict=True)
        return np.array([amount / count if count else np.nan for amount, count in known], np.float64)

    def add(self, entropy_K: FloatArray) -> None:
        """Takes a batch's mean entropy of each turn; NaN where it has none."""
        for k, value in enumerate(entropy_K.tolist()):
            if k == len(self.sum_K):
                self.sum_K.append(0.0)
                self.batches_K.append(0)
            if np.isfinite(value):
                self.sum_K[k] += value
                self.batches_K[k] += 1

    def state(self) -> Mapping[str, Any]:
        """Sums and counts."""
        return {"sum": list(self.sum_K), "batches": list(self.batches_K)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        self.sum_K, self.batches_K = [float(v) for v in state["sum"]], [int(v) for v in state["batches"]]


def entropy_by_turn(turns: Turns) -> FloatArray:
    """The batch's mean token entropy of each turn index, over all rows; NaN where no token was measured.

    Raises: BadInput for a batch without measured entropies.
    """
    measured = turns.measured
    if measured is None or measured.entropy_N is None:
        raise BadInput("the history needs entropy_N; let the learner measure the batch, or update on it first")
    tokens = turns.tokens
    counts_N = np.isfinite(measured.entropy_N) & turns.kept_BK[tokens.trajectory_N, tokens.turn_N]
    turn_N, width = tokens.turn_N[counts_N], turns.kept_BK.shape[1]
    count_K = np.bincount(turn_N, minlength=width)
    sum_K = np.bincount(turn_N, measured.entropy_N[counts_N], minlength=width)
    return np.where(count_K > 0, sum_K / np.maximum(count_K, 1), np.nan)


# ---------------------------------------------------------------- the loss


@dataclass(frozen=True, slots=True)
class SmoothedEntropy:
    """A :data:`polyturn.losses.learned.Loss` with memory: ``term = -h + beta P`` (see above), with ``P`` 0 where the
    history has no mean yet.

    ``low``, ``high``: the band in shares of the mean, 0 <= low < high. ``scope``: P of each token by its own entropy,
    or by the mean of its turn's trained tokens. Metrics, over trained tokens: ``epo/loss``, ``epo/entropy``,
    ``epo/penalty`` (sum of P), ``epo/below`` and ``epo/above`` (tokens outside the band), ``epo/count``.
    """

    history: EntropyHistory
    low: float = 0.0
    high: float = 2.0
    alpha: float = 2.0
    beta: float = 1.0
    form: Form = "hinge"
    scope: Scope = "token"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise BadInput(f"the band is {self.low}..{self.high}; expected 0 <= low < high")
        if not (self.alpha > 0 and self.beta >= 0):
            raise BadInput(f"alpha is {self.alpha} and beta {self.beta}; expected alpha > 0 and beta >= 0")
        for what, name, known in (("form", self.form, get_args(Form)), ("scope", self.scope, get_args(Scope))):
            if name not in known:
                raise UnknownName(what, name, known)

    @property
    def unit(self) -> Unit:
        """A turn's tokens come together where the penalty is by turn."""
        return self.scope

    def __call__(self, learned: Learned) -> tuple[Tensor, Metrics]:
        learned = trained(learned)
        entropy_N = needed(learned.entropy_N, "entropy_N", "let the learner compute entropies")
        level_N = entropy_N if self.scope == "token" else _mean_by_turn(learned, entropy_N)
        low_N, high_N = self._band(learned)
        below_N, above_N = torch.relu(low_N - level_N), torch.relu(level_N - high_N)
        outside_N = ~((low_N < level_N) & (level_N < high_N)) & torch.isfinite(high_N)
        penalty_N = self.alpha * (below_N + above_N if self.form == "hinge" else outside_N.to(level_N.dtype))
        loss = (learned.weight_N.detach() * (self.beta * penalty_N - entropy_N)).sum()
        return loss, {
            "epo/loss": total(loss), "epo/entropy": total(entropy_N), "epo/penalty": total(penalty_N),
            "epo/below": total(level_N <= low_N), "epo/above": total(level_N >= high_N),
            "epo/count": float(len(entropy_N)),
        }

    def observe(self, turns: Turns) -> None:
        """Adds the batch's mean entropy of each turn to the history."""
        self.history.add(entropy_by_turn(turns))

    def _band(self, learned: Learned) -> tuple[Tensor, Tensor]:
        """The ends of each token's band; -inf and inf where its turn has no history."""
        mean_K = self.history.mean_K()
        padded = np.append(mean_K, np.nan)
        mean_N = torch.as_tensor(padded, dtype=learned.weight_N.dtype, device=learned.weight_N.device)[
            learned.turn_N.clamp(max=len(mean_K))
        ]
        known_N, infinite = ~torch.isnan(mean_N), float("inf")
        low_N = torch.where(known_N, self.low * mean_N, -infinite)
        return low_N, torch.where(known_N, self.high * mean_N, infinite)


def _mean_by_turn(learned: Learned, value_N: Tensor) -> Tensor:
    segment_N, count = segments(learned.trajectory_N, learned.turn_N)
    size = sum_by(torch.ones_like(value_N), segment_N, count)
    return (sum_by(value_N, segment_N, count) / size)[segment_N]


# ---------------------------------------------------------------- phases and arms


def phase_weight(done: float, whole: int, *, rising: bool = False) -> float:
    """The weight of the penalty after ``done`` of ``whole`` iterations, as released: with half = whole / 2 it falls,
    ``1 - 0.2 (1 - exp(-2 done / half))`` up to the half, then ``0.8 exp(-3 (done - half) / half)``; ``rising`` reads it
    backwards. Raises: BadInput for ``done`` outside 0..whole.

    >>> [round(phase_weight(e, 150), 3) for e in (0, 75, 76, 150)], round(phase_weight(0, 150, rising=True), 3)
    ([1.0, 0.827, 0.769, 0.04], 0.04)
    """
    if whole < 1 or not 0 <= done <= whole:
        raise BadInput(f"{done} of {whole} iterations are done; expected 0 to {whole}, and at least 1 in all")
    half = whole / 2
    at = whole - done if rising else done
    return 1 - 0.2 * (1 - exp(-2 * at / half)) if at <= half else 0.8 * exp(-3 * (at - half) / half)


def epo_rule(
    arm: Arm, advantage: Advantage, history: EntropyHistory, *, whole: int, coefficient: float = 0.001,
    low: float = 0.0, high: float = 2.0, alpha: float = 2.0, scope: Scope = "token",
    weighting: Weighting = token_mean, on_policy: bool = False,
) -> Callable[[int], Rule]:
    """The rule of each of ``whole`` iterations: clipped policy gradient (0.2, dual clip 3), and by ``arm``

    - ``none``: nothing else; ``bonus``: ``- coefficient mean h``;
    - ``hinge``: that and the band's hinge; ``hinge_phase``: with the rising phase weight;
    - ``official``: that and the released constant penalty with its falling weight.

    ``history`` belongs into ``Stage.memory``. Raises: UnknownName for another arm.
    """
    if arm not in get_args(Arm):
        raise UnknownName("arm", arm, get_args(Arm))
    gradient: Loss = partial(policy_gradient, dual_clip=3.0)

    def rule(iteration: int) -> Rule:
        return Rule(advantage, weighting, loss(iteration), on_policy=on_policy, proportional=arm == "none")

    def loss(iteration: int) -> Loss:
        if arm == "none":
            return gradient
        if arm == "bonus":
            return Sum((1.0, gradient), (coefficient, entropy))
        beta = 1.0 if arm == "hinge" else phase_weight(iteration, whole, rising=arm == "hinge_phase")
        form: Form = "official" if arm == "official" else "hinge"
        return Sum((1.0, gradient), (coefficient, SmoothedEntropy(history, low, high, alpha, beta, form, scope)))

    return rule
