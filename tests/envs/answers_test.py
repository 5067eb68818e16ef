"""The scripted players and the check of who answered."""

from __future__ import annotations

from collections import Counter

import pytest

from polyturn.envs.answers import check_seats, null_answer, random_answer
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
