"""Constant-size state: the policy sees the task, its own last note, and what is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyturn.desk import Desk
from polyturn.protocols import View
from polyturn.types import Message


@dataclass(frozen=True, slots=True)
class Memory:
    """Shows the system and first messages, the policy's last reply (its note to itself) and what came after it.

    The prompt's length does not grow with the number of turns; each turn is a path of its own.
    """

    first: int = 1

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """Head, last own reply, and the messages after it."""
        system = [message for message in history if message.role == "system"]
        rest = [message for message in history if message.role != "system"]
        replies = [index for index, message in enumerate(rest) if message.role == "assistant"]
        start = max(replies[-1] if replies else 0, self.first)
        return View(tuple(system + rest[: self.first] + rest[start:]))
