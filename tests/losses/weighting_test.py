"""Weights: by hand, by a slow twin, and each unit shown to differ from the others."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from polyturn.arrays import Turns, Weighting
from polyturn.errors import BadInput
from polyturn.losses.weighting import (
    constant,
    family_mean,
    group_mean,
    masked,
    not_cut,
    rollout_mean,
    token_mean,
    trained_N,
    trajectory_mean,
    turn_mean,
)
from polyturn.types import Score, Stop
from tests.advantages import slow
from tests.advantages.build import Said, batch, episode, random_batch, scored

MEANS: dict[str, Weighting] = {
    "token": token_mean, "turn": turn_mean, "trajectory": trajectory_mean, "rollout": rollout_mean, "group": group_mean,
}


def example() -> Turns:
    """Group 0: a rollout with turns of 2 and 1 tokens and a worker of 1; a rollout of 4. Group 1: a rollout of 2."""
    first = episode({"agent": [Said(2), Said(1)], "agent/w": [Said(1)]})
    return batch([(first, episode({"agent": [Said(4)]}, trial=1)), (episode({"agent": [Said(2)]}, family="other"),)])


@pytest.mark.parametrize(("name", "expected"), [
    ("token", [0.1] * 10),  # 10 tokens
    ("turn", [0.1, 0.1, 0.2, 0.2, 0.05, 0.05, 0.05, 0.05, 0.1, 0.1]),  # 5 turns: 1 / 5 over 2, 1, 1, 4, 2 tokens
    ("trajectory", [1 / 12] * 3 + [1 / 4] + [1 / 16] * 4 + [1 / 8] * 2),  # 4 trajectories of 3, 1, 4, 2 tokens
    ("rollout", [1 / 12] * 4 + [1 / 12] * 4 + [1 / 6] * 2),  # 3 rollouts of 4, 4, 2 tokens
    ("group", [1 / 16] * 8 + [1 / 4] * 2),  # 2 groups of 8 and 2 tokens
])
def test_means_by_hand(name: str, expected: list[float]) -> None:
    turns = example()
    assert MEANS[name](turns, turns.tokens) == pytest.approx(expected)


def test_the_means_differ() -> None:
    turns = example()
    found = [tuple(mean(turns, turns.tokens).round(9).tolist()) for mean in MEANS.values()]
    assert len(set(found)) == len(MEANS)


def test_dropped_turns_abstained_and_broken_trajectories_weigh_nothing_and_are_not_counted() -> None:
    group = (
        episode({"agent": [Said(1), Said(2, dropped="window")]}),
        episode({"agent": [Said(3)]}, trial=1, scores={"v": {"agent": Score(None)}}),
        episode({"agent": [Said(1)]}, trial=2),
    )
    turns = batch([group])
    for mean in MEANS.values():
        weight_N = mean(turns, turns.tokens)
        assert weight_N[1:6].tolist() == [0.0] * 5
        assert weight_N.sum() == pytest.approx(1.0)
    assert token_mean(turns, turns.tokens).tolist() == [0.5, 0, 0, 0, 0, 0, 0.5]


def test_a_trajectory_that_broke_in_an_episode_that_did_not_weighs_nothing() -> None:
    made = episode({"a": [Said()], "b": [Said()]})
    broken = replace(made.trajectories[0], stop=Stop("error", "crashed"))
    turns = batch([(replace(made, trajectories=(broken, made.trajectories[1])),)])
    assert token_mean(turns, turns.tokens).tolist() == [0.0, 1.0]


def test_constant_divisor() -> None:
    turns = example()
    assert constant(turns, turns.tokens, divisor=8.0).tolist() == [0.125] * 10
    with pytest.raises(BadInput, match="divisor is 0"):
        constant(turns, turns.tokens, divisor=0)


def test_families_weigh_the_same_by_hand() -> None:
    # game: 8 tokens, other: 2. Each family 1 / 2: 1 / 16 and 1 / 4 a token.
    turns = example()
    assert family_mean(turns, turns.tokens) == pytest.approx([1 / 16] * 8 + [1 / 4] * 2)
    # Inside a family the proportions are those of the inner mean: trajectories of game have 1 / 6 each.
    found = family_mean(turns, turns.tokens, inner=trajectory_mean)
    assert found == pytest.approx([1 / 18] * 3 + [1 / 6] + [1 / 24] * 4 + [1 / 4] * 2)


def test_a_family_with_nothing_trained_is_not_counted() -> None:
    turns = batch([scored(1.0, 0.0), scored(None, name="x", family="other")])
    assert family_mean(turns, turns.tokens).tolist() == [0.5, 0.5, 0.0]


def test_cut_replies_can_be_masked_and_are_then_not_counted() -> None:
    group = (episode({"agent": [Said(2, finish="length"), Said(1)]}), episode({"agent": [Said(3)]}, trial=1))
    turns = batch([group])
    assert masked(turns, turns.tokens, keep=not_cut).tolist() == [0.0, 0.0, 0.25, 0.25, 0.25, 0.25]
    found = partial(masked, keep=not_cut, inner=trajectory_mean)(turns, turns.tokens)
    assert found == pytest.approx([0.0, 0.0, 0.5, 1 / 6, 1 / 6, 1 / 6])
    with pytest.raises(BadInput, match=r"keep gave shape \(2,\); expected \(2, 2\)"):
        masked(turns, turns.tokens, keep=lambda turns: turns.valid_B)


def test_nothing_to_train_weighs_nothing() -> None:
    for turns in (batch([]), batch([scored(None)])):
        for mean in (*MEANS.values(), family_mean, partial(constant, divisor=1.0), partial(masked, keep=not_cut)):
            assert not mean(turns, turns.tokens).any()


def test_means_equal_their_slow_twins() -> None:
    keys: dict[str, Callable[..., object]] = {
        "token": lambda n, g, made, t, turn: n, "turn": lambda n, g, made, t, turn: (made.id, turn.at),
        "trajectory": lambda n, g, made, t, turn: (made.id, t.seat),
        "rollout": lambda n, g, made, t, turn: (made.id, t.seat.split("/")[0]), "group": lambda n, g, made, t, turn: g,
    }
    for seed in range(200):
        groups, turns = random_batch(seed)
        name = random.Random(seed).choice(list(keys))
        tokens = [
            (g, made, t, turn) for g, made, t in slow.rows(groups) for turn in t.turns
            for _ in range(slow.count(t, turn))
        ]
        key = {n: keys[name](n, *one) for n, one in enumerate(tokens) if slow.live(*one[1:])}
        units = set(key.values())
        expected = [
            1 / (len(units) * sum(k == key[n] for k in key.values())) if n in key else 0.0 for n in range(len(tokens))
        ]
        found = MEANS[name](turns, turns.tokens)
        assert np.abs(found - np.array(expected)).max(initial=0.0) < 1e-12
        families = {n: one[1].task.family for n, one in enumerate(tokens) if n in key}
        by_family = family_mean(turns, turns.tokens, inner=MEANS[name])
        for family in set(families.values()):
            of_family = [n for n in key if families[n] == family]
            share = sum(expected[n] for n in of_family) * len(set(families.values()))
            assert all(abs(by_family[n] - expected[n] / share) < 1e-12 for n in of_family)
        assert trained_N(turns, turns.tokens).tolist() == [n in key for n in range(len(tokens))]
