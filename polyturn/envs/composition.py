"""Several questions in one task, from any list of questions: composed in order, searched, scored by position."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from polyturn.envs.answers import check_seats, null_answer
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import SPLITS
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import generator
from polyturn.types import Event, Group, Limits, Message, Score, Seat, Stop, Task, assistant, user

Search = Callable[[Task, str], str]
"""(task, query) -> what the search shows."""
ACTION: Final = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
ILLEGAL: Final = "That was neither <search>...</search> nor <answer>...</answer>."

# ---------------------------------------------------------------- questions


@dataclass(frozen=True, slots=True)
class Question:
    """A question with every answer that counts: ``Question("Who wrote Faust?", ("Goethe", "J. W. von Goethe"))``."""

    text: str
    answers: tuple[str, ...]


def composed(questions: Sequence[Question], objectives: int, seed: int = 0) -> Iterator[tuple[Question, ...]]:
    """Without end: ``objectives`` different questions at a time, in the order in which they are to be answered.

    Lap by lap every question is used once, in a new order; what is left over begins the next lap's first task. So
    after any number of tasks no question was used two times more often than another.
    Raises: BadInput for fewer questions than objectives, or none of either, or a text that stands twice.
    """
    if not 1 <= objectives <= len(questions):
        raise BadInput(f"objectives is {objectives} with {len(questions)} questions; expected 1..{len(questions)}")
    texts = [question.text for question in questions]
    if len(set(texts)) != len(texts):
        raise BadInput(f"these questions stand twice: {sorted({text for text in texts if texts.count(text) > 1})[:5]}")
    return _laps(questions, objectives, seed)


def _laps(questions: Sequence[Question], objectives: int, seed: int) -> Iterator[tuple[Question, ...]]:
    draws = generator("composed", objectives, seed)
    left: list[int] = []
    while True:
        lap = [int(index) for index in draws.permutation(len(questions))]
        lap.sort(key=lambda index: index in left)  # a left-over question waits behind the others of its second lap
        left += lap
        while len(left) >= objectives:
            yield tuple(questions[index] for index in left[:objectives])
            left = left[objectives:]


# ---------------------------------------------------------------- scoring


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks, as exact match of answers is usually taken.

    >>> normalised("  The J. W. von  Goethe!")
    'j w von goethe'
    """
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def matched(said: str, answers: Sequence[Sequence[str]]) -> tuple[bool, ...]:
    """For each position of a semicolon list, whether it is one of the answers to that question (exact match).

    A position that was left out does not match; what was said beyond the last one counts for nothing.

    >>> matched("Goethe; the Rhine; 7", [["J. W. von Goethe", "goethe"], ["Elbe"]])
    (True, False)
    """
    given = [normalised(part) for part in said.split(";")] + [""] * len(answers)
    return tuple(
        bool(one) and one in {normalised(answer) for answer in accepted}
        for one, accepted in zip(given[: len(answers)], answers, strict=True)
    )


def action(reply: str) -> tuple[str, str] | None:
    """("search" or "answer", its content) of the first tag that is opened and closed; None without one.

    >>> action("<IS>a 1</IS> <search> b </search> <answer>2</answer>")
    ('search', 'b')
    """
    found = ACTION.search(reply)
    return None if found is None else (found[1], found[2].strip())


def by_position(groups: Sequence[Group], seat: Seat = "agent") -> tuple[float, ...]:
    """Per position, the share of scored episodes that answered it rightly; tasks must have equally many objectives.

    Raises: BadInput for none, or different numbers of objectives.
    """
    rows = []
    for episode in (episode for group in groups for episode in group if episode.stop.kind != "error"):
        right = (episode.final or {}).get("matched")
        rows.append(right if right is not None else [False] * len(episode.task.payload["answers"]))
    if not rows or len({len(row) for row in rows}) != 1:
        raise BadInput(f"by_position needs episodes with equally many objectives; got {sorted({len(r) for r in rows})}")
    return tuple(float(share) for share in np.mean(np.array(rows, np.float64), axis=0))


# ---------------------------------------------------------------- suite


class Objectives:
    """A :class:`polyturn.protocols.Suite` of composed questions with a search.

    A reply is read for its first ``<search>words</search>`` or ``<answer>first; second</answer>``; anything else in it
    is the policy's own business. A reply with neither costs a step and is an event ``invalid``. An answer ends the
    episode; the score is the share of positions that match exactly. After ``steps`` replies the play is truncated.
    """

    def __init__(
        self, name: str, tasks: Mapping[str, Callable[[], Iterable[Task]]], search: Search, *, steps: int,
        licence: str = "", package: str = "",
    ) -> None:
        self.spec = Spec(
            name, limits=Limits(env_steps=steps), invalid="it costs a step", licence=licence, package=package
        )
        self.verifier = FinalScore(self.spec.seats, _scores)
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}
        self._tasks = tasks
        self._search, self._steps = search, steps

    def tasks(self, split: str) -> Iterator[Task]:
        """The tasks of a split. Raises: UnknownName."""
        if split not in self._tasks:
            raise UnknownName("split", split, self._tasks)
        return iter(self._tasks[split]())

    async def make(self, task: Task, seed: int) -> ObjectivesEnv:
        """One play; nothing in it is drawn."""
        return ObjectivesEnv(task, self._search, self._steps)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """The player that searches every question once and knows the answers."""
        answers = "; ".join(str(accepted[0]) for accepted in task.payload["answers"])
        left = [f"<search>{question}</search>" for question in task.payload["questions"]]
        left.append(f"<answer>{answers}</answer>")
        return lambda ask: assistant(left.pop(0))

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer


def multi_objective(
    questions: Mapping[str, Sequence[Question]], search: Search, *, objectives: int = 2, name: str = "multi_objective",
    steps: int | None = None, licence: str = "",
) -> Objectives:
    """The suite of ``objectives`` questions a task, of a list for each split ("train" and "test") and a search.

    ``train`` has no end; ``test`` uses every question at most once. ``steps`` = the replies a seat has, by default
    ``2 * objectives + 2``. Raises: BadInput for a missing split, a question in both, or too few of them.
    """
    if set(questions) != set(SPLITS):
        raise BadInput(f"questions has the splits {sorted(questions)}; expected exactly {sorted(SPLITS)}")
    shared = {q.text for q in questions["train"]} & {q.text for q in questions["test"]}
    if shared:
        raise BadInput(f"these questions stand in both splits: {sorted(shared)[:5]}")
    test = len(questions["test"]) // objectives

    def tasks(split: str) -> Iterator[Task]:
        for index, chosen in enumerate(composed(questions[split], objectives)):
            if split == "test" and index == test:
                return
            yield objective_task(f"{name}/{split}/{index}", name, chosen)

    return Objectives(
        name, {split: lambda split=split: tasks(split) for split in SPLITS}, search,  # type: ignore[misc]
        steps=steps or 2 * objectives + 2, licence=licence,
    )


def objective_task(id: str, family: str, questions: Sequence[Question], **payload: Any) -> Task:
    """A task that asks these questions in this order; ``payload`` is what the search needs besides."""
    asked = {"questions": [q.text for q in questions], "answers": [list(q.answers) for q in questions]}
    return Task(id, family, {**asked, **payload})


def objective_rules(questions: Sequence[str]) -> str:
    """What is asked, as a policy reads it."""
    return (f"Questions: {'; '.join(questions)}\nSearch with <search>words</search>, one question at a time. When you "
            "know all, reply <answer>first; second; ...</answer> in the order of the questions.")


class ObjectivesEnv:
    """One play of composed questions."""

    def __init__(self, task: Task, search: Search, steps: int) -> None:
        self._task = task
        self._search = search
        self._left = steps
        self._searches = 0
        self._told = ""
        self._answer: str | None = None
        self._asked: tuple[Seat, ...] = ()

    async def start(self, state: bytes | None = None) -> Step:
        """The questions; from a saved state, the open ask again."""
        self._asked = ("agent",)
        if state is not None:
            self._searches, self._left, self._told = json.loads(state)
        if self._told:
            return self._ask()
        questions = self._task.payload["questions"]
        return Step((Ask("agent", (user(objective_rules(questions)),)),))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """What the search shows, or the end. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        self._left -= 1
        kind, content = action(replies["agent"].text) or ("", "")
        if kind == "answer":
            self._answer, self._asked = content, ()
            return Step(stop=Stop("done", "answered"))
        events: tuple[Event, ...] = ()
        if kind == "search":
            self._searches += 1
            self._told = self._search(self._task, content)
        else:
            self._told = ILLEGAL
            events = (Event(0, "invalid", "agent", {"reply": replies["agent"].text[:200], "reason": ILLEGAL}),)
        if self._left <= 0:
            self._asked = ()
            return Step(events=events, stop=Stop("truncated", "no reply is left", "agent"))
        return self._ask(events)

    def _ask(self, events: tuple[Event, ...] = ()) -> Step:
        return Step((Ask("agent", (user(self._told),)),), events=events)

    async def final(self) -> Mapping[str, Any]:
        """``answer`` (None while there is none), ``matched`` by position, ``searches``."""
        right = None if self._answer is None else list(matched(self._answer, self._task.payload["answers"]))
        return {"answer": self._answer, "matched": right, "searches": self._searches}

    async def save(self) -> bytes:
        """All that the play remembers. Raises: BadInput when nobody is asked."""
        if not self._asked:
            raise BadInput("only a play that has started and is not over can be saved")
        return json.dumps([self._searches, self._left, self._told]).encode()

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = ()


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    right = final["matched"]
    if right is None:
        return {}
    parts = {"matched": float(sum(right))} | {f"position_{n}": float(one) for n, one in enumerate(right, 1)}
    return {"agent": Score(sum(right) / len(right), success=all(right), parts=parts)}
