"""Scripted players that every environment needs, and the check that the right seats answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from polyturn.errors import BadInput
from polyturn.protocols import Answer, Ask
from polyturn.seeds import generator
from polyturn.types import Message, Seat, Task, assistant


def null_answer(ask: Ask) -> Message:
    """An empty reply: the player that does nothing.

    >>> null_answer(Ask("agent")).text
    ''
    """
    return assistant("")


def random_answer(task: Task, seed: int, seat: Seat = "agent") -> Answer:
    """A player that draws uniformly from the legal replies, its draws fixed by task, seed and seat.

    Raises: BadInput when an ask lists no legal replies.

    >>> play = random_answer(Task("t", "f"), 0)
    >>> play(Ask("agent", legal=("[1]",))).text
    '[1]'
    """
    draws = generator("random_answer", task.id, seed, seat)

    def play(ask: Ask) -> Message:
        if not ask.legal:
            raise BadInput(f"seat {ask.seat!r} of task {task.id!r} was asked without legal replies; "
                           "a random player needs an environment that lists them")
        return assistant(ask.legal[int(draws.integers(len(ask.legal)))])

    return play


def check_seats(asked: Iterable[Seat], replies: Mapping[Seat, Message]) -> None:
    """Nothing, when exactly the asked seats replied.

    Raises: BadInput otherwise, also when nobody was asked (before ``start``, or after the end).
    """
    expected = sorted(asked)
    if not expected:
        raise BadInput(f"replies came from {sorted(replies)}, but nobody was asked: the episode has not started "
                       "or is over")
    if sorted(replies) != expected:
        raise BadInput(f"replies came from {sorted(replies)}; expected exactly one from each of {expected}")
