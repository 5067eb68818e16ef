"""The likelihood loss: by hand, by a slow twin, by gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from polyturn.losses.learned import unit_of
from polyturn.losses.likelihood import likelihood
from polyturn.testing import check_loss
from tests.losses import slow
from tests.losses.build import close, columns, gradient, learned, parts_add_up, random_columns, same_metrics


def test_by_hand() -> None:
    # 0.5 * 1 + 0.25 * 2 = 1; the third token weighs nothing, whatever it is.
    c = columns([-1.0, -2.0, math.nan], weight=[0.5, 0.25, 0.0], advantage=[-5.0, math.nan, 0.0])
    loss, metrics = likelihood(learned(c))
    assert float(loss.detach()) == 1.0
    assert metrics == {"likelihood/loss": 1.0, "likelihood/logprob": -3.0, "likelihood/count": 2.0}


def test_every_trained_token_becomes_likelier() -> None:
    assert gradient(likelihood, learned(columns([-1.0, -2.0, -3.0], weight=[0.5, 0.25, 0.0]))) == [-0.5, -0.25, 0.0]


def test_equals_its_slow_twin_and_adds_up_by_token() -> None:
    for seed in range(200):
        c = random_columns(seed)
        loss, metrics = likelihood(learned(c))
        expected, named = slow.likelihood(c)
        assert close(float(loss.detach()), expected)
        assert same_metrics(metrics, named)
    assert unit_of(likelihood) == "token"
    assert parts_add_up(likelihood, random_columns(0), range(len(random_columns(0))))


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_the_loss(seed: int) -> None:
    made = learned(random_columns(seed))
    assert torch.autograd.gradcheck(lambda value: likelihood(replace(made, logprob_N=value))[0], (made.logprob_N,))


def test_conformance() -> None:
    check_loss(likelihood)
