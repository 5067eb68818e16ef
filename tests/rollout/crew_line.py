"""A line of matches for environments, over the books of leases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from polyturn.protocols import Match, Policy
from polyturn.rollout.leases import Leases, Order
from polyturn.types import Episode


class Line:
    """A queue over the books of leases that ends when all is played."""

    def __init__(self, matches: list[Match], policy: Policy) -> None:
        self.books, self.over, self.policy = Leases(), asyncio.Event(), policy
        for place, one in enumerate(matches):
            self.books.open(one, 0, place)
        self.why: list[str] = []
        self.episodes: list[Episode] = []
        self._changed, self._ended = asyncio.Event(), asyncio.Event()

    async def order(self, environment: str) -> Order:
        while (found := self.books.take_order(environment)) is None:
            self._changed.clear()
            await self._changed.wait()
        return found

    def played(self, order: Order, episode: Episode, environment: str) -> None:
        self.books.give(order, episode, environment)
        self.episodes.append(episode)
        self._ended.set()
        if all(ticket.complete for ticket in self.books.tickets.values()):
            self.over.set()

    async def has(self, count: int) -> None:
        """Waits until so many rollouts were played."""
        while len(self.episodes) < count:
            self._ended.clear()
            await self._ended.wait()

    async def lose(self, environment: str, why: str) -> None:
        self.why += [f"{order.ticket.number}.{order.trial}: {why}" for order in self.books.lost(environment)]
        self._changed.set()

    def policies(self, order: Order) -> Mapping[str, Policy]:
        return {"main": self.policy}
