"""Rounds in which contenders take turns."""

from __future__ import annotations

from benchmarks.timing import interleaved, sweep


def test_every_contender_runs_in_every_round_and_the_first_round_is_not_counted() -> None:
    ran: list[str] = []
    found = interleaved({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, repeats=3)
    assert ran == ["a", "b", "b", "a", "a", "b", "b", "a"], "the order turns, so that nobody is always first"
    assert {name: len(timing.seconds) for name, timing in found.items()} == {"a": 3, "b": 3}
    assert all(timing.worst >= timing.median > 0 for timing in found.values())


def test_a_sweep_finds_the_setting_that_takes_least() -> None:
    found = sweep([3_000_000, 10], lambda size: sum(range(size)))
    assert min(found, key=found.__getitem__) == 10
