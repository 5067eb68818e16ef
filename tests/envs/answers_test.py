"""The scripted players and the check of who answered."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from polyturn.envs.answers import check_seats, null_answer, random_answer, same_answer
from polyturn.errors import BadInput
from polyturn.protocols import Ask
from polyturn.types import Task, assistant

TASK = Task("t", "f")
ASK = Ask("agent", legal=("a", "b", "c"))


def test_the_null_player_says_nothing() -> None:
    assert null_answer(ASK) == assistant("")


def test_the_random_player_is_uniform_and_fixed_by_task_seed_and_seat() -> None:
    play = random_answer(TASK, 0)
    counts = Counter(play(ASK).text for _ in range(300))
    assert set(counts) == {"a", "b", "c"} and min(counts.values()) > 60  # 100 each, standard deviation 8.2
    one, same = random_answer(TASK, 0), random_answer(TASK, 0)
    assert [one(ASK).text for _ in range(20)] == [same(ASK).text for _ in range(20)]
    others = [random_answer(TASK, 1), random_answer(TASK, 0, "other"), random_answer(Task("u", "f"), 0)]
    drawn = ["".join(player(ASK).text for _ in range(20)) for player in (random_answer(TASK, 0), *others)]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("legal", [None, ()])
def test_a_random_player_needs_legal_replies(legal: tuple[str, ...] | None) -> None:
    with pytest.raises(BadInput, match="seat 'agent' of task 't' was asked without legal replies"):
        random_answer(TASK, 0)(Ask("agent", legal=legal))


def test_exactly_the_asked_seats_reply() -> None:
    check_seats(["a", "b"], {"b": assistant(""), "a": assistant("")})
    for replies in ({}, {"a": assistant("")}, {"a": assistant(""), "b": assistant(""), "c": assistant("")}):
        with pytest.raises(BadInput, match=r"expected exactly one from each of \['a', 'b'\]"):
            check_seats(["a", "b"], replies)
    with pytest.raises(BadInput, match="nobody was asked"):
        check_seats([], {"a": assistant("")})


@pytest.mark.parametrize(("given", "expected", "same"), [
    ("7", 7, True), (" 7.0 ", "7", True), ("7.5", 7.5, True), ("7", 8, False), ("seven", "seven ", True),
    ("7 euros", 7, False), ("", "", True), ("None", "none", False), ("True", 1, False), ("1e2", 100, True),
    ("nan", "nan", False), ("[1, 2]", [1, 2], True), ("[1.0, '2']", [1, 2], True), ("(1, 2)", "[1, 2]", True),
    ("[1]", [1, 2], False), ("[2, 1]", [1, 2], False), ("[[1], 'a']", [[1.0], "a"], True), ("[1", [1], False),
    ("[" * 5000, [1], False), ("1", [1], False), ("9" * 400, 7, False),
])
def test_answers_are_compared_as_values(given: Any, expected: Any, same: bool) -> None:
    """Lists element by element: a missing operator in the released checker of CodeAct sends them to string comparison,
    where ``[1.0, 2]`` and ``[1, 2]`` differ."""
    assert same_answer(given, expected) is same
