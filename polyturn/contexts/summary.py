"""Summaries written by the policy itself, as turns that can be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from polyturn.desk import Desk
from polyturn.errors import BadInput, BudgetSpent
from polyturn.protocols import View
from polyturn.types import Message, Sampling, user

ASK = "Summarise what has happened so far and what you know, for yourself. Then you will go on from the summary alone."
OVERFLOW = "the context overflowed: rolled back before the summary"


@dataclass(frozen=True, slots=True)
class Summary:
    """When the view would pass ``limit`` tokens, the policy is called with purpose ``summary`` and goes on from what it
    wrote, the system and first messages, and the messages after the last summary.

    What overflowed is the newest reply with all that followed it. Either it is kept: the summary is written without the
    newest message, which stands after it. Or, with ``roll_back``, it is taken back: the summary is written from what
    fitted, the reply's turn weighs zero, and its effect on the environment stays unseen; but where it is the only reply
    since the last summary, it is summarised too, for otherwise nothing would ever be gained. There is always a reply
    between two summaries.

    ``most`` = the summaries that an episode may have: when one more is needed, ``view`` raises BudgetSpent. ``policy``
    names another policy to write them (a frozen one); None = the seat's own.
    """

    limit: int
    first: int = 1
    ask: str = ASK
    sampling: Sampling = field(default_factory=Sampling)
    roll_back: bool = False
    most: int | None = None
    policy: str | None = None

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise BadInput(f"Summary(limit={self.limit}): expected a number of tokens >= 1")
        if self.most is not None and self.most < 0:
            raise BadInput(f"Summary(most={self.most}): expected a number of summaries >= 0, or None")

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """The messages since the last summary, summarised first where they are too long."""
        head, since = self.head(history), self.since(history)
        replies = [index for index, message in enumerate(since) if message.role == "assistant"]
        if not replies or desk.count([*head, *since]) <= self.limit:
            return View((*head, *since))
        done = sum(message.origin == "summary" for message in history)
        if self.most is not None and done >= self.most:
            raise BudgetSpent(f"summaries: {self.most} spent")
        kept = since if self.roll_back else since[:-1]
        if self.roll_back and len(replies) > 1:
            kept = since[: replies[-1]]
            back = desk.turn_of(since[replies[-1]])
            if back is not None:
                desk.drop(back, OVERFLOW)
        request = (*head, *kept, user(self.ask, origin="reminder"))
        turn = await desk.say(request, purpose="summary", policy=self.policy, sampling=self.sampling)
        summary = user(desk.message(turn).text, origin="summary", id=f"{desk.seat}:summary@{turn.at}")
        return View((*head, summary, *([] if self.roll_back else since[-1:])), added=(summary,))

    def head(self, history: Sequence[Message]) -> list[Message]:
        """The messages that are always shown: system, and the first others."""
        system = [message for message in history if message.role == "system"]
        rest = [message for message in history if message.role != "system"]
        return system + rest[: self.first]

    def since(self, history: Sequence[Message]) -> list[Message]:
        """The newest summary and what is shown after it; without one, all but the head."""
        summaries = [index for index, message in enumerate(history) if message.origin == "summary"]
        if not summaries:
            head = self.head(history)
            return [message for message in history if not any(message is other for other in head)]
        last = summaries[-1]
        newest = [] if self.roll_back else [history[last - 1]]
        return [history[last], *newest, *history[last + 1 :]]
