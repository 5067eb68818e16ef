"""Clipped policy gradients: by hand, by a slow twin, by gradient."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from polyturn.errors import BadInput, NotFinite, NotTrainable
from polyturn.losses.learned import Loss, unit_of
from polyturn.losses.policy_gradient import policy_gradient, policy_gradient_by_trajectory, policy_gradient_by_turn
from polyturn.testing import check_loss
from tests.losses import slow
from tests.losses.build import close, columns, gradient, learned, part, parts_add_up, random_columns, same_metrics

LEVELS: dict[str, Loss] = {
    "token": policy_gradient, "turn": policy_gradient_by_turn, "trajectory": policy_gradient_by_trajectory,
}
LOG2 = math.log(2.0)


def test_by_hand() -> None:
    # Ratios 2, 1, 0.5 with clip 0.2 and weights 1, 0.5, 2.
    # A = 1: min(2, 1.2) = 1.2, clipped. A = 3: 3. A = -1: min(-0.5, -0.8) = -0.8, clipped.
    # Loss = -(1 * 1.2 + 0.5 * 3 - 2 * 0.8) = -1.1.
    c = columns([LOG2 - 1, -1.0, -LOG2 - 1], old=[-1.0] * 3, advantage=[1.0, 3.0, -1.0], weight=[1.0, 0.5, 2.0])
    loss, metrics = policy_gradient(learned(c))
    assert float(loss.detach()) == pytest.approx(-1.1)
    # old_kl: exp(d) - 1 - d with d = old - logprob = -log 2, 0, log 2: (0.5 - 1 + 0.6931) + 0 + (2 - 1 - 0.6931) = 0.5.
    assert metrics == pytest.approx({
        "policy/loss": -1.1, "policy/count": 3, "policy/clipped": 2, "policy/ratio": 3.5, "policy/ratio_square": 5.25,
        "policy/old_kl": 0.5,
    })


def test_clipping_takes_the_gradient_away_only_where_the_step_was_already_made() -> None:
    # d(-w r A)/d logprob = -w r A while unclipped. Ratios 2, 2, 0.5, 0.5 with advantages 1, -1, 1, -1: the first and
    # the last have gone far enough; the others still come back.
    c = columns([LOG2, LOG2, -LOG2, -LOG2], old=[0.0] * 4, advantage=[1.0, -1.0, 1.0, -1.0])
    assert gradient(policy_gradient, learned(c)) == pytest.approx([0.0, 2.0, -0.5, 0.0])


def test_the_first_step_is_the_plain_policy_gradient() -> None:
    c = columns([-1.0, -2.0], advantage=[0.5, -3.0], weight=[0.25, 0.5])
    assert gradient(policy_gradient, learned(c)) == pytest.approx([-0.125, 1.5])


@pytest.mark.parametrize("level", LEVELS)
def test_a_positive_advantage_raises_the_probability(level: str) -> None:
    for sign in (1.0, -1.0):
        c = columns([-1.0, -2.0], advantage=[sign, sign])
        assert all(g * sign < 0 for g in gradient(LEVELS[level], learned(c)))


def test_dual_clip_by_hand() -> None:
    # Ratio 10 and A = -1: the gain is -10, whatever the clip; dual_clip 3 stops it at -3, where the gradient is 0.
    c = columns([math.log(10.0)], old=[0.0], advantage=[-1.0])
    assert float(policy_gradient(learned(c))[0].detach()) == pytest.approx(10.0)
    dual = partial(policy_gradient, dual_clip=3.0)
    loss, metrics = dual(learned(c))
    assert (float(loss.detach()), metrics["policy/clipped"]) == (3.0, 1.0)
    assert gradient(dual, learned(c)) == [0.0]


def test_truncated_importance_weights_by_hand() -> None:
    # exp(old - behavior) = 4 and 0.5; capped at 2: 2 and 0.5. Loss = -(2 * 1 + 0.5 * 1), and c has no gradient.
    c = columns([0.0, 0.0], behavior=[-2 * LOG2, LOG2], advantage=[1.0, 1.0])
    capped = partial(policy_gradient, truncate=2.0)
    loss, metrics = capped(learned(c))
    assert float(loss.detach()) == pytest.approx(-2.5)
    assert metrics["policy/importance"] == pytest.approx(4.5)
    assert metrics["policy/truncated"] == 1.0
    assert gradient(capped, learned(c)) == pytest.approx([-2.0, -0.5])


def test_unknown_behavior_is_refused_with_truncate_and_not_looked_at_without() -> None:
    c = columns([-1.0, -1.0], behavior=[math.nan, -1.0], advantage=[1.0, 1.0])
    with pytest.raises(NotTrainable, match="1 of 2 trained tokens have no recorded log-probability"):
        policy_gradient(learned(c), truncate=2.0)
    assert float(policy_gradient(learned(c))[0].detach()) == -2.0
    not_trained = columns([-1.0, -1.0], behavior=[math.nan, -1.0], advantage=[1.0, 1.0], weight=[0.0, 1.0])
    assert float(policy_gradient(learned(not_trained), truncate=2.0)[0].detach()) == -1.0


@pytest.mark.parametrize("name", ["old", "advantage", "logprob"])
def test_numbers_that_are_none_are_refused_only_where_they_are_trained(name: str) -> None:
    values = {"old": [-1.0, -1.0], "advantage": [1.0, 1.0], "logprob": [-1.0, -1.0]}
    values[name] = [-1.0, math.nan]
    with pytest.raises(NotFinite, match=f"{name}_N is no number for 1 of 2 trained tokens; the first is .*token 1"):
        policy_gradient(learned(columns(**values)))  # type: ignore[arg-type]
    made = learned(columns(weight=[1.0, 0.0], **values))  # type: ignore[arg-type]
    assert gradient(policy_gradient, made)[1] == 0.0
    assert math.isfinite(float(policy_gradient(made)[0].detach()))


def test_options_out_of_range_are_refused() -> None:
    made = learned(columns([-1.0]))
    for options in ({"clip_low": 1.1}, {"clip_low": -0.1}, {"clip_high": -0.1}, {"dual_clip": 1.0}, {"truncate": 0.0}):
        (name,) = options
        with pytest.raises(BadInput, match=f"{name} is .*; expected a number"):
            policy_gradient(made, **options)  # type: ignore[arg-type]


def test_no_clip() -> None:
    c = columns([LOG2, -LOG2], old=[0.0, 0.0], advantage=[1.0, -1.0])
    loss, metrics = policy_gradient(learned(c), clip_low=1.0, clip_high=math.inf)
    assert float(loss.detach()) == pytest.approx(-1.5)
    assert metrics["policy/clipped"] == 0.0


def test_ratio_by_turn_and_by_trajectory_by_hand() -> None:
    # log r of the tokens: log 2, -log 2 in turn 0; log 2 in turn 1. By turn: r = 1, 1, 2. By trajectory: 2 ** (1 / 3).
    c = columns([LOG2, -LOG2, LOG2], old=[0.0] * 3, advantage=[1.0] * 3, turn=[0, 0, 1])
    wide = {"clip_low": 1.0, "clip_high": math.inf}
    by = {name: float(loss(learned(c), **wide)[0].detach()) for name, loss in LEVELS.items()}  # type: ignore[call-arg]
    assert by["token"] == pytest.approx(-4.5)
    assert by["turn"] == pytest.approx(-4.0)
    assert by["trajectory"] == pytest.approx(-3 * 2 ** (1 / 3))


def test_tokens_that_are_not_trained_are_no_part_of_a_ratio() -> None:
    c = columns([LOG2, 5.0], old=[0.0, 0.0], advantage=[1.0, 1.0], weight=[1.0, 0.0])
    loss = partial(policy_gradient_by_trajectory, clip_low=1.0, clip_high=math.inf)
    assert float(loss(learned(c))[0].detach()) == pytest.approx(-2.0)


def test_units_are_declared_and_seen_through_partial() -> None:
    for level, loss in LEVELS.items():
        assert unit_of(partial(loss, clip_low=0.1)) == level


def test_nothing_to_train() -> None:
    c = columns([-1.0], advantage=[1.0], weight=[0.0])
    for loss in LEVELS.values():
        assert float(loss(learned(c))[0].detach()) == 0.0
        assert gradient(loss, learned(c)) == [0.0]


@pytest.mark.parametrize("level", LEVELS)
def test_equals_its_slow_twin(level: str) -> None:
    for seed in range(200):
        draw = random.Random(seed)
        c = random_columns(seed)
        clip = (draw.choice((0.1, 0.2, 1.0)), draw.choice((0.05, 0.3, math.inf)))
        dual, cap = draw.choice((None, 1.5)), draw.choice((None, 1.2))
        loss, metrics = LEVELS[level](
            learned(c), clip_low=clip[0], clip_high=clip[1], dual_clip=dual, truncate=cap  # type: ignore[call-arg]
        )
        expected, named = slow.policy_gradient(c, level, clip, dual, cap)
        assert close(float(loss.detach()), expected)
        assert same_metrics(metrics, named)


@pytest.mark.parametrize("level", LEVELS)
def test_gradients_are_those_of_the_loss(level: str) -> None:
    for seed in range(3):
        made = learned(random_columns(seed))
        loss = partial(LEVELS[level], clip_low=0.2, clip_high=0.2, truncate=1.5, dual_clip=2.0)

        def value(logprob_N: torch.Tensor, made=made, loss=loss) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return loss(replace(made, logprob_N=logprob_N))[0]  # type: ignore[no-any-return]

        assert torch.autograd.gradcheck(value, (made.logprob_N,), eps=1e-7, atol=1e-5)


def test_parts_add_up_by_unit_and_not_by_a_finer_one() -> None:
    keys = {
        "token": lambda c: list(range(len(c))), "turn": lambda c: list(zip(c.trajectory, c.turn, strict=True)),
        "trajectory": lambda c: c.trajectory,
    }
    for level, loss in LEVELS.items():
        for seed in range(8):
            c = random_columns(seed)
            assert parts_add_up(loss, c, keys[level](c))
    by_token = [(c, range(len(c))) for c in map(random_columns, range(5))]
    assert not all(parts_add_up(policy_gradient_by_trajectory, c, unit) for c, unit in by_token)


def test_the_order_of_the_tokens_does_not_matter() -> None:
    for seed in range(20):
        c = random_columns(seed)
        order = list(range(len(c)))
        random.Random(seed).shuffle(order)
        for loss in LEVELS.values():
            shuffled = loss(learned(part(c, order)))[0]
            assert close(float(shuffled.detach()), float(loss(learned(c))[0].detach()))


@pytest.mark.parametrize("level", LEVELS)
def test_conformance(level: str) -> None:
    check_loss(LEVELS[level])
    check_loss(partial(LEVELS[level], truncate=1.05, dual_clip=2.0))
