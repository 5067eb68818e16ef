"""Hashes and required texts by hand, and who gets no score."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from polyturn.envs.end_state import EndState, hashable, sha256_of, was_said
from polyturn.errors import BadInput
from polyturn.types import Episode, Stop, Task

STATE = {"orders": {"A2": {"size": "small"}, "A1": {"size": "huge", "tags": ["x", "y"]}}, "count": 2}


def test_the_hash_is_that_of_the_nested_tuple_with_sorted_keys() -> None:
    orders = "(('A1', (('size', 'huge'), ('tags', ('x', 'y')))), ('A2', (('size', 'small'),)))"
    text = f"(('count', 2), ('orders', {orders}))"
    assert str(hashable(STATE)) == text
    assert sha256(text.encode()).hexdigest() == sha256_of(STATE)
    # printf "%s" "(('a', 1),)" | sha256sum
    assert sha256_of({"a": 1}) == "4f798fe9c78df93aa1bcc261edbd3e1e9b716ab581158271dd62421072c7f624"


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    turned = {"count": 2, "orders": {"A1": {"tags": ["x", "y"], "size": "huge"}, "A2": {"size": "small"}}}
    assert sha256_of(turned) == sha256_of(STATE)
    assert sha256_of(["x", "y"]) != sha256_of(["y", "x"]) and sha256_of({"y", "x"}) == sha256_of({"x", "y"})


@pytest.mark.parametrize(("output", "said", "expected"), [
    ("1250", ["It costs 1,250 in all."], True),    # commas of the message are left out
    ("1,250", ["It costs 1,250 in all."], False),  # ... and not those of the output, as in the released scorer
    ("Packed", ["it is PACKED"], True), ("packed", ["pac", "ked"], False), ("packed", [], False), ("", ["x"], True),
])
def test_what_was_said(output: str, said: list[str], expected: bool) -> None:
    assert was_said(output, said) is expected


def ended(**final: Any) -> Episode:
    known = {"db_sha256": "a", "gold_sha256": "a", "said": ["Done."], "outputs": [], "valid": True,
             "stopped_by": "user"}
    return Episode("e", Task("t", "f"), 0, final={**known, **final})


@pytest.mark.parametrize(("final", "value", "parts"), [
    ({}, 1.0, {"db": 1.0, "said": 1.0}),
    ({"db_sha256": "b"}, 0.0, {"db": 0.0, "said": 1.0}),
    ({"outputs": ["80", "35"], "said": ["80 and", "then 35"]}, 1.0, {"db": 1.0, "said": 1.0}),
    ({"outputs": ["80", "35"], "said": ["80"]}, 0.0, {"db": 1.0, "said": 0.0}),
    ({"db_sha256": "b", "outputs": ["80"], "said": []}, 0.0, {"db": 0.0, "said": 0.0}),
])
def test_scores(final: dict[str, Any], value: float, parts: dict[str, float]) -> None:
    score = EndState().score(ended(**final))
    assert (score.value, score.success, score.parts) == (value, value == 1.0, parts)


async def test_a_user_that_failed_is_neither_success_nor_failure() -> None:
    verify = EndState()
    silent, spent = ended(valid=False), replace(ended(), id="s", stop=Stop("budget", "tokens: 9 spent", "user"))
    broken, own = replace(ended(), id="b", stop=Stop("error", "x")), replace(ended(), id="o", stop=Stop(
        "budget", "tokens: 9 spent", "agent"))
    given = await verify([(silent, spent, broken, own)])
    assert {name: scores["agent"].value for name, scores in given.items()} == {"e": None, "s": None, "o": 1.0}


def test_doing_nothing_wins_no_task_where_talking_is_asked_for() -> None:
    nothing = ended(said=[])
    assert EndState().score(nothing).value == 1.0  # the hack: the gold changes nothing, and so did the agent
    assert EndState(talked=True).score(nothing).value == 0.0
    assert EndState(talked=True).score(ended(said=[""])).value == 0.0


def test_a_dialogue_that_nobody_ended_scores_zero_where_that_is_asked_for() -> None:
    cut, whole = ended(stopped_by=""), ended()
    assert EndState().score(cut).value == 1.0
    score = EndState(stopped=True).score(cut)
    assert (score.value, score.success, score.parts) == (0.0, False, {"db": 1.0, "said": 1.0, "before_stop": 1.0})
    assert EndState(stopped=True).score(whole).value == 1.0
    wrong = EndState(stopped=True).score(ended(db_sha256="b"))
    assert (wrong.value, wrong.parts["before_stop"]) == (0.0, 0.0)


def test_a_final_state_of_something_else() -> None:
    with pytest.raises(BadInput, match="lacks"):
        EndState().score(Episode("e", Task("t", "f"), 0, final={"returns": {}}))
    assert EndState().score(Episode("e", Task("t", "f"), 0)).value is None
