"""Any OpenSpiel game: simultaneous moves, chance, rewards on the way, the two rules for illegal replies."""

from __future__ import annotations

import random
from typing import Any

import pytest

from polyturn.envs.openspiel_game import OpenSpiel, read_move, uniform_house
from polyturn.errors import BadInput
from polyturn.protocols import Ask
from polyturn.testing import check_suite
from polyturn.types import Episode, Message, Stop, Task, assistant
from tests.envs.drive import Driven, drive, episode, saying


def task_of(suite: Any) -> Task:
    task: Task = next(iter(suite.tasks("test")))
    return task


@pytest.mark.parametrize(("game", "more"), [
    ("leduc_poker", {}), ("connect_four", {}), ("matrix_rps", {}), ("goofspiel(imp_info=True,num_cards=4)", {}),
    ("hanabi(players=2,colors=2,ranks=2,hand_size=2)", {"illegal": "random"}), ("bargaining", {"illegal": "random"}),
    ("matrix_pd", {"illegal": "random"}), ("liars_dice", {"house": uniform_house}), ("oshi_zumo(coins=4,size=1)", {}),
    ("deep_sea", {"illegal": "random"}), ("kuhn_poker(players=3)", {}), ("backgammon", {"house": uniform_house}),
])
async def test_games_of_every_kind_keep_the_contract(game: str, more: dict[str, Any]) -> None:
    await check_suite(OpenSpiel(game, test_tasks=4, **more), tasks=1, most_steps=2000)


async def test_simultaneous_moves_are_asked_together_and_counted_once() -> None:
    suite = OpenSpiel("matrix_rps", test_tasks=1)
    env = await suite.make(task_of(suite), 0)
    step = await env.start()
    assert [ask.seat for ask in step.asks] == ["player_0", "player_1"]
    assert step.asks[0].legal == ("Rock", "Paper", "Scissors")
    with pytest.raises(BadInput, match=r"replies came from \['player_0'\]; expected exactly one from each of"):
        await env.step({"player_0": assistant("Rock")})
    step = await env.step({"player_0": assistant("rock"), "player_1": assistant("Paper!")})
    assert step.stop is not None and step.rewards == {"player_0": {"return": -1.0}, "player_1": {"return": 1.0}}
    assert (await env.final())["moves"] == ["Rock", "Paper"]


async def test_when_both_reply_illegally_both_lose() -> None:
    suite = OpenSpiel("matrix_rps", test_tasks=1)
    driven = await drive(suite, task_of(suite), 0, {"player_0": saying("well"), "player_1": saying("spock")})
    assert driven.kinds() == ["invalid", "invalid"]
    assert driven.final["returns"] == {"player_0": -1.0, "player_1": -1.0}
    assert driven.final["forfeited_by"] == ["player_0", "player_1"]


async def test_a_forfeit_among_three_leaves_the_rest_of_the_sum_to_the_others() -> None:
    suite = OpenSpiel("kuhn_poker(players=3)", test_tasks=1)  # returns in -2..4, sum 0: the others get 2 / 2 = 1 each
    driven = await drive(suite, task_of(suite), 0, {seat: saying("?") for seat in suite.spec.seats})
    assert driven.final["returns"] == {"player_0": -2.0, "player_1": 1.0, "player_2": 1.0}


async def test_the_rule_random_plays_on_with_a_legal_move() -> None:
    suite = OpenSpiel("connect_four", illegal="random", test_tasks=1)
    driven = await drive(suite, task_of(suite), 0, {seat: saying("?") for seat in suite.spec.seats})
    invalid = [event for step in driven.steps for event in step.events]
    assert len(invalid) == len(driven.said) >= 7 and all(event.kind == "invalid" for event in invalid)
    assert [event.content["played"] for event in invalid] == driven.final["moves"]
    assert sum(driven.final["returns"].values()) == 0.0


async def test_rewards_on_the_way_add_up_to_the_returns() -> None:
    suite = OpenSpiel("hanabi(players=2,colors=2,ranks=2,hand_size=2)", illegal="random", test_tasks=6)
    for task in suite.tasks("test"):
        answers = {seat: suite.random_answer(task, 0, seat) for seat in suite.spec.seats}
        driven = await drive(suite, task, 0, answers)
        for seat in suite.spec.seats:
            paid = sum(step.rewards.get(seat, {}).get("return", 0.0) for step in driven.steps)
            assert paid == pytest.approx(driven.final["returns"][seat])


async def test_a_saved_game_goes_on_with_chance_and_house() -> None:
    suite = OpenSpiel("leduc_poker", house=uniform_house, test_tasks=8)
    for task in suite.tasks("test"):
        env, copy = await suite.make(task, 3), await suite.make(task, 3)
        step = await env.start()
        again = await copy.start(await env.save())
        assert again.asks == step.asks and again.events == ()
        while step.asks:
            reply = {"agent": assistant((step.asks[0].legal or ("",))[-1])}
            step, again = await env.step(reply), await copy.step(reply)
            assert step == again
        assert await env.final() == await copy.final()


async def test_nothing_can_be_saved_before_the_start_or_after_the_end() -> None:
    suite = OpenSpiel("matrix_rps", test_tasks=1)
    env = await suite.make(task_of(suite), 0)
    with pytest.raises(BadInput, match="only a play that has started"):
        await env.save()
    with pytest.raises(BadInput, match="nobody was asked"):
        await env.step({"player_0": assistant("Rock")})
    await env.start()
    await env.step({"player_0": assistant("Rock"), "player_1": assistant("Rock")})
    with pytest.raises(BadInput, match="not over"):
        await env.save()


async def test_chance_is_told_to_those_who_can_see_it() -> None:
    seen = {}
    for game in ("leduc_poker", "backgammon"):
        suite = OpenSpiel(game, test_tasks=1)
        answers = {seat: suite.random_answer(task_of(suite), 0, seat) for seat in suite.spec.seats}
        driven = await drive(suite, task_of(suite), 0, answers)
        seen[game] = [event.to for step in driven.steps for event in step.events if event.kind == "chance"]
    assert seen["leduc_poker"][:2] == [("player_0",), ("player_1",)]  # the private cards
    assert set(seen["leduc_poker"][2:]) <= {None}  # the public one, if the play came so far
    assert set(seen["backgammon"]) == {None}  # dice


async def test_seeds_and_tasks_give_other_worlds_and_globals_do_not() -> None:
    suite = OpenSpiel("leduc_poker", test_tasks=12)
    first, second = list(suite.tasks("test"))[:2]

    async def deals(task: Task, seed: int) -> list[Any]:
        env = await suite.make(task, seed)
        return [event.content for event in (await env.start()).events]

    random.seed(1)
    worlds = [await deals(task, seed) for task in (first, second) for seed in range(6)]
    random.seed(2)
    assert worlds == [await deals(task, seed) for task in (first, second) for seed in range(6)]
    assert len({str(world) for world in worlds}) > 6


async def test_an_unfinished_game_is_lost_by_who_stopped_it_and_unscored_for_the_other() -> None:
    suite = OpenSpiel("kuhn_poker", test_tasks=1)
    task = task_of(suite)
    env = await suite.make(task, 0)
    step = await env.start()
    driven = Driven([step], final=await env.final())
    cut = episode(task, driven, stop=Stop("budget", "tokens", "player_0"))
    scores = (await suite.verifier([(cut,)]))[task.id]
    assert scores["player_0"].value == 0.0 and scores["player_1"].value is None
    broken = episode(task, driven, stop=Stop("error", "it broke"))
    assert await suite.verifier([(broken,)]) == {}
    unread = Episode("x", task, 0, final=None, stop=Stop("done"))
    assert {s.value for s in (await suite.verifier([(unread,)]))["x"].values()} == {None}


@pytest.mark.parametrize(("game", "more", "words"), [
    ("tic_tac_to", {}, "OpenSpiel cannot load 'tic_tac_to'"), ("negotiation", {}, "draws its own chance"),
    ("bargaining", {}, "pass illegal='random'"), ("tic_tac_toe", {"illegal": "shrug"}, "expected one of"),
    ("mfg_crowd_modelling", {}, "mean-field game"),
])
def test_what_cannot_be_played_is_refused_in_words(game: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        OpenSpiel(game, **more)


def test_no_oracle_is_said_so() -> None:
    suite = OpenSpiel("leduc_poker")
    with pytest.raises(BadInput, match="pass oracle="):
        suite.oracle(task_of(suite))


@pytest.mark.parametrize(("text", "legal", "index"), [
    ("Pass", ("pass", "bet"), 0), ("  bet\n", ("pass", "bet"), 1), ("I will bet.", ("pass", "bet"), 1),
    ("bet, not pass", ("pass", "bet"), None), ("better", ("pass", "bet"), None), ("", ("pass", "bet"), None),
    ("bet bet", ("pass", "bet"), 1), ("x(0,1)", ("x(0,0)", "x(0,1)"), 1), ("a x(0,1) b", ("x(0,0)", "x(0,1)"), 1),
    ("12", ("1", "2"), None), ("1_", ("1", "2"), None), ("cell:1!", ("1", "2"), 0),
])
def test_how_a_reply_is_read(text: str, legal: tuple[str, ...], index: int | None) -> None:
    assert read_move(text, legal) == index


async def test_the_default_words_name_game_place_and_moves() -> None:
    suite = OpenSpiel("kuhn_poker", test_tasks=1)
    heard: list[Ask] = []

    def listen(ask: Ask) -> Message:
        heard.append(ask)
        return assistant("Bet")

    await drive(suite, task_of(suite), 0, {"player_0": listen, "player_1": listen})
    text = heard[0].messages[0].text
    assert text.startswith("Kuhn Poker. You are player 0. Reply with one of the moves listed.\n")
    assert text.endswith("Moves: Pass, Bet")
