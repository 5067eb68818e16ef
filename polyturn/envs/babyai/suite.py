"""BabyAI and MiniGrid: a mission in words, a view of seven cells by seven, and six actions.

The view is told in words: what is seen, how far ahead and to which side, and how far one can go. The package
``minigrid`` (``polyturn envs --install minigrid``) runs in a process of its own; its bot solves BabyAI's levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from polyturn.envs.answers import check_seats, null_answer, random_answer
from polyturn.envs.install import installed
from polyturn.envs.outside.process import Outside, ask_once
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import in_turn
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import derive
from polyturn.types import Event, Message, Score, Seat, Stop, Task, assistant, user

ENVS = (
    {"name": "babyai", "package": "minigrid", "needs": "minigrid", "licence": "MIT", "seats": ("agent",),
     "oracle": 1.0, "random": 0.229, "null": 0.0},
)
NAME: Final = "minigrid"
BACKEND: Final = Path(__file__).with_name("backend.py")
ACTIONS: Final = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
"""In the package's order."""
LEVELS: Final = ("GoToRedBallGrey", "GoToRedBall", "GoToLocal", "PickupLoc", "OpenDoor", "PutNextLocal", "UnlockLocal")
"""Seven levels of one or few rooms, each asking more than the one before."""
THINGS: Final = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent")
COLOURS: Final = ("red", "green", "blue", "purple", "yellow", "grey")
DOORS: Final = ("open", "closed", "locked")
WINDS: Final = ("east", "south", "west", "north")
SIZE: Final = 7
RULES: Final = (
    "You stand in a world of square cells and see the cells ahead of you. Reply with one of: turn left, turn right, go "
    "forward, pick up (what is in the cell ahead), drop (into the cell ahead), toggle (open or close the door or box "
    "ahead; a locked door needs its key in your hand)."
)
RETRIES: Final = 2


def told(seen: Mapping[str, Any]) -> str:
    """A view in words. ``image[x][y]`` = (thing, colour, state); the agent stands at x = 3, y = 6 and looks to y = 0.

    >>> image = [[[1, 0, 0]] * 7 for _ in range(7)]
    >>> image[4] = [[1, 0, 0]] * 4 + [[6, 0, 0]] + [[1, 0, 0]] * 2
    >>> image[3] = [[1, 0, 0]] * 3 + [[4, 2, 2]] + [[1, 0, 0]] * 3
    >>> print(told({"image": image, "direction": 0, "carrying": None}))
    You look east and carry nothing.
    You see: a red ball, 2 ahead and 1 to the right; a locked blue door, 3 ahead.
    Free cells: 2 ahead, 3 to the left, 3 to the right.
    """
    image = seen["image"]
    things = sorted(
        (6 - y + abs(x - 3), 6 - y, x - 3, _thing(cell))
        for x, column in enumerate(image) for y, cell in enumerate(column)
        if THINGS[cell[0]] not in ("unseen", "empty", "wall", "floor", "agent") and (x, y) != (3, 6)
    )
    found = "; ".join(f"{name}, {_place(ahead, side)}" for _, ahead, side, name in sorted(things))
    free = [_free([image[3 + dx * n][6 + dy * n] for n in range(1, 7) if 0 <= 3 + dx * n < SIZE and 6 + dy * n >= 0])
            for dx, dy in ((0, -1), (-1, 0), (1, 0))]
    return "\n".join((
        f"You look {WINDS[seen['direction']]} and carry {_with_article(seen['carrying'])}.",
        f"You see: {found or 'nothing'}.",
        f"Free cells: {free[0]} ahead, {free[1]} to the left, {free[2]} to the right.",
    ))


def _thing(cell: Sequence[int]) -> str:
    thing, colour = THINGS[cell[0]], COLOURS[cell[1]]
    if thing in ("goal", "lava"):
        return f"the {thing}" if thing == "goal" else thing
    return _with_article(f"{DOORS[cell[2]]} {colour} {thing}" if thing == "door" else f"{colour} {thing}")


def _with_article(name: str | None) -> str:
    return "nothing" if name is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _place(ahead: int, side: int) -> str:
    where = [f"{ahead} ahead"] if ahead else []
    where += [f"{abs(side)} to the {'left' if side < 0 else 'right'}"] if side else []
    return " and ".join(where)


def _free(cells: Sequence[Sequence[int]]) -> int:
    """How many of the cells, in order, can be walked over."""
    count = 0
    for cell in cells:
        if THINGS[cell[0]] not in ("empty", "floor", "goal") and (THINGS[cell[0]], cell[2]) != ("door", 0):
            break
        count += 1
    return count


class Mission:
    """One mission in play. Three illegal replies in a row end it, unsolved."""

    def __init__(self, level: str, seed: int, outside: Outside, solutions: dict[str, Any]) -> None:
        self._world = {"level": level, "seed": seed}
        self._outside, self._solutions = outside, solutions
        self._actions: list[int] = []
        self._seen: Mapping[str, Any] = {}
        self._opening = ""
        self._failures = 0
        self._begun = self._over = self._closed = False

    async def start(self, state: bytes | None = None) -> Step:
        """The rules, the mission and the first view."""
        if state is not None or self._begun:
            raise BadInput("a mission begins once and has no saved states; replay its replies")
        self._begun = True
        self._outside.lease()
        await self._look()
        self._opening = f"{RULES}\n\nYour mission: {self._seen['mission']}.\n\n{told(self._seen)}"
        self._solutions[self._opening] = await self._outside.ask({"do": "solve", **self._world})
        return self._ask(self._opening)

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What is seen after the action."""
        check_seats(("agent",) if self._begun and not self._over else (), replies)
        text = replies["agent"].text.strip().lower()
        if text not in ACTIONS:
            return self._illegal(text)
        self._failures = 0
        self._actions.append(ACTIONS.index(text))
        await self._look()
        if self._seen["terminated"] or self._seen["truncated"]:
            self._over = True
            reason = f"after {len(self._actions)} steps"
            return Step(stop=Stop("done") if self._seen["terminated"] else Stop("truncated", reason))
        return self._ask(told(self._seen))

    async def _look(self) -> None:
        found = await self._outside.ask({"do": "play", **self._world, "actions": self._actions})
        if not _is_view(found):
            raise EnvironmentFailed(f"the view of {self._world} is {str(found)[:200]}")
        self._seen = found

    def _ask(self, text: str, *events: Event) -> Step:
        return Step((Ask("agent", (user(text),), legal=ACTIONS),), events=events)

    def _illegal(self, text: str) -> Step:
        self._failures += 1
        event = Event(0, "invalid", "agent", {"reply": text[:200]})
        if self._failures > RETRIES:
            self._over = True
            return Step(events=(event,), stop=Stop("done", "illegal reply", "agent"))
        return self._ask(f"That is no action. Reply with one of: {', '.join(ACTIONS)}.", event)

    async def final(self) -> Mapping[str, Any]:
        """Level, mission, steps, whether the mission is done, and the package's reward for it."""
        solved = bool(self._seen.get("terminated")) and self._seen["reward"] > 0
        return {**self._world, "mission": self._seen.get("mission", ""), "steps": len(self._actions), "solved": solved,
                "reward": self._seen["reward"] if solved else 0.0, "over": self._over}

    async def close(self) -> None:
        """Gives the worker back."""
        if self._begun and not self._closed:
            self._outside.release()
        self._closed = True
        self._solutions.pop(self._opening, None)


def _is_view(found: Any) -> bool:
    """Whether a view has the shape and the numbers that it must have."""
    kinds = {"mission": str, "direction": int, "reward": float, "terminated": bool, "truncated": bool}
    if not (isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())
            and isinstance(found.get("carrying", 0), str | None) and found["direction"] in range(4)):
        return False
    image, most = found.get("image"), (len(THINGS), len(COLOURS), len(DOORS) + 1)
    return isinstance(image, list) and len(image) == SIZE and all(
        isinstance(column, list) and len(column) == SIZE and all(
            isinstance(cell, list) and len(cell) == 3 and all(
                type(value) is int and 0 <= value < limit for value, limit in zip(cell, most, strict=True))
            for cell in column)
        for column in image)


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    if not final["over"]:
        return {}
    return {"agent": Score(float(final["solved"]), success=final["solved"], parts={"reward": final["reward"]})}


class BabyAI:
    """The suite; made by :func:`babyai`. Levels take turns; the world is drawn from the task and the seed."""

    def __init__(self, levels: Sequence[str], test_tasks: int) -> None:
        self.levels, self.test_tasks = tuple(levels), test_tasks
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}
        self.spec = Spec("babyai", licence="MIT", package="minigrid",
                         invalid=f"{RETRIES} retries in a row; the next illegal reply ends the mission, unsolved")
        self.verifier = FinalScore(self.spec.seats, _scores)
        self._outside = Outside(self.spec.name, installed(NAME), BACKEND)
        self._solutions: dict[str, Any] = {}

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks. Raises: UnknownName."""
        return in_turn(self.spec.name, "level", self.levels, split, test=self.test_tasks)

    async def make(self, task: Task, seed: int) -> Mission:
        """The mission of the task and the seed."""
        world = derive("babyai", task.id, seed) % 2**31
        return Mission(task.payload["level"], world, self._outside, self._solutions)

    async def close(self) -> None:
        """Ends the worker."""
        await self._outside.close()

    def oracle(self, task: Task) -> Answer:
        """The package's bot, whose actions this suite keeps while a mission is played. The player raises BadInput for a
        level that the bot cannot do (all of MiniGrid, few of BabyAI)."""
        left: list[int] | None = None

        def play(ask: Ask) -> Message:
            nonlocal left
            if left is None:
                known = self._solutions.get(ask.messages[-1].text)
                if known is None:
                    raise BadInput(f"{task.id}: the bot knows no solution")
                left = list(known)
            return assistant(ACTIONS[left.pop(0)])

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the six actions."""
        return random_answer(task, seed, seat)


@lru_cache(maxsize=2)
def known_levels(site: Path) -> tuple[str, ...]:
    """The levels of the package, asked once."""
    found = ask_once("babyai", site, BACKEND, {"do": "levels"})
    if not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
        raise EnvironmentFailed(f"the package gave as its levels {str(found)[:200]}")
    return tuple(found)


def babyai(*, levels: Sequence[str] = LEVELS, test_tasks: int = 70) -> BabyAI:
    """Missions of the levels, in turns: BabyAI's by short names (``"GoToLocal"``), any of the package's 178 by its id
    (``"MiniGrid-DoorKey-5x5-v0"``). Raises: MissingPackage, which names the command; UnknownName for a level.
    """
    known = known_levels(installed(NAME))
    short = {name.removeprefix("BabyAI-").removesuffix("-v0"): name for name in known if name.startswith("BabyAI-")}
    for level in levels:
        if level not in short and level not in known:
            raise UnknownName("level", level, {*short, *known})
    return BabyAI([short.get(level, level) for level in levels], test_tasks)
