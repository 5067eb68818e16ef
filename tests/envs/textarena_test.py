"""TextArena: the guessing game by hand and in numbers, a two-player game, and the global generators."""

from __future__ import annotations

import pickle
import random
import threading
from typing import Any

import numpy as np
import pytest

from polyturn.envs.textarena import ENVS, BinarySearch, Game, TextArena, guess_the_number
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.protocols import Ask, Suite
from polyturn.testing import check_suite
from polyturn.types import Limits, Task, assistant, user
from tests.envs.drive import drive, episode, mean_score, saying, score


def first_task(suite: Any) -> Task:
    task: Task = next(iter(suite.tasks("test")))
    return task


async def target(suite: Any, task: Task, seed: int = 0) -> int:
    """The number that this world hides, found by asking for the end of a lost game."""
    driven = await drive(suite, task, seed, {"agent": saying("[1]", "[2]", "[3]", "[4]")})
    return len(driven.said) if "Congratulations" in driven.stop.reason else int(driven.stop.reason.split()[-1])


async def test_it_keeps_the_contract_of_suites() -> None:
    suite = guess_the_number()
    assert isinstance(suite, Suite)
    await check_suite(suite, tasks=2, scored=24)


async def test_the_words_of_a_game() -> None:
    suite = guess_the_number()
    task = first_task(suite)
    hidden = await target(suite, task)
    wrong = [number for number in (8, 4, 12, 2, 6) if number != hidden][:2]
    driven = await drive(suite, task, 0, {"agent": saying(f"[{wrong[0]}]", f"I say [{wrong[1]}]", f"[{hidden}]")})
    way = ["higher" if hidden > number else "lower" for number in wrong]
    assert driven.heard("agent") == [
        "Guess my number from 1 to 16. You have 4 guesses. Reply with one number in square brackets, like [5].",
        f"The number is {way[0]} than {wrong[0]}. Guesses left: 3.",
        f"The number is {way[1]} than {wrong[1]}. Guesses left: 2.",
    ]
    assert driven.steps[0].asks[0].legal == tuple(f"[{number}]" for number in range(1, 17))
    assert set(driven.steps[1].asks[0].legal or ()) == {f"[{n}]" for n in range(1, 17)} - {f"[{wrong[0]}]"}
    assert driven.stop.kind == "done" and driven.steps[-1].rewards == {"agent": {"partial": 1.0}}
    assert driven.final["rewards"] == {"agent": 1.0} and driven.kinds() == []


async def test_as_many_guesses_as_promised_and_the_near_miss_stays_out_of_the_score() -> None:
    suite = guess_the_number()
    task = first_task(suite)
    hidden = await target(suite, task)
    wrong = [number for number in range(1, 17) if number != hidden][:4]
    driven = await drive(suite, task, 0, {"agent": saying(*(f"[{number}]" for number in wrong))})
    assert len(driven.said) == 4
    assert driven.stop.reason == f"no guess left; the number was {hidden}"
    near = 1 - abs(wrong[-1] - hidden) / 15  # textarena's own: 1 - distance of the last guess / (16 - 1)
    assert driven.steps[-1].rewards == {"agent": {"partial": pytest.approx(near)}}
    scores = (await suite.verifier([(episode(task, driven),)]))[task.id]
    assert scores["agent"].value == 0.0 and scores["agent"].success is False
    assert scores["agent"].parts == {"partial": pytest.approx(near)}


@pytest.mark.parametrize("bad", ["", "8", "[0]", "[17]", "[-3]", "［8］", "🦜 [ 8 ]", "[" + "9" * 5000 + "]", "[8.5]"])
async def test_one_invalid_reply_may_be_tried_again_a_second_loses(bad: str) -> None:
    suite = guess_the_number()
    task = first_task(suite)
    driven = await drive(suite, task, 0, {"agent": saying(bad, bad)})
    assert driven.kinds() == ["invalid", "invalid"] and len(driven.said) == 2
    assert driven.heard("agent")[1] == (
        "Invalid guess. Reply with a new number from 1 to 16 in square brackets, like [5]. "
        "A second invalid reply loses."
    )
    assert driven.stop.reason.startswith("Invalid Move")
    assert (await score(suite, [episode(task, driven)]))[task.id] == 0.0


async def test_an_invalid_reply_costs_no_guess_not_even_at_the_last_one() -> None:
    suite = guess_the_number()
    task = first_task(suite)
    hidden = await target(suite, task)
    wrong = [number for number in range(1, 17) if number != hidden]
    said = [f"[{wrong[0]}]", f"[{wrong[0]}]", f"[{wrong[1]}]", "?", f"[{wrong[2]}]", "?", f"[{hidden}]"]
    driven = await drive(suite, task, 0, {"agent": saying(*said)})
    assert driven.kinds() == ["invalid"] * 3  # the repeated number, and "?" twice, never two in a row
    assert (await score(suite, [episode(task, driven)]))[task.id] == 1.0


async def test_digits_of_any_script_count_as_the_package_reads_them() -> None:
    suite = guess_the_number()
    driven = await drive(suite, first_task(suite), 0, {"agent": saying("[٥]", "[5]", "?")})
    assert driven.kinds()[0] == "invalid" and "guess" in driven.heard("agent")[1].lower()  # the 5 is a repeat


@pytest.mark.parametrize(("who", "low", "high"), [("oracle", 0.88, 0.98), ("random", 0.16, 0.35), ("null", 0.0, 0.0)])
async def test_scores_of_the_scripted_players(who: str, low: float, high: float) -> None:
    # 15/16 = 0.9375 and 4/16 = 0.25; over 200 tasks the standard errors are 0.017 and 0.031
    assert low <= await mean_score(guess_the_number(test_tasks=200), who) <= high


async def test_every_number_is_hidden_about_equally_often() -> None:
    suite = guess_the_number(test_tasks=160)
    hidden = [await target(suite, task) for task in suite.tasks("test")]
    counts = np.bincount(hidden, minlength=17)[1:]
    assert counts.sum() == 160 and counts.min() >= 1 and counts.max() <= 24  # 10 each, standard deviation 3.1


async def test_the_world_depends_on_task_and_seed_alone() -> None:
    suite = guess_the_number()
    tasks = list(suite.tasks("test"))[:8]
    random.seed(1)
    first = [await target(suite, task, seed) for task in tasks for seed in (0, 1)]
    random.seed(2)
    again = [await target(guess_the_number(), task, seed) for task in tasks for seed in (0, 1)]
    assert first == again and len(set(first)) > 4


async def test_the_global_generators_are_left_alone_also_by_threads() -> None:
    suite = guess_the_number()
    task = first_task(suite)
    await drive(suite, task, 0, {"agent": suite.oracle(task)})
    random.seed(5)
    np.random.seed(5)
    before = pickle.dumps((random.getstate(), np.random.get_state()))
    await drive(suite, task, 0, {"agent": suite.oracle(task)})
    assert pickle.dumps((random.getstate(), np.random.get_state())) == before

    found: list[list[int]] = []

    def play() -> None:
        import asyncio

        found.append(asyncio.run(all_targets()))

    async def all_targets() -> list[int]:
        return [await target(guess_the_number(), one) for one in list(suite.tasks("test"))[:10]]

    alone = await all_targets()
    threads = [threading.Thread(target=play) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 3
    assert pickle.dumps((random.getstate(), np.random.get_state())) == before


async def test_other_sizes_and_bad_ones() -> None:
    suite = guess_the_number(highest=8, guesses=3, test_tasks=20)
    assert suite.figures == {"oracle": 7 / 8, "random": 3 / 8, "null": 0.0}  # 2**3 - 1 = 7 of 8 numbers
    assert suite.spec.limits == Limits(env_steps=6) and len(list(suite.tasks("test"))) == 20
    with pytest.raises(BadInput, match="highest is 1"):
        guess_the_number(highest=1)


def test_binary_search_reads_the_words() -> None:
    play = BinarySearch()
    opening = user("Guess my number from 1 to 16. You have 4 guesses.")
    assert play(Ask("agent", (opening,))).text == "[8]"
    assert play(Ask("agent", (user("The number is higher than 8. Guesses left: 3."),))).text == "[12]"  # (9 + 16) // 2
    assert play(Ask("agent", (user("The number is lower than 12. Guesses left: 2."),))).text == "[10]"  # (9 + 11) // 2


async def test_a_two_player_game_in_the_words_of_the_package() -> None:
    suite = TextArena(Game("KuhnPoker-v0", {"max_rounds": 1}, players=2, low=-1.0), name="kuhn", test_tasks=4)
    await check_suite(suite, figures={})
    task = first_task(suite)
    driven = await drive(suite, task, 0, {"player_0": saying("[check]"), "player_1": saying("[check]")})
    assert "Kuhn Poker" in driven.heard("player_0")[0] and "[check]" in driven.heard("player_1")[0]
    rewards = driven.final["rewards"]
    assert sorted(rewards.values()) == [-1.0, 1.0]
    scores = (await suite.verifier([(episode(task, driven),)]))[task.id]
    assert sorted(str(one.value) for one in scores.values()) == ["0.0", "1.0"]
    cards = [driven.heard(seat)[0].split("card is: '")[1][0] for seat in ("player_0", "player_1")]
    assert cards[0] != cards[1]  # each seat has read its own card
    assert all(f"card is: '{cards[1]}'" not in text for text in driven.heard("player_0"))


async def test_what_cannot_be_played_is_refused_in_words() -> None:
    suite = TextArena(Game("GuessTheNumbr-v0"))
    env = await suite.make(first_task(suite), 0)
    with pytest.raises(UnknownName, match="did you mean 'GuessTheNumber-v0'"):
        await env.start()
    with pytest.raises(BadInput, match="no scripted solver"):
        suite.oracle(first_task(suite))
    env = await guess_the_number().make(first_task(suite), 0)
    with pytest.raises(BadInput, match="save no state"):
        await env.start(b"{}")
    assert (await env.final())["rewards"] is None


async def test_a_fault_of_the_package_is_an_environment_failure() -> None:
    suite = guess_the_number()
    env = await suite.make(first_task(suite), 0)
    await env.start()
    env._env.game_number = "eight"
    with pytest.raises(EnvironmentFailed, match=r"raised at the reply '\[8\]': TypeError.*a fault of the package"):
        await env.step({"agent": assistant("[8]")})


def test_the_listing_says_what_the_suite_says() -> None:
    (entry,), suite = ENVS, guess_the_number()
    assert entry["name"] == suite.spec.name and entry["seats"] == suite.spec.seats
    assert entry["package"] == suite.spec.package and entry["licence"] == suite.spec.licence
    assert {name: round(value, 3) for name, value in suite.figures.items()} == {
        name: entry[name] for name in ("oracle", "random", "null")}
