"""Slow environments: decoupled training against our own synchronous loop at its best batch, same waits and model.

``python -m benchmarks.decoupled``: 32 environments wait before each ask, log-normal with mean 0.3 s and sigma 1,
clipped to 0.05..2 s; the k-th play of a task waits the same in every schedule. Each schedule trains the tiny model
(``--model ""``: the embedded one) on the same number of episodes, in groups of four; the synchronous loop with batches
of 1, 2 and 4 times the environments, all shown. A larger batch makes fewer updates of the same episodes, so each is
compared, and not the fastest alone. A timer runs from the first play until the record is written and synced. *Busy* is
the share of the environments' seconds in which they work, *occupied* that in which they hold a live episode; ``limits``
holds decoupled's busy share, for at 1 no schedule could be faster.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.report import Report, parser, show
from polyturn.advantages.group import group_standardised
from polyturn.agents.chat import ChatAgent
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.decoupled.schedule import Schedule
from polyturn.learn.decoupled.train import train_decoupled
from polyturn.learn.learner import Learner
from polyturn.learn.loop import Rule, Stage, train
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.policies.tiny import open_model
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.progress import make_progress
from polyturn.protocols import Player, Spec
from polyturn.record.read import read_episodes, read_metrics
from polyturn.record.write import open_run
from polyturn.rollout.environments import busy_seconds
from polyturn.rollout.pool import Pool
from polyturn.seeds import generator
from polyturn.types import Sampling, Score, Task

SIGMA, LOW_S, HIGH_S = 1.0, 0.05, 2.0
ROLLOUTS = 4
WORDS = ("north", "south", "east", "west")


@dataclass(frozen=True, slots=True)
class Work:
    """What every schedule does."""

    environments: int = 32
    episodes: int = 256
    turns: int = 6
    max_lag: int = 2
    replicas: int = 1
    """Copies of the model that sample in the decoupled schedule; weights reach them one after the other."""
    mean_s: float = 0.3
    """Of the waits, before they are clipped."""
    scale: float = 1.0
    """Of the waits; other than 1 in tests only."""
    model: str = "tiny"

    @property
    def group(self) -> int:
        """Groups in a batch of as many episodes as there are environments."""
        return self.environments // ROLLOUTS


@dataclass(frozen=True, slots=True)
class Outcome:
    """One schedule's run."""

    seconds: float
    episodes: int
    """Trained on."""
    busy: float
    occupied: float
    fewest_serving: int | None = None
    """The least number of replicas that served at any moment; None where there are none."""

    @property
    def rate(self) -> float:
        """Episodes a second."""
        return self.episodes / self.seconds


def waits(task: str, play: int, turns: int, mean_s: float = 0.3) -> list[float]:
    """The seconds before each ask of the ``play``-th play of a task."""
    drawn = generator("waits", task, play).lognormal(math.log(mean_s) - SIGMA**2 / 2, SIGMA, turns)
    return [min(HIGH_S, max(LOW_S, float(seconds))) for seconds in drawn]


class ByNorth:
    """Scores the share of replies that say north."""

    name = "score"

    async def __call__(self, groups: Any) -> Any:
        return {e.id: {"agent": Score(float(e.final["share"]))} for group in groups for e in group}


def sleepy(work: Work, began: list[float]) -> ProgramSuite:
    """The environments; ``began`` hears when each play begins."""
    plays: Counter[str] = Counter()

    async def program(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
        began.append(perf_counter())
        plays[task.id] += 1
        north = 0
        for turn, seconds in enumerate(waits(task.id, plays[task.id], work.turns, work.mean_s)):
            await asyncio.sleep(seconds * work.scale)
            reply = await table.ask("agent", f"Crossing {turn}. Where to?", legal=WORDS)
            north += reply.text == "north"
        return {"share": north / work.turns}

    tasks = [Task(f"t{i}", "sleepy") for i in range(work.episodes)]
    return ProgramSuite(Spec("sleepy"), as_env(program), {"train": tasks}, verifier=ByNorth())


def batches(work: Work) -> Iterator[int]:
    """Groups in a synchronous batch: 1, 2 and 4 times the environments, as far as they divide the episodes."""
    return (times * work.group for times in (1, 2, 4) if work.episodes % (times * work.environments) == 0)


async def once(work: Work, groups: int, folder: Path, *, decoupled: bool) -> Outcome:
    """One schedule from first to last update. Setting up the model is not timed."""
    began: list[float] = []
    suite = sleepy(work, began)
    model = open_model(work.model, lambda: ["Crossing 0. Where to? " + " ".join(WORDS)] * 20)
    cast = {"agent": Player(partial(ChatAgent, sampling=Sampling(max_tokens=4), mask=True), "main")}
    share = Share(suite, lambda task: cast, frozenset({"agent"}), groups, ROLLOUTS)
    rule = Rule(group_standardised, token_mean, partial(policy_gradient, truncate=1.0))
    updates = work.episodes // (groups * ROLLOUTS)
    stage = Stage("learn", Mixture((share,)), {"main": model}, model, Learner(model.model, lr=1e-5), rule, updates,
                  pool=Pool(work.environments))
    run = Run(folder, open_run(folder, recipe="benchmark"), make_progress(StringIO()))
    try:
        if decoupled:
            schedule = Schedule(environments=work.environments, groups=groups, max_lag=work.max_lag,
                                replicas=work.replicas)
            await train_decoupled(run, stage, schedule, save_every=updates)
        else:
            await train(run, stage, save_every=updates)
        seconds = perf_counter() - began[0]
    finally:
        run.recorder.close()
        model.close()
        await suite.close()
    played = list(read_episodes(folder))
    whole = seconds * work.environments
    return Outcome(seconds, updates * groups * ROLLOUTS, sum(map(busy_seconds, played)) / whole,
                   sum(e.ended - e.started for e in played) / whole, fewest(folder) if decoupled else None)


def fewest(folder: Path) -> int:
    """The least number of replicas that served while weights were handed round."""
    return int(min(row["values"]["decoupled/fewest_serving"] for row in read_metrics(folder)))


def measured(work: Work, repeats: int) -> dict[str, list[Outcome]]:
    """Schedule -> its runs, schedules taking turns."""
    asked = {"decoupled": (work.group, True)}
    asked |= {f"synchronous, batches of {groups * ROLLOUTS}": (groups, False) for groups in batches(work)}
    found: dict[str, list[Outcome]] = {name: [] for name in asked}
    names = list(asked)
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for name in names[repeat % len(names):] + names[: repeat % len(names)]:
                groups, decoupled = asked[name]
                place = Path(folder, f"{repeat}-{names.index(name)}")
                found[name].append(asyncio.run(once(work, groups, place, decoupled=decoupled)))
    return found


def report_of(work: Work, found: Mapping[str, Sequence[Outcome]]) -> Report:
    """Median throughput and shares of each schedule; ratios of decoupled to each, and to the best."""
    report = Report(
        f"{work.environments} environments that wait, {work.episodes} episodes of {work.turns} turns",
        "python -m benchmarks.decoupled")
    rate = {name: median(run.rate for run in runs) for name, runs in found.items()}
    heading = "median (worst) of the repeats"
    report.row(heading, "schedule", "episodes/s", "worst", "busy", "occupied", "wall s")
    for name, runs in found.items():
        report.row(heading, name, rate[name], min(run.rate for run in runs), median(run.busy for run in runs),
                   median(run.occupied for run in runs), median(run.seconds for run in runs))
    others = {name: value for name, value in rate.items() if name != "decoupled"}
    best = max(others, key=others.__getitem__)
    report.ratios = {name: rate["decoupled"] / value for name, value in others.items()}
    report.ratios["our synchronous loop at its best batch"] = rate["decoupled"] / others[best]
    report.limits["all environments at work"] = median(run.busy for run in found["decoupled"])
    serving = min(run.fewest_serving or 0 for run in found["decoupled"])
    report.row("weights", "replicas", "fewest that served")
    report.row("weights", work.replicas, serving)
    report.details = {
        "best_batch": best, "replicas": work.replicas, "fewest_serving": serving,
        "target": 1.9, "max_lag": work.max_lag, "model": work.model or "embedded",
        "runs": {name: [{"seconds": run.seconds, "busy": run.busy, "occupied": run.occupied} for run in runs]
                 for name, runs in found.items()},
    }
    return report


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    made = parser(__doc__ or "")
    made.add_argument("--environments", type=int, default=32)
    made.add_argument("--episodes", type=int, default=256)
    made.add_argument("--turns", type=int, default=6)
    made.add_argument("--max-lag", type=int, default=2)
    made.add_argument("--replicas", type=int, default=1, help="copies of the model in the decoupled schedule")
    made.add_argument("--mean", type=float, default=0.3, help="seconds of a wait")
    made.add_argument("--model", default="tiny", help="tiny, a folder, or empty for the embedded model")
    return made


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    asked = arguments().parse_args(words)
    logging.disable(logging.WARNING)
    work = Work(asked.environments, asked.episodes, asked.turns, asked.max_lag, asked.replicas, asked.mean,
                model=asked.model)
    show(report_of(work, measured(work, asked.repeats)), as_json=asked.json)


if __name__ == "__main__":
    main()
