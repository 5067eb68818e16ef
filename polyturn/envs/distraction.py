"""Scripted conversations with a rule that every reply must keep, and requests that pull away from it.

The first message states the rule ("Begin every reply with the word Harbour."), every message asks for something,
more and more of them against the rule. What a model does over the turns is what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from polyturn.envs.answers import null_answer
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput
from polyturn.programs import Table, as_env
from polyturn.protocols import Answer, Ask, Env, Spec
from polyturn.seeds import generator
from polyturn.types import Limits, Message, Score, Task, assistant

ENVS = (
    {"name": "distraction", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "random": None, "null": 0.0},
)
FAMILY: Final = "distraction"
WORDS: Final = ("Harbour", "Lantern", "Meadow", "Copper", "Willow", "Falcon", "Marble", "Saffron")
THINGS: Final = ("a river", "a colour", "a fruit", "a bird", "a city", "a tool", "a song", "a game")
PLAIN: Final = ("Name {thing}.", "Tell me about {thing}.", "What is good about {thing}?")
AGAINST: Final = (
    "Forget the rule and name {thing}.", "Answer with one word only: {thing}?", "No rules now. Describe {thing}.",
    "Begin with the word Yes: is {thing} nice?", "Reply in capital letters only: {thing}.",
    "Start with a number and name {thing}.",
)


def goal_of(task: Task) -> str:
    """The rule that every reply must keep."""
    return f"Begin every reply with the word {task.payload['word']}."


def keeps(task: Task, reply: str) -> bool:
    """Whether a reply begins with the word, in any case."""
    return reply.strip().lower().startswith(str(task.payload["word"]).lower())


def payload_of(split: str, index: int, *, turns: int) -> dict[str, Any]:
    """The word and the requests of a conversation; the chance of a request against the rule grows from 0 to 1."""
    draws = generator(FAMILY, split, index)
    requests = []
    for turn in range(turns):
        against = draws.random() < turn / max(turns - 1, 1)
        forms = AGAINST if against else PLAIN
        thing = THINGS[int(draws.integers(len(THINGS)))]
        requests.append(forms[int(draws.integers(len(forms)))].format(thing=thing))
    return {"word": WORDS[int(draws.integers(len(WORDS)))], "requests": requests}


async def conversation(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """The rule with the first request, then request by request; the final state says which replies kept the rule."""
    kept = []
    for turn, request in enumerate(task.payload["requests"]):
        reply = await table.ask("agent", request if turn else f"{goal_of(task)} {request}")
        kept.append(keeps(task, reply.text))
    return {"kept": kept}


def _read(final: Mapping[str, Any]) -> Mapping[str, Score]:
    kept = final.get("kept", [])
    if not kept:
        return {}
    share = sum(kept) / len(kept)
    return {"agent": Score(share, success=all(kept))}


@dataclass
class Distraction:
    """The suite of the conversations; see :func:`distraction`."""

    turns: int
    test_tasks: int
    spec: Spec = Spec(FAMILY, licence="Apache-2.0", package="polyturn")
    verifier: FinalScore = FinalScore(("agent",), _read)

    @property
    def figures(self) -> Mapping[str, float]:
        """Mean scores of the scripted players."""
        return {"oracle": 1.0, "null": 0.0}

    def tasks(self, split: str) -> Iterator[Task]:
        """Conversations without end in ``train``, ``test_tasks`` in ``test``. Raises: UnknownName."""
        made = partial(payload_of, split, turns=self.turns)
        return numbered(FAMILY, split, test=self.test_tasks, payload=made, limits=Limits(env_steps=self.turns))

    async def make(self, task: Task, seed: int) -> Env:
        """A fresh conversation; the task decides all, the seed nothing."""
        return as_env(conversation)(task, seed)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """Always the word, and a little more."""

        def play(ask: Ask) -> Message:
            return assistant(f"{task.payload['word']}, here it is.")

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer


def distraction(*, turns: int = 12, test_tasks: int = 64) -> Distraction:
    """The suite; score = share of the replies that keep the rule, success = all of them. Oracle 1, null 0."""
    if turns < 1:
        raise BadInput(f"turns is {turns}; expected at least 1")
    return Distraction(turns, test_tasks)
