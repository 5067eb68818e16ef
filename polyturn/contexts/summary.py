"""Summaries written by the policy itself, as turns that can be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from polyturn.desk import Desk
from polyturn.errors import BadInput
from polyturn.protocols import View
from polyturn.types import Message, Sampling, user

ASK = "Summarise what has happened so far and what you know, for yourself. Then you will go on from the summary alone."


@dataclass(frozen=True, slots=True)
class Summary:
    """When the view would pass ``limit`` tokens, the policy is called with purpose ``summary`` and goes on from what it
    wrote, the system and first messages, and the messages after the last summary (at least the newest).
    """

    limit: int
    first: int = 1
    ask: str = ASK
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise BadInput(f"Summary(limit={self.limit}): expected a number of tokens >= 1")

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """The messages since the last summary, summarised first where they are too long."""
        shown = self.shown(history)
        if len(shown) <= self.first + 1 or desk.count(shown) <= self.limit:
            return View(tuple(shown))
        newest = shown[-1]
        request = [*shown[:-1], user(self.ask, origin="reminder")]
        turn = await desk.say(request, purpose="summary", sampling=self.sampling)
        summary = user(desk.message(turn).text, origin="summary", id=f"{desk.seat}:summary@{turn.at}")
        kept = [*self.head(history), summary, newest]
        return View(tuple(kept), added=(summary,))

    def head(self, history: Sequence[Message]) -> list[Message]:
        """The messages that are always shown: system, and the first others."""
        system = [message for message in history if message.role == "system"]
        rest = [message for message in history if message.role != "system"]
        return system + rest[: self.first]

    def shown(self, history: Sequence[Message]) -> list[Message]:
        """The head, the newest summary, and what came after the message that stood before it."""
        head = self.head(history)
        summaries = [index for index, message in enumerate(history) if message.origin == "summary"]
        if not summaries:
            return head + [message for message in history if message not in head]
        last = summaries[-1]
        return [*head, history[last], history[last - 1], *history[last + 1 :]]
