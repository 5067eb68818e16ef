"""Every planted fault of a suite is caught, by name; a sound one passes and gives its mean scores."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from polyturn.conformance.failed import CheckFailed
from polyturn.conformance.suite import check_suite
from polyturn.envs.answers import null_answer
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput
from polyturn.programs import Table, as_env
from polyturn.protocols import Answer, Ask, Env, Spec
from polyturn.seeds import derive
from polyturn.types import Message, Score, Task, assistant

SPEC = Spec("parity", invalid="the question is lost")


async def parity(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """Is the number even or odd?"""
    number = derive(task.id, seed) % 100
    reply = await table.ask("agent", f"Is {number} even or odd?", legal=("even", "odd"))
    if reply.text not in ("even", "odd"):
        table.event("invalid", "agent", reply=reply.text)
    return {"right": reply.text == ("odd" if number % 2 else "even")}


def solve(ask: Ask) -> Message:
    """The right answer, from the words."""
    return assistant("odd" if int(ask.messages[-1].text.split()[1]) % 2 else "even")


def read(final: Mapping[str, Any]) -> dict[str, Score]:
    return {"agent": Score(float(final["right"]))} if "right" in final else {}


class Parity:
    """A sound suite; everything below breaks one thing of it."""

    def __init__(self) -> None:
        self.spec = SPEC
        self.verifier: Any = FinalScore(("agent",), read)
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}

    def tasks(self, split: str) -> Iterable[Task]:
        return numbered("parity", split, test=12)

    async def make(self, task: Task, seed: int) -> Env:
        return as_env(parity)(task, seed)

    async def close(self) -> None: ...

    def oracle(self, task: Task) -> Answer:
        return solve

    def null(self, task: Task) -> Answer:
        return null_answer


def suite(**changes: Any) -> Any:
    """A ``Parity`` with other members; plain values are set on the instance."""
    methods = {name: value for name, value in changes.items() if callable(value) and name not in ("verifier",)}
    made = type("Parity", (Parity,), methods)()
    for name in changes.keys() - methods.keys():
        setattr(made, name, changes[name])
    return made


def with_spec(**changes: Any) -> Any:
    return suite(spec=replace(SPEC, **changes))


def splits(test: Any, train: Any = None) -> Any:
    def tasks(self: Any, split: str) -> Iterable[Task]:
        if split not in ("train", "test"):
            raise LookupError(split)
        given = test() if split == "test" else (train or (lambda: numbered("parity", "train", test=1)))()
        return given

    return suite(tasks=tasks)


class Verifier:
    """A verifier made of one function of the episodes."""

    name = "score"

    def __init__(self, give: Any) -> None:
        self.give = give

    async def __call__(self, groups: Sequence[Any]) -> Any:
        return self.give([episode for group in groups for episode in group])


def judged(value: Any) -> Any:
    """All episodes that did not break get this score."""
    return suite(figures={}, verifier=Verifier(lambda episodes: {
        e.id: {"agent": Score(value() if callable(value) else value)} for e in episodes if e.stop.kind != "error"}))


async def test_a_sound_suite_passes_with_its_scores() -> None:
    assert await check_suite(suite()) == {"oracle": 1.0, "null": 0.0}
    assert await check_suite(suite(oracle=no_oracle, figures={})) == {"null": 0.0}


def no_oracle(self: Any, task: Task) -> Answer:
    raise BadInput("there is none")


ONE = Task("one", "parity")
COUNTED = itertools.count()
FAULTS: list[tuple[str, Any, str]] = [
    ("no name", with_spec(name=""), "has no name or no seats"),
    ("no seats", with_spec(seats=()), "has no name or no seats"),
    ("seat twice", with_spec(seats=("a", "a")), "names a seat twice"),
    ("seat with a slash", with_spec(seats=("a/b",)), "makes a sub-seat"),
    ("silent on illegal replies", with_spec(invalid=""), "what an illegal reply costs"),
    ("no deadline", with_spec(step_timeout_s=0.0), "has the deadline 0.0 s"),
    ("no test tasks", splits(list), "has 0 test tasks"),
    ("endless test", splits(lambda: numbered("parity", "train", test=1)), "expected a finite, held-out set"),
    ("text for a task", splits(lambda: ["one"]), "are no Task"),
    ("task without id", splits(lambda: [Task("", "parity")]), "have no id or family"),
    ("other tasks each time", splits(lambda: [Task(str(next(COUNTED)), "parity")]), "other test tasks the second time"),
    ("an id twice", splits(lambda: [ONE, ONE]), "two test tasks with the same id"),
    ("trains on test", splits(lambda: [ONE], lambda: [Task("two", "parity"), ONE]), "trains on its test tasks"),
    ("no train tasks", splits(lambda: [ONE], list), "no train tasks"),
    ("any split", suite(tasks=lambda self, split: numbered("p", "test" if split == "test" else "train", test=3)),
     "gave tasks of the split 'no such split'"),
    ("payload is no JSON", splits(lambda: [Task("one", "parity", {"a": {1}})]), "payload of one is no plain JSON"),
    ("no verifier", suite(verifier=None), "has no verifier"),
    ("scores errors", suite(verifier=Verifier(lambda episodes: {e.id: {"agent": Score(0.0)} for e in episodes}),
                            figures={}), "scored an episode whose stop is an error"),
    ("score from the air", judged(random.Random(0).random), "another score the second time"),
    ("score above 1", judged(2.0), "gave 'agent' 2.0; expected 0..1"),
    ("score is no number", judged(float("nan")), "another score the second time|expected 0..1"),
    ("nothing but abstaining", judged(None), "no seat has a score"),
    ("leaves episodes out", suite(verifier=Verifier(lambda episodes: {})), r"scored \[\]; expected"),
    ("scores strangers", suite(figures={}, verifier=Verifier(lambda episodes: {
        e.id: {"bob": Score(1.0)} for e in episodes if e.stop.kind != "error"})), "scored 'bob'; the seats are"),
    ("upside down", suite(figures={}, verifier=FinalScore(("agent",), lambda final: {
        "agent": Score(1.0 - float(final.get("right", 1.0)))})), "is the score upside down"),
    ("overstated", suite(figures={"oracle": 0.8}), r"the oracle player scores 1.000 over 12 tasks; 0.800 is stated"),
    ("null earns", suite(figures={"null": 0.3}), "the null player scores 0.000"),
    ("oracle breaks", suite(oracle=lambda self, task: lambda ask: assistant(str(1 // 0))), "episode broke: Zero"),
]


@pytest.mark.parametrize(("broken", "words"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
async def test_a_planted_fault_is_caught(broken: Any, words: str) -> None:
    with pytest.raises(CheckFailed, match=words):
        await check_suite(broken, tasks=1)


async def test_a_broken_environment_breaks_its_suite() -> None:
    async def forgetful(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
        await table.ask("agent", f"Is {random.random()} even?", legal=("even", "odd"))
        return {"right": True}

    async def make(self: Any, task: Task, seed: int) -> Env:
        return as_env(forgetful)(task, seed)

    with pytest.raises(CheckFailed, match="Python's global generator"):
        await check_suite(suite(make=make))
