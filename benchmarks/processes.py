"""What it is worth to have episodes played by other processes: environments that compute, and ones that cost nothing.

``python -m benchmarks.processes``. The same episodes, recorded, with a policy that answers at once: played here, and by
1, 2 and more spawned workers up to the number of cores. The workers are begun before the timer. Beside the seconds
stands what this process computes for a turn: asked from outside, it still answers and records.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.overhead import Free, FreeSuite, Tokened
from benchmarks.report import Report, parser, show
from polyturn.agents.chat import ChatAgent
from polyturn.protocols import Match, Player, Spec, Step, Suite
from polyturn.record.write import open_run
from polyturn.rollout.crew.lead import Crew
from polyturn.rollout.crew.processes import begin
from polyturn.rollout.episode import Place, play_episode
from polyturn.types import Message, Seat, Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Play = Callable[..., Awaitable[Any]]
HERE = "this process"


class Computing:
    """As :class:`benchmarks.overhead.Free`, with so many seconds of a processor for each step."""

    def __init__(self, turns: int, compute_s: float) -> None:
        self.inner, self.compute_s = Free(turns), compute_s
        self.start, self.final, self.close = self.inner.start, self.inner.final, self.inner.close

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """Computes, then the next ask or the end."""
        ends = time.thread_time() + self.compute_s
        while time.thread_time() < ends:
            pass
        return await self.inner.step(replies)


class ComputingSuite:
    """Tasks of :class:`Computing`."""

    spec = Spec("computing")

    def __init__(self, turns: int, compute_s: float) -> None:
        self.turns, self.compute_s = turns, compute_s

    def tasks(self, split: str) -> Sequence[Task]:
        """One task."""
        return (Task("computing", "computing"),)

    async def make(self, task: Task, seed: int) -> Computing:
        """A fresh environment."""
        return Computing(self.turns, self.compute_s)

    async def close(self) -> None:
        """Nothing is held."""


@asynccontextmanager
async def player(processes: int) -> AsyncIterator[Play]:
    """Who plays: this process for none, else so many workers that have begun and played once."""
    if not processes:
        yield play_episode
        return
    crew = Crew(begin, processes)
    working = asyncio.create_task(crew.work())
    try:
        first = Match(FreeSuite(1), Task("free", "free"), {"agent": Player(ChatAgent, "main")})
        await asyncio.gather(*(
            crew.play(first, {"main": Tokened()}, Place(f"first.{index}")) for index in range(processes)))
        yield crew.play
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def seconds(play: Play, match: Match, episodes: int) -> tuple[float, float]:
    """(wall, this process's processor) seconds of so many episodes at once, until their record is closed."""
    with tempfile.TemporaryDirectory() as folder:
        began, spent = time.perf_counter(), time.process_time()
        with open_run(Path(folder) / "run") as record:
            played = await asyncio.gather(*(
                play(match, {"main": Tokened()}, Place(f"e.{index}", "e", index), recorder=record)
                for index in range(episodes)))
        found = time.perf_counter() - began, time.process_time() - spent
    assert all(episode.stop.kind == "done" for episode in played), played[0].stop
    return found


async def measured(match: Match, episodes: int, counts: Sequence[int], repeats: int) -> dict[int, list[Any]]:
    """Number of workers -> the (wall, processor) seconds of each repeat; they take turns, a first round counts not."""
    found: dict[int, list[Any]] = {count: [] for count in counts}
    for repeat in range(repeats + 1):
        for count in counts:
            async with player(count) as play:
                one = await seconds(play, match, episodes)
            if repeat:
                found[count].append(one)
    return found


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    words = parser(__doc__.splitlines()[0])
    words.add_argument("--compute-ms", type=float, default=20.0, help="what a step of an environment computes")
    words.add_argument("--episodes", type=int, default=32)
    words.add_argument("--turns", type=int, default=4)
    asked = words.parse_args(argv)
    cores = psutil.cpu_count(logical=False) or 1
    counts = [0, *(count for count in (1, 2, 4, 8, 16) if count <= max(cores, 2))]
    report = Report("processes", "python -m benchmarks.processes", ("msgspec",))
    kinds: dict[str, tuple[Suite, int]] = {
        f"environments that compute {asked.compute_ms:g} ms a step":
            (ComputingSuite(asked.turns, asked.compute_ms / 1000), asked.episodes),
        "environments that cost nothing": (FreeSuite(asked.turns), 4 * asked.episodes),
    }
    for heading, (suite, episodes) in kinds.items():
        match = Match(suite, Task("task", "task"), {"agent": Player(partial(ChatAgent), "main")})
        found = asyncio.run(measured(match, episodes, counts, asked.repeats))
        report.row(heading, "played by", "median s", "worst s", "us a turn here")
        for count, each in found.items():
            walls, spent = [wall for wall, _ in each], median(cpu for _, cpu in each)
            name = f"{count} workers" if count else HERE
            report.row(heading, name, median(walls), max(walls), spent / (episodes * asked.turns) * 1e6)
            report.details[f"{heading}, {name}"] = walls
            if count:
                report.ratios[f"{heading}: {name} beside {HERE}"] = median(w for w, _ in found[0]) / median(walls)
    show(report, as_json=asked.json)


if __name__ == "__main__":
    main()
