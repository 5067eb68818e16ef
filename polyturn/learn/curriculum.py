"""What is played next: a fixed mixture of environments, equal in every iteration, and a budget of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from polyturn.errors import BadInput
from polyturn.protocols import Curriculum, Match, Player, Stateful, Suite
from polyturn.seeds import derive
from polyturn.types import Episode, Group, Limits, Seat, Task

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
    streams: dict[int, TaskStream] = field(default_factory=dict, init=False, repr=False, compare=False)

    def propose(self, iteration: int) -> Sequence[Match]:
        """The matches of an iteration, environment by environment. Raises: BadInput for a suite without tasks."""
        shares = enumerate(self.shares)
        return [match for place, share in shares for match in self._matches(place, share, iteration + self.first)]

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing: the mixture does not adapt."""

    def _matches(self, place: int, share: Share, iteration: int) -> list[Match]:
        stream = self.streams.setdefault(place, TaskStream(share.suite, self.split))
        return [
            Match(
                share.suite, task, share.cast(task), derive(self.seed, self.split, iteration, place, index),
                share.rollouts, share.limits, share.train, iteration=iteration - self.first,
            )
            for index, task in enumerate(stream.take(iteration * share.groups, share.groups))
        ]


@dataclass(slots=True)
class StepBudget:
    """A :class:`polyturn.protocols.Curriculum` that counts the environment steps of what another one proposed, so that
    runs can be compared at equal steps: pass ``enough=budget.is_spent`` to :func:`polyturn.learn.loop.train`.

    An iteration is never cut, so the last one may pass the budget by less than its own steps.
    """

    inner: Curriculum
    steps: int
    taken: int = 0

    def propose(self, iteration: int) -> Sequence[Match]:
        """The inner curriculum's matches."""
        return self.inner.propose(iteration)

    def observe(self, groups: Sequence[Group]) -> None:
        """Counts, and tells the inner curriculum."""
        self.taken += sum(steps_of(episode) for group in groups for episode in group)
        self.inner.observe(groups)

    def is_spent(self) -> bool:
        """Whether the budget's steps were taken."""
        return self.taken >= self.steps

    def state(self) -> Mapping[str, Any]:
        """The count, and the inner curriculum's state if it has one."""
        return {"taken": self.taken, "inner": state_of(self.inner)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        self.taken = int(state["taken"])
        restore_into(self.inner, state["inner"])


def steps_of(episode: Episode) -> int:
    """The environment steps of an episode in real play: up to the last one for which a turn was made."""
    turns = [turn.step for t in episode.trajectories for turn in t.turns if not turn.branch]
    return max(turns, default=-1) + 1


def state_of(inner: Curriculum) -> Mapping[str, Any] | None:
    """The state of a curriculum inside another; None where it has no memory."""
    return inner.state() if isinstance(inner, Stateful) else None


def restore_into(inner: Curriculum, state: Mapping[str, Any] | None) -> None:
    """Takes back what :func:`state_of` gave. Raises: BadInput where one has memory and the other none."""
    if isinstance(inner, Stateful) != (state is not None):
        raise BadInput("the state was taken from a curriculum with memory inside and this one has none, or the reverse")
    if isinstance(inner, Stateful) and state is not None:
        inner.restore(state)


class TaskStream:
    """The tasks of a split in their order. Stretches that follow one another make each task once: tasks without end are
    made as they are asked for, and making one may cost the building of a world."""

    def __init__(self, suite: Suite, split: str) -> None:
        self._suite = suite
        self._split = split
        self._tasks = iter(suite.tasks(split))
        self._next = 0
        self._every: list[Task] | None = None

    def take(self, start: int, count: int) -> list[Task]:
        """``count`` tasks from the ``start``-th on, going round where the split is finite.

        Raises: BadInput for a split without tasks.
        """
        if self._every is None:
            if start < self._next:
                self._tasks, self._next = iter(self._suite.tasks(self._split)), 0
            found = list(islice(self._tasks, start - self._next, start - self._next + count))
            self._next = start + count
            if len(found) == count:
                return found
            self._every = list(self._suite.tasks(self._split))
        if not self._every:
            raise BadInput(f"{self._suite.spec.name} has no tasks in split {self._split!r}")
        return [self._every[(start + index) % len(self._every)] for index in range(count)]


def stretch(suite: Suite, split: str, start: int, count: int) -> list[Task]:
    """:meth:`TaskStream.take` of a stream of its own."""
    return TaskStream(suite, split).take(start, count)
