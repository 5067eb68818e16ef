"""Small generated tasks of finding and keeping: a code to be collected part by part, and composed lookups.

Both need as many tool calls as there are things to find, and an answer that holds them all: whoever forgets, fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from polyturn.envs.answers import check_seats, null_answer
from polyturn.envs.composition import Objectives, Question, objective_task
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import SPLITS, numbered
from polyturn.errors import BadInput
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import generator
from polyturn.types import Episode, Event, Limits, Message, Score, Seat, Stop, Task, Turn, assistant, user

ENVS = (
    {"name": "key_hunt", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "null": 0.0},
    {"name": "composed_lookup", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "null": 0.0},
)
LETTERS: Final = "bcdfghklmnprstvz"
PAIR: Final = re.compile(r"(\d+) ([a-z])\b")

# ---------------------------------------------------------------- key hunt


def key_hunt(*, parts: int = 6, test_tasks: int = 64, steps: int | None = None) -> KeyHunt:
    """The suite of the key hunt: a code of ``parts`` letters, one in each drawer; every tool call shows one.

    ``open 3`` is answered ``Found 3 k.``; ``code 1 b 2 d ...`` (every number with its letter) ends the episode. Score 1
    for the whole code, else 0; ``Score.parts["found"]`` is the share of right letters. ``steps`` = the replies a seat
    has, by default ``3 * parts``; then the hunt is truncated and lost.
    """
    if parts < 1 or test_tasks < 1:
        raise BadInput(f"parts is {parts} and test_tasks {test_tasks}; expected at least 1 of each")
    return KeyHunt(parts, test_tasks, steps or 3 * parts)


class KeyHunt:
    """A :class:`polyturn.protocols.Suite`; made by :func:`key_hunt`. Task and seed draw the code."""

    def __init__(self, parts: int, test_tasks: int, steps: int) -> None:
        self.parts, self.test_tasks, self.steps = parts, test_tasks, steps
        self.spec = Spec(
            "key_hunt", limits=Limits(env_steps=steps), invalid="it costs a step", licence="Apache-2.0",
            package="polyturn",
        )
        self.verifier = FinalScore(self.spec.seats, _code_scores)
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks."""
        return numbered("key_hunt", split, test=self.test_tasks, payload=lambda index: {"parts": self.parts})

    async def make(self, task: Task, seed: int) -> KeyHuntEnv:
        """One play, its code drawn from the task's id and the seed."""
        return KeyHuntEnv(code_of(task, seed), self.steps)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """Opens every drawer once, then says the code."""
        found: dict[int, str] = {}

        def play(ask: Ask) -> Message:
            found.update(pairs(" ".join(message.text for message in ask.messages if "Found" in message.text)))
            if len(found) < self.parts:
                return assistant(f"open {len(found) + 1}")
            return assistant(spoken("code", found))

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer


def code_of(task: Task, seed: int) -> str:
    """The letters of a key hunt's code, the first drawer's first."""
    draws = generator("key_hunt", task.id, seed)
    return "".join(LETTERS[int(index)] for index in draws.integers(len(LETTERS), size=int(task.payload["parts"])))


def pairs(text: str) -> dict[int, str]:
    """Number -> letter, as in "1 b 2 d"; the last one counts where a number stands twice.

    >>> pairs("Found 3 k. code 1 b 3 d")
    {3: 'd', 1: 'b'}
    """
    return {int(number): letter for number, letter in PAIR.findall(text)}


def spoken(word: str, found: Mapping[int, str]) -> str:
    """A word and the pairs in the order of their numbers.

    >>> spoken("code", {2: "d", 1: "b"})
    'code 1 b 2 d'
    """
    return " ".join([word, *(f"{number} {letter}" for number, letter in sorted(found.items()))])


def recall(episode: Episode, turn: Turn) -> float | None:
    """Of the letters that stood in what a turn was shown, the share that its reply repeats rightly: how much a summary
    of a key hunt keeps. None where none was shown."""
    trajectory = next(t for t in episode.trajectories if (t.seat, t.policy) == (turn.seat, turn.policy))
    shown = [trajectory.messages[index] for index in turn.prompt]
    known = pairs(" ".join(m.text for m in shown if m.origin == "summary" or m.text.startswith("Found ")))
    told = pairs(trajectory.messages[turn.reply].text)
    if not known:
        return None
    return sum(told.get(number) == letter for number, letter in known.items()) / len(known)


class KeyHuntEnv:
    """One play of the key hunt."""

    def __init__(self, code: str, steps: int) -> None:
        self._code, self._left, self._told = code, steps, ""
        self._opened: list[int] = []
        self._said: str | None = None
        self._asked: tuple[Seat, ...] = ()

    async def start(self, state: bytes | None = None) -> Step:
        """The rules; from a saved state, the open ask again."""
        self._asked = ("agent",)
        if state is not None:
            self._opened, self._left, self._told = json.loads(state)
        self._told = self._told or (
            f"A code has {len(self._code)} letters, one in each drawer from 1 to {len(self._code)}. Reply with open "
            "and a number to see one, as in: open 1. When you know all, reply with code and every number with its "
            "letter, as in: code 1 b 2 d."
        )
        return self._ask()

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What the drawer holds, or the end. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        text = replies["agent"].text.strip()
        if text.startswith("code"):
            self._said, self._asked = text, ()
            return Step(stop=Stop("done", "the code was said"))
        self._left -= 1
        self._told, events = self._opening(text)
        if self._left <= 0:
            self._asked = ()
            return Step(events=events, stop=Stop("truncated", "no reply is left", "agent"))
        return self._ask(events)

    def _ask(self, events: tuple[Event, ...] = ()) -> Step:
        return Step((Ask("agent", (user(self._told),)),), events=events)

    def _opening(self, text: str) -> tuple[str, tuple[Event, ...]]:
        opening = re.fullmatch(r"open (\d{1,4})", text)
        number = int(opening[1]) if opening else 0
        if not 1 <= number <= len(self._code):
            told = f"Reply open and a number from 1 to {len(self._code)}, or code."
            return told, (Event(0, "invalid", "agent", {"reply": text[:200], "reason": "no such drawer"}),)
        self._opened.append(number)
        return f"Found {number} {self._code[number - 1]}.", ()

    async def final(self) -> Mapping[str, Any]:
        """``code``, what was ``said`` (None while nothing was), the drawers ``opened`` in order."""
        return {"code": self._code, "said": self._said, "opened": list(self._opened)}

    async def save(self) -> bytes:
        """The drawers opened so far. Raises: BadInput when nobody is asked."""
        if not self._asked:
            raise BadInput("only a hunt that has started and is not over can be saved")
        return json.dumps([self._opened, self._left, self._told]).encode()

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = ()


def _code_scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    if final["said"] is None:
        return {}
    code, told = str(final["code"]), pairs(str(final["said"]))
    right = [told.get(number) == letter for number, letter in enumerate(code, 1)]
    whole = all(right) and len(told) == len(code)
    return {"agent": Score(float(whole), success=whole, parts={"found": sum(right) / len(right)})}


# ---------------------------------------------------------------- composed lookups

KEYS: Final = (
    "ant", "bee", "cat", "cow", "crab", "crow", "deer", "dog", "duck", "eel", "fish", "fox", "frog", "goat", "hare",
    "hen", "ibis", "jay", "lark", "lion",
)
VALUES: Final = (
    "red", "blue", "green", "gold", "grey", "lime", "mint", "navy", "pink", "plum", "rose", "ruby", "sand", "teal",
    "wine", "jade",
)


def composed_lookup(*, objectives: int = 2, test_tasks: int = 64, steps: int | None = None) -> Objectives:
    """The suite of composed lookups in a key-value corpus that is drawn anew for every task.

    A question is a key; ``<search>fox</search>`` is answered ``fox red``; ``<answer>red; lime</answer>`` ends the
    episode (see :class:`polyturn.envs.composition.Objectives`). ``objectives`` is 1..20; ``steps`` = the replies a seat
    has, by default ``2 * objectives + 2``.
    """
    if not 1 <= objectives <= len(KEYS) or test_tasks < 1:
        raise BadInput(f"objectives is {objectives} (1..{len(KEYS)}) and test_tasks {test_tasks} (at least 1)")

    def tasks(split: str) -> Iterator[Task]:
        plain = numbered("composed_lookup", split, test=test_tasks)
        return (_lookup_task(task.id, objectives) for task in plain)

    every = {split: lambda split=split: tasks(split) for split in SPLITS}
    return Objectives(
        "composed_lookup", every, look_up, steps=steps or 2 * objectives + 2, licence="Apache-2.0", package="polyturn"
    )


def _lookup_task(id: str, objectives: int) -> Task:
    draws = generator("composed_lookup", id)
    corpus = {key: VALUES[int(draws.integers(len(VALUES)))] for key in KEYS}
    keys = [KEYS[int(index)] for index in draws.permutation(len(KEYS))[:objectives]]
    asked = [Question(key, (corpus[key],)) for key in keys]
    return objective_task(id, "composed_lookup", asked, corpus=corpus)


def look_up(task: Task, query: str) -> str:
    """``key value`` of the task's corpus, or that there is none."""
    corpus: Mapping[str, str] = task.payload["corpus"]
    key = query.strip().lower()
    return f"{key} {corpus[key]}" if key in corpus else "nothing found"
