"""Reasoning Gym: one problem, one reply, a score by the generator's own rule.

About a hundred kinds of problems (algebra, algorithms, arithmetic, code, cognition, games, geometry, graphs,
induction, logic, probability), generated from a seed. The package ``reasoning-gym`` (``polyturn envs --install
reasoning``) runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from polyturn.envs.answers import check_seats, null_answer
from polyturn.envs.install import installed
from polyturn.envs.outside.process import Outside, ask_once
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import in_turn
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import derive
from polyturn.types import Message, Score, Seat, Stop, Task, assistant, system, user

ENVS = (
    {"name": "reasoning_gym", "package": "reasoning-gym", "needs": "reasoning", "licence": "Apache-2.0",
     "seats": ("agent",), "oracle": 1.0, "null": 0.0},
)
NAME: Final = "reasoning"
BACKEND: Final = Path(__file__).with_name("backend.py")
NEEDY: Final = frozenset({"arc_agi", "composite", "game_of_life", "game_of_life_halting", "zebra_puzzles"})
"""Topics that need a package that is not fetched, or other topics."""
OPEN: Final = frozenset({"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"})
"""Topics whose generator knows no answer, only how to judge one: to be asked for by name."""
PROMPT: Final = (
    "Given a problem, your task is to answer the question by thinking step-by-step in a clear and specific manner.\n"
    "Once you have thought about the reasoning process, provide the answer in the following format:\n"
    "<answer>answer here</answer>\n"
    "Do not explain your reasoning inside the answer tags, provide only the final answer. When an example is provided, "
    "you should strictly follow the format of the output/answer in that example.\n"
)
"""The package's default."""


class Problem:
    """One problem in play."""

    def __init__(self, request: Mapping[str, Any], prompt: str, outside: Outside, solutions: dict[str, Any]) -> None:
        self._request = dict(request)
        self._prompt, self._outside, self._solutions = prompt, outside, solutions
        self._question = ""
        self._reply: str | None = None
        self._begun = self._closed = False

    async def start(self, state: bytes | None = None) -> Step:
        """The question."""
        if state is not None or self._begun:
            raise BadInput("a problem is asked once and has no saved states; replay its reply")
        self._begun = True
        self._outside.lease()
        found = await self._outside.ask({"do": "problem", **self._request})
        if not (isinstance(found, dict) and isinstance(found.get("question"), str)):
            raise EnvironmentFailed(f"the problem {self._request} is {str(found)[:200]}")
        self._question = found["question"]
        self._solutions[self._question] = found.get("answer")
        told = (system(self._prompt),) if self._prompt else ()
        return Step((Ask("agent", (*told, user(self._question))),))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The end."""
        check_seats(("agent",) if self._begun and self._reply is None else (), replies)
        self._reply = replies["agent"].text
        return Step(stop=Stop("done"))

    async def final(self) -> Mapping[str, Any]:
        """The generator's score of the reply, and the answer that was read from it."""
        if self._reply is None:
            return self._request
        found = await self._outside.ask({"do": "judge", **self._request, "reply": self._reply})
        if not (isinstance(found, dict) and isinstance(found.get("score"), float) and 0 <= found["score"] <= 1
                and "answer" in found and isinstance(found["answer"], str | None)):
            raise EnvironmentFailed(f"the judge of {self._request} gave {str(found)[:200]}")
        return {**self._request, "score": found["score"], "answer": found["answer"]}

    async def close(self) -> None:
        """Gives the worker back."""
        if self._begun and not self._closed:
            self._outside.release()
        self._closed = True
        self._solutions.pop(self._question, None)


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    return {"agent": Score(final["score"], success=final["score"] >= 1 - 1e-6)} if "score" in final else {}


class ReasoningGym:
    """The suite; made by :func:`reasoning_gym`. Topics take turns; the problem is drawn from the task and the seed."""

    def __init__(self, topics: Sequence[str], test_tasks: int, prompt: str) -> None:
        self.topics, self.test_tasks, self.prompt = tuple(topics), test_tasks, prompt
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}
        self.spec = Spec("reasoning_gym", licence="Apache-2.0", package="reasoning-gym",
                         invalid="none: a reply without <answer> tags has no answer")
        self.verifier = FinalScore(self.spec.seats, _scores)
        self._outside = Outside(self.spec.name, installed(NAME), BACKEND)
        self._solutions: dict[str, Any] = {}

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks. Raises: UnknownName."""
        return in_turn(self.spec.name, "topic", self.topics, split, test=self.test_tasks)

    async def make(self, task: Task, seed: int) -> Problem:
        """The problem of the task and the seed."""
        request = {"topic": task.payload["topic"], "seed": derive("reasoning_gym", task.id, seed) % 2**31}
        return Problem(request, self.prompt, self._outside, self._solutions)

    async def close(self) -> None:
        """Ends the worker."""
        await self._outside.close()

    def oracle(self, task: Task) -> Answer:
        """The player that gives the generator's own answer, which this suite keeps while it asks. The player raises
        BadInput for a topic whose generator knows none, and for a question that is not asked."""
        def play(ask: Ask) -> Message:
            known = self._solutions.get(ask.messages[-1].text)
            if known is None:
                raise BadInput(f"{task.id}: the generator knows no answer, or this suite does not ask that now")
            return assistant(f"<answer>{known}</answer>")

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer


@lru_cache(maxsize=2)
def known_topics(site: Path) -> tuple[str, ...]:
    """The topics of the package, asked once."""
    found = ask_once("reasoning_gym", site, BACKEND, {"do": "topics"})
    if not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
        raise EnvironmentFailed(f"the package gave as its topics {str(found)[:200]}")
    return tuple(found)


def reasoning_gym(*, topics: Sequence[str] = (), test_tasks: int = 96, prompt: str = PROMPT) -> ReasoningGym:
    """Problems of the topics (default: all whose generator knows its answer, 96 of them), in turns.

    Raises: MissingPackage, which names the command; UnknownName for a topic that does not exist or cannot be asked.
    """
    known = [name for name in known_topics(installed(NAME)) if name not in NEEDY]
    for topic in topics:
        if topic not in known:
            raise UnknownName("topic", topic, known)
    return ReasoningGym(topics or [name for name in known if name not in OPEN], test_tasks, prompt)
