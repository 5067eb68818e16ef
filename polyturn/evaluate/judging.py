"""A judge beside the suite's own verifier: a function that says of each recorded episode whether it succeeded.

What it says stands in the record under its own name and moves no mean; how far it agrees with the suite's verifier is
what :mod:`polyturn.evaluate.agreement` computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import TypeAlias

from polyturn.errors import BadInput, DeadlinePassed, NotFinite, PolyturnError
from polyturn.evaluate.trials import Seats
from polyturn.protocols import Scores
from polyturn.types import Episode, Group, Score, Seat

Said: TypeAlias = "bool | float | Score | None"
"""A verdict; a number is a score in 0..1, None = no verdict."""
JudgeFunction: TypeAlias = "Callable[[Episode], Said | Mapping[Seat, Said] | Awaitable[Said | Mapping[Seat, Said]]]"
"""One verdict for the rated seats, or one for each of them; may be a coroutine function."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A :class:`polyturn.protocols.Verifier` of a function; ``seats`` names the seats of an episode that are judged."""

    name: str
    judge: JudgeFunction
    seats: Seats
    concurrency: int = 64
    timeout_s: float = 600.0
    """The longest that one episode may take to be judged."""

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        """Episode id -> seat -> score; an abstention is a score without a value.

        Raises: BadInput where the function raises or gives what is no verdict, DeadlinePassed where it takes too long:
        neither is ever taken for a verdict. NotFinite for a number outside 0..1.
        """
        gate = asyncio.Semaphore(self.concurrency)
        episodes = [episode for group in groups for episode in group]

        async def one(episode: Episode) -> Mapping[Seat, Score]:
            async with gate:
                return await self._scores(episode)

        found = await asyncio.gather(*map(one, episodes))
        return {episode.id: scores for episode, scores in zip(episodes, found, strict=True)}

    async def _scores(self, episode: Episode) -> Mapping[Seat, Score]:
        seats = self.seats(episode)
        try:
            async with asyncio.timeout(self.timeout_s) as deadline:
                said = self.judge(episode)
                if isawaitable(said):
                    said = await said
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise DeadlinePassed(f"judge {self.name} did not judge episode {episode.id} within "
                                     f"{self.timeout_s:g} s") from None
            if isinstance(error, PolyturnError):
                raise
            raise BadInput(f"judge {self.name} raised {type(error).__name__} for episode {episode.id}: "
                           f"{error}") from error
        each = said if isinstance(said, Mapping) else dict.fromkeys(seats, said)
        return {seat: self._score(episode, each.get(seat)) for seat in seats}

    def _score(self, episode: Episode, said: object) -> Score:
        if isinstance(said, Score):
            return said
        if said is None:
            return Score(None)
        if isinstance(said, bool):
            return Score(float(said), said)
        if not isinstance(said, int | float):
            raise BadInput(f"judge {self.name} said {said!r:.80} of episode {episode.id}; expected True, False, a "
                           "number in 0..1, a Score, or None for no verdict")
        if not 0 <= said <= 1:
            raise NotFinite(f"judge {self.name} said {said} of episode {episode.id}; expected 0..1")
        return Score(float(said))
