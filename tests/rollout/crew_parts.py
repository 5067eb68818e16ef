"""Environments and agents that a worker can be sent, in a module that loads nothing heavy."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polyturn.agents.chat import ChatAgent
from polyturn.contexts.window import Fit
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.protocols import Completion, Match, Piece, Player, Spec
from polyturn.seeds import generator
from polyturn.types import Message, PolicyInfo, Sampling, Score, Task, Tool, assistant


async def talk(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """Three asks, and what its payload says goes wrong, before the second one."""
    said = []
    for number in range(3):
        said.append((await table.ask("agent", f"say {number}")).text)
        await asyncio.sleep(float(task.payload.get("sleep_s", 0.0)))
        if number == 0 and (wrong := task.payload.get("wrong")) is not None:
            go_wrong(wrong, Path(task.payload["marker"]))
    table.pay("agent", "length", float(len("".join(said))))
    letters = "".join(said)
    return {"said": said, "seed": seed, "share": sum("a" <= one <= "m" for one in letters) / max(len(letters), 1),
            "place": list(task.payload.get("place", ())), "hash": isinstance(task.payload.get("place"), tuple)}


def go_wrong(wrong: str, marker: Path) -> None:
    """``raises`` and ``dies`` always; ``dies once`` and ``hangs once`` unless the marker says that it was before."""
    if wrong == "raises":
        raise RuntimeError("it broke")
    try:
        with marker.open("x" if wrong.endswith("once") else "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    except FileExistsError:  # "x" lets one of several at once through
        return
    if wrong.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


class ByShare:
    """Scores the share of the letters a to m."""

    name = "score"

    async def __call__(self, groups: Any) -> Any:
        return {e.id: {"agent": Score(e.final.get("share", 0.0))} for group in groups for e in group}


def talks(*tasks: Task) -> ProgramSuite:
    """A suite of talks."""
    return ProgramSuite(Spec("talk"), as_env(talk), {"train": list(tasks)}, verifier=ByShare())  # type: ignore[arg-type]


def speaker(*, window: bool = False) -> Player:
    """Six tokens a reply; with a window it has to count tokens."""
    more: dict[str, Any] = {"context": Fit(60)} if window else {}
    return Player(partial(ChatAgent, sampling=Sampling(max_tokens=6), **more), "main")


def match(name: str = "t", *, window: bool = False, rollouts: int = 2, **payload: Any) -> Match:
    """A talk to be played."""
    return Match(talks(), Task(name, "talk", payload), {"agent": speaker(window=window)}, 7, rollouts,
                 train=frozenset({"agent"}))


class Letters:
    """A policy that says letters drawn by the seed of the call, with log-probabilities: what a model does, at once."""

    name, limit = "main", 1000

    def info(self) -> PolicyInfo:
        """One version of no weights."""
        return PolicyInfo("main", version=3)

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """One for each letter."""
        return sum(len(message.text) for message in messages)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Any = lambda message: None,
    ) -> Completion:
        """As many letters as are allowed; a reply of its own is spliced as it was sampled."""
        pieces: list[Piece] = []
        for message in messages:
            own = written(message)
            pieces += own if own is not None else [Piece(np.array([ord(one) for one in message.text], np.int32))]
        drawn = generator("letters", sampling.seed or 0)
        ids = drawn.integers(97, 123, sampling.max_tokens).astype(np.int32)
        text = "".join(chr(one) for one in ids)
        return Completion(assistant(text), tuple(pieces), ids, -drawn.random(len(ids)), version=3, finish="length")
