"""Arithmetic word problems: stories against a second reckoning, the calculator, the words of a play, a wrong tool."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from itertools import islice
from typing import Any

import pytest

from polyturn.envs.arithmetic import ENVS, MOST, arithmetic, exact, number_of
from polyturn.errors import BadInput
from polyturn.protocols import Suite
from polyturn.testing import check_suite
from polyturn.types import Task
from tests.envs.drive import Driven, drive, episode, mean_score, saying, score


async def played(suite: Any, *said: str) -> tuple[Task, Driven]:
    task: Task = next(iter(suite.tasks("test")))
    return task, await drive(suite, task, 0, {"agent": saying(*said)})


async def test_it_keeps_the_contract_of_suites() -> None:
    suite = arithmetic()
    assert isinstance(suite, Suite)
    await check_suite(suite, tasks=2, scored=32)
    await check_suite(arithmetic(noise=0.5, steps=3, test_tasks=8), tasks=1, scored=8)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_stories_say_what_is_calculated(steps: int) -> None:
    suite = arithmetic(steps=steps)
    words = {"buys": "+", "gives away": "-", "swaps each one for": "*", "makes": "/"}
    for task in islice(suite.tasks("train"), 400):
        found = suite.problem(task, 0)
        have = int(re.findall(r"\d+", found.text)[0])
        events = re.findall(r"(buys|gives away|swaps each one for|makes) (\d+)", found.text)
        assert len(events) == len(found.steps) == steps
        for (verb, number), step in zip(events, found.steps, strict=True):
            assert step == f"{have} {words[verb]} {number}"
            value = {"+": have + int(number), "-": have - int(number), "*": have * int(number),
                     "/": Fraction(have, int(number))}[words[verb]]
            assert 1 <= value <= MOST and int(value) == value
            have = int(value)
        assert found.answer == have


async def test_a_play_by_hand() -> None:
    suite = arithmetic()
    task = next(iter(suite.tasks("test")))
    found = suite.problem(task, 0)
    said = (f"calc {found.steps[0]}", f"  CALC  {found.steps[1]} ", f"answer {found.answer}.0")
    task, driven = await played(suite, *said)
    first = found.steps[1].split()[0]
    assert driven.heard("agent") == [
        f"{found.text} Use the calculator: reply calc 2 * 3. At the end reply answer 6.", first, str(found.answer)]
    assert driven.final["right"] is True and driven.final["calculated"][0] == f"{found.steps[0]} = {first}"
    assert (await score(suite, [episode(task, driven)]))[task.id] == 1.0


async def test_a_wrong_answer_scores_nothing() -> None:
    suite = arithmetic()
    task, driven = await played(suite, "answer 1000")
    assert driven.final["right"] is False and (await score(suite, [episode(task, driven)]))[task.id] == 0.0


@pytest.mark.parametrize("bad", ["", "12", "answer", "answer twelve", "I think answer 12", "calc", "answer 1/0"])
async def test_a_second_invalid_reply_in_a_row_ends_the_play(bad: str) -> None:
    _, driven = await played(arithmetic(), bad, "calc 1 + 1", bad, bad)
    assert driven.kinds() == ["invalid"] * 3 and driven.stop.reason == "two invalid replies in a row"
    assert driven.heard("agent")[1:] == [
        "Reply calc and an expression, or answer and a number.", "2",
        "Reply calc and an expression, or answer and a number."]


async def test_replies_are_as_many_as_promised() -> None:
    _, driven = await played(arithmetic(steps=2), "calc 1 + 1")
    assert len(driven.said) == 5 and driven.stop.reason == "no reply left"


async def test_what_the_calculator_cannot_read_is_an_answer_of_status_error() -> None:
    _, driven = await played(arithmetic(), "calc 1 / 0", "calc error", "answer 1")
    asked = [step.asks[0].messages[0] for step in driven.steps[1:3]]
    assert [message.text for message in asked] == [
        "error: division by zero", "error: only numbers, + - * / and parentheses"]
    assert all(message.status == "error" for message in asked) and driven.kinds() == []


def test_the_calculator_is_exact_and_takes_nothing_else() -> None:
    assert exact("(7 + 5) * 2 - 3 / 4") == Fraction(93, 4)  # 24 - 0.75
    assert exact("0.1 + 0.2") == Fraction(3, 10)
    assert exact("0.12345678901234567890123 * 10") == Fraction("1.2345678901234567890123")
    assert exact("--2") == 2
    for bad in (
        "2 ** 9", "7 // 2", "__import__('os')", "1e5", "", "1 +", "(1", "1 if 1 else 2", "1" * 81, "1_000", "２",
    ):
        with pytest.raises(BadInput):
            exact(bad)


def test_the_calculator_equals_plain_python_on_random_expressions() -> None:
    draw = random.Random(0)

    def grown(depth: int) -> tuple[str, Fraction]:
        if depth == 0 or draw.random() < 0.3:
            number = draw.randint(1, 30)
            return str(number), Fraction(number)
        (left, a), (right, b) = grown(depth - 1), grown(depth - 1)
        sign = draw.choice("+-*/") if b else draw.choice("+-*")
        value = a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b
        return f"({left} {sign} {right})", value

    for _ in range(1000):
        text, value = grown(3)
        if len(text) <= 80:
            assert exact(text) == value


def test_numbers_are_read_in_any_form() -> None:
    assert number_of("007") == number_of("7.0") == number_of("14/2") == 7
    assert number_of("1/0") is None and number_of("7 or 8") is None and number_of("٧") is None


async def test_a_calculator_that_errs_does_so_as_often_as_said_and_always_alike() -> None:
    suite = arithmetic(noise=0.3)
    wrong = 0
    for task in islice(suite.tasks("train"), 400):
        driven = await drive(suite, task, 0, {"agent": saying("calc 50 + 50", "answer 1")})
        again = await drive(suite, task, 0, {"agent": saying("calc 50 + 50", "answer 1")})
        assert driven.heard("agent") == again.heard("agent")
        off = int(driven.heard("agent")[1]) - 100
        assert abs(off) <= 3
        wrong += off != 0
    assert 90 <= wrong <= 150  # 120, standard deviation 9.2
    assert await mean_score(suite, "oracle", 40) == 1.0


def test_bad_options_and_the_listing() -> None:
    with pytest.raises(BadInput, match="noise 2"):
        arithmetic(noise=2)
    (entry,), suite = ENVS, arithmetic()
    assert entry["name"] == suite.spec.name and entry["seats"] == suite.spec.seats
    assert suite.figures == {name: entry[name] for name in ("oracle", "null")}
