"""Full history: the policy sees all that its seat saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyturn.desk import Desk
from polyturn.protocols import View
from polyturn.types import Message


@dataclass(frozen=True, slots=True)
class Keep:
    """Shows the whole log. Every turn extends the path of the one before."""

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """All messages."""
        return View(tuple(history))
