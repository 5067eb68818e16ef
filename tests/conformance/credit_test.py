"""Every planted fault of an advantage and a loss is caught, by name; the library's own pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.advantages.group import group_centred, group_relative, leave_one_out
from polyturn.advantages.returns import token_gae, turn_gae
from polyturn.arrays import Turns
from polyturn.conformance.credit import check_advantage, check_loss, made_groups, made_turns
from polyturn.conformance.failed import CheckFailed
from polyturn.losses.learned import Learned
from polyturn.losses.likelihood import likelihood
from polyturn.losses.policy_gradient import policy_gradient, policy_gradient_by_trajectory, policy_gradient_by_turn
from polyturn.losses.preference import dpo
from polyturn.losses.regularize import entropy, kl, value_error
from polyturn.losses.terms import of_unit
from polyturn.types import FloatArray


def flat(turns: Turns) -> FloatArray:
    """One where there may be credit."""
    ones_BK: FloatArray = np.where(turns.kept_BK & turns.valid_B[:, None], 1.0, 0.0)
    return ones_BK


def test_the_made_batch_holds_what_the_checks_need() -> None:
    groups = made_groups(3, families=("a", "b"), seats=("x", "y"))
    turns, again = made_turns(groups), made_turns(made_groups(3, families=("a", "b"), seats=("x", "y")))
    assert np.array_equal(turns.tokens.id_N, again.tokens.id_N)
    assert not np.array_equal(turns.tokens.behavior_N, made_turns(made_groups(4)).tokens.behavior_N)
    assert turns.kept_BK.shape[0] == 24 and set(turns.family_B) == {"a", "b"} and set(turns.seat_B) == {"x", "y"}
    assert "truncated" in turns.stop_B and not turns.valid_B.all()
    assert (~turns.kept_BK & (turns.finish_BK != "")).any() and (turns.finish_BK == "").any()
    assert set(turns.channels) == {"reward", "score"}


@pytest.mark.parametrize("advantage", [
    flat, group_centred, group_relative, leave_one_out, turn_gae, token_gae,
    lambda turns: flat(turns)[turns.tokens.trajectory_N, turns.tokens.turn_N],
])
def test_sound_advantages_pass(advantage: Any) -> None:
    check_advantage(advantage)
    check_advantage(advantage, families=("a", "b"), seats=("x", "y"), seed=1)


class Growing:
    """Learns when it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __deepcopy__(self, memo: Any) -> Growing:
        return self

    def __call__(self, turns: Turns) -> FloatArray:
        self.calls += 1
        return float(self.calls) * flat(turns)


def in_place(turns: Turns) -> FloatArray:
    """Spoils the batch."""
    turns.reward_CBK[:] = 0.0
    return flat(turns)


def by_row(turns: Turns) -> FloatArray:
    """Compares with the row above."""
    score_B = np.nan_to_num(turns.reward_BK().sum(axis=1))
    off_BK: FloatArray = flat(turns) * (score_B - np.roll(score_B, 1))[:, None]
    return off_BK


def by_place(turns: Turns) -> FloatArray:
    """Credits the rows of the front."""
    return flat(turns) * np.arange(len(turns.valid_B))[:, None]


ADVANTAGES: list[tuple[str, Any, str]] = [
    ("by trajectory", lambda turns: np.ones(len(turns.valid_B)), r"has the shape \(12,\)"),
    ("a list", lambda turns: [1.0], "has the shape list"),
    ("whole numbers", lambda turns: flat(turns).astype(np.int64), "of type int64"),
    ("NaN", lambda turns: np.where(turns.kept_BK, turns.reward_CBK.sum(axis=0), 0.0), "entries that are no numbers"),
    ("padding", lambda turns: flat(turns) + (turns.finish_BK == ""), "never taken"),
    ("dropped turns", lambda turns: np.where((turns.finish_BK != "") & turns.valid_B[:, None], 1.0, 0.0), "took back"),
    ("abstentions", lambda turns: np.where(turns.kept_BK, 1.0, 0.0), "whose verifier abstained"),
    ("abstentions by token", lambda turns: np.ones(len(turns.tokens)), "whose verifier abstained"),
    ("spoils the batch", in_place, "changed turns.reward_CBK in place"),
    ("learns when called", Growing(), "other values the second time"),
    ("compares by row", by_row, "with the groups in another order"),
    ("credits by place", by_place, "with the groups in another order"),
]


@pytest.mark.parametrize(("broken", "words"), [f[1:] for f in ADVANTAGES], ids=[f[0] for f in ADVANTAGES])
def test_a_broken_advantage_is_caught(broken: Any, words: str) -> None:
    with pytest.raises(CheckFailed, match=words):
        check_advantage(broken)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("loss", [
    policy_gradient, policy_gradient_by_turn, policy_gradient_by_trajectory, likelihood, dpo, kl, entropy, value_error,
    partial(policy_gradient, truncate=2.0),
])
def test_sound_losses_pass(loss: Any) -> None:
    check_loss(loss)
    check_loss(loss, seed=5)


def term(learned: Learned) -> torch.Tensor:
    """A sound loss by token."""
    return -(learned.weight_N * learned.advantage_N * learned.logprob_N)


def unweighted(learned: Learned) -> tuple[torch.Tensor, dict[str, float]]:
    """Adds a bonus beside the weights."""
    assert learned.entropy_N is not None
    return term(learned).sum() + 0 * learned.entropy_N.sum() + (learned.logprob_N**2).sum() * 1e-3, {}


def batch_baseline(learned: Learned) -> tuple[torch.Tensor, dict[str, float]]:
    """Subtracts the batch's mean inside the loss; linear in the weights, but not additive."""
    off_N = learned.advantage_N - learned.advantage_N.mean()
    return -(learned.weight_N * off_N * learned.logprob_N).sum(), {}


@of_unit("turn")
def by_group_unsaid(learned: Learned) -> tuple[torch.Tensor, dict[str, float]]:
    """Needs whole groups, and declares turns."""
    mean = torch.stack([learned.logprob_N[learned.group_N == group].mean() for group in learned.group_N.unique()])
    return -(learned.weight_N * mean[torch.searchsorted(learned.group_N.unique(), learned.group_N)]).sum(), {}


def spoiling(learned: Learned) -> tuple[torch.Tensor, dict[str, float]]:
    """Writes into its input, without changing what it returns."""
    value = term(learned).sum()
    learned.version_N.add_(1)
    return value, {}


def centred_metric(learned: Learned) -> tuple[torch.Tensor, dict[str, float]]:
    """Reports a mean."""
    return term(learned).sum(), {"ratio": float(learned.old_N.mean())}


LOSSES: list[tuple[str, Any, str]] = [
    ("by token", lambda learned: (term(learned), {}), "expected a scalar tensor"),
    ("a float", lambda learned: (float(term(learned).sum().detach()), {}), "expected a scalar tensor"),
    ("NaN", lambda learned: (term(learned).sum() * float("nan"), {}), "expected a finite number"),
    ("metrics of tensors", lambda learned: (term(learned).sum(), {"a": torch.ones(())}), "a mapping of floats"),
    ("no gradient", lambda learned: (term(learned).sum().detach(), {}), "has no gradient"),
    ("a mean", lambda learned: (term(learned).mean() * learned.weight_N.sum(), {}), "with twice the weights"),
    ("divides by weights", lambda learned: (term(learned).sum() / learned.weight_N.sum(), {}), "with twice the"),
    ("unweighted bonus", unweighted, "with twice the weights"),
    ("a mean over tokens", lambda learned: (term(learned).mean(), {}), "of the parts adds up"),
    ("a baseline inside", batch_baseline, "of the parts adds up"), ("unit unsaid", by_group_unsaid, "unit .'turn'."),
    ("spoils its input", spoiling, "changed its input in place"), ("a mean for a metric", centred_metric, "is a sum"),
]


@pytest.mark.parametrize(("broken", "words"), [f[1:] for f in LOSSES], ids=[f[0] for f in LOSSES])
def test_a_broken_loss_is_caught(broken: Any, words: str) -> None:
    with pytest.raises(CheckFailed, match=words):
        check_loss(broken)
