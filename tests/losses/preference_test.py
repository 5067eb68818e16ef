"""DPO and KTO over whole trajectories: by hand, by slow twins, by gradient."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from polyturn.arrays import Measured
from polyturn.errors import BadInput
from polyturn.losses.learned import Loss, unit_of
from polyturn.losses.preference import dpo, kto, reference_point
from polyturn.losses.weighting import group_mean
from polyturn.testing import check_loss
from tests.advantages.build import Said, batch, episode
from tests.losses import slow
from tests.losses.build import Columns, close, columns, gradient, learned, parts_add_up, random_columns, same_metrics


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pair() -> Columns:
    """Chosen of two turns with margin 0.5 + 0.5 = 1, rejected with margin -1; group weight 0.25 + 0.25 + 0.5 = 1."""
    return columns(
        [-0.5, -0.5, -2.0], reference=[-1.0, -1.0, -1.0], advantage=[1.0, 1.0, -1.0], weight=[0.25, 0.25, 0.5],
        trajectory=[0, 0, 1], turn=[0, 1, 0],
    )


def test_dpo_by_hand() -> None:
    # Gap 1 - (-1) = 2, beta 0.5: -log sigmoid(1) = 0.313262.
    loss, metrics = dpo(learned(pair()), beta=0.5)
    assert float(loss.detach()) == pytest.approx(0.3132616875)
    assert metrics == pytest.approx({"dpo/loss": 0.3132616875, "dpo/pairs": 1.0, "dpo/right": 1.0, "dpo/margin": 2.0})


def test_dpo_raises_every_token_of_the_chosen_and_lowers_the_rejected() -> None:
    # d/d logprob = -+ beta sigmoid(-beta gap) = 0.5 * sigmoid(-1) = 0.134471, however the weights are spread.
    slope = 0.5 * sigmoid(-1.0)
    assert gradient(partial(dpo, beta=0.5), learned(pair())) == pytest.approx([-slope, -slope, slope])


def test_at_the_reference_dpo_is_log_two() -> None:
    c = columns([-1.0, -2.0], advantage=[1.0, -1.0], trajectory=[0, 1], weight=[0.5, 0.5])
    assert float(dpo(learned(c))[0].detach()) == pytest.approx(math.log(2.0))


def test_pairs_stay_within_their_group_and_are_averaged() -> None:
    # Group 0: one chosen, two rejected (gaps 1 and 3). Group 1: a chosen one alone, no pair. beta 1.
    c = columns(
        [1.0, 0.0, -2.0, 5.0], reference=[0.0] * 4, advantage=[1.0, -1.0, -0.5, 1.0], trajectory=[0, 1, 2, 3],
        group=[0, 0, 0, 1], weight=[0.1, 0.1, 0.3, 0.5],
    )
    loss, metrics = dpo(learned(c), beta=1.0)
    expected = 0.5 * (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    assert float(loss.detach()) == pytest.approx(expected)
    assert metrics["dpo/pairs"] == 2.0
    assert gradient(dpo, learned(c))[3] == 0.0
    # Wrong unit: all groups as one would also pair the lone chosen one with the others' rejected ones.
    assert dpo(learned(replace(c, group=[0] * 4)))[1]["dpo/pairs"] == 4.0


def test_observations_and_dropped_turns_are_no_part_of_a_margin() -> None:
    c = pair()
    extra = columns(
        [*c.logprob, 9.0], reference=[*c.reference, 0.0], advantage=[*c.advantage, -1.0], weight=[*c.weight, 0.0],
        trajectory=[*c.trajectory, 0],
    )
    assert float(dpo(learned(extra))[0].detach()) == pytest.approx(float(dpo(learned(c))[0].detach()))


def test_kto_by_hand() -> None:
    # Margins 1 and -1, z = 0.5, beta 1. Chosen: 1 - sigmoid(0.5); rejected: 1 - sigmoid(1.5), each of weight 0.5.
    loss, metrics = kto(learned(pair()), beta=1.0, desirable=2.0, undesirable=3.0, reference_point=0.5)
    assert float(loss.detach()) == pytest.approx(0.5 * 2 * (1 - sigmoid(0.5)) + 0.5 * 3 * (1 - sigmoid(1.5)))
    assert metrics["kto/desirable"] == metrics["kto/undesirable"] == 1.0
    assert metrics["kto/margin"] == pytest.approx(2.0)
    up, up_too, down = gradient(kto, learned(pair()))
    assert up == up_too < 0 < down


def test_a_trajectory_with_advantages_of_both_signs_is_refused() -> None:
    c = columns([-1.0, -1.0], advantage=[1.0, -1.0])
    for loss in (dpo, kto):
        with pytest.raises(BadInput, match="advantages of both signs"):
            loss(learned(c))
    with pytest.raises(BadInput, match="needs reference_N"):
        dpo(replace(learned(pair()), reference_N=None))
    with pytest.raises(BadInput, match="beta is 0"):
        kto(learned(pair()), beta=0.0)
    with pytest.raises(BadInput, match="undesirable is -1"):
        kto(learned(pair()), undesirable=-1.0)


def test_the_reference_point_by_hand() -> None:
    # Two trajectories: margins (0.5 + 0.5) and (0.25), the third token of the first is not trained: mean 0.625.
    group = (episode({"agent": [Said(2), Said(1, dropped="x")]}), episode({"agent": [Said(1)]}, trial=1))
    turns = batch([group], lambda n, b: Measured(np.array([0.5, 0.5, 9.0, 0.25]), np.zeros(4)))
    weight_N = group_mean(turns, turns.tokens)
    assert reference_point(turns, weight_N) == 0.625
    worse = batch([group], lambda n, b: Measured(np.full(4, -1.0), np.zeros(4)))
    assert reference_point(worse, weight_N) == 0.0
    with pytest.raises(BadInput, match="needs reference_N"):
        reference_point(batch([group]), weight_N)


def test_equal_their_slow_twins_and_add_up_by_unit() -> None:
    for seed in range(200):
        draw = random.Random(seed)
        c = random_columns(seed, whole=True)
        beta, point = draw.choice((0.1, 1.0)), draw.choice((0.0, 0.4))
        for loss, twin in (
            (partial(dpo, beta=beta), slow.dpo(c, beta)),
            (partial(kto, beta=beta, desirable=1.5, undesirable=0.5, reference_point=point),
             slow.kto(c, beta, 1.5, 0.5, point)),
        ):
            found, metrics = loss(learned(c))
            assert close(float(found.detach()), twin[0])
            assert same_metrics(metrics, twin[1])
    for seed in range(8):
        c = random_columns(seed, whole=True)
        assert parts_add_up(dpo, c, c.group)
        assert parts_add_up(kto, c, c.trajectory)
    assert (unit_of(partial(dpo, beta=1.0)), unit_of(kto)) == ("group", "trajectory")
    torn = [random_columns(seed, whole=True) for seed in range(8)]
    assert not all(parts_add_up(dpo, c, c.trajectory) for c in torn)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_the_losses(seed: int) -> None:
    made = learned(random_columns(seed, whole=True))
    for loss in (partial(dpo, beta=0.7), partial(kto, beta=0.7, reference_point=0.2)):
        assert torch.autograd.gradcheck(lambda v, loss=loss: loss(replace(made, logprob_N=v))[0], (made.logprob_N,))


def test_group_mean_makes_dpo_the_mean_over_groups() -> None:
    # Two groups of a pair each, replies of 5 tokens and of 1: each group counts half. The first gap is 5, the other 0.
    groups = [
        tuple(episode({"agent": [Said(size)]}, name=name, trial=i) for i in range(2))
        for name, size in (("a", 5), ("b", 1))
    ]
    turns = batch(groups)
    weight_N = group_mean(turns, turns.tokens)
    row, group = turns.tokens.trajectory_N.tolist(), turns.tokens.group_N.tolist()
    c = columns(
        [1.0 if r == 0 else 0.0 for r in row], reference=[0.0] * 12, trajectory=row, group=group,
        advantage=[1.0 if r % 2 == 0 else -1.0 for r in row], weight=weight_N.tolist(),
    )
    expected = 0.5 * math.log(1 + math.exp(-5.0)) + 0.5 * math.log(2.0)
    assert float(dpo(learned(c), beta=1.0)[0].detach()) == pytest.approx(expected)


@pytest.mark.parametrize("loss", [dpo, kto])
def test_conformance(loss: Loss) -> None:
    check_loss(loss)
