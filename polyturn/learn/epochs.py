"""Stored episodes in batches of equal tokens, round after round: imitation of what was played once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from polyturn.errors import BadInput
from polyturn.seeds import generator
from polyturn.types import Group, all_turns


@dataclass
class Epochs:
    """Stored episodes in batches of about ``tokens`` trained tokens, round after round, each round in a fresh order.

    Arms whose episodes differ in length so learn from equally many tokens. No batch holds an episode twice; a round
    ends where what is left of it is less than a batch.
    """

    groups: Sequence[Group]
    tokens: float
    seed: int
    _batches: list[list[Group]] = field(default_factory=list)
    _rounds: int = 0

    def batch(self, i: int) -> list[Group]:
        """The i-th batch, whatever was asked before. Raises: BadInput where all episodes are less than a batch."""
        while len(self._batches) <= i:
            found = self._round()
            if not found:
                raise BadInput(f"{len(self.groups)} episodes hold less than {self.tokens:g} tokens; store more of them")
            self._batches += found
            self._rounds += 1
        return self._batches[i]

    def _round(self) -> list[list[Group]]:
        order = generator("epochs", self.seed, self._rounds).permutation(len(self.groups))
        batches: list[list[Group]] = [[]]
        said = 0
        for group in (self.groups[place] for place in order):
            batches[-1].append(group)
            said += tokens_of(group)
            if said >= self.tokens:
                batches.append([])
                said = 0
        return batches[:-1]


def tokens_of(group: Group) -> int:
    """The tokens that a group's players wrote."""
    return sum(turn.usage.completion_tokens for episode in group for turn in all_turns(episode))
