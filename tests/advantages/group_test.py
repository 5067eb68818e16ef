"""Credit by comparison: by hand, by slow twins, and shown to differ from the wrong unit."""

from __future__ import annotations

import json
import random
from functools import partial

import numpy as np
import pytest

from polyturn.advantages.group import (
    RoleBaseline,
    broadcast_BK,
    counted_B,
    group_centred,
    group_relative,
    group_standardised,
    keys_B,
    keys_BK,
    leave_one_out,
    live_BK,
    normalise_BK,
    normalise_I,
    total_B,
    units_BK,
)
from polyturn.arrays import Advantage, Turns, as_turns, lay_out
from polyturn.errors import BadInput, UnknownName
from polyturn.testing import CheckFailed, check_advantage
from polyturn.types import FloatArray, Group, Score
from tests.advantages import slow
from tests.advantages.build import Said, batch, episode, random_batch, scored


def first_B(advantage_BK: FloatArray) -> list[float]:
    return [round(float(value), 12) for value in advantage_BK[:, 0]]


def equal_rows(turns: Turns, found_BK: FloatArray, expected: slow.Rows) -> None:
    assert found_BK.shape == turns.kept_BK.shape
    for row, wanted in zip(found_BK, expected, strict=True):
        assert row[: len(wanted)].tolist() == pytest.approx(wanted, abs=1e-9)
        assert not row[len(wanted):].any()


# ---------------------------------------------------------------- by hand


def test_group_centred_by_hand() -> None:
    # Means: (1 + 0 + 0.5) / 3 = 0.5 and (2 + 4) / 2 = 3.
    turns = batch([scored(1.0, 0.0, 0.5), scored(2.0, 4.0)])
    assert first_B(group_centred(turns)) == [0.5, -0.5, 0.0, -1.0, 1.0]


def test_group_standardised_by_hand() -> None:
    # Rewards 1 0 0 1: mean 0.5, population std 0.5, sample std sqrt(4 * 0.25 / 3) = 0.577350.
    turns = batch([scored(1.0, 0.0, 0.0, 1.0)])
    assert first_B(group_standardised(turns, epsilon=0.0)) == [1.0, -1.0, -1.0, 1.0]
    sample = group_standardised(turns, scale="sample", epsilon=0.0)
    assert sample[:, 0] == pytest.approx([0.866025, -0.866025, -0.866025, 0.866025], abs=1e-6)
    # epsilon stands beside the deviation: 0.5 / (0.5 + 0.5) = 0.5.
    assert first_B(group_standardised(turns, epsilon=0.5)) == [0.5, -0.5, -0.5, 0.5]


def test_leave_one_out_by_hand() -> None:
    # 1 - (0 + 0.5) / 2 = 0.75; 0 - (1 + 0.5) / 2 = -0.75; 0.5 - 0.5 = 0.
    assert first_B(leave_one_out(batch([scored(1.0, 0.0, 0.5)]))) == [0.75, -0.75, 0.0]


def test_equal_rewards_give_exactly_zero() -> None:
    # Three turns of 0.1, 0.2, 0.3 in another order: the sums differ in the last bit, and 1e-16 / (1e-16 + 0) is 1.
    said = [[Said(1, {"score": value}) for value in order] for order in ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))]
    turns = batch([tuple(episode({"agent": turns}, trial=i) for i, turns in enumerate(said))])
    assert np.unique(turns.reward_BK().sum(axis=1)).size == 2
    for advantage in (group_centred, partial(group_standardised, epsilon=0.0), leave_one_out):
        assert not advantage(turns).any()
    assert not group_standardised(batch([scored(0.1, 0.1, 0.1)]), epsilon=0.0).any()


@pytest.mark.parametrize(("rule", "value"), [("zero", 0.0), ("keep", 0.7)])
def test_a_group_of_one_goes_by_its_rule(rule: str, value: float) -> None:
    turns = batch([scored(0.7), scored(1.0, 0.0)])
    for centre in ("mean", "leave_one_out"):
        found = group_relative(turns, centre=centre, singleton=rule)  # type: ignore[arg-type]
        assert found[0, 0] == value


def test_abstained_scores_have_no_credit_and_no_part_in_a_mean() -> None:
    turns = batch([scored(1.0, None, 0.0), scored(None, 3.0)])
    assert first_B(group_centred(turns)) == [0.5, 0.0, -0.5, 0.0, 0.0]


def test_statistics_are_by_rollout_and_not_by_turn() -> None:
    # One rollout of three turns earned 1, one of a single turn earned 0: the mean by rollout is 0.5. By turn it would
    # be 3 / 4, and the advantages 0.25 and -0.75.
    long = episode({"agent": [Said(), Said(), Said(1, {"score": 1.0})]})
    turns = batch([(long, episode({"agent": [Said(1, {"score": 0.0})]}, trial=1))])
    assert group_centred(turns).tolist() == [[0.5, 0.5, 0.5], [-0.5, 0.0, 0.0]]
    values_BK = broadcast_BK(np.array([1.0, 0.0]), turns)
    by_turn = normalise_BK(values_BK, turns, key=("group",), unit="turn", scale="none")
    assert by_turn.tolist() == [[0.25, 0.25, 0.25], [-0.75, 0.0, 0.0]]


def test_units_count_turns_tokens_and_rollouts() -> None:
    turns = batch([(
        episode({"agent": [Said(2), Said(6, dropped="window"), Said(3)], "agent/worker.0": [Said(4)]}),
        episode({"agent": [Said(5)]}, trial=1),
    )])
    assert units_BK(turns, "turn").tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert units_BK(turns, "token").tolist() == [[2, 0, 3], [0, 0, 0], [5, 0, 0]]
    assert units_BK(turns, "rollout").tolist() == [[0.5, 0, 0.5], [0, 0, 0], [1, 0, 0]]
    with pytest.raises(UnknownName, match="no unit named 'tokens'; did you mean 'token'"):
        units_BK(turns, "tokens")  # type: ignore[arg-type]


def test_workers_take_their_roots_advantage_however_many_rollouts_spawn_them() -> None:
    # Rewards 2 2 1 -1 2 0: mean 1, squares 1 1 0 4 1 1 = 8, std sqrt(8 / 6) = 1.154701, so 1 / std = 0.866025. The
    # first three rollouts spawn a worker, which spawns a helper. Centred among the three workers (2 2 1 with mean
    # 5 / 3 and std sqrt(2 / 9) = 0.471405) they would get 0.707107, 0.707107, -1.414214: wrong.
    group = tuple(
        episode(
            {"lead": [Said()], **({"lead/worker": [Said()], "lead/worker/helper": [Said()]} if i < 3 else {})}, trial=i,
            scores={"score": {"lead": Score(value)}},
        )
        for i, value in enumerate((2.0, 2.0, 1.0, -1.0, 2.0, 0.0))
    )
    turns = batch([group])
    found = group_standardised(turns, epsilon=0.0)[:, 0]
    up, down = 0.8660254037844387, -1.7320508075688774
    expected = [up, up, up, up, up, up, 0.0, 0.0, 0.0, down, up, -up]
    assert found == pytest.approx(expected, abs=1e-12)
    of_workers = np.char.endswith(turns.seat_B, "worker")
    wrong = normalise_I(np.array([2.0, 2.0, 1.0]), np.zeros(3, np.int32), np.ones(3), scale="population", epsilon=0.0)
    assert wrong == pytest.approx([0.70710678, 0.70710678, -1.41421356], abs=1e-8)
    assert not np.allclose(found[of_workers], wrong)


def test_both_seats_of_self_play_are_centred_by_seat() -> None:
    # p0 earns 1 and 0, p1 0 and 1 minus a handicap of 10: centred together, every p1 would look bad.
    group = tuple(
        episode({"p0": [Said()], "p1": [Said()]}, trial=i, scores={"score": {"p0": Score(a), "p1": Score(b)}})
        for i, (a, b) in enumerate(((1.0, -10.0), (0.0, -9.0)))
    )
    turns = batch([group])
    assert first_B(group_centred(turns)) == [0.5, -0.5, -0.5, 0.5]
    assert first_B(group_centred(turns, key=("group",))) == [5.5, -5.5, 4.5, -4.5]


def test_dropped_turns_have_no_credit_but_their_rewards_count() -> None:
    made = episode({"agent": [Said(1, {"score": 1.0}, dropped="window"), Said()]})
    turns = batch([(made, episode({"agent": [Said(1, {"score": 0.0})]}, trial=1))])
    assert group_centred(turns).tolist() == [[0.0, 0.5], [-0.5, 0.0]]


def test_channels_are_summed_and_unknown_ones_refused() -> None:
    said = (Said(1, {"win": 1, "style": 5}), Said(1, {"win": 0, "style": 1}))
    group = tuple(episode({"agent": [one]}, trial=i) for i, one in enumerate(said))
    turns = batch([group])
    assert first_B(group_centred(turns, channels=("win",))) == [0.5, -0.5]
    assert first_B(group_centred(turns, channels=("win", "style"))) == [2.5, -2.5]
    with pytest.raises(BadInput, match=r"no reward channel \['score'\]"):
        group_centred(turns)


def test_keys() -> None:
    group = (episode({"a": [Said(), Said(1, dropped="x"), Said()], "a/w": [Said()], "b": [Said(purpose="plan")]}),)
    tokens = lay_out([group, scored(1.0)], "main")
    turns = as_turns(tokens, anchor=lambda made, turn: "same")
    assert keys_B(turns, ("seat",)).tolist() == [0, 0, 2, 1]  # a, a/w (by its root), b, agent
    assert len(set(keys_B(turns, ("group", "seat")).tolist())) == 3
    assert keys_B(turns, ()).tolist() == [0, 0, 0, 0]
    kept = keys_BK(turns, ("turn",))
    assert kept[0, 0] == kept[1, 0] != kept[0, 2]  # the third turn is the second kept one
    assert keys_BK(turns, ("purpose", "anchor")).shape == turns.kept_BK.shape
    with pytest.raises(UnknownName, match="no key named 'seats'; did you mean 'seat'"):
        keys_B(turns, ("seats",))
    with pytest.raises(BadInput, match="expected a sequence of names"):
        keys_B(turns, "group")
    with pytest.raises(BadInput, match="give as_turns"):
        keys_BK(as_turns(tokens), ("anchor",))


def test_normalise_rules_by_hand() -> None:
    value = np.array([3.0, -1.0, 100.0])
    key, weight = np.zeros(3, np.int32), np.array([1.0, 1.0, 0.0])
    # The third does not count, but is transformed: mean 1, population std 2, root mean square sqrt(5).
    normal = partial(normalise_I, value, key, weight, epsilon=0.0)
    assert normal().tolist() == [2.0, -2.0, 99.0]
    assert normal(scale="population").tolist() == [1.0, -1.0, 49.5]
    assert normal(scale="sample") == pytest.approx([2 / 8**0.5, -2 / 8**0.5, 99 / 8**0.5])
    assert normal(centre="none", scale="root_mean_square") == pytest.approx([3 / 5**0.5, -1 / 5**0.5, 100 / 5**0.5])
    assert normal(centre="leave_one_out").tolist() == [4.0, -4.0, 99.0]
    assert normal(centre="none").tolist() == [3.0, -1.0, 100.0]
    # Weighted 1 : 3, mean 0, population variance (9 + 3) / 4 = 3.
    pair, same = np.array([3.0, -1.0]), np.zeros(2, np.int32)
    weighted = normalise_I(pair, same, np.array([1.0, 3.0]), scale="population", epsilon=0.0)
    assert weighted == pytest.approx([3 / 3**0.5, -1 / 3**0.5])
    # Equal values are never divided by their deviation; nothing counted gives 0.
    equal = normalise_I(np.array([2.0, 2.0]), np.zeros(2, np.int32), np.ones(2), centre="none", scale="population")
    assert equal.tolist() == [2.0, 2.0]
    assert normalise_I(np.array([2.0]), np.zeros(1, np.int32), np.zeros(1)).tolist() == [0.0]
    assert normalise_I(np.zeros(0), np.zeros(0, np.int32), np.zeros(0)).tolist() == []


def test_unknown_rules_are_refused() -> None:
    turns = batch([scored(1.0, 0.0)])
    for option in ("centre", "scale", "singleton"):
        with pytest.raises(UnknownName, match="named 'median'"):
            group_relative(turns, **{option: "median"})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="compares whole rollouts"):
        normalise_BK(turns.reward_BK(), turns, key=("group",), unit="rollout", centre="leave_one_out")


def test_an_empty_batch_gives_an_empty_array() -> None:
    empty = batch([])
    with pytest.raises(BadInput, match="no reward channel"):
        group_centred(empty)
    assert group_relative(empty, channels=()).shape == (0, 0)


# ---------------------------------------------------------------- role baseline


def kuhn(p0: float, p1: float, trial: int = 0) -> Group:
    score = {"score": {"p0": Score(p0), "p1": Score(p1)}}
    return (episode({"p0": [Said()], "p1": [Said()]}, family="kuhn", trial=trial, scores=score),)


def test_role_baseline_by_hand() -> None:
    role = RoleBaseline(alpha=0.5)
    turns = batch([kuhn(1.0, -1.0), kuhn(0.0, 0.0, 1)])
    # Nothing seen: b = 0. Then b(p0) = 0.5 * 0 + 0.5 * 1 = 0.5, then 0.5 * 0.5 + 0 = 0.25; b(p1) = -0.25.
    assert first_B(role(turns)) == [1.0, -1.0, 0.0, 0.0]
    assert first_B(role(turns)) == [1.0, -1.0, 0.0, 0.0]  # calling moves nothing
    role.observe(turns)
    assert role.baseline == {("kuhn", "p0"): 0.25, ("kuhn", "p1"): -0.25}
    assert first_B(role(turns)) == [0.75, -0.75, -0.25, 0.25]


def test_role_baseline_depends_on_the_order_of_the_batch() -> None:
    one, other = RoleBaseline(alpha=0.5), RoleBaseline(alpha=0.5)
    one.observe(batch([kuhn(1.0, 0.0), kuhn(0.0, 0.0, 1)]))
    other.observe(batch([kuhn(0.0, 0.0), kuhn(1.0, 0.0, 1)]))
    assert (one.baseline["kuhn", "p0"], other.baseline["kuhn", "p0"]) == (0.25, 0.5)


def test_role_baseline_counts_rollouts_and_not_workers_and_skips_abstentions() -> None:
    role = RoleBaseline(alpha=0.0)
    seats = {"lead": [Said()], "lead/w.0": [Said()], "lead/w.1": [Said()]}
    made = episode(seats, scores={"score": {"lead": Score(2.0)}})
    role.observe(batch([(made,), scored(None)]))
    assert role.baseline == {("game", "lead"): 2.0}


def test_role_baseline_in_the_order_of_rollouts_by_hand() -> None:
    role = RoleBaseline(alpha=0.5, order="rollout")
    turns = batch([kuhn(1.0, -1.0), kuhn(0.0, 0.0, 1), kuhn(1.0, -1.0, 2)])
    # p0: b = 0, then 0.5 * 0 + 0.5 * 1 = 0.5, then 0.25; so 1 - 0, 0 - 0.5, 1 - 0.25. p1 is its mirror image.
    assert first_B(role(turns)) == [1.0, -1.0, -0.5, 0.5, 0.75, -0.75]
    role.observe(turns)
    assert role.baseline == {("kuhn", "p0"): 0.625, ("kuhn", "p1"): -0.625}


def test_role_baseline_of_a_family_is_blind_to_seats() -> None:
    role = RoleBaseline(alpha=0.5, key=("family",), order="rollout")
    turns = batch([kuhn(1.0, -1.0), kuhn(1.0, -1.0, 1)])
    # One b for both: 0, then 0.5 (p1 meets it: -1.5), then 0.25 - 0.5 = -0.25 (1.25), then 0.375 (-1.375).
    assert first_B(role(turns)) == [1.0, -1.5, 1.25, -1.375]
    with pytest.raises(UnknownName, match="column of a role"):
        RoleBaseline(key=("group",))


def test_role_baseline_discounts_over_the_rows_own_kept_turns() -> None:
    said = [Said(), Said(dropped="window"), Said(), Said()]
    made = episode({"p0": said, "p1": [Said()]}, scores={"score": {"p0": Score(1.0), "p1": Score(-1.0)}})
    role = RoleBaseline(gamma=0.5)
    # p0 keeps three turns: 0.25, (dropped: 0), 0.5, 1. p1 has one: -1.
    assert role(batch([(made,)])).tolist() == [[0.25, 0.0, 0.5, 1.0], [-1.0, 0.0, 0.0, 0.0]]


def test_alpha_one_leaves_raw_rewards() -> None:
    role = RoleBaseline(alpha=1.0)
    turns = batch([kuhn(1.0, -1.0)])
    role.observe(turns)
    assert first_B(role(turns)) == [1.0, -1.0]


def test_role_baseline_goes_through_json() -> None:
    role = RoleBaseline()
    role.observe(batch([kuhn(1.0, -0.3)]))
    again = RoleBaseline()
    again.restore(json.loads(json.dumps(role.state())))
    assert again.baseline == role.baseline != {}
    with pytest.raises(BadInput, match=r"alpha is 1\.5"):
        RoleBaseline(alpha=1.5)
    with pytest.raises(UnknownName, match="did you mean 'batch'"):
        RoleBaseline(order="batches")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="expected \\['family'\\] and a number"):
        RoleBaseline(key=("family",)).restore(role.state())


# ---------------------------------------------------------------- slow twins


def test_group_relative_equals_its_slow_twin() -> None:
    for seed in range(250):
        draw = random.Random(seed)
        groups, turns = random_batch(seed)
        with_seat = draw.random() < 0.7
        rules = slow.Rules(
            draw.choice(("mean", "leave_one_out", "none")),
            draw.choice(("none", "population", "sample", "root_mean_square")), draw.choice((0.0, 1e-6, 0.1)),
            draw.choice(("zero", "keep")),
        )
        found = group_relative(
            turns, key=("group", "seat") if with_seat else ("group",), centre=rules.centre,  # type: ignore[arg-type]
            scale=rules.scale, epsilon=rules.epsilon, singleton=rules.singleton,  # type: ignore[arg-type]
        )
        equal_rows(turns, found, slow.group_relative(groups, with_seat, rules))


def test_normalise_by_unit_equals_its_slow_twin() -> None:
    for seed in range(200):
        draw = random.Random(seed)
        groups, turns = random_batch(seed)
        values = [[draw.choice((-1.0, 0.5, 2.0)) for _ in t.turns] for _, _, t in slow.rows(groups)]
        value_BK = np.zeros(turns.kept_BK.shape)
        for b, row in enumerate(values):
            value_BK[b, : len(row)] = row
        unit = draw.choice(("rollout", "turn", "token"))
        rules = slow.Rules("mean", draw.choice(("none", "population", "root_mean_square")), 1e-3, "zero")
        found = normalise_BK(
            value_BK, turns, key=("family",), unit=unit, scale=rules.scale, epsilon=1e-3,  # type: ignore[arg-type]
        )
        equal_rows(turns, found, slow.normalised_turns(groups, values, unit, rules))


def test_role_baseline_equals_its_slow_twin_over_batches() -> None:
    for seed in range(70):
        role, plain = RoleBaseline(alpha=0.9), {}
        for place in range(3):
            groups, turns = random_batch(3 * seed + place)
            equal_rows(turns, role(turns), slow.role_baseline(groups, plain))
            role.observe(turns)
            plain = slow.moved_baseline(groups, plain, 0.9)
            assert role.baseline == pytest.approx(plain)


def test_group_centred_sums_to_zero_over_the_rollouts_of_each_set() -> None:
    for seed in range(50):
        _, turns = random_batch(seed)
        from_root_B = counted_B(turns) & turns.kept_BK.any(axis=1)
        if from_root_B.tolist() == counted_B(turns).tolist():
            value_B = np.array([row[row != 0][0] if row.any() else 0.0 for row in group_centred(turns)])
            sums = np.bincount(keys_B(turns, ("group", "seat")), np.where(from_root_B, value_B, 0.0))
            assert sums == pytest.approx(np.zeros(len(sums)), abs=1e-12)


@pytest.mark.parametrize("advantage", [
    group_centred, group_standardised, leave_one_out, partial(group_relative, singleton="keep"), RoleBaseline(),
])
def test_conformance(advantage: Advantage) -> None:
    for seats in (("agent",), ("p0", "p1")):
        check_advantage(advantage, seats=seats)


def test_conformance_where_order_is_time() -> None:
    check_advantage(RoleBaseline(order="rollout"), seats=("p0", "p1"), ordered=True)
    with pytest.raises(CheckFailed, match="with the groups in another order"):
        check_advantage(RoleBaseline(order="rollout"), seats=("p0", "p1"))
    with pytest.raises(CheckFailed, match="without the last group"):
        check_advantage(lambda turns: live_BK(turns) * total_B(turns).sum(), ordered=True)
