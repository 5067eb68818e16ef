"""SPIRAL: five games by hand, a slow twin, what the paper claims of variance, and the faults of released code."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from polyturn.advantages.group import RoleBaseline
from polyturn.advantages.turn import as_tokens
from polyturn.arrays import Turns
from polyturn.envs.openspiel import kuhn_poker, tic_tac_toe
from polyturn.errors import BadInput, UnknownName
from polyturn.learn import checkpoint
from polyturn.methods.learning.spiral import Arm, GameReward, TurnSamples, role_advantage
from polyturn.protocols import Verifier
from polyturn.testing import check_advantage
from polyturn.types import Episode, FloatArray, Group, PolicyInfo, Score, Stop, Task
from tests.advantages.build import Said, batch, episode
from tests.envs.drive import drive, saying
from tests.envs.drive import episode as bare
from tests.methods.learning import spiral_slow as slow
from tests.methods.learning.spiral_slow import Game

SEATS = ("p0", "p1")


def played(games: list[Game]) -> list[Group]:
    """The games as groups of one episode; a cut reply has finish ``length``."""
    return [
        (episode(
            {seat: [Said(tokens, finish="length" if cut else "stop") for tokens, cut in turns]
             for seat, turns in game.turns.items()},
            name=f"g{number}", family=game.family,
            scores={"spiral": {seat: Score(value) for seat, value in game.rewards.items()}},
        ),)
        for number, game in enumerate(games)
    ]


def credited(advantage_BK: FloatArray, turns: Turns) -> dict[tuple[int, str], list[float]]:
    found = {}
    for b, source in enumerate(turns.tokens.trajectories):
        row = advantage_BK[b][turns.finish_BK[b] != ""]
        found[int(turns.group_B[b]), source.trajectory.seat] = [float(value) for value in row]
    return found


def duel(r0: float, turns0: int = 1, turns1: int = 1, family: str = "kuhn") -> Game:
    """A zero-sum game with so many turns of one token."""
    return Game(family, {"p0": r0, "p1": -r0}, {"p0": [(1, False)] * turns0, "p1": [(1, False)] * turns1})


FIVE = [duel(1.0, 2, 1), duel(1.0, 1, 1), duel(0.0, 2, 2), duel(-1.0, 1, 2), duel(1.0, 3, 1)]

# ---------------------------------------------------------------- (a) by hand


def test_five_games_by_hand() -> None:
    rule = role_advantage(alpha=0.5)
    turns = batch(played(FIVE))
    # b of p0 before each game, alpha 0.5: 0; 0.5*0 + 0.5*1 = 0.5; 0.25 + 0.5 = 0.75; 0.375 + 0 = 0.375;
    # 0.1875 - 0.5 = -0.3125; after the last -0.15625 + 0.5 = 0.34375. p1 is the mirror image.
    expected = {
        (0, "p0"): [1.0, 1.0], (0, "p1"): [-1.0], (1, "p0"): [0.5], (1, "p1"): [-0.5],
        (2, "p0"): [-0.75, -0.75], (2, "p1"): [0.75, 0.75], (3, "p0"): [-1.375], (3, "p1"): [1.375, 1.375],
        (4, "p0"): [1.3125] * 3, (4, "p1"): [-1.3125],
    }
    assert credited(rule(turns), turns) == expected
    after = []
    for number in range(len(FIVE)):
        rule.observe(batch(played(FIVE[number:number + 1])))
        after.append((rule.baseline["kuhn", "p0"], rule.baseline["kuhn", "p1"]))
    assert after == [(0.5, -0.5), (0.75, -0.75), (0.375, -0.375), (-0.3125, 0.3125), (0.34375, -0.34375)]


def test_five_games_by_hand_with_a_discount() -> None:
    turns = batch(played(FIVE))
    found = credited(role_advantage(alpha=0.5, gamma=0.9)(turns), turns)
    # gamma^left: one turn 1; two turns 0.9, 1; three turns 0.81, 0.9, 1; times the advantages above.
    assert found[0, "p0"] == pytest.approx([0.9, 1.0])
    assert found[2, "p0"] == pytest.approx([-0.675, -0.75])
    assert found[3, "p1"] == pytest.approx([1.2375, 1.375])
    assert found[4, "p0"] == pytest.approx([1.063125, 1.18125, 1.3125])
    assert found[4, "p1"] == [-1.3125]


def test_the_papers_alpha_and_the_order_before_the_update() -> None:
    rule = role_advantage()
    turns = batch(played([duel(1.0), duel(1.0)]))
    # 1 - 0, then 1 - (0.95 * 0 + 0.05 * 1) = 0.95. Updating first would give 0.95, then 1 - 0.0975 = 0.9025.
    assert credited(rule(turns), turns)[0, "p0"] == [1.0]
    assert credited(rule(turns), turns)[1, "p0"] == pytest.approx([0.95])


def test_the_drop_rule_and_the_loss_mask_by_hand() -> None:
    games = [
        Game("kuhn", {"p0": 0.0, "p1": 0.0}, {"p0": [(2, False)], "p1": [(1, False)]}),
        Game("kuhn", {"p0": 1.0, "p1": -1.0}, {"p0": [(2, False), (3, True)], "p1": [(1, False)]}),
    ]
    turns = batch(played(games))
    # The draw comes while b is exactly 0, so its two rows are dropped; three rows are left: 1 / (10 * 3) a token.
    plain = TurnSamples(role_advantage(), longest=10)(turns, turns.tokens)
    assert plain.tolist() == pytest.approx([0.0, 0.0, 0.0, *[1 / 30] * 6])
    # The cut reply of three tokens weighs 0 and still counts as a row.
    masked = TurnSamples(role_advantage(), longest=10, skip_cut=True)(turns, turns.tokens)
    assert masked.tolist() == pytest.approx([0.0, 0.0, 0.0, 1 / 30, 1 / 30, 0.0, 0.0, 0.0, 1 / 30])


def test_a_draw_after_a_win_is_kept() -> None:
    turns = batch(played([duel(1.0), duel(0.0)]))
    # b is 0.05 by then: the draw has the advantage -0.05, so it counts as a row.
    assert (TurnSamples(role_advantage())(turns, turns.tokens) > 0).tolist() == [True] * 4


def test_the_arms_differ_in_their_baseline_alone() -> None:
    turns = batch(played([duel(1.0), duel(1.0)]))
    raw, blind = role_advantage("raw"), role_advantage("seat_blind", alpha=0.5)
    assert credited(raw(turns), turns) == {(0, "p0"): [1.0], (0, "p1"): [-1.0], (1, "p0"): [1.0], (1, "p1"): [-1.0]}
    # One b for both seats: 0; 0.5; -0.25; 0.375.
    assert credited(blind(turns), turns) == {
        (0, "p0"): [1.0], (0, "p1"): [-1.5], (1, "p0"): [1.25], (1, "p1"): [-1.375]}
    with pytest.raises(UnknownName, match="did you mean 'spiral'"):
        role_advantage("spirals")  # type: ignore[arg-type]


# ---------------------------------------------------------------- (b) slow twin


def random_games(draw: random.Random) -> list[Game]:
    games = []
    for _ in range(draw.randint(1, 6)):
        reward = draw.choice((-1.0, -0.5, 0.0, 0.5, 1.0))
        rewards = draw.choice(({"p0": reward, "p1": -reward}, {"p0": -1.5, "p1": 0.5}))
        seats = SEATS if draw.random() < 0.8 else SEATS[:1]
        games.append(Game(draw.choice(("kuhn", "board")), rewards, {
            seat: [(draw.randint(1, 3), draw.random() < 0.2) for _ in range(draw.randint(1, 4))] for seat in seats}))
    return games


def test_equal_to_the_slow_twin_on_a_thousand_batches() -> None:
    differs = 0
    for seed in range(500):
        draw = random.Random(seed)
        alpha, gamma, by_seat = draw.choice((0.5, 0.95)), draw.choice((1.0, 0.9)), draw.random() < 0.7
        rule = role_advantage("spiral" if by_seat else "seat_blind", alpha=alpha, gamma=gamma)
        known: slow.Baselines = {}
        for _ in range(2):
            games = random_games(draw)
            turns = batch(played(games))
            expected = slow.credit(games, known, alpha, gamma, by_seat)
            found = credited(rule(turns), turns)
            for place, row in expected.items():
                assert found[place] == pytest.approx(row, abs=1e-12)
            skip = draw.random() < 0.5
            weight_N = TurnSamples(rule, 7, skip)(turns, turns.tokens)
            lists = slow.weights(games, expected, 7, skip)
            flat = [weight for place in found for row in lists[place] for weight in row]
            assert weight_N.tolist() == pytest.approx(flat)
            rule.observe(turns)
            assert rule.baseline == pytest.approx(known)
        fresh = random_games(draw)
        wrong = slow.credit_by_turn(fresh, alpha)
        right = slow.credit(fresh, {}, alpha, 1.0)
        differs += any(wrong[place] != pytest.approx(right[place]) for place in right)
    assert differs > 250  # moving the baseline by turn is another rule, and these batches show it


# ---------------------------------------------------------------- (c) what the paper claims

FIRST_WINS = 0.8


def uneven_games(seed: int, count: int) -> list[Game]:
    """Seat 0 wins four games of five, whatever it does."""
    draw = np.random.default_rng(seed)
    return [duel(1.0 if win else -1.0) for win in draw.random(count) < FIRST_WINS]


def late_advantages(arm: Arm, games: list[Game]) -> FloatArray:
    """The advantages after the first 200 games (the baseline needs some 20 games to find its level)."""
    turns = batch(played(games))
    return role_advantage(arm)(turns)[400:, 0]


def test_the_variance_is_below_that_of_raw_rewards_and_of_a_seat_blind_average() -> None:
    games = uneven_games(0, 3000)
    mean_square = {arm: float((late_advantages(arm, games) ** 2).mean()) for arm in ("spiral", "raw", "seat_blind")}
    # Raw: R**2 = 1. Perfect baselines leave 1 - 0.6**2 = 0.64, the moving average adds (1 - alpha) / (1 + alpha) of it.
    assert mean_square["raw"] == 1.0
    assert mean_square["spiral"] == pytest.approx(0.64 * (1 + 0.05 / 1.95), rel=0.05)
    assert mean_square["seat_blind"] > 0.95


def test_a_seat_blind_baseline_stays_near_zero() -> None:
    rules = {arm: role_advantage(arm) for arm in ("spiral", "seat_blind")}  # type: ignore[arg-type]
    turns = batch(played(uneven_games(1, 400)))
    for rule in rules.values():
        rule.observe(turns)
    assert abs(rules["seat_blind"].baseline["kuhn",]) < 0.1
    assert rules["spiral"].baseline["kuhn", "p0"] > 0.3 > -0.3 > rules["spiral"].baseline["kuhn", "p1"]


def test_the_gradient_stays_unbiased() -> None:
    """Seat 0 bets with probability 0.3 and wins 0.9 of the games with a bet, else 0.5: the mean of ``A grad log p``."""
    draw = np.random.default_rng(2)
    bets = draw.random(20000) < 0.3
    wins = draw.random(20000) < np.where(bets, 0.9, 0.5)
    turns = batch(played([duel(1.0 if win else -1.0) for win in wins]))
    gradient = np.where(bets, 0.7, -0.3)  # of the logit of betting
    raw, own = (role_advantage(arm)(turns)[0::2, 0] * gradient for arm in ("raw", "spiral"))  # type: ignore[arg-type]
    exact = 0.3 * 0.7 * (0.8 - 0.0)
    error = own.std() / np.sqrt(len(own))
    assert abs(own.mean() - exact) < 4 * error and abs(raw.mean() - own.mean()) < 4 * error
    assert own.var() < raw.var()


# ---------------------------------------------------------------- (d) contract, memory


@pytest.mark.parametrize("arm", ["spiral", "raw", "seat_blind"])
def test_conformance(arm: Arm) -> None:
    def with_reward(groups: list[Group]) -> list[Group]:
        return [tuple(scored_twice(made) for made in group) for group in groups]

    check_advantage(role_advantage(arm, gamma=0.9), seats=SEATS, ordered=True, extra=with_reward)
    assert isinstance(GameReward({}), Verifier)


def scored_twice(made: Episode) -> Episode:
    from dataclasses import replace

    return replace(made, scores={**made.scores, "spiral": made.scores["score"]})


def test_a_checkpoint_keeps_every_bit_of_the_baselines(tmp_path: Path) -> None:
    rule = role_advantage()
    rule.observe(batch(played([duel(1 / 3), duel(-0.1, family="board"), duel(0.7)])))
    checkpoint.save(tmp_path / "state", {"credit": rule.state()})
    again = role_advantage()
    again.restore(checkpoint.load(tmp_path / "state")["credit"])
    assert {role: value.hex() for role, value in again.baseline.items()} == {
        role: value.hex() for role, value in rule.baseline.items()}
    assert json.loads(json.dumps(rule.state())) == rule.state() and len(rule.baseline) == 4


# ---------------------------------------------------------------- (e) faults that could recur


def test_two_games_in_one_run_keep_their_baselines_apart() -> None:
    """The released code keys its baseline by seat alone."""
    rule = role_advantage(alpha=0.5)
    rule.observe(batch(played([duel(1.0, family="kuhn"), duel(-1.0, family="board")])))
    assert (rule.baseline["kuhn", "p0"], rule.baseline["board", "p0"]) == (0.5, -0.5)


async def reward_of(suite: object, *said: str, **more: object) -> dict[str, float | None]:
    task = next(iter(suite.tasks("test")))  # type: ignore[attr-defined]
    answers = {"player_0": saying(*said[0::2]), "player_1": saying(*said[1::2])}
    driven = await drive(suite, task, 0, answers)  # type: ignore[arg-type]
    cast = {seat: PolicyInfo("main") for seat in answers}
    made = bare(task, driven, cast=cast, **more)
    scores = await GameReward({"kuhn_poker": 2.0, "tic_tac_toe": 1.0})([(made,)])
    return {seat: score.value for seat, score in scores[made.id].items()}


async def test_rewards_of_real_games_by_hand() -> None:
    # x takes 1, 2, 3 against 4, 5: a win of 1. In Kuhn poker a pass after a bet loses 1 of at most 2.
    assert await reward_of(tic_tac_toe(opponent_random=None), "1", "4", "2", "5", "3") == {
        "player_0": 1.0, "player_1": -1.0}
    assert await reward_of(kuhn_poker(), "bet", "pass") == {"player_0": 0.5, "player_1": -0.5}


async def test_an_illegal_reply_costs_more_than_any_loss_and_is_no_win() -> None:
    assert await reward_of(kuhn_poker(), "bet", "raise") == {"player_0": 0.5, "player_1": -1.5}
    assert await reward_of(tic_tac_toe(opponent_random=None), "1", "1") == {"player_0": 0.5, "player_1": -1.5}


async def test_a_game_that_was_cut_is_a_draw_and_an_unread_one_is_no_game() -> None:
    cast = {seat: PolicyInfo("main") for seat in SEATS}
    cut = Episode("cut", Task("t", "kuhn_poker"), 0, cast=cast, final={"forfeited_by": [], "returns": None},
                  stop=Stop("truncated"))
    unread = Episode("unread", Task("t", "kuhn_poker"), 0, cast=cast)
    scores = await GameReward({"kuhn_poker": 2.0})([(cut,), (unread,)])
    assert [score.value for score in scores["cut"].values()] == [0.0, 0.0]
    assert [score.value for score in scores["unread"].values()] == [None, None]
    with pytest.raises(UnknownName, match="highest return"):
        await GameReward({"chess": 1.0})([(cut,)])


def test_weights_count_what_the_batch_was_credited_with() -> None:
    """Rows are counted with the baseline as it was before the batch, whatever was observed elsewhere."""
    rule: RoleBaseline = role_advantage()
    turns = batch(played([duel(0.0), duel(1.0)]))
    kept_N = as_tokens(rule(turns), turns) != 0
    assert kept_N.tolist() == [False, False, True, True]
    assert ((TurnSamples(rule)(turns, turns.tokens) > 0) == kept_N).all()
    with pytest.raises(BadInput, match="longest is 0"):
        TurnSamples(rule, longest=0)
