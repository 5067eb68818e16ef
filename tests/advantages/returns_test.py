"""Credit over time: by hand, by slow twins, and the faults that were seen elsewhere."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest

from polyturn.advantages.returns import (
    gae,
    inherit_BK,
    returns_BK,
    rewards_BK,
    served_BK,
    token_gae,
    token_returns,
    turn_gae,
    value_target_N,
)
from polyturn.arrays import Advantage, Measured, Turns
from polyturn.errors import BadInput
from polyturn.testing import check_advantage
from polyturn.types import FloatArray, Stop
from tests.advantages import slow
from tests.advantages.build import Said, batch, episode, random_batch


def with_values(*values: float, end: float = 0.0) -> object:
    """What a learner read: these values before the tokens, ``end`` after each trajectory."""
    return lambda n, b: Measured(np.zeros(n), heads={"value": np.array(values)}, end={"value": np.full(b, end)})


def one(*said: Said, stop: str = "done", measure: object = None) -> Turns:
    return batch([(episode({"agent": said}, stop=Stop(stop)),)], measure)  # type: ignore[arg-type]


def paid(value: float, tokens: int = 1, dropped: str = "") -> Said:
    return Said(tokens, {"score": value}, dropped=dropped)


# ---------------------------------------------------------------- by hand


def test_discounted_returns_by_turn_by_hand() -> None:
    # 4; 2 + 0.5 * 4 = 4; 1 + 0.5 * 4 = 3.
    assert returns_BK(one(paid(1), paid(2), paid(4)), gamma=0.5).tolist() == [[3.0, 4.0, 4.0]]
    assert returns_BK(one(paid(1), paid(2), paid(4)), gamma=0.0).tolist() == [[1.0, 2.0, 4.0]]


def test_rows_of_other_lengths_are_padded() -> None:
    turns = batch([(episode({"agent": [paid(1), paid(2)]}), episode({"agent": [paid(8)]}, trial=1))])
    assert returns_BK(turns, gamma=0.5).tolist() == [[2.0, 2.0], [8.0, 0.0]]


def test_a_dropped_turn_neither_discounts_nor_resets_and_hands_its_reward_back() -> None:
    # The middle turn was taken back: its 2 counts for the first turn, and 4 is one step away: 1 + 2 + 0.5 * 4 = 5.
    turns = one(paid(1), paid(2, dropped="window"), paid(4))
    assert returns_BK(turns, gamma=0.5).tolist() == [[5.0, 0.0, 4.0]]
    # Nothing before it: what it was paid is nobody's.
    assert returns_BK(one(paid(1, dropped="window"), paid(4)), gamma=0.5).tolist() == [[0.0, 4.0]]


def test_an_observation_between_tokens_never_resets_the_credit() -> None:
    # Seen elsewhere (verl 6376): masked tool output set the running return to 0, so that what came before a tool call
    # had no credit. Here ten observation tokens stand between the two turns, and both get the reward at the end.
    turns = one(Said(2), Said(1, {"score": 1.0}, prompt=range(10)))
    assert token_returns(turns, gamma=1.0).tolist() == [1.0, 1.0, 1.0]
    # With gamma 0.5 time is the policy's own: one step from the second token to the third, whatever stands between.
    assert token_returns(turns, gamma=0.5).tolist() == [0.25, 0.5, 1.0]


def test_turn_gae_by_hand() -> None:
    # Values are read before a turn's first token: 0.5 and 0.25 (0.9 stands before a second token). Both rates 0.5.
    # delta1 = 1 - 0.25 = 0.75; delta0 = 0 + 0.5 * 0.25 - 0.5 = -0.375; A0 = -0.375 + 0.25 * 0.75 = -0.1875.
    turns = one(Said(2), paid(1.0), measure=with_values(0.5, 0.9, 0.25))
    assert turn_gae(turns, gamma=0.5, lambda_=0.5).tolist() == [[-0.1875, 0.75]]


def test_token_gae_by_hand() -> None:
    # Values 0.5 0.9 0.25, reward 1 at the last token; gamma 1, lambda 0.5: deltas 0.4, -0.65, 0.75.
    # A2 = 0.75; A1 = -0.65 + 0.375 = -0.275; A0 = 0.4 - 0.1375 = 0.2625.
    turns = one(Said(2), paid(1.0), measure=with_values(0.5, 0.9, 0.25))
    assert token_gae(turns, lambda_=0.5).tolist() == pytest.approx([0.2625, -0.275, 0.75], abs=1e-15)
    assert value_target_N(turns, lambda_=0.5) == pytest.approx([0.7625, 0.625, 1.0], abs=1e-15)
    # By turn the same numbers would say something else.
    assert not np.allclose(token_gae(turns, lambda_=0.5)[[0, 2]], turn_gae(turns, lambda_=0.5)[0])


def test_a_cut_trajectory_goes_on_with_its_value_and_a_finished_one_does_not() -> None:
    for stop, last in (("truncated", 1 + 0.5 * 8), ("done", 1.0), ("budget", 1.0)):
        turns = one(Said(1), paid(1.0), stop=stop, measure=with_values(0.0, 0.0, end=8.0))
        assert returns_BK(turns, gamma=0.5).tolist() == [[0.5 * last, last]]
        assert turn_gae(turns, gamma=0.5).tolist() == [[0.5 * last, last]]
        assert token_gae(turns, gamma=0.5).tolist() == [0.5 * last, last]


def test_a_turn_of_no_tokens_pays_the_token_before_it() -> None:
    turns = one(Said(2), Said((), {"score": 1.0}), Said(1), measure=with_values(0.0, 0.0, 0.0))
    assert token_gae(turns).tolist() == [1.0, 1.0, 0.0]
    assert turn_gae(turns).tolist() == [[1.0, 0.0, 0.0]]


def test_gae_with_gamma_and_lambda_one_is_the_return_minus_the_value() -> None:
    for seed in range(200):
        _, turns = random_batch(seed)
        assert turns.measured is not None
        found, returns = token_gae(turns), token_returns(turns)
        value = np.where(found != 0, turns.measured.heads["value"], 0.0)
        assert found == pytest.approx(np.where(found != 0, returns, 0.0) - value, abs=1e-13)


def test_missing_heads_and_bad_rates_are_refused() -> None:
    turns = one(paid(1.0), measure=with_values(0.5))
    with pytest.raises(BadInput, match=r"no head 'critic' \(it has: value\)"):
        token_gae(turns, head="critic")
    with pytest.raises(BadInput, match=r"no head 'value' \(it has: none\)"):
        turn_gae(one(paid(1.0)))
    with pytest.raises(BadInput, match=r"gamma is 1\.1; expected a number in 0\.\.1"):
        returns_BK(turns, gamma=1.1)
    with pytest.raises(BadInput, match="lambda_ is -1"):
        token_gae(turns, lambda_=-1)


def test_an_empty_batch() -> None:
    empty = batch([])
    assert returns_BK(empty, channels=()).shape == (0, 0)
    assert token_returns(empty, channels=()).shape == (0,)


# ---------------------------------------------------------------- sub-seats


def lead_and_worker() -> Turns:
    """The lead acts in steps 0, 1, 2 and is paid 1, 2, 4; a worker is asked before the lead in step 1 (at 1), after it
    (at 3), and after its last turn (at 5, step 3)."""
    lead = [Said(1, {"score": 1.0}, 0, 0), Said(1, {"score": 2.0}, 1, 2), Said(1, {"score": 4.0}, 2, 4)]
    return batch([(episode({"lead": lead, "lead/w": [Said(1, {}, 1, 1), Said(1, {}, 1, 3), Said(1, {}, 3, 5)]}),)])


def test_sub_seats_serve_the_root_turn_of_their_step() -> None:
    turns = lead_and_worker()
    assert served_BK(turns).tolist() == [[0, 1, 2], [1, 1, 2]]
    assert inherit_BK(np.array([[10.0, 20.0, 30.0], [0, 0, 0]]), turns)[1].tolist() == [20.0, 20.0, 30.0]


def test_sub_seats_are_paid_what_their_root_earned_from_then_on() -> None:
    turns = lead_and_worker()
    # The second turn serves the root's turn 1 until the third serves turn 2; the lead's first 1.0 came before.
    assert rewards_BK(turns).tolist() == [[1.0, 2.0, 4.0], [0.0, 2.0, 4.0]]
    assert returns_BK(turns).tolist() == [[7.0, 6.0, 4.0], [6.0, 6.0, 4.0]]


def test_a_sub_seat_of_a_root_that_kept_nothing_has_nothing_to_inherit() -> None:
    turns = batch([(episode({"lead": [paid(1, dropped="x")], "lead/w": [Said(), Said()]}),)])
    assert served_BK(turns)[1].tolist() == [-1, -1]
    assert inherit_BK(np.ones((2, 2)), turns).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert rewards_BK(turns)[1].tolist() == [0.0, 1.0]


# ---------------------------------------------------------------- slow twins


def equal_rows(found_BK: FloatArray, expected: slow.Rows) -> None:
    for row, wanted in zip(found_BK, expected, strict=True):
        assert row[: len(wanted)].tolist() == pytest.approx(wanted, abs=1e-9)
        assert not row[len(wanted):].any()


def test_served_equals_its_slow_twin() -> None:
    for seed in range(200):
        groups, turns = random_batch(seed)
        for row, (_, made, trajectory) in zip(served_BK(turns).tolist(), slow.rows(groups), strict=True):
            assert row[: len(trajectory.turns)] == slow.served(made, trajectory)


def test_returns_equal_their_slow_twin() -> None:
    for seed in range(200):
        groups, turns = random_batch(seed)
        assert turns.measured is not None
        gamma = random.Random(seed).choice((0.0, 0.5, 0.9, 1.0))
        ends = turns.measured.end["value"].tolist()
        equal_rows(returns_BK(turns, gamma=gamma), slow.returns(groups, gamma, ends))


def test_gae_by_turn_and_by_token_equal_their_slow_twins() -> None:
    for seed in range(200):
        groups, turns = random_batch(seed)
        assert turns.measured is not None
        draw = random.Random(seed)
        rates = (draw.choice((0.5, 0.9, 1.0)), draw.choice((0.0, 0.5, 0.95, 1.0)))
        values, ends = turns.measured.heads["value"].tolist(), turns.measured.end["value"].tolist()
        options = {"gamma": rates[0], "lambda_": rates[1]}
        by_turn = slow.over_time(groups, lambda n, v=values: v[n], ends, rates, by_token=False)
        equal_rows(turn_gae(turns, **options), by_turn)  # type: ignore[arg-type]
        by_token = slow.over_time(groups, lambda n, v=values: v[n], ends, rates, by_token=True)
        found_N = token_gae(turns, **options)  # type: ignore[arg-type]
        assert found_N == pytest.approx([value for row in by_token for value in row], abs=1e-9)


def test_gae_of_a_long_trajectory_is_fast_and_right() -> None:
    length = 20_000
    reward = np.zeros((4, length))
    reward[:, -1] = 1.0
    found = gae(reward, np.zeros_like(reward), np.ones(reward.shape, np.bool_), np.zeros(4), gamma=1.0, lambda_=1.0)
    assert (found == 1.0).all()


@pytest.mark.parametrize("advantage", [partial(returns_BK, gamma=0.9), turn_gae, token_gae, token_returns])
def test_conformance(advantage: Advantage) -> None:
    check_advantage(advantage)
