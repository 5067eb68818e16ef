"""The verifier that reads an episode's score from its final state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyturn.errors import NotFinite
from polyturn.protocols import Scores
from polyturn.types import Episode, Group, Score, Seat


@dataclass(frozen=True, slots=True)
class FinalScore:
    """A :class:`polyturn.protocols.Verifier`: ``read(final)`` gives each seat's score in 0..1 from ``Episode.final``.

    An episode that ended in an error gets no scores at all. Where the final state could not be read, every seat
    abstains. Where ``read`` leaves a seat out, the play did not come to its end: the seat that stopped it (each seat,
    when the stop names none) gets 0, the others abstain, for nobody knows what they would have earned.
    """

    seats: tuple[Seat, ...]
    read: Callable[[Mapping[str, Any]], Mapping[Seat, Score]]
    name: str = "score"

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        """Episode id -> seat -> score.

        Raises: NotFinite for a score that is no number in 0..1.
        """
        return {episode.id: self._scores(episode) for group in groups for episode in group
                if episode.stop.kind != "error"}

    def _scores(self, episode: Episode) -> Mapping[Seat, Score]:
        if episode.final is None:
            return {seat: Score(None) for seat in self.seats}
        known = self.read(episode.final)
        scores = {seat: known.get(seat) or _unfinished(episode, seat) for seat in self.seats}
        for seat, score in scores.items():
            if score.value is not None and not 0 <= score.value <= 1:
                raise NotFinite(f"episode {episode.id}, seat {seat!r}: score {score.value}; expected 0..1")
        return scores


def _unfinished(episode: Episode, seat: Seat) -> Score:
    stopped_it = episode.stop.seat in (None, seat)
    return Score(0.0, success=False) if stopped_it else Score(None)


def scaled(value: float, low: float, high: float) -> float:
    """``(value - low) / (high - low)``, clipped to 0..1.

    >>> scaled(0.0, -1.0, 1.0), scaled(7.0, 0.0, 5.0)
    (0.5, 1.0)
    """
    return min(1.0, max(0.0, (value - low) / (high - low)))
