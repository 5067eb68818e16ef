"""Scripted players that every environment needs, and the check that the right seats answered."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any, Final

from polyturn.errors import BadInput
from polyturn.protocols import Answer, Ask
from polyturn.seeds import generator
from polyturn.types import Message, Seat, Task, assistant

LONGEST_LITERAL: Final = 10_000
"""Characters of a text that is read as a Python literal."""


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


def same_answer(given: Any, expected: Any) -> bool:
    """Whether two answers are the same value, however each was written.

    Numbers are compared as numbers, texts without the space around them, lists element by element (both may be written
    as Python literals). A truth value is no number.

    >>> same_answer(" 7.0 ", 7), same_answer("[1, 'b']", ["1.0", "b"]), same_answer("7 euros", 7)
    (True, True, False)
    """
    one, other = _value(given), _value(expected)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same_answer(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)


def _value(written: Any) -> float | int | str | list[Any]:
    """What an answer says: a whole number, else another number, else a list, else a text."""
    if isinstance(written, list | tuple):
        return list(written)
    text = str(written).strip()
    for read in (int, float):
        try:
            number = read(text)
        except ValueError:
            continue
        return int(number) if abs(number) < 1e15 and number == int(number) else number
    if text[:1] in ("[", "(") and len(text) <= LONGEST_LITERAL:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return text
        if isinstance(found, list | tuple):
            return list(found)
    return text
