"""Tic-tac-toe and Kuhn poker: words, scores, opponents, and exploitability against known values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from polyturn.envs.openspiel import (
    BEST_AGAINST_RANDOM,
    ENVS,
    EQUILIBRIUM,
    KUHN_MOVES,
    exploitability,
    information_states,
    kuhn_poker,
    kuhn_poker_vs_random,
    minimax,
    tic_tac_toe,
)
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Suite
from polyturn.testing import check_suite
from polyturn.types import Task
from tests.envs.drive import drive, episode, mean_score, saying, score


def task_of(suite: Any, index: int = 0) -> Task:
    tasks: list[Task] = list(suite.tasks("test"))
    return tasks[index]


@pytest.mark.parametrize("suite", [
    tic_tac_toe(), tic_tac_toe(opponent_random=None), kuhn_poker(), kuhn_poker_vs_random(),
], ids=lambda suite: f"{suite.spec.name}, {len(suite.spec.seats)} seats")
async def test_they_keep_the_contract_of_suites(suite: Any) -> None:
    assert isinstance(suite, Suite)
    await check_suite(suite)


# ---------------------------------------------------------------- tic-tac-toe


async def test_the_words_of_tic_tac_toe() -> None:
    suite = tic_tac_toe(opponent_random=None)
    driven = await drive(suite, task_of(suite), 0, {"player_0": saying("5", "1", "9"), "player_1": saying("2", "3")})
    assert driven.heard("player_0") == [
        "Tic-tac-toe. You are X. Three in a row wins. Reply with the number of a free cell.\n1 2 3\n4 5 6\n7 8 9",
        "O takes 2.\n1 O 3\n4 X 6\n7 8 9", "O takes 3.\nX O O\n4 X 6\n7 8 9",
    ]
    assert driven.heard("player_1")[0] == (
        "Tic-tac-toe. You are O. Three in a row wins. Reply with the number of a free cell.\n"
        "X takes 5.\n1 2 3\n4 X 6\n7 8 9"
    )
    assert driven.steps[2].asks[0].legal == ("1", "3", "4", "6", "7", "8", "9")
    assert driven.final["returns"] == {"player_0": 1.0, "player_1": -1.0}
    assert driven.final["moves"] == ["5", "2", "1", "3", "9"]
    scores = (await suite.verifier([(episode(task_of(suite), driven),)]))[task_of(suite).id]
    assert {seat: one.value for seat, one in scores.items()} == {"player_0": 1.0, "player_1": 0.0}
    assert driven.steps[-1].rewards == {"player_0": {"return": 1.0}, "player_1": {"return": -1.0}}


async def test_a_draw_scores_a_half_on_both_sides() -> None:
    suite = tic_tac_toe(opponent_random=None)  # x 1 2 6 7 9 against o 3 4 5 8: no line
    driven = await drive(suite, task_of(suite), 0, {
        "player_0": saying("1", "2", "6", "7", "9"), "player_1": saying("3", "4", "5", "8")})
    assert (await score(suite, [episode(task_of(suite), driven)])) == {task_of(suite).id: 0.5}
    assert driven.steps[-1].rewards == {"player_0": {"return": 0.0}, "player_1": {"return": 0.0}}


async def test_the_learner_sits_in_either_place_and_the_opponent_is_an_event() -> None:
    suite = tic_tac_toe()
    for index, opening in ((0, "You are X"), (1, "You are O")):
        task = task_of(suite, index)
        driven = await drive(suite, task, 0, {"agent": suite.oracle(task)})
        assert opening in driven.heard("agent")[0] and task.payload == {"player": index}
        moves = [event for step in driven.steps for event in step.events]
        assert {event.kind for event in moves} == {"move"} and {event.content["player"] for event in moves} == {
            1 - index}
        assert len(moves) + len(driven.said) == len(driven.final["moves"])


@pytest.mark.parametrize("bad", ["", "0", "10", "5 or 6", "five", "５", "\x00", "-", "1 2 3 4 5 6 7 8 9"])
async def test_an_illegal_reply_loses_at_once(bad: str) -> None:
    suite = tic_tac_toe(opponent_random=None)
    driven = await drive(suite, task_of(suite), 0, {"player_0": saying(bad), "player_1": saying("1")})
    assert driven.kinds() == ["invalid"] and driven.steps[-1].events[0].content["reply"] == bad
    assert driven.final["returns"] == {"player_0": -1.0, "player_1": 1.0}
    assert driven.final["forfeited_by"] == ["player_0"] and driven.stop.seat == "player_0"


async def test_a_taken_cell_is_illegal() -> None:
    suite = tic_tac_toe(opponent_random=None)
    driven = await drive(suite, task_of(suite), 0, {"player_0": saying("5"), "player_1": saying("5")})
    assert driven.final["forfeited_by"] == ["player_1"]


def test_minimax_knows_the_game() -> None:
    assert minimax(()) == (0.0, tuple(range(9)))  # every opening draws
    assert minimax((0, 4))[0] == 0.0 and minimax((0, 1))[0] == 1.0  # beside the corner loses, the centre holds
    assert minimax((4, 0, 8)) == (0.0, (2, 6))  # x has 4 and 8 behind o's 0: o must take a corner, or x forks
    assert minimax((0, 4, 8)) == (0.0, (1, 3, 5, 7))  # opposite corners: o must take an edge


async def test_the_opponent_is_perfect_or_random_as_it_was_told() -> None:
    perfect, wild = tic_tac_toe(opponent_random=0.0, test_tasks=60), tic_tac_toe(opponent_random=1.0, test_tasks=200)
    values = [(await drive(perfect, task, 0, {"agent": perfect.random_answer(task, 0)})).final["returns"]["agent"]
              for task in perfect.tasks("test")]
    assert max(values) <= 0.0 and min(values) == -1.0  # nobody beats minimax
    assert 0.4 <= await mean_score(wild, "random") <= 0.6  # two random players: exactly 0.5 over both places
    first = Counter([(await drive(wild, task, 0, {"agent": wild.oracle(task)})).final["moves"][0]
                     for task in list(wild.tasks("test"))[1::2]])
    assert len(first) == 9  # the opponent opens everywhere


@pytest.mark.parametrize(("who", "low", "high"), [("oracle", 0.76, 0.93), ("random", 0.19, 0.38), ("null", 0.0, 0.0)])
async def test_scores_of_the_scripted_players(who: str, low: float, high: float) -> None:
    # exact: 0.847 and 0.281; standard errors over 200 tasks about 0.021 and 0.030
    assert low <= await mean_score(tic_tac_toe(test_tasks=200), who) <= high


def test_bad_opponents_are_refused() -> None:
    with pytest.raises(BadInput, match=r"opponent_random is 1.5; expected a probability"):
        tic_tac_toe(opponent_random=1.5)


# ---------------------------------------------------------------- Kuhn poker


async def test_the_words_of_kuhn_poker() -> None:
    suite = kuhn_poker()
    task = task_of(suite)
    driven = await drive(suite, task, 0, {"player_0": saying("pass"), "player_1": saying("bet")})
    chance = [event for step in driven.steps for event in step.events if event.kind == "chance"]
    assert [event.to for event in chance] == [("player_0",), ("player_1",)]  # each seat knows its own card alone
    first, second = ("JQK"[int(event.content["outcome"].split(":")[1])] for event in chance)
    assert driven.heard("player_0") == [
        "Kuhn poker with three cards: J is low, Q is middle, K is high. Each player pays 1 and gets one card. A bet "
        "costs 1 more. Two passes or two bets show the cards, and the higher one wins; pass after a bet gives up. "
        f"You hold {first}. You move first. Reply with pass or bet.",
        "The other player says bet. Reply with pass or bet.",
    ]
    assert driven.heard("player_1")[0].endswith(
        f"You hold {second}. The other player says pass. Reply with pass or bet.")
    assert driven.final["returns"] == {"player_0": -1.0, "player_1": 1.0}
    scores = (await suite.verifier([(episode(task, driven),)]))[task.id]
    assert {seat: one.value for seat, one in scores.items()} == {"player_0": 0.25, "player_1": 0.75}  # (2 - 1) / 4


async def test_an_illegal_reply_loses_two() -> None:
    suite = kuhn_poker()
    driven = await drive(suite, task_of(suite), 0, {"player_0": saying("I bet or I pass"), "player_1": saying("bet")})
    assert driven.final["returns"] == {"player_0": -2.0, "player_1": 2.0}
    wordy = await drive(suite, task_of(suite), 0, {"player_0": saying("I Bet!"), "player_1": saying("pass.")})
    assert wordy.kinds() == ["chance", "chance"] and wordy.final["returns"] == {"player_0": 1.0, "player_1": -1.0}


async def test_the_cards_are_dealt_evenly_and_never_twice() -> None:
    suite = kuhn_poker(test_tasks=300)
    deals: Counter[tuple[str, ...]] = Counter()
    for task in suite.tasks("test"):
        env = await suite.make(task, 0)
        deals[tuple(event.content["outcome"] for event in (await env.start()).events)] += 1
    assert len(deals) == 6 and all(first != second for first, second in deals)
    assert min(deals.values()) >= 25 and max(deals.values()) <= 80  # 50 each, standard deviation 6.5


@pytest.mark.parametrize(("who", "low", "high"), [("oracle", 0.53, 0.70), ("random", 0.42, 0.58), ("null", 0.0, 0.0)])
async def test_scores_against_the_random_player(who: str, low: float, high: float) -> None:
    # exact: 0.615 and 0.500; a return deviates by about 1.3, so the score's standard error over 200 tasks is 0.023
    assert low <= await mean_score(kuhn_poker_vs_random(test_tasks=200), who) <= high


def test_the_twelve_information_states_and_what_was_read_in_them() -> None:
    states = {state.name: state for state in information_states()}
    assert len(states) == 12
    assert states["1pb"].replies == ("pass",) and len(states["1pb"].asks) == 2
    assert [message.role for message in states["1pb"].messages] == ["user", "assistant", "user"]
    assert states["1pb"].messages[0] == states["1"].messages[0]
    assert "You hold Q" in states["1pb"].messages[0].text and states["1pb"].messages[1].text == "pass"
    assert states["2b"].messages[0].text.endswith("You hold K. The other player says bet. Reply with pass or bet.")
    assert all(state.legal == KUHN_MOVES for state in states.values())
    assert {state.asks[0].seat for state in information_states(kuhn_poker_vs_random())} == {"agent"}


async def test_information_states_hold_exactly_what_a_seat_is_asked() -> None:
    suite = kuhn_poker()
    dialogues = {tuple(message.text for message in state.messages) for state in information_states(suite)}
    for task in list(suite.tasks("test"))[:20]:
        driven = await drive(suite, task, 0, {"player_0": saying("pass"), "player_1": saying("bet")})
        first, second = driven.heard("player_0")
        assert (first,) in dialogues and (first, "pass", second) in dialogues
        assert (driven.heard("player_1")[0],) in dialogues


def table(bet: dict[str, float] | Any) -> dict[str, dict[str, float]]:
    return {name: {"bet": chance, "pass": 1 - chance} for name, chance in bet.items()}


def test_exploitability_of_known_policies() -> None:
    names = [state.name for state in information_states()]
    assert exploitability(table(dict.fromkeys(names, 0.5))) == pytest.approx(11 / 24)  # uniform: known, 0.458333
    assert exploitability(table(EQUILIBRIUM)) == pytest.approx(0.0, abs=1e-12)
    # Always pass: a bettor wins the ante 1 from either place, so 1 on average over both.
    assert exploitability(table(dict.fromkeys(names, 0.0))) == pytest.approx(1.0)
    # Who bets always and folds J alone: against the bettor K calls (+2), Q breaks even, J folds (-1): 1/3. Against the
    # caller K passes and calls (+2), Q passes and calls (0), J gives up (-1): 1/3.
    assert exploitability(table(BEST_AGAINST_RANDOM)) == pytest.approx(1 / 3)


def test_the_oracle_is_openspiels_best_response() -> None:
    from open_spiel.python import policy
    from open_spiel.python.algorithms import best_response, expected_game_score

    game = kuhn_poker().game
    uniform, oracle = policy.UniformRandomPolicy(game), policy.TabularPolicy(game)
    for name, bet in BEST_AGAINST_RANDOM.items():
        oracle.policy_for_key(name)[:] = [1 - bet, bet]
    values = []
    for place in (0, 1):
        best = best_response.BestResponsePolicy(game, place, uniform).value(game.new_initial_state())
        players = [oracle, uniform] if place == 0 else [uniform, oracle]
        mine = expected_game_score.policy_value(game.new_initial_state(), players)[place]
        assert mine == pytest.approx(best)
        values.append(mine)
    assert values == pytest.approx([1 / 2, 5 / 12])
    assert (2 + sum(values) / 2) / 4 == pytest.approx(0.615, abs=5e-4)


def test_bad_probabilities_are_refused_in_words() -> None:
    good = table(EQUILIBRIUM)
    with pytest.raises(BadInput, match=r"no probabilities for the Kuhn information state '2p'.*all 12"):
        exploitability({name: row for name, row in good.items() if name != "2p"})
    with pytest.raises(UnknownName, match="Kuhn information state named '3'"):
        exploitability({**good, "3": {"pass": 1.0}})
    with pytest.raises(UnknownName, match="did you mean 'bet'"):
        exploitability({**good, "2": {"bets": 1.0}})
    with pytest.raises(BadInput, match="the sum 1"):
        exploitability({**good, "2": {"bet": 0.4, "pass": 0.4}})
    with pytest.raises(BadInput, match="none below 0"):
        exploitability({**good, "2": {"bet": 1.5, "pass": -0.5}})


@pytest.mark.parametrize("entry", ENVS, ids=lambda entry: str(entry["name"]))
def test_the_listing_says_what_the_suites_say(entry: dict[str, Any]) -> None:
    made = {"tic_tac_toe": tic_tac_toe, "kuhn_poker": kuhn_poker, "kuhn_poker_vs_random": kuhn_poker_vs_random}
    suite: Any = made[entry["name"]]()
    assert entry["seats"] == suite.spec.seats and entry["package"] == suite.spec.package
    assert entry["licence"] == suite.spec.licence and entry["name"] == suite.spec.name
    assert {name: entry[name] for name in suite.figures} == suite.figures
