"""What is played next: a fixed mixture of environments, every iteration the same number of groups of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from polyturn.errors import BadInput
from polyturn.protocols import Match, Player, Suite
from polyturn.seeds import derive
from polyturn.types import Group, Limits, Seat, Task

Cast = Callable[[Task], Mapping[Seat, Player]]


@dataclass(frozen=True, slots=True)
class Share:
    """One environment's part of an iteration: ``groups`` tasks, each played ``rollouts`` times."""

    suite: Suite
    cast: Cast
    train: frozenset[Seat]
    groups: int
    rollouts: int
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Mixture:
    """A :class:`polyturn.protocols.Curriculum` without memory: iteration i takes the i-th stretch of each suite's
    training tasks, with world seeds derived from ``seed``, i and the task's place.

    A finite split begins again from its first task when it is used up.
    """

    shares: Sequence[Share]
    seed: int = 0
    split: str = "train"
    first: int = 0
    """Added to the iteration: goes on where another mixture of the same seed ended."""

    def propose(self, iteration: int) -> Sequence[Match]:
        """The matches of an iteration, environment by environment. Raises: BadInput for a suite without tasks."""
        shares = enumerate(self.shares)
        return [match for place, share in shares for match in self._matches(place, share, iteration + self.first)]

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing: the mixture does not adapt."""

    def _matches(self, place: int, share: Share, iteration: int) -> list[Match]:
        return [
            Match(
                share.suite, task, share.cast(task), derive(self.seed, self.split, iteration, place, index),
                share.rollouts, share.limits, share.train, iteration=iteration - self.first,
            )
            for index, task in enumerate(stretch(share.suite, self.split, iteration * share.groups, share.groups))
        ]


def stretch(suite: Suite, split: str, start: int, count: int) -> list[Task]:
    """``count`` tasks of a split from the ``start``-th on, going round where the split is finite.

    Raises: BadInput for a split without tasks.
    """
    tasks = list(islice(suite.tasks(split), start, start + count))
    if len(tasks) == count:
        return tasks
    every = list(suite.tasks(split))
    if not every:
        raise BadInput(f"{suite.spec.name} has no tasks in split {split!r}")
    return [every[(start + index) % len(every)] for index in range(count)]
