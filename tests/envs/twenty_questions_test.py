"""Twenty questions: the table, the words of a game, what it pays, and the figures of the scripted players."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from polyturn.envs.twenty_questions import (
    ENVS,
    QUESTIONS,
    WORDS,
    best_question,
    expected_return,
    guess_of,
    twenty_questions,
)
from polyturn.errors import BadInput
from polyturn.protocols import Suite
from polyturn.testing import check_suite
from polyturn.types import Task
from tests.envs.drive import drive, episode, mean_score, saying, score


def task_hiding(suite: Any, word: str) -> Task:
    return next(task for task in suite.tasks("train") if suite.word(task, 0) == word)


async def test_it_keeps_the_contract_of_suites() -> None:
    suite = twenty_questions()
    assert isinstance(suite, Suite)
    await check_suite(suite, tasks=2, scored=64)
    await check_suite(twenty_questions(words=10, questions=6, test_tasks=16), tasks=1, scored=16)


def test_the_questions_tell_all_words_apart() -> None:
    rows = {word: tuple(word in those for those in QUESTIONS.values()) for word in WORDS}
    assert len(WORDS) >= 10 and len(set(rows.values())) == len(WORDS)
    assert set().union(*QUESTIONS.values()) <= set(WORDS)


async def test_brief_rules_list_nothing_and_change_nothing_else() -> None:
    suite = twenty_questions(brief=True)
    driven = await drive(suite, task_hiding(suite, "bee"), 0, {"agent": saying("Can it fly?", "Is it a bee?")})
    assert driven.heard("agent") == ["Find it.", "Yes."] and driven.final["found"]


async def test_a_game_by_hand() -> None:
    suite = twenty_questions()
    task = task_hiding(suite, "bee")
    said = ("Is it an animal?", "can it fly", "Is it made of metal?", "Is it an eagle?", "Is it a bee?")
    driven = await drive(suite, task, 0, {"agent": saying(*said)})
    assert driven.heard("agent")[1:] == ["Yes.", "Yes.", "No.", "No."]
    assert driven.heard("agent")[0].startswith("I think of one of these: dog, horse, eagle, bee, salmon")
    assert [step.rewards["agent"]["question"] for step in driven.steps[1:]] == [-1.0] * 4 + [0.0]
    assert driven.final == {"word": "bee", "found": True, "turns": 5, "paid": 4, "over": True}
    # 4 of 20 turns cost 1: 1 - 4 / 20 = 0.8
    assert (await score(suite, [episode(task, driven)]))[task.id] == pytest.approx(0.8)


async def test_the_right_guess_at_once_is_worth_one() -> None:
    suite = twenty_questions()
    task = task_hiding(suite, "oak")
    driven = await drive(suite, task, 0, {"agent": saying("Is it an oak?")})
    assert (await score(suite, [episode(task, driven)]))[task.id] == 1.0


async def test_a_game_not_solved_scores_nothing_and_an_invalid_reply_costs_a_turn() -> None:
    suite = twenty_questions(questions=3)
    task = task_hiding(suite, "dog")
    driven = await drive(suite, task, 0, {"agent": saying("Is it a cat?", "", "Is it an animal?")})
    assert driven.kinds() == ["invalid", "invalid"]
    assert driven.heard("agent")[1] == "That is none of the questions and guesses."
    assert driven.stop.reason == "no turn left; the word was dog"
    assert (await score(suite, [episode(task, driven)]))[task.id] == 0.0


async def test_the_word_is_not_given_away_by_naming_several() -> None:
    # A fault of answerers that look for the word in the reply: naming all words would win.
    suite = twenty_questions(questions=1)
    task = task_hiding(suite, "dog")
    driven = await drive(suite, task, 0, {"agent": saying(" ".join(guess_of(word) for word in WORDS))})
    assert driven.final["found"] is False


@pytest.mark.parametrize(("who", "low", "high"), [("oracle", 0.83, 0.86), ("random", 0.33, 0.45), ("null", 0.0, 0.0)])
async def test_scores_of_the_scripted_players(who: str, low: float, high: float) -> None:
    # Over 300 tasks the standard errors are below 0.003 (oracle: 1..4 of 20 turns cost) and 0.02.
    assert low <= await mean_score(twenty_questions(test_tasks=300), who, 300) <= high


def test_the_best_play_by_hand() -> None:
    # Two words: guess one, half of the time it cost 1. Three words that one question cuts 1 : 2: guessing costs
    # 2/3 * (1 + 1/2) = 1; asking first costs 1 + 2/3 * 1/2 = 4/3.
    assert expected_return(frozenset({"dog", "oak"})) == -0.5
    assert best_question(frozenset({"dog", "oak", "bee"})) == (-1.0, "Is it a dog?")


def test_no_player_of_one_look_ahead_does_better() -> None:
    # The value of asking anything first and playing best afterwards is never above the best, on every set of four.
    for words in itertools.combinations(WORDS, 4):
        left = frozenset(words)
        for those in QUESTIONS.values():
            yes, no = left & those, left - those
            if yes and no:
                asked = -1 + (len(yes) * expected_return(yes) + len(no) * expected_return(no)) / 4
                assert asked <= expected_return(left) + 1e-12


def test_every_word_is_hidden_about_equally_often() -> None:
    suite = twenty_questions(test_tasks=600)
    counts = np.unique([suite.word(task, 0) for task in suite.tasks("test")], return_counts=True)[1]
    assert len(counts) == 12 and counts.min() > 25 and counts.max() < 80  # 50 each, standard deviation 6.8


def test_bad_sizes_and_the_listing() -> None:
    with pytest.raises(BadInput, match="words is 1"):
        twenty_questions(words=1)
    (entry,), suite = ENVS, twenty_questions()
    assert entry["name"] == suite.spec.name and entry["seats"] == suite.spec.seats
    assert {name: round(value, 3) for name, value in suite.figures.items()} == {
        name: entry[name] for name in ("oracle", "random", "null")}
