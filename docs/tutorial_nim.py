"""Nim against a random opponent: who takes the last stone wins. The environment of docs/tutorial.md."""

from collections.abc import Iterator, Mapping
from typing import Any

from polyturn.envs.answers import null_answer
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import numbered
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.protocols import Ask, Spec
from polyturn.seeds import generator
from polyturn.types import Limits, Message, Score, Seat, Task, assistant


async def nim(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """One play, as one straight coroutine; what it returns is the final state."""
    draws = generator("nim", task.id, seed)
    stones = int(draws.integers(8, 16))
    while True:
        legal = tuple(str(take) for take in range(1, min(3, stones) + 1))
        reply = await table.ask("agent", f"{stones} stones. Take 1, 2 or 3. Who takes the last wins.", legal=legal)
        if reply.text.strip() not in legal:
            table.event("invalid", "agent", reply=reply.text)
            return {"won": False, "stones": stones}
        stones -= int(reply.text)
        if stones == 0:
            return {"won": True, "stones": 0}
        taken = int(draws.integers(1, min(3, stones) + 1))
        stones -= taken
        if stones == 0:
            return {"won": False, "stones": 0}
        table.tell("agent", f"I take {taken}.")


def score(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    return {"agent": Score(float(final["won"]), success=final["won"])} if final else {}


def best(ask: Ask) -> Message:
    stones = int(ask.messages[-1].text.split()[0])
    return assistant(str(stones % 4 or 1))


def tasks(split: str) -> Iterator[Task]:
    return numbered("nim", split, test=64)


def suite() -> ProgramSuite:
    """What ``polyturn eval``, ``play`` and ``run group_rl --environment`` look for in a file."""
    spec = Spec("nim", limits=Limits(env_steps=16), invalid="the game is lost")
    answers: dict[str, Any] = {"oracle": lambda task: best, "null": lambda task: null_answer}
    splits = {"train": lambda: tasks("train"), "test": lambda: tasks("test")}
    return ProgramSuite(spec, as_env(nim), splits, FinalScore(("agent",), score), answers)
