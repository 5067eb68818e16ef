"""Rows of credit: each token at its place in its span, nothing lost and nothing made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyturn.arrays import Measured, Tokens, lay_out, take
from polyturn.errors import BadInput, NotFinite, UnknownName
from polyturn.record.credit import credit_rows
from polyturn.types import Episode, Span, Task, Trajectory, Turn, assistant, user


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


def tokens() -> Tokens:
    """Seat a: prompt [5, 6], turn 0 wrote [7, 8] and, after it, [9]; a second prompt [5] branches, turn 1 wrote [1]."""
    spans = (
        Span(-1, ints(5, 6)), Span(0, ints(7, 8), True, np.array([-0.1, -0.2])),
        Span(1, ints(9), True, np.array([np.nan])), Span(-1, ints(5)), Span(3, ints(1), True, np.array([-0.4])),
    )
    fork = Turn(3, "a", "main", (0,), 1, (1,), branch="a#0")
    turns = (Turn(2, "a", "main", (0,), 1, (1, 2)), fork, Turn(5, "a", "main", (0,), 1, (4,)))
    trajectory = Trajectory("a", "main", None, (user("x"), assistant("y")), turns, spans)
    return lay_out([(Episode("e", Task("t", "f"), 0, train=frozenset({"a"}), trajectories=(trajectory,)),)], "main")


MEASURED = Measured(np.array([-0.5, -0.6, -0.7, -0.8]), entropy_N=np.array([0.1, 0.2, 0.3, 0.4]))
ADVANTAGE = np.array([1.0, 2.0, 3.0, 4.0])
WEIGHT = np.array([0.25, 0.25, 0.0, 0.5])


def listed(row: Any, *names: str) -> list[Any]:
    return [None if row[name] is None else row[name].tolist() for name in names]


def test_one_row_a_span() -> None:
    rows = credit_rows(tokens(), MEASURED, ADVANTAGE, WEIGHT, stage="stage2", version=7)
    assert [(row["episode"], row["seat"], row["policy"], row["at"], row["span"]) for row in rows] == [
        ("e", "a", "main", 2, 1), ("e", "a", "main", 2, 2), ("e", "a", "main", 5, 4)]
    first, second, third = rows
    assert listed(first, "advantage", "weight", "old", "behavior", "entropy", "reference", "clipped") == [
        [1.0, 2.0], [0.25, 0.25], [-0.5, -0.6], [-0.1, -0.2], [0.1, 0.2], None, None]
    assert listed(second, "advantage", "weight", "old") == [[3.0], [0.0], [-0.7]]
    assert np.isnan(second["behavior"]).all()
    assert listed(third, "advantage", "weight", "behavior") == [[4.0], [0.5], [-0.4]]
    assert {(row["stage"], row["version"], row["waiver"]) for row in rows} == {("stage2", 7, "")}


def test_part_of_a_span_stands_at_its_place() -> None:
    """Tokens 1 and 3 alone: the first of span 1 is unknown and weighs nothing."""
    some = np.array([1, 3], np.int32)
    measured = Measured(MEASURED.old_N[some])
    clipped = np.array([True, False])
    rows = credit_rows(take(tokens(), some), measured, ADVANTAGE[some], WEIGHT[some], stage="s", clipped_N=clipped)
    assert [row["span"] for row in rows] == [1, 4]
    assert listed(rows[0], "weight", "clipped") == [[0.0, 0.25], [False, True]]
    assert np.isnan(rows[0]["advantage"][0]) and rows[0]["advantage"][1] == 2.0


def test_the_order_of_tokens_does_not_matter() -> None:
    order = np.array([3, 1, 0, 2], np.int32)
    some = take(tokens(), order)
    mixed = credit_rows(some, Measured(MEASURED.old_N[order]), ADVANTAGE[order], WEIGHT[order], stage="")
    plain = credit_rows(tokens(), Measured(MEASURED.old_N), ADVANTAGE, WEIGHT, stage="")
    for a, b in zip(mixed, plain, strict=True):
        assert a["span"] == b["span"]
        assert listed(a, "advantage", "weight", "old") == listed(b, "advantage", "weight", "old")


def test_a_token_given_twice_gets_a_second_row() -> None:
    """So that the audit can see it."""
    twice = np.array([0, 1, 1], np.int32)
    some = take(tokens(), twice)
    rows = credit_rows(some, Measured(MEASURED.old_N[twice]), ADVANTAGE[twice], WEIGHT[twice], stage="")
    assert [(row["span"], row["weight"].tolist()) for row in rows] == [(1, [0.25, 0.25]), (1, [0.0, 0.25])]


def test_no_tokens_no_rows() -> None:
    nothing = np.array([], np.int32)
    empty = np.array([])
    assert credit_rows(take(tokens(), nothing), Measured(empty), empty, empty, stage="") == []


def test_shared_prefixes_do_not_move_places() -> None:
    """Two episodes with one prompt share its nodes in the tree; each reply still begins its own span."""
    source = tokens().trajectories[0].episode
    both = lay_out([(source, replace(source, id="f"))], "main")
    rows = credit_rows(both, Measured(np.full(8, -0.5)), np.arange(8.0), np.full(8, 0.1), stage="")
    assert [(row["episode"], row["span"], row["advantage"].tolist()) for row in rows] == [
        ("e", 1, [0.0, 1.0]), ("e", 2, [2.0]), ("e", 4, [3.0]), ("f", 1, [4.0, 5.0]), ("f", 2, [6.0]), ("f", 4, [7.0])]


def test_bad_input() -> None:
    with pytest.raises(BadInput, match=r"advantage_N has shape \(3,\); expected \(4,\)"):
        credit_rows(tokens(), MEASURED, ADVANTAGE[:3], WEIGHT, stage="")
    with pytest.raises(NotFinite, match=r"weight_N\[1\] is nan \(episode e, seat a, turn 0\)"):
        credit_rows(tokens(), MEASURED, ADVANTAGE, np.array([0.1, np.nan, 0, 0]), stage="")
    with pytest.raises(NotFinite, match=r"advantage_N\[3\] is inf \(episode e, seat a, turn 1\)"):
        credit_rows(tokens(), MEASURED, np.array([0, np.nan, 0, np.inf]), WEIGHT, stage="")
    with pytest.raises(UnknownName, match="did you mean 'demonstrations'"):
        credit_rows(tokens(), MEASURED, ADVANTAGE, WEIGHT, stage="", waivers=("demonstration",))  # type: ignore[arg-type]
