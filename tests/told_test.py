"""Stages are heard by who listens, for the rows they speak of, and by nobody else."""

from __future__ import annotations

import numpy as np

from polyturn.told import among, listen, tell

HERE = np.array([0, 2], np.int32)


def test_nobody_listens_by_default() -> None:
    tell("channels", "B", np.zeros(2))
    with listen() as heard:
        pass
    assert heard == []


def test_each_axis_is_read_at_its_place() -> None:
    with listen() as heard:
        tell("channels", "B", np.array([1.0, 2.0]), key=["group"])
        tell("normalise", "BK", np.array([[1.0, 2.0], [3.0, 4.0]]), count=np.array([[5, 6], [7, 8]]))
        tell("accumulate", "N", np.array([0.5, 0.25, np.nan]), gamma=0.9)
    assert [told.at(1, 0, HERE) for told in heard] == [
        {"stage": "channels", "out": 2.0, "key": ["group"]}, {"stage": "normalise", "out": 3.0, "count": 7},
        {"stage": "accumulate", "out": [0.5, None], "gamma": 0.9},
    ]


def test_rows_of_others_are_not_spoken_of() -> None:
    with listen() as heard, among(np.array([True, False, True])), among(np.array([True, True, False])):
        tell("channels", "B", np.array([1.0, 2.0, 3.0]))
    assert [heard[0].at(b, 0, HERE) is not None for b in range(3)] == [True, False, False]


def test_listeners_within_listeners_hear_for_themselves() -> None:
    with listen() as outer:
        with listen() as inner:
            tell("a", "B", np.zeros(1))
        tell("b", "B", np.zeros(1))
    assert ([t.stage for t in outer], [t.stage for t in inner]) == (["b"], ["a"])
