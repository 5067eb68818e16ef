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
from polyturn.types import Episode, Event, Limits, Message, Score, Seat, Stop, Task, Trajectory, Turn, assistant, user

ENVS = (
    {"name": "key_hunt", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "null": 0.0},
    {"name": "composed_lookup", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "null": 0.0},
)
ONSETS: Final = "bcdfghklmnprstvz"
DRAWERS: Final = ("a", "e", "i", "o", "u", "y", "ai", "au", "ei", "eu", "oi", "ou")
"""A drawer's syllable ends in its name: drawer ``ai`` may hold ``kai``. So a syllable says where it is from."""
SYLLABLE: Final = re.compile(rf"\b[{ONSETS}]({'|'.join(DRAWERS)})\b")

# ---------------------------------------------------------------- key hunt


def key_hunt(
    *, parts: int = 6, onsets: int = len(ONSETS), test_tasks: int = 64, steps: int | None = None
) -> KeyHunt:
    """The suite of the key hunt: a code of ``parts`` syllables (1..12), one in each drawer; every tool call shows one.

    ``open e`` is answered ``Found ke.``; ``code ba ke ...`` (all syllables, in any order) ends the episode. Score 1 for
    exactly the whole code, else 0; ``Score.parts["found"]`` is the share of right syllables. Each syllable is one of
    ``onsets`` (1..16), equally likely. ``steps`` = the replies a seat has, by default ``3 * parts``; then the hunt is
    truncated and lost.
    """
    if not 1 <= parts <= len(DRAWERS) or not 1 <= onsets <= len(ONSETS) or test_tasks < 1:
        raise BadInput(f"parts is {parts} (1..{len(DRAWERS)}), onsets {onsets} (1..{len(ONSETS)}) and test_tasks "
                       f"{test_tasks} (at least 1)")
    return KeyHunt({"parts": parts, "onsets": onsets}, test_tasks, steps or 3 * parts)


class KeyHunt:
    """A :class:`polyturn.protocols.Suite`; made by :func:`key_hunt`. Task and seed draw the code."""

    def __init__(self, size: Mapping[str, int], test_tasks: int, steps: int) -> None:
        self.size, self.test_tasks, self.steps = size, test_tasks, steps
        self.spec = Spec(
            "key_hunt", limits=Limits(env_steps=steps), invalid="it costs a step", licence="Apache-2.0",
            package="polyturn",
        )
        self.verifier = FinalScore(self.spec.seats, _code_scores)
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks."""
        return numbered("key_hunt", split, test=self.test_tasks, payload=lambda index: dict(self.size))

    async def make(self, task: Task, seed: int) -> KeyHuntEnv:
        """One play, its code drawn from the task's id and the seed."""
        return KeyHuntEnv(code_of(task, seed), self.steps)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """Opens every drawer once, then says the code."""
        found: dict[str, str] = {}
        drawers = DRAWERS[: int(task.payload["parts"])]

        def play(ask: Ask) -> Message:
            found.update(syllables(" ".join(m.text for m in ask.messages if m.text.startswith("Found "))))
            left = [drawer for drawer in drawers if drawer not in found]
            return assistant(f"open {left[0]}" if left else spoken("code", found))

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer


def hunt_rules(parts: int) -> str:
    """What a hunter is told first."""
    return (
        f"A code has {parts} syllables, one in each of the drawers {' '.join(DRAWERS[:parts])}. Reply with open and a "
        "drawer to see its syllable, as in: open a. When you know all, reply with code and all of them, as in: code "
        "ba de."
    )


def code_of(task: Task, seed: int) -> dict[str, str]:
    """Drawer -> syllable of a key hunt."""
    draws = generator("key_hunt", task.id, seed)
    drawn = draws.integers(int(task.payload["onsets"]), size=int(task.payload["parts"]))
    return {d: ONSETS[int(onset)] + d for d, onset in zip(DRAWERS[: len(drawn)], drawn, strict=True)}


def syllables(text: str) -> dict[str, str]:
    """Drawer -> syllable, of all that stand in a text; the last one counts where a drawer has two.

    >>> syllables("code ba de kai da")
    {'a': 'da', 'e': 'de', 'ai': 'kai'}
    """
    return {found[1]: found[0] for found in SYLLABLE.finditer(text)}


def spoken(word: str, found: Mapping[str, str]) -> str:
    """A word and the syllables in the order of the drawers.

    >>> spoken("code", {"e": "de", "a": "ba"})
    'code ba de'
    """
    return " ".join([word, *(found[drawer] for drawer in DRAWERS if drawer in found)])


def recall(episode: Episode, turn: Turn) -> float | None:
    """Of the syllables that a turn was shown, the share that its reply repeats rightly: how much a summary of a key
    hunt keeps. None where none was shown."""
    known = shown(episode, turn)
    told = syllables(_trajectory(episode, turn).messages[turn.reply].text)
    return _share(told, known) if known else None


def in_view(episode: Episode, turn: Turn) -> float:
    """Of the syllables of a hunt's code, the share that a turn was shown rightly: what its context kept of the task.

    Raises: BadInput where the environment's final state is unknown.
    """
    if episode.final is None:
        raise BadInput(f"episode {episode.id} has no final state, so its code is unknown")
    return _share(shown(episode, turn), episode.final["code"])


def shown(episode: Episode, turn: Turn) -> dict[str, str]:
    """Drawer -> syllable, of what stood in a turn's prompt: found, or in a summary."""
    messages = [_trajectory(episode, turn).messages[index] for index in turn.prompt]
    return syllables(" ".join(m.text for m in messages if m.origin == "summary" or m.text.startswith("Found ")))


def _share(told: Mapping[str, str], of: Mapping[str, str]) -> float:
    return sum(told.get(drawer) == syllable for drawer, syllable in of.items()) / len(of)


def _trajectory(episode: Episode, turn: Turn) -> Trajectory:
    return next(t for t in episode.trajectories if (t.seat, t.policy) == (turn.seat, turn.policy))


class KeyHuntEnv:
    """One play of the key hunt."""

    def __init__(self, code: Mapping[str, str], steps: int) -> None:
        self._code, self._left, self._told = code, steps, ""
        self._opened: list[str] = []
        self._said: str | None = None
        self._asked: tuple[Seat, ...] = ()

    async def start(self, state: bytes | None = None) -> Step:
        """The rules; from a saved state, the open ask again."""
        self._asked = ("agent",)
        if state is not None:
            self._opened, self._left, self._told = json.loads(state)
        self._told = self._told or hunt_rules(len(self._code))
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
        drawer = text.removeprefix("open ").strip()
        if not text.startswith("open ") or drawer not in self._code:
            told = f"Reply open and one of the drawers {' '.join(self._code)}, or code."
            return told, (Event(0, "invalid", "agent", {"reply": text[:200], "reason": "no such drawer"}),)
        self._opened.append(drawer)
        return f"Found {self._code[drawer]}.", ()

    async def final(self) -> Mapping[str, Any]:
        """``code`` by drawer, what was ``said`` (None while nothing was), the drawers ``opened`` in order."""
        return {"code": dict(self._code), "said": self._said, "opened": list(self._opened)}

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
    told = syllables(str(final["said"]))
    whole = told == final["code"]
    return {"agent": Score(float(whole), success=whole, parts={"found": _share(told, final["code"])})}


# ---------------------------------------------------------------- composed lookups

def composed_lookup(
    *, objectives: int = 2, onsets: int = len(ONSETS), test_tasks: int = 64, steps: int | None = None
) -> Objectives:
    """The suite of composed lookups in a key-value corpus that is drawn anew for every task.

    A question is a key; ``<search>e</search>`` is answered ``e ke``; ``<answer>ke; ba</answer>`` ends the episode (see
    :class:`polyturn.envs.composition.Objectives`). ``objectives`` is 1..12, each value one of ``onsets`` (1..16), its
    last letters those of its key; ``steps`` = the replies a seat has, by default ``2 * objectives + 2``.
    """
    if not 1 <= objectives <= len(DRAWERS) or not 1 <= onsets <= len(ONSETS) or test_tasks < 1:
        raise BadInput(f"objectives is {objectives} (1..{len(DRAWERS)}), onsets {onsets} (1..{len(ONSETS)}) and "
                       f"test_tasks {test_tasks} (at least 1)")

    def tasks(split: str) -> Iterator[Task]:
        plain = numbered("composed_lookup", split, test=test_tasks)
        return (_lookup_task(task.id, objectives, onsets) for task in plain)

    every = {split: lambda split=split: tasks(split) for split in SPLITS}
    return Objectives(
        "composed_lookup", every, look_up, steps=steps or 2 * objectives + 2, licence="Apache-2.0", package="polyturn"
    )


def _lookup_task(id: str, objectives: int, onsets: int) -> Task:
    draws = generator("composed_lookup", id)
    corpus = {key: ONSETS[int(draws.integers(onsets))] + key for key in DRAWERS}
    keys = [DRAWERS[int(index)] for index in draws.permutation(max(objectives, 8))[:objectives]]
    asked = [Question(key, (corpus[key],)) for key in keys]
    return objective_task(id, "composed_lookup", asked, corpus=corpus)


def look_up(task: Task, query: str) -> str:
    """``key value`` of the task's corpus, or that there is none."""
    corpus: Mapping[str, str] = task.payload["corpus"]
    key = query.strip().lower()
    return f"{key} {corpus[key]}" if key in corpus else "nothing found"
