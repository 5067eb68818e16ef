"""Crafting from recipes as text, after TextCraft: a tree of recipes, drawn anew for each task, leads to one goal.

Nothing can be known by heart: which thing is made of which is drawn with the task and written in its first message. The
recipes of the goal's tree stand among others that lead nowhere.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
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
    {"name": "crafting", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "random": 0.219, "null": 0.0},
)
RAW = ("clay", "coal", "copper", "cotton", "flint", "iron", "leaf", "log", "reed", "sand", "stone", "wool")
MADE = (
    "arrow", "barrel", "basket", "bell", "boat", "bow", "box", "brick", "broom", "bucket", "candle", "cart", "chair",
    "chest", "cloth", "crate", "door", "drum", "fence", "glass", "hammer", "hat", "kettle", "ladder", "lamp", "lens",
    "mirror", "net", "paper", "plank", "pot", "rope", "sail", "shield", "spade", "stick", "table", "tent", "torch",
    "wheel",
)
MOST = 4
"""The most of one raw thing that a reply gets."""
Recipe = Mapping[str, Any]
"""``{"item": "boat", "of": {"plank": 2, "rope": 1}}``: makes one."""


class Crafting:
    """The :class:`polyturn.protocols.Suite` of crafting tasks; made by :func:`crafting`."""

    def __init__(
        self, depths: Sequence[int], others: int, steps: int, test_tasks: int, figures: Mapping[str, float]
    ) -> None:
        self.depths, self.others, self.steps = tuple(depths), others, steps
        self.test_tasks = test_tasks
        self.figures = figures
        self.spec = Spec(
            "crafting", limits=Limits(env_steps=steps), licence="Apache-2.0", package="polyturn",
            invalid="nothing is got or made, and the step is spent",
        )
        self.verifier = FinalScore(self.spec.seats, _scores)

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks; ``payload["need"]`` replies are the fewest."""
        found = numbered("crafting", split, test=self.test_tasks)
        return (Task(task.id, task.family, book(task.id, self.depths, self.others)) for task in found)

    async def make(self, task: Task, seed: int) -> CraftingEnv:
        """One play. Nothing is drawn: the task holds the recipes."""
        return CraftingEnv(task, self.steps)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """The player that gets all raw things of the goal's tree, then makes its parts from the leaves up."""
        left = plan(task.payload["goal"], task.payload["recipes"])

        def play(ask: Ask) -> Message:
            return assistant(left.pop(0))

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the replies that do something."""
        return random_answer(task, seed, seat)


def crafting(
    *, depths: Sequence[int] = (1, 2, 3, 4), others: int = 3, steps: int = 30, test_tasks: int = 64
) -> Crafting:
    """The suite of crafting tasks whose goal stands ``depths`` recipes above raw things (each depth in turn), with
    ``others`` recipes that lead nowhere, in at most ``steps`` replies.

    A reply is ``get 2 log`` (raw things, 1 to 4 at once), ``craft boat using 2 plank, 1 rope`` or ``inventory``. The
    parts of a recipe may be named in any order, and must be exactly those. Score: 1 once the goal is made, else 0.

    At the default (2,000 tasks measured): oracle 1, random 0.219, null 0.

    Raises: BadInput for depths outside 1..5, more others than there are things, or no steps.
    """
    if not depths or not 1 <= min(depths) <= max(depths) <= 5:
        raise BadInput(f"depths is {list(depths)}; expected numbers of 1 to 5")
    if not 0 <= others <= 8 or steps < 1:
        raise BadInput(f"others is {others} and steps {steps}; expected 0 to 8 and at least 1")
    default = (tuple(depths), others, steps) == ((1, 2, 3, 4), 3, 30)
    return Crafting(depths, others, steps, test_tasks, {"random": 0.219} if default else {})


# ---------------------------------------------------------------- recipes


@lru_cache(maxsize=4096)
def book(name: str, depths: tuple[int, ...], others: int) -> Mapping[str, Any]:
    """The payload of the task ``name``, which ends in its number: ``goal``, ``recipes`` in no order, ``depth`` and
    ``need``, the fewest replies that make the goal."""
    depth = depths[int(name.rpartition("/")[2]) % len(depths)]
    draws = generator("crafting", name, depth)
    names = [MADE[place] for place in draws.permutation(len(MADE)).tolist()]
    raw = [RAW[place] for place in draws.permutation(len(RAW)).tolist()][:5]
    goal = names.pop()
    recipes = [*_tree(goal, depth, names, raw, draws)]
    known = [*raw, *(recipe["item"] for recipe in recipes)]
    for _ in range(others):
        parts = [known[place] for place in draws.permutation(len(known)).tolist()[:2]]
        recipes.append({"item": names.pop(), "of": {part: int(draws.integers(1, 3)) for part in parts}})
    shown = [recipes[place] for place in draws.permutation(len(recipes)).tolist()]
    return {"goal": goal, "recipes": shown, "depth": depth, "need": len(plan(goal, shown))}


def _tree(
    item: str, depth: int, names: list[str], raw: Sequence[str], draws: np.random.Generator
) -> Iterator[Recipe]:
    """The recipe of ``item`` and of all that it needs: one part is ``depth - 1`` recipes deep, another is raw."""
    parts: dict[str, int] = {}
    if depth > 1:
        part = names.pop()
        parts[part] = int(draws.integers(1, 3)) if depth == 2 else 1
        yield from _tree(part, depth - 1, names, raw, draws)
    for place in draws.permutation(len(raw)).tolist()[:2 if depth == 1 else 1]:
        parts[raw[place]] = int(draws.integers(1, 3))
    yield {"item": item, "of": parts}


def plan(goal: str, recipes: Sequence[Recipe]) -> list[str]:
    """The fewest replies that make one ``goal``: all raw things first, each by as few replies as can be, then every
    thing as often as it is needed, parts before wholes.

    >>> plan("boat", [{"item": "boat", "of": {"plank": 2, "reed": 1}}, {"item": "plank", "of": {"log": 3}}])
    ... # doctest: +NORMALIZE_WHITESPACE
    ['get 4 log', 'get 2 log', 'get 1 reed', 'craft plank using 3 log', 'craft plank using 3 log',
     'craft boat using 2 plank, 1 reed']
    """
    known = {recipe["item"]: recipe["of"] for recipe in recipes}
    needed: Counter[str] = Counter()
    order: list[str] = []

    def need(item: str) -> None:
        needed[item] += 1
        for part, count in known.get(item, {}).items():
            for _ in range(count):
                need(part)
        if item in known:
            order.append(item)

    need(goal)
    gets = [
        f"get {min(MOST, count - start)} {item}" for item, count in needed.items() if item not in known
        for start in range(0, count, MOST)
    ]
    return [*gets, *(craft(item, known[item]) for item in order)]


def craft(item: str, of: Mapping[str, int]) -> str:
    """The reply that makes a thing.

    >>> craft("boat", {"plank": 2, "rope": 1})
    'craft boat using 2 plank, 1 rope'
    """
    return f"craft {item} using {_counted(of)}"


def _counted(things: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {item}" for item, count in things.items())


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    return {"agent": Score(1.0, success=True)} if final["solved"] else {}


# ---------------------------------------------------------------- one play


class CraftingEnv:
    """One play of a task's recipes."""

    def __init__(self, task: Task, steps: int) -> None:
        self._goal = str(task.payload["goal"])
        self._recipes: dict[str, dict[str, int]] = {r["item"]: dict(r["of"]) for r in task.payload["recipes"]}
        things = [thing for of in self._recipes.values() for thing in of]
        self._raw = sorted({thing for thing in things if thing not in self._recipes})
        self._most = steps
        self._held: dict[str, int] = {}
        self._steps = 0
        self._asked: tuple[Seat, ...] = ()
        self._said = ""

    async def start(self, state: bytes | None = None) -> Step:
        """The goal and the recipes; or, from a saved state, the open ask again."""
        self._asked = ("agent",)
        if state is None:
            lines = [f"{craft(item, of)}." for item, of in self._recipes.items()]
            self._said = f"Make 1 {self._goal}. Things to get: {', '.join(self._raw)}.\nRecipes:\n" + "\n".join(lines)
        else:
            self._held, self._steps, self._said = json.loads(state)
        return Step((self._ask(),))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What the reply did, or the end. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        text = replies["agent"].text
        self._steps += 1
        refused = self._done(" ".join(text.lower().split()).rstrip("."))
        events = (Event(0, "invalid", "agent", {"reply": text, "reason": refused}),) if refused else ()
        if refused:
            self._said = f"Not done: {refused}."
        if self._goal in self._held:
            self._asked = ()
            return Step(stop=Stop("done", f"made {self._goal}"))
        if self._steps == self._most:
            self._asked = ()
            return Step(events=events, stop=Stop("truncated", f"after {self._steps} steps"))
        return Step((self._ask(),), events=events)

    def _done(self, text: str) -> str:
        """Does what a reply says; why not, where it cannot be done."""
        if text == "inventory":
            self._said = f"You hold {_counted(self._held) or 'nothing'}."
            return ""
        if found := re.fullmatch(r"get ([0-9]{1,9}) (\w+)", text):
            return self._get(int(found[1]), found[2])
        if found := re.fullmatch(r"craft (\w+) using (.{1,500})", text):
            return self._craft(found[1], found[2])
        return "say get, craft or inventory"

    def _get(self, count: int, item: str) -> str:
        if item not in self._raw:
            return f"no {item} is there to get"
        if not 1 <= count <= MOST:
            return f"get 1 to {MOST} at once"
        self._held[item] = self._held.get(item, 0) + count
        self._said = f"Got {count} {item}."
        return ""

    def _craft(self, item: str, listed: str) -> str:
        of = self._recipes.get(item)
        if of is None:
            return f"no recipe makes {item}"
        parts = [re.fullmatch(r"([0-9]{1,9}) (\w+)", part.strip()) for part in listed.split(",")]
        named = {part[2]: int(part[1]) for part in parts if part}
        if named != of or len(parts) != len(of):
            return f"the recipe of {item} is another"
        missing = {thing: count - self._held.get(thing, 0) for thing, count in of.items()}
        if lacks := {thing: count for thing, count in missing.items() if count > 0}:
            return f"you lack {_counted(lacks)}"
        left = {thing: count - of.get(thing, 0) for thing, count in self._held.items()}
        self._held = {thing: count for thing, count in left.items() if count}
        self._held[item] = self._held.get(item, 0) + 1
        self._said = f"Made 1 {item}."
        return ""

    async def final(self) -> Mapping[str, Any]:
        """Whether the goal is made (``solved``), what is ``held``, and the ``steps``."""
        return {"solved": self._goal in self._held, "held": dict(sorted(self._held.items())), "steps": self._steps}

    async def save(self) -> bytes:
        """What is held, the count and what was said. Raises: BadInput when nobody is asked."""
        if not self._asked:
            raise BadInput("only a play that has started and is not over can be saved")
        return json.dumps([self._held, self._steps, self._said]).encode()

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = ()

    def _ask(self) -> Ask:
        gets = [f"get {count} {item}" for item in self._raw for count in range(1, MOST + 1)]
        crafts = [
            craft(item, of) for item, of in self._recipes.items()
            if all(self._held.get(thing, 0) >= count for thing, count in of.items())
        ]
        return Ask("agent", (user(self._said),), legal=("inventory", *gets, *crafts))
