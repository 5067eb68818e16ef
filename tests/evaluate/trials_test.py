"""Trials read off small episodes: how they ended and what they used."""

from __future__ import annotations

import pytest

from polyturn.evaluate.trials import Cost, seats_of, trials
from polyturn.types import (
    Call,
    Episode,
    Message,
    PolicyInfo,
    Score,
    Stop,
    Task,
    Trajectory,
    Turn,
    Usage,
    assistant,
    user,
)


def spoken(seat: str, policy: str, turns: list[tuple[str, Usage]]) -> Trajectory:
    """A seat's turns, each with its branch and use, of a second and a half."""
    calls = assistant("", calls=(Call("1", "look", {}), Call("2", "take", {})))
    messages: tuple[Message, ...] = (user("?"), calls, assistant("done"))
    return Trajectory(seat, policy, messages=messages, turns=tuple(
        Turn(at, seat, policy, (0,), 1 + at % 2, (), branch=branch, step=at, usage=usage, started=10.0, ended=11.5)
        for at, (branch, usage) in enumerate(turns)
    ))


def episode(stop: Stop = Stop("done"), value: float | None = 1.0, price: float | None = 0.25) -> Episode:
    use = Usage(100, 40, 10, price)
    return Episode(
        "e", Task("t", "shop"), 0, cast={"agent": PolicyInfo("main"), "user": PolicyInfo("customer")},
        trajectories=(
            spoken("agent", "main", [("", use), ("", use), ("agent#0", use)]),
            spoken("agent/helper", "small", [("", Usage(7, 0, 1, 0.5))]),
            spoken("user", "customer", [("", Usage(50, 0, 5, 1.0))] * 2),
        ),
        stop=stop, started=5.0, ended=25.0,
        scores={} if stop.kind == "error" else {"score": {"agent": Score(value)}},
    )


def test_what_a_seat_used_and_what_the_others_did() -> None:
    (found,) = trials([(episode(),)], seats_of("main"))
    # Two turns of play, a searched one and the helper's: 3 * 100 + 7 prompt tokens; calls at 0, 2 and of the helper.
    assert found.cost == Cost(4, 6, 307, 120, 31, 6.0, 1.25)
    assert found.others == Cost(2, 2, 100, 0, 10, 3.0, 2.0)
    assert (found.turns, found.tokens, found.seconds) == (3, 21, 20.0)  # the search is no turn of play


def test_an_unknown_price_makes_the_sum_unknown() -> None:
    (found,) = trials([(episode(price=None),)], seats_of("main"))
    assert found.cost.usd is None and found.others.usd == 2.0


def test_the_others_are_counted_once_for_an_episode_of_several_rated_seats() -> None:
    both = Episode(
        "e", Task("t", "game"), 0, cast={name: PolicyInfo("main") for name in ("p0", "p1")},
        trajectories=tuple(spoken(seat, "x", [("", Usage(1, 0, 1))]) for seat in ("p0", "p1", "judge")),
        scores={"score": {"p0": Score(1.0), "p1": Score(0.0)}},
    )
    first, second = trials([(both,)], seats_of("main"))
    assert (first.others.calls, second.others.calls) == (1, 0)
    assert first.cost.calls == second.cost.calls == 1


@pytest.mark.parametrize(("stop", "value", "expected"), [
    (Stop("done"), 1.0, (True, "done", "")), (Stop("truncated", "env_steps: 8 spent"), 0.0, (False, "truncated", "")),
    (Stop("budget", "tokens"), None, (False, "budget", "")),
    (Stop("error", "environment: the dice fell"), None, (False, "error", "environment")),
])
def test_how_it_ended(stop: Stop, value: float | None, expected: tuple[bool, str, str]) -> None:
    (found,) = trials([(episode(stop, value),)], seats_of("main"))
    assert (found.success, found.stop, found.failure) == expected
    assert found.failed == (stop.kind == "error")
    assert (found.value is None) == (value is None)
