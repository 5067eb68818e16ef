"""How long the dashboard takes over a large record: its first page and one episode, in a real browser.

``python -m benchmarks.dashboard`` records 200,000 episodes (minutes), indexes them, serves them by ``polyturn view`` in
a process of its own and opens them in Chromium. ``limits`` are one second by the seconds of each page, so that 1 and
more is within the target; ``--episodes`` cuts it down.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.report import Report, parser, show
from benchmarks.timing import once
from polyturn.envs.browser import PROGRAMS
from polyturn.record.index import Index
from polyturn.record.write import RunRecorder, open_run
from polyturn.types import Episode, PolicyInfo, Score, Span, Stop, Task, Trajectory, Turn, Usage, assistant, user

ROLLOUTS, GROUPS = 8, 32
"""Of a group, of an iteration."""
TARGET_S = 1.0


def episode(iteration: int, group: int, trial: int) -> Episode:
    """A guess that was too low, and a second one."""
    draw = np.random.default_rng((iteration, group, trial))
    spans: list[Span] = []
    for k in range(2):
        spans.append(Span(2 * k - 1, draw.integers(0, 1000, 12).astype(np.int32)))
        ids = draw.integers(0, 1000, 6).astype(np.int32)
        spans.append(Span(2 * k, ids, True, -draw.exponential(size=6), iteration))
    guesses = draw.integers(1, 17, 2)
    messages = (
        user(f"Guess a number, game {iteration}.{group}", id="u0"), assistant(f"I say {guesses[0]}", id="a0"),
        user("Too low", id="u1"), assistant(f"I say {guesses[1]}", id="a1"),
    )
    turns = tuple(
        Turn(k, "agent", "main", tuple(range(2 * k + 1)), 2 * k + 1, (2 * k + 1,), step=k, usage=Usage(12, 0, 6),
             started=float(k), ended=k + 0.5) for k in range(2))  # fmt: skip
    stop = Stop("done", "guessed" if trial % 2 else "gave up")
    return Episode(
        f"learn.{iteration}.{group}.{trial}", Task(f"guess-{group}", "guessing"), group, f"learn.{iteration}.{group}",
        trial, iteration=iteration, train=frozenset({"agent"}), cast={"agent": PolicyInfo("main", "model", iteration)},
        trajectories=(Trajectory("agent", "main", None, messages, turns, tuple(spans), stop),),
        final={"guesses": [int(guess) for guess in guesses]}, stop=stop, started=0.0, ended=2.0,
    )  # fmt: skip


def large_run(folder: Path, episodes: int) -> Path:
    """A closed run of so many episodes with scores, credit and metrics, recorded as a run records them."""
    with open_run(folder, recipe="large", settings={"seed": 0}, seeds={"seed": 0}) as recorder:
        for iteration in range(-(-episodes // (ROLLOUTS * GROUPS))):
            left = episodes - iteration * ROLLOUTS * GROUPS
            places = [(n // ROLLOUTS, n % ROLLOUTS) for n in range(min(left, ROLLOUTS * GROUPS))]
            record(recorder, iteration, [episode(iteration, group, trial) for group, trial in places])
    return folder


def record(recorder: RunRecorder, iteration: int, played: Sequence[Episode]) -> None:
    """One iteration."""
    rows = []
    for one in played:
        recorder.episode(one)
        won = float(one.trial % 2)
        recorder.scores("score", {one.id: {"agent": Score(won, bool(won))}})
        trajectory = one.trajectories[0]
        rows += [{
            "episode": one.id, "seat": "agent", "policy": "main", "at": turn.at, "span": turn.spans[0],
            "stage": "learn", "waiver": "", "version": iteration, "advantage": np.full(6, 2 * won - 1),
            "weight": np.full(6, 1 / 72), "old": trajectory.spans[turn.spans[0]].logprobs,
            "behavior": trajectory.spans[turn.spans[0]].logprobs, "reference": None, "entropy": np.full(6, 0.5),
            "clipped": np.zeros(6, bool), "present": trajectory.spans[turn.spans[0]].logprobs,
        } for turn in trajectory.turns]  # fmt: skip
    recorder.credit(iteration, rows)
    recorder.metrics(iteration, {"score/guessing": 0.5, "learner/loss": 1 / (iteration + 1)}, stage="learn")
    recorder.commit(f"learn:{iteration + 1}")


def indexed(folder: Path) -> None:
    """Reads all of a run into its index."""
    index = Index(folder)
    while not index.update(seconds=10).whole:
        pass


@contextmanager
def viewed(folder: Path) -> Iterator[str]:
    """The address at which ``polyturn view`` shows the runs of a folder."""
    command = [sys.executable, "-m", "polyturn", "view", str(folder), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["address"])
        finally:
            process.terminate()


def pages(address: str, episodes: int, last: str) -> Iterator[tuple[str, float]]:
    """(what, seconds until it stands there) of the list of runs, the run and its last episode, in a fresh browser."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page: Any = browser.new_page(viewport={"width": 1280, "height": 900})
        top = address.partition("/enter")[0]
        for what, at, shown in (
            ("first page", address, f"tbody tr:has-text('{episodes:,}')"),
            ("a run", f"{top}/run/large", "main"), ("an episode", f"{top}/run/large/episode/{last}", ".seats"),
        ):  # fmt: skip
            began = time.perf_counter()
            page.goto(at)
            page.locator(shown).first.wait_for(timeout=60_000)
            yield what, time.perf_counter() - began
        browser.close()


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--episodes", type=int, default=200_000)
    arguments = made.parse_args(argv)
    count = arguments.episodes
    command = "python -m benchmarks.dashboard " + " ".join(sys.argv[1:] if argv is None else argv)
    report = Report(f"dashboard: {count:,} recorded episodes", command, ("starlette", "uvicorn", "playwright"))
    report.row("seconds", "what", "median", "worst")
    with TemporaryDirectory() as beside:
        folder = Path(beside) / "large"
        for what, (wall, _) in (
            ("recorded", once(lambda: large_run(folder, count))), ("indexed", once(lambda: indexed(folder)))
        ):  # fmt: skip
            report.row("seconds", what, wall, wall)
            report.details[what] = wall
        last = f"learn.{(count - 1) // 256}.{(count - 1) % 256 // ROLLOUTS}.{(count - 1) % ROLLOUTS}"
        seen: dict[str, list[float]] = {}
        with viewed(Path(beside)) as address:
            for _ in range(arguments.repeats):
                for what, seconds in pages(address, count, last):
                    seen.setdefault(what, []).append(seconds)
    for what, each in seen.items():
        median = float(np.median(each))
        report.row("seconds", what, median, max(each))
        report.limits[f"{what} within {TARGET_S:g} s"] = TARGET_S / median
        report.details[what] = each
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()
