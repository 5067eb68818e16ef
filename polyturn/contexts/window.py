"""A sliding window over the dialogue, by messages or by tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyturn.desk import Desk
from polyturn.errors import BadInput
from polyturn.protocols import View
from polyturn.types import Message


@dataclass(frozen=True, slots=True)
class Window:
    """Shows the system messages, the first ``first`` other messages and the last ``last``; the rest is left out.

    The cut falls before a message that is no reply and no tool result, so that no answer stands without its question.
    Each shift costs a new path; the replies still in the window are copied there unsampled, so each is trained once.
    """

    last: int
    first: int = 1

    def __post_init__(self) -> None:
        if self.last < 1 or self.first < 0:
            raise BadInput(f"Window(last={self.last}, first={self.first}): expected last >= 1 and first >= 0")

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """The windowed messages."""
        system = [message for message in history if message.role == "system"]
        rest = [message for message in history if message.role != "system"]
        if len(rest) <= self.first + self.last:
            return View(tuple(system + rest))
        start = len(rest) - self.last
        while start < len(rest) - 1 and rest[start].role in ("assistant", "tool"):
            start += 1
        return View(tuple(system + rest[: self.first] + rest[start:]))


@dataclass(frozen=True, slots=True)
class Fit:
    """Shows the system messages, the first ``first`` other messages and as many of the newest as fit into ``limit``
    tokens: hard truncation. The newest are shown even if they do not fit, from the last reply on.

    The cut falls as in :class:`Window`.
    """

    limit: int
    first: int = 1

    def __post_init__(self) -> None:
        if self.limit < 1 or self.first < 0:
            raise BadInput(f"Fit(limit={self.limit}, first={self.first}): expected limit >= 1 and first >= 0")

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """The messages that fit."""
        system = [message for message in history if message.role == "system"]
        rest = [message for message in history if message.role != "system"]
        head, tail = system + rest[: self.first], rest[self.first :]
        starts = [0, *(i for i, message in enumerate(tail) if i and message.role not in ("assistant", "tool"))]
        for start in starts:
            if desk.count([*head, *tail[start:]]) <= self.limit:
                return View((*head, *tail[start:]))
        return View((*head, *tail[starts[-1] :]))
