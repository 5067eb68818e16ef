"""Two thousand environments at once in one process for ten minutes: is anything lost, does memory grow.

``python -m benchmarks.load`` (``--environments 200 --seconds 20`` for a look). Every environment thinks for a while
before it answers; when an episode ends its place plays the next one. All is recorded, turn by turn with tokens. At the
end the counts must agree: episodes begun, ended and on record; turns taken, sampled and on record.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.overhead import Free, Tokened
from benchmarks.report import Report, parser, show
from polyturn.agents.chat import ChatAgent
from polyturn.learn.memory import resident_bytes
from polyturn.progress import make_progress
from polyturn.protocols import Match, Player, Policy, Recorder, Spec, Step
from polyturn.record.read import count_turns, read_plain
from polyturn.record.write import open_run
from polyturn.rollout.pool import play
from polyturn.types import Message, Seat, Task

TURNS = 6
EVERY_S = 1.0
"""Between two looks at the memory."""


@dataclass
class Slow:
    """:class:`benchmarks.overhead.Free` behind a wait of ``pause_s`` on average, drawn from a seed."""

    inner: Free
    draws: np.random.Generator
    pause_s: float
    counts: dict[str, int]

    async def start(self, state: bytes | None = None) -> Step:
        """The first ask."""
        self.counts["begun"] += 1
        return await self.inner.start(state)

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The next ask, or the end, after a while."""
        await asyncio.sleep(float(self.draws.uniform(0, 2 * self.pause_s)))
        self.counts["taken"] += 1
        return await self.inner.step(replies)

    async def final(self) -> Mapping[str, Any]:
        """How many replies were taken."""
        return await self.inner.final()

    async def close(self) -> None:
        """Nothing is held."""
        self.counts["closed"] += 1


@dataclass
class SlowSuite:
    """Tasks of :class:`Slow`."""

    pause_s: float = 1.0
    turns: int = TURNS
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("begun", "taken", "closed"), 0))
    spec: Spec = Spec("slow")

    def tasks(self, split: str) -> Sequence[Task]:
        """One task."""
        return (Task("slow", "slow"),)

    async def make(self, task: Task, seed: int) -> Slow:
        """A fresh environment."""
        return Slow(Free(self.turns), np.random.default_rng(seed), self.pause_s, self.counts)

    async def close(self) -> None:
        """Nothing is held."""


async def press(suite: SlowSuite, recorder: Recorder, environments: int, seconds: float) -> dict[str, Any]:
    """Keeps so many environments at work for so long, then lets them end. Returns counts and memory by second."""
    policies: dict[str, Policy] = {"main": Tokened()}
    until, ended = time.monotonic() + seconds, [0] * environments
    memory: list[tuple[float, int]] = []
    progress = make_progress(sys.stderr)
    progress.stage("load", int(seconds / EVERY_S))

    async def place(number: int) -> None:
        while time.monotonic() < until:
            seed = number * 10**6 + ended[number]
            match = Match(suite, Task("slow", "slow"), {"agent": Player(ChatAgent, "main")}, seed)
            groups = await play([match], policies, label=f"load.{number}.{ended[number]}", recorder=recorder)
            assert groups[0][0].stop.kind == "done", groups[0][0].stop
            ended[number] += 1

    async def watch() -> None:
        began = time.monotonic()
        while True:
            memory.append((time.monotonic() - began, resident_bytes()))
            progress.iteration(int(memory[-1][0]), {"episodes": float(sum(ended))})
            await asyncio.sleep(EVERY_S)

    watching = asyncio.create_task(watch())
    try:
        async with asyncio.TaskGroup() as all_places:
            for number in range(environments):
                all_places.create_task(place(number))
    finally:
        watching.cancel()
        progress.close()
    return {"ended": sum(ended), "memory": memory}


def run(folder: Path, environments: int, seconds: float, pause_s: float) -> dict[str, Any]:
    """Presses and counts. Raises: AssertionError where counts disagree."""
    suite = SlowSuite(pause_s=pause_s)
    with open_run(folder) as recorder:
        found = asyncio.run(press(suite, recorder, environments, seconds))
    found |= suite.counts
    found["episodes_on_record"] = sum(1 for _ in read_plain(folder))
    found["turns_on_record"] = sum(count_turns(folder).values())
    assert found["begun"] == found["closed"] == found["ended"] == found["episodes_on_record"], found
    assert found["taken"] == found["turns_on_record"] == found["ended"] * suite.turns, found
    return found


def slope(memory: list[tuple[float, int]]) -> float:
    """MiB a minute, by least squares over the second half, when all places are at work."""
    half = np.array(memory[len(memory) // 2 :], float)
    if len(half) < 3:
        return float("nan")
    return float(np.polyfit(half[:, 0] / 60, half[:, 1] / 2**20, 1)[0])


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, presses, prints."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--environments", type=int, default=2000)
    made.add_argument("--seconds", type=float, default=600.0)
    made.add_argument("--pause", type=float, default=2.0, help="mean seconds that an environment thinks")
    arguments = made.parse_args(argv)
    report = Report("load: environments at once in one process", "python -m benchmarks.load")
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder) / "run", arguments.environments, arguments.seconds, arguments.pause)
    memory = [size / 2**20 for _, size in found["memory"]]
    tenth = max(1, len(memory) // 10)
    report.row("load", "environments", "seconds", "episodes", "turns", "turns a second")
    report.row("load", arguments.environments, arguments.seconds, found["ended"], found["taken"],
               found["taken"] / arguments.seconds)  # fmt: skip
    report.row("memory, MiB", "second tenth", "last tenth", "most", "slope a minute")
    report.row("memory, MiB", mean(memory[tenth : 2 * tenth] or memory), mean(memory[-tenth:]), max(memory),
               slope(found["memory"]))  # fmt: skip
    report.details = {name: value for name, value in found.items() if name != "memory"} | {"memory_mib": memory}
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()
