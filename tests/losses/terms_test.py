"""What loss terms share."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from polyturn.errors import BadInput
from polyturn.losses.learned import unit_of
from polyturn.losses.likelihood import likelihood
from polyturn.losses.policy_gradient import policy_gradient, policy_gradient_by_turn
from polyturn.losses.preference import dpo
from polyturn.losses.regularize import entropy, kl
from polyturn.losses.terms import Sum, segments, sum_by, trained
from polyturn.testing import check_loss
from tests.losses.build import close, columns, gradient, learned, parts_add_up, random_columns


def test_sum_adds_terms_with_their_coefficients_by_hand() -> None:
    # Policy: -1 * 2 = -2 at ratio 1; KL k2 with d = 1: 0.5; entropy -3. Total -2 + 0.1 * 0.5 + 0.01 * -3 = -1.98.
    c = columns([-1.0], advantage=[2.0], reference=[0.0], entropy=[3.0])
    loss, metrics = Sum((1.0, policy_gradient), (0.1, partial(kl, estimator="k2")), (0.01, entropy))(learned(c))
    assert float(loss.detach()) == pytest.approx(-1.98)
    assert (metrics["policy/loss"], metrics["kl/loss"], metrics["entropy/loss"]) == (-2.0, 0.5, -3.0)


def test_the_unit_of_a_sum_is_its_coarsest() -> None:
    assert unit_of(Sum((1.0, policy_gradient), (0.1, kl))) == "token"
    assert unit_of(Sum((1.0, partial(policy_gradient_by_turn, clip_low=0.1)), (0.1, kl))) == "turn"
    assert unit_of(Sum((1.0, Sum((1.0, dpo))), (0.5, likelihood))) == "group"


def test_a_sum_adds_up_by_its_unit_and_has_the_sum_of_the_gradients() -> None:
    both = Sum((0.5, policy_gradient), (2.0, kl))
    for seed in range(10):
        c = random_columns(seed)
        assert parts_add_up(both, c, range(len(c)))
        first, second = gradient(policy_gradient, learned(c)), gradient(kl, learned(c))
        found = gradient(both, learned(c))
        assert all(close(g, 0.5 * a + 2 * b) for g, a, b in zip(found, first, second, strict=True))


def test_metrics_of_terms_with_one_name_add_up() -> None:
    c = columns([-1.0, -2.0])
    metrics = Sum((1.0, likelihood), (1.0, likelihood))(learned(c))[1]
    assert metrics["likelihood/count"] == 4.0


@pytest.mark.parametrize("coefficient", [0.0, math.nan, math.inf])
def test_a_coefficient_that_does_nothing_is_refused(coefficient: float) -> None:
    with pytest.raises(BadInput, match="expected a finite number other than 0"):
        Sum((coefficient, kl))
    with pytest.raises(BadInput, match="has no terms"):
        Sum()


def test_trained_leaves_out_tokens_of_weight_zero_in_every_column() -> None:
    c = columns([-1.0, -2.0, -3.0], weight=[1.0, 0.0, 0.5], value=[1.0, 2.0, 3.0], old_value=[4.0, 5.0, 6.0])
    made = trained(learned(c))
    assert made.logprob_N.tolist() == [-1.0, -3.0]
    assert made.heads["value"].tolist() == [1.0, 3.0]
    assert made.old_heads["value"].tolist() == [4.0, 6.0]
    assert {len(column) for column in (made.old_N, made.weight_N, made.turn_N, made.group_N, made.version_N)} == {2}


def test_segments_and_their_sums() -> None:
    segment_N, count = segments(torch.tensor([5, 5, 0, 5]), torch.tensor([1, 1, 1, 2]))
    assert count == 3
    assert segment_N.tolist() == [1, 1, 0, 2]
    assert sum_by(torch.tensor([1.0, 2.0, 4.0, 8.0]), segment_N, count).tolist() == [4.0, 3.0, 8.0]
    assert segments(torch.zeros(0, dtype=torch.long))[1] == 0


def test_conformance() -> None:
    check_loss(Sum((1.0, policy_gradient), (0.1, kl), (0.01, entropy)))
