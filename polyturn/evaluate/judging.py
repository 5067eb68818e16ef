"""A judge beside the suite's own verifier: a function that says of each recorded episode whether it succeeded.

What it says stands in the record under its own name and moves no mean; how far it agrees with the suite's verifier is
what :mod:`polyturn.evaluate.agreement` computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from math import ceil, isfinite
from typing import TypeAlias

from polyturn.errors import BadInput, DeadlinePassed, NotFinite, PolyturnError
from polyturn.evaluate.trials import Seats
from polyturn.protocols import Scores
from polyturn.types import Episode, Finding, Group, Score, Seat
from polyturn.waits import GRACE_S, Expired, Waiting, within

FAILED = "no verdict"
"""The finding of an episode that a judge failed on."""

Said: TypeAlias = "bool | float | Score | None"
"""A verdict; a number is a score in 0..1, None = no verdict."""
JudgeFunction: TypeAlias = "Callable[[Episode], Said | Mapping[Seat, Said] | Awaitable[Said | Mapping[Seat, Said]]]"
"""One verdict for the rated seats, or one for each of them; may be a coroutine function."""


def failures(judge: str, episodes: Sequence[Episode]) -> list[Finding]:
    """What a judge failed on, in the order of the episodes."""
    scores = (score for e in episodes for score in list(e.scores.get(judge, {}).values())[:1])
    return [finding for score in scores for finding in score.findings if finding.name == FAILED]


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

        Where the function raises, gives what is no verdict or takes too long, that is never taken for a verdict: the
        score has no value either, and a finding :data:`FAILED` that says why.
        """
        gate = asyncio.Semaphore(self.concurrency)
        episodes = [episode for group in groups for episode in group]

        async def one(episode: Episode) -> Mapping[Seat, Score]:
            async with gate:
                return await self._scores(episode)

        found = await asyncio.gather(*map(one, episodes))
        return {episode.id: scores for episode, scores in zip(episodes, found, strict=True)}

    def deadline_s(self, groups: Sequence[Group]) -> float:
        """The longest that all episodes together may take."""
        return self.timeout_s * ceil(sum(map(len, groups)) / self.concurrency) + 2 * GRACE_S

    async def _scores(self, episode: Episode) -> Mapping[Seat, Score]:
        seats = self.seats(episode)
        try:
            said = await self._said(episode)
            each = said if isinstance(said, Mapping) else dict.fromkeys(seats, said)
            return {seat: self._score(each.get(seat)) for seat in seats}
        except Exception as error:
            why = str(error) if isinstance(error, PolyturnError) else f"raised {type(error).__name__}: {error}"
            failed = Finding(FAILED, {"episode": episode.id}, reason=why, source=self.name)
            return dict.fromkeys(seats, Score(None, findings=(failed,)))

    async def _said(self, episode: Episode) -> Said | Mapping[Seat, Said]:
        said = self.judge(episode)
        if not isawaitable(said):
            return said
        with Waiting(f"judge {self.name}", "its function", f"a verdict on episode {episode.id}", self.timeout_s):
            try:
                return await within(said, self.timeout_s)
            except Expired:
                raise DeadlinePassed(f"gave no verdict within {self.timeout_s:g} s") from None

    def _score(self, said: object) -> Score:
        if isinstance(said, Score):
            if said.value is not None and not isfinite(said.value):
                raise NotFinite(f"said a score of {said.value}")
            return said
        if said is None:
            return Score(None)
        if isinstance(said, bool):
            return Score(float(said), said)
        if not isinstance(said, int | float):
            raise BadInput(f"said {said!r:.80}; expected True, False, a number in 0..1, a Score, or None")
        if not 0 <= said <= 1:
            raise NotFinite(f"said {said}; expected 0..1")
        return Score(float(said))
