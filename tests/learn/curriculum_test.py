from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.errors import BadInput
from polyturn.learn.curriculum import Mixture, Share, StepBudget, TaskStream, steps_of, stretch
from polyturn.programs import ProgramSuite, as_env
from polyturn.protocols import Player, Spec
from polyturn.types import Episode, Task, Trajectory, Turn


def suite(name: str, tasks: int) -> ProgramSuite:
    async def nothing(task: object, seed: int, table: object) -> None:
        return None

    return ProgramSuite(Spec(name), as_env(nothing), {"train": [Task(f"{name}{i}", name) for i in range(tasks)]})


def share(name: str, count: int, groups: int, rollouts: int) -> Share:
    cast = {"agent": Player(ChatAgent, "main")}
    return Share(suite(name, count), lambda task: cast, frozenset({"agent"}), groups, rollouts)


def test_each_iteration_takes_the_next_stretch_of_every_environment() -> None:
    mixture = Mixture([share("a", 100, 2, 3), share("b", 3, 2, 1)], seed=7)
    first, second = mixture.propose(0), mixture.propose(1)
    assert [m.task.id for m in first] == ["a0", "a1", "b0", "b1"]
    assert [m.task.id for m in second] == ["a2", "a3", "b2", "b0"]  # b goes round
    assert [m.rollouts for m in first] == [3, 3, 1, 1] and {m.iteration for m in second} == {1}
    seeds = [m.seed for m in (*first, *second)]
    assert len(set(seeds)) == len(seeds)
    assert [m.seed for m in mixture.propose(1)] == [m.seed for m in second]


def test_a_mixture_goes_on_where_another_ended() -> None:
    shares = [share("a", 100, 2, 1)]
    ended, going_on = Mixture(shares, seed=7), Mixture(shares, seed=7, first=4)
    assert [m.task.id for m in going_on.propose(0)] == [m.task.id for m in ended.propose(4)]
    assert [m.seed for m in going_on.propose(0)] == [m.seed for m in ended.propose(4)]
    assert going_on.propose(0)[0].iteration == 0


class Endless:
    """Tasks without end; counts how many were made."""

    spec = Spec("endless")
    made = 0

    def tasks(self, split: str) -> Iterator[Task]:
        for index in count():
            self.made += 1
            yield Task(f"{split}{index}", "endless")


def test_stretches_in_order_make_each_task_once_and_any_other_order_gives_the_same() -> None:
    endless: Any = Endless()
    stream = TaskStream(endless, "train")
    assert [[t.id for t in stream.take(2 * i, 2)] for i in range(3)] == [
        ["train0", "train1"], ["train2", "train3"], ["train4", "train5"]]
    assert endless.made == 6
    assert [t.id for t in stream.take(9, 1)] == ["train9"] and endless.made == 10
    assert [t.id for t in stream.take(3, 2)] == ["train3", "train4"] and [t.id for t in stream.take(5, 1)] == ["train5"]


def test_a_suite_without_tasks_is_named() -> None:
    with pytest.raises(BadInput, match="empty has no tasks"):
        stretch(suite("empty", 0), "train", 0, 1)


def played(*steps: int, branch: str = "") -> Episode:
    turns = tuple(Turn(at, "agent", "main", (), 0, (), step=step, branch=branch) for at, step in enumerate(steps))
    return Episode("e", Task("t", "a"), 0, trajectories=(Trajectory("agent", "main", turns=turns),))


def test_a_budget_counts_the_steps_of_real_play() -> None:
    # several turns of one step count once, searching counts nothing
    assert [steps_of(e) for e in (played(0, 1, 2), played(0, 0, 1), played(), played(5, branch="agent#0"))] == [
        3, 2, 0, 0
    ]
    budget = StepBudget(Mixture([share("a", 100, 2, 3)], seed=7), 5)
    assert budget.propose(0) == budget.inner.propose(0)
    budget.observe([(played(0, 1), played(0))])
    assert budget.taken == 3 and not budget.is_spent()
    budget.observe([(played(0, 1),)])
    assert budget.is_spent()
    other = StepBudget(Mixture([share("a", 100, 2, 3)]), 5)
    other.restore(budget.state())
    assert other.taken == 5
    with pytest.raises(BadInput, match="with memory inside"):
        other.restore({"taken": 1, "inner": {"taken": 2}})
    nested = StepBudget(StepBudget(Mixture([share("a", 100, 2, 3)]), 9), 5)
    nested.observe([(played(0, 1),)])
    again = StepBudget(StepBudget(Mixture([share("a", 100, 2, 3)]), 9), 5)
    again.restore(nested.state())
    assert isinstance(again.inner, StepBudget) and again.inner.taken == 2
