"""Credit by turn, and from turns to tokens."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest

from polyturn.advantages.group import group_centred
from polyturn.advantages.turn import alike, as_tokens, turn_relative
from polyturn.arrays import Advantage, as_turns, lay_out
from polyturn.errors import BadInput, NotFinite
from polyturn.testing import check_advantage
from tests.advantages import slow
from tests.advantages.build import Said, batch, episode, random_batch, scored


def test_tokens_take_their_turns_advantage() -> None:
    made = (episode({"agent": [Said(2), Said(1, dropped="x"), Said(3)]}), episode({"agent": [Said(1)]}, trial=1))
    turns = batch([made])
    advantage_BK = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert as_tokens(advantage_BK, turns).tolist() == [1.0, 1.0, 0.0, 3.0, 3.0, 3.0, 4.0]
    # An advantage by token stays as it is, but for the dropped turn.
    assert as_tokens(np.arange(1.0, 8.0), turns).tolist() == [1.0, 2.0, 0.0, 4.0, 5.0, 6.0, 7.0]


def test_all_turns_are_alike_but_for_those_taken_back() -> None:
    turns = batch([(episode({"agent": [Said(2), Said(1, dropped="x"), Said(3)]}),)])
    assert as_tokens(alike(turns), turns).tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]


def test_tokens_of_an_abstained_trajectory_have_no_credit() -> None:
    assert as_tokens(np.ones((2, 1)), batch([scored(None, 1.0)])).tolist() == [0.0, 1.0]


def test_other_shapes_and_numbers_that_are_none_are_refused() -> None:
    turns = batch([scored(1.0, 0.0, 0.5)])
    with pytest.raises(BadInput, match=r"shape \(2,\); expected \(3, 1\) \(trajectories, turns\) or \(3,\) \(tokens\)"):
        as_tokens(np.zeros(2), turns)
    with pytest.raises(NotFinite, match=r"token 1 is nan \(episode e\.1, seat agent, turn 0"):
        as_tokens(np.array([[0.0], [np.nan], [0.0]]), turns)


def test_turns_are_compared_with_those_at_their_place_by_hand() -> None:
    # Returns: 1 + 0 = 1, 0 against 0 + 2 = 2, 2. First turns: mean 1.5; second: mean 1.
    group = (
        episode({"agent": [Said(1, {"score": 1.0}), Said()]}),
        episode({"agent": [Said(), Said(1, {"score": 2.0})]}, trial=1),
    )
    turns = batch([group])
    assert turn_relative(turns, scale="none").tolist() == [[-0.5, -1.0], [0.5, 1.0]]
    # gamma 0: 1 against 0, 0 against 2. The wrong unit, by rollout, gives each turn the same.
    assert turn_relative(turns, gamma=0.0, scale="none").tolist() == [[0.5, -1.0], [-0.5, 1.0]]
    assert group_centred(turns).tolist() == [[-0.5, -0.5], [0.5, 0.5]]


def test_turns_are_compared_with_those_that_saw_the_same() -> None:
    group = tuple(
        episode({"agent": [Said(1, {"score": value}, prompt=(place,))]}, trial=i)
        for i, (place, value) in enumerate(((1, 0.0), (1, 2.0), (2, 10.0)))
    )
    tokens = lay_out([group], "main")
    turns = as_turns(tokens, anchor=lambda made, turn: str(made.spans[0].ids.tolist()))
    compared = partial(turn_relative, turns, key=("group", "anchor"), scale="none")
    assert compared().tolist() == [[-1.0], [1.0], [0.0]]
    assert compared(singleton="keep").tolist() == [[-1.0], [1.0], [10.0]]


def test_sub_seats_take_the_advantage_of_the_turn_that_they_served() -> None:
    lead = [Said(1, {"score": 4.0}, 0, 0), Said(1, {}, 1, 2)]
    seats = {"lead": lead, "lead/w": [Said(1, {}, 0, 1), Said(1, {}, 1, 3)]}
    group = (episode(seats), episode({"lead": [Said(), Said(1, {"score": 2.0})]}, trial=1))
    # The lead's returns 4, 0 against 2, 2: advantages 1, -1.
    assert turn_relative(batch([group]), scale="none").tolist() == [[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]


def test_turn_relative_equals_its_slow_twin() -> None:
    for seed in range(200):
        groups, turns = random_batch(seed)
        assert turns.measured is not None
        draw = random.Random(seed)
        rules = slow.Rules(
            draw.choice(("mean", "leave_one_out")), draw.choice(("none", "population", "sample")), 1e-3,
            draw.choice(("zero", "keep")),
        )
        gamma = draw.choice((0.0, 0.5, 1.0))
        found_BK = turn_relative(
            turns, gamma=gamma, centre=rules.centre, scale=rules.scale, epsilon=1e-3,  # type: ignore[arg-type]
            singleton=rules.singleton,  # type: ignore[arg-type]
        )
        expected = slow.turn_relative(groups, gamma, turns.measured.end["value"].tolist(), rules)
        for row, wanted in zip(found_BK, expected, strict=True):
            assert row[: len(wanted)].tolist() == pytest.approx(wanted, abs=1e-9)


def test_as_tokens_equals_its_slow_twin() -> None:
    for seed in range(200):
        groups, turns = random_batch(seed)
        value_BK = np.random.default_rng(seed).normal(size=turns.kept_BK.shape)
        expected = [
            float(value_BK[b, k]) if slow.live(made, t, turn) else 0.0
            for b, (_, made, t) in enumerate(slow.rows(groups)) for k, turn in enumerate(t.turns)
            for _ in range(slow.count(t, turn))
        ]
        assert as_tokens(value_BK, turns).tolist() == expected


@pytest.mark.parametrize("advantage", [turn_relative, partial(turn_relative, key=("group", "anchor"), gamma=0.5)])
def test_conformance(advantage: Advantage) -> None:
    check_advantage(advantage)
