"""A walk through a walled grid as text: nothing is paid before the goal, and tasks differ in the steps they need.

Every task carries its map, so a task is one world whatever the seed. The shortest way is known exactly: it is the
task's ``need``, which runs through ``lengths`` in turn.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from polyturn.envs.answers import check_seats, null_answer, random_answer
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import generator
from polyturn.types import Event, Limits, Message, Score, Seat, Stop, Task, assistant, user

ENVS = (
    {"name": "grid", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "random": 0.39, "null": 0.0},
)
MOVES: Mapping[str, tuple[int, int]] = {"north": (-1, 0), "south": (1, 0), "west": (0, -1), "east": (0, 1)}
"""Reply -> change of (row, column)."""
Cell = tuple[int, int]


class Grid:
    """The :class:`polyturn.protocols.Suite` of one kind of map; made by :func:`grid`."""

    def __init__(
        self, size: int, lengths: Sequence[int], walls: float, steps: int, test_tasks: int,
        figures: Mapping[str, float], *, train_tasks: int | None = None,
    ) -> None:
        self.size, self.lengths, self.walls, self.steps = size, tuple(lengths), walls, steps
        self.test_tasks, self.train_tasks = test_tasks, train_tasks
        self.figures = figures
        self.spec = Spec(
            "grid", limits=Limits(env_steps=steps), licence="Apache-2.0", package="polyturn",
            invalid="nothing moves, and the step is spent",
        )
        self.verifier = FinalScore(self.spec.seats, _scores)

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` of ``train_tasks`` or without end, ``test`` of ``test_tasks``; ``payload["need"]`` steps are the
        shortest way."""
        found = islice(numbered("grid", split, test=self.test_tasks), self.train_tasks if split == "train" else None)
        shape = (self.size, self.lengths, self.walls)
        return (Task(task.id, task.family, world(task.id, *shape)) for task in found)

    async def make(self, task: Task, seed: int) -> GridEnv:
        """One walk. Nothing is drawn: the task holds the map."""
        return GridEnv(task, self.steps)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """The player that walks a shortest way."""
        left = shortest(task.payload["map"], _cell(task.payload["start"]), _cell(task.payload["goal"]))

        def play(ask: Ask) -> Message:
            return assistant(left.pop(0))

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the open directions."""
        return random_answer(task, seed, seat)


def grid(
    *, size: int = 6, lengths: Sequence[int] = (1, 2, 3, 4, 6, 8, 10, 12), walls: float = 0.2, steps: int = 36,
    test_tasks: int = 64, train_tasks: int | None = None,
) -> Grid:
    """The suite of walks on maps of ``size`` by ``size`` cells, a share ``walls`` of them walled, in at most ``steps``.

    Score: 1 on reaching the goal, else 0; a walk that the horizon cuts stops ``truncated``. The seat reads where the
    goal lies from it and which directions are open, never the map; a reply is one of ``north``, ``south``, ``west``,
    ``east``. Another reply, or a step into a wall, moves nothing and costs the step.

    At the default (2,000 tasks measured): oracle 1, random 0.39, null 0.

    ``train_tasks``: so many tasks to train on; None = without end.
    Raises: BadInput for lengths that such a map cannot have, or limits below the longest.
    """
    if not lengths or min(lengths) < 1 or max(lengths) > 2 * size or not 3 <= size <= 30:
        raise BadInput(f"size is {size} and lengths {list(lengths)}; expected a size of 3 to 30 and lengths of 1 to "
                       f"twice the size")
    if not 0 <= walls <= 0.4 or steps < max(lengths):
        raise BadInput(f"walls is {walls} and steps {steps}; expected a share of 0 to 0.4, and at least "
                       f"{max(lengths)} steps")
    default = (size, tuple(lengths), walls, steps) == (6, (1, 2, 3, 4, 6, 8, 10, 12), 0.2, 36)
    figures = {"oracle": 1.0, "null": 0.0} | ({"random": 0.39} if default else {})
    return Grid(size, lengths, walls, steps, test_tasks, figures, train_tasks=train_tasks)


# ---------------------------------------------------------------- maps


@lru_cache(maxsize=4096)
def world(name: str, size: int, lengths: tuple[int, ...], walls: float) -> Mapping[str, Any]:
    """The payload of the task ``name``, which ends in its number: ``map`` (rows of ``.`` and ``#``), ``start``,
    ``goal``, and ``need``, the number of steps between them, ``lengths[number % len(lengths)]``."""
    need = lengths[int(name.rpartition("/")[2]) % len(lengths)]
    draws = generator("grid", name, size, need)
    while True:
        rows = tuple("".join("#" if draws.random() < walls else "." for _ in range(size)) for _ in range(size))
        free = [(row, column) for row in range(size) for column in range(size) if rows[row][column] == "."]
        if free:
            start = free[int(draws.integers(len(free)))]
            away = [cell for cell, steps in distances(rows, start).items() if steps == need]
            if away:
                goal = away[int(draws.integers(len(away)))]
                return {"map": list(rows), "start": list(start), "goal": list(goal), "need": need}


def open_moves(rows: Sequence[str], cell: Cell) -> tuple[str, ...]:
    """The directions in which no wall or edge stands."""
    return tuple(
        name for name, (down, right) in MOVES.items()
        if 0 <= cell[0] + down < len(rows) and 0 <= cell[1] + right < len(rows[0])
        and rows[cell[0] + down][cell[1] + right] == "."
    )


def moved(cell: Cell, move: str) -> Cell:
    """The next cell in a direction."""
    return cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]


def distances(rows: Sequence[str], start: Cell) -> dict[Cell, int]:
    """Steps from ``start`` to every cell that can be reached.

    >>> distances(["..#", ".#."], (0, 0))
    {(0, 0): 0, (1, 0): 1, (0, 1): 1}
    """
    found, waiting = {start: 0}, deque([start])
    while waiting:
        here = waiting.popleft()
        for near in (moved(here, move) for move in open_moves(rows, here)):
            if near not in found:
                found[near] = found[here] + 1
                waiting.append(near)
    return found


def shortest(rows: Sequence[str], start: Cell, goal: Cell) -> list[str]:
    """The moves of a shortest way. Raises: BadInput where there is none.

    >>> shortest(["...", ".#.", "..."], (0, 0), (2, 2))
    ['south', 'south', 'east', 'east']
    """
    left = distances(rows, goal)
    if start not in left:
        raise BadInput(f"no way leads from {start} to {goal}")
    way, here = [], start
    while here != goal:
        way.append(next(move for move in open_moves(rows, here) if left[moved(here, move)] < left[here]))
        here = moved(here, way[-1])
    return way


def _cell(pair: Sequence[int]) -> Cell:
    return int(pair[0]), int(pair[1])


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    return {"agent": Score(1.0, success=True)} if final["solved"] else {}


# ---------------------------------------------------------------- one walk

RULES = "Walk to the goal. Reply with one open direction.\n"


class GridEnv:
    """One walk over a task's map."""

    def __init__(self, task: Task, steps: int) -> None:
        self._most = steps
        self._rows: list[str] = list(task.payload["map"])
        self._here, self._goal = _cell(task.payload["start"]), _cell(task.payload["goal"])
        self._steps = 0
        self._asked: tuple[Seat, ...] = ()
        self._refused = False

    async def start(self, state: bytes | None = None) -> Step:
        """The rules and the first look around; or, from a saved state, the open ask again."""
        self._asked = ("agent",)
        if state is not None:
            *here, self._steps, self._refused = json.loads(state)
            self._here = _cell(here)
        return Step((self._ask(),))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The next look around, or the end at the goal. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        text = replies["agent"].text
        move = text.strip().lower()
        self._steps += 1
        self._refused = move not in open_moves(self._rows, self._here)
        events: tuple[Event, ...] = ()
        if self._refused:
            reason = "a wall" if move in MOVES else "no direction"
            events = (Event(0, "invalid", "agent", {"reply": text, "reason": reason}),)
        else:
            self._here = moved(self._here, move)
        if self._here == self._goal:
            self._asked = ()
            return Step(stop=Stop("done", "the goal"))
        if self._steps == self._most:
            self._asked = ()
            return Step(events=events, stop=Stop("truncated", f"after {self._steps} steps"))
        return Step((self._ask(),), events=events)

    async def final(self) -> Mapping[str, Any]:
        """Whether the walk is ``solved``, its ``steps``, where it ``stands`` and how many steps are ``left`` from
        there."""
        left = distances(self._rows, self._here)[self._goal]
        return {"solved": left == 0, "steps": self._steps, "stands": list(self._here), "left": left}

    async def save(self) -> bytes:
        """Place and count. Raises: BadInput when nobody is asked."""
        if not self._asked:
            raise BadInput("only a walk that has started and is not over can be saved")
        return json.dumps([*self._here, self._steps, self._refused]).encode()

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = ()

    def _ask(self) -> Ask:
        """What is seen from here."""
        down, right = np.subtract(self._goal, self._here).tolist()
        ways = [(abs(down), "south" if down > 0 else "north"), (abs(right), "east" if right > 0 else "west")]
        goal = " ".join(f"{count} {way}" for count, way in ways if count)
        legal = open_moves(self._rows, self._here)
        said = f"{'You cannot. ' if self._refused else ''}Goal: {goal}. Open: {' '.join(legal)}."
        return Ask("agent", (user(said if self._steps else RULES + said),), legal=legal)
