"""Several families in one batch: an estimator each, one scale for all."""

from __future__ import annotations

import json
import random
from functools import partial

import numpy as np
import pytest

from polyturn.advantages.family import ByFamily, Estimator, FamilyScale, only
from polyturn.advantages.group import RoleBaseline, group_centred, leave_one_out
from polyturn.advantages.turn import as_tokens
from polyturn.errors import BadInput, UnknownName
from polyturn.testing import check_advantage
from polyturn.types import Score
from tests.advantages import slow
from tests.advantages.build import Said, batch, episode, random_batch, scored

GUESS = scored(1.0, 0.0, name="guess", family="guess")


def kuhn(p0: float, p1: float) -> tuple[object, ...]:
    score = {"score": {"p0": Score(p0), "p1": Score(p1)}}
    return (episode({"p0": [Said()], "p1": [Said()]}, name="kuhn", family="kuhn", scores=score),)


def test_each_family_has_its_own_advantage() -> None:
    turns = batch([GUESS, kuhn(2.0, -2.0)])  # type: ignore[list-item]
    mixed = ByFamily({"guess": group_centred, "kuhn": RoleBaseline(alpha=0.5)}, scaled=False)
    assert mixed(turns).tolist() == [0.5, -0.5, 2.0, -2.0]
    mixed.observe(turns)
    assert mixed(turns).tolist() == [0.5, -0.5, 1.0, -1.0]
    assert mixed.state() == {"kuhn": {"baseline": [["kuhn", "p0", 1.0], ["kuhn", "p1", -1.0]]}}


def test_a_family_without_an_advantage_is_refused() -> None:
    with pytest.raises(UnknownName, match="no family with an advantage named 'guess'; did you mean 'guessing'"):
        ByFamily({"guessing": group_centred})(batch([GUESS]))


def test_state_goes_through_json_and_must_fit() -> None:
    mixed = ByFamily({"guess": group_centred, "kuhn": RoleBaseline()})
    mixed.observe(batch([kuhn(2.0, -2.0)]))  # type: ignore[list-item]
    again = ByFamily({"guess": group_centred, "kuhn": RoleBaseline()})
    again.restore(json.loads(json.dumps(mixed.state())))
    assert again.state() == mixed.state()
    with pytest.raises(BadInput, match=r"families \['kuhn'\]; with memory here are \[\]"):
        ByFamily({"guess": group_centred}).restore(mixed.state())


def test_families_of_other_scales_come_out_alike_by_hand() -> None:
    # guess: advantages +-0.5, root mean square 0.5. big: +-50 and root mean square 50. Both come out as +-1.
    turns = batch([GUESS, scored(100.0, 0.0, name="big", family="big")])
    assert group_centred(turns)[:, 0].tolist() == [0.5, -0.5, 50.0, -50.0]
    assert FamilyScale(group_centred, epsilon=0.0)(turns).tolist() == [1.0, -1.0, 1.0, -1.0]
    # One scale for both would drown the guesses: root mean square sqrt(2 * (0.25 + 2500) / 4) = 35.357.
    assert FamilyScale(group_centred, epsilon=0.5)(turns)[:2].tolist() == [0.5, -0.5]


def test_scaled_is_the_scale_of_this_batch() -> None:
    turns = batch([GUESS, scored(100.0, 0.0, name="big", family="big")])
    rules = {"guess": group_centred, "big": group_centred}
    assert ByFamily(rules)(turns).tolist() == pytest.approx([1.0, -1.0, 1.0, -1.0], abs=1e-5)
    assert ByFamily(rules)(turns).tolist() == FamilyScale(group_centred)(turns).tolist()


def test_a_family_with_one_rollout_keeps_its_values() -> None:
    turns = batch([GUESS, scored(7.0, name="lone", family="lone")])
    assert ByFamily({"guess": group_centred, "lone": RoleBaseline()})(turns)[2] == 7.0


def test_a_family_that_learns_nothing_stays_at_zero() -> None:
    turns = batch([GUESS, scored(0.1, 0.1, 0.1, name="flat", family="flat")])
    scaled = FamilyScale(group_centred, decay=0.5, epsilon=0.0)
    assert scaled(turns).tolist() == [1.0, -1.0, 0.0, 0.0, 0.0]
    scaled.observe(turns)
    assert scaled.square == {"guess": 0.25}


def test_running_scale_is_that_before_the_batch() -> None:
    scaled = FamilyScale(group_centred, decay=0.75, epsilon=0.0)
    scaled.observe(batch([GUESS]))  # starts from 0.25
    large = batch([scored(4.0, 0.0, family="guess")])  # +-2, square 4
    assert scaled(large).tolist() == [4.0, -4.0]
    scaled.observe(large)
    assert scaled.square["guess"] == 0.75 * 0.25 + 0.25 * 4.0
    again = FamilyScale(group_centred, decay=0.75, epsilon=0.0)
    again.restore(json.loads(json.dumps(scaled.state())))
    assert again(large).tolist() == scaled(large).tolist()


def test_scale_counts_rollouts_and_not_tokens() -> None:
    # Centred +-1.5 and +-0.5 of two groups; long replies on the first. By rollout the square is
    # (2.25 + 0.25) / 2 = 1.25; by token it would be (18 * 2.25 + 2 * 0.25) / 20 = 2.05.
    long, short = (
        tuple(
            episode({"agent": [Said(tokens)]}, name=name, trial=i, scores={"score": {"agent": Score(value)}})
            for i, value in enumerate((high, 0.0))
        )
        for name, high, tokens in (("long", 3.0, 9), ("short", 1.0, 1))
    )
    found = FamilyScale(group_centred, epsilon=0.0)(batch([long, short]))
    assert found[0] == pytest.approx(1.5 / 1.25**0.5)
    assert found[-1] == pytest.approx(-0.5 / 1.25**0.5)


def test_an_inner_estimator_is_told_and_kept() -> None:
    scaled = FamilyScale(RoleBaseline(alpha=0.5), decay=0.5)
    assert isinstance(scaled, Estimator)
    scaled.observe(batch([kuhn(2.0, -2.0)]))  # type: ignore[list-item]
    again = FamilyScale(RoleBaseline(alpha=0.5), decay=0.5)
    again.restore(scaled.state())
    assert again.state() == scaled.state() != FamilyScale(RoleBaseline()).state()
    with pytest.raises(BadInput, match="with memory and this one has none"):
        FamilyScale(group_centred).restore(scaled.state())
    with pytest.raises(BadInput, match="decay is 1"):
        FamilyScale(group_centred, decay=1)


def test_family_scale_equals_its_slow_twin() -> None:
    for seed in range(200):
        groups, turns = random_batch(seed)
        values = [[random.Random(f"{seed} {b} {k}").uniform(-1, 1) for k in range(len(t.turns))]
                  for b, (_, _, t) in enumerate(slow.rows(groups))]
        value_BK = np.zeros(turns.kept_BK.shape)
        for b, row in enumerate(values):
            value_BK[b, : len(row)] = row
        found = FamilyScale(lambda turns, v=value_BK: v, epsilon=1e-3)(turns)
        wanted_BK = np.zeros(turns.kept_BK.shape)
        for b, row in enumerate(slow.family_scale(groups, values, 1e-3)):
            wanted_BK[b, : len(row)] = row
        assert found == pytest.approx(as_tokens(wanted_BK, turns), abs=1e-9)


def test_by_family_equals_each_advantage_on_its_family_alone() -> None:
    for seed in range(200):
        groups, turns = random_batch(seed)
        found = ByFamily({"a": group_centred, "b": partial(leave_one_out)}, scaled=False)(turns)
        for family, advantage in (("a", group_centred), ("b", leave_one_out)):
            alone = [group for group in groups if group[0].task.family == family]
            if alone:
                mine = (turns.family_B == family)[turns.tokens.trajectory_N]
                part = batch(alone)
                assert found[mine] == pytest.approx(as_tokens(advantage(part), part), abs=1e-12)
                assert not as_tokens(advantage(turns), only(turns, family))[~mine].any()


@pytest.mark.parametrize("advantage", [
    ByFamily({"one": group_centred, "two": RoleBaseline()}), FamilyScale(group_centred, decay=0.5),
])
def test_conformance(advantage: Estimator) -> None:
    check_advantage(advantage, families=("one", "two"))
