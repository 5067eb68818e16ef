"""How fast episodes are recorded, closed and read: 10,000 of 2,000 tokens, written within 30 seconds.

``python -m benchmarks.record``; ``--episodes`` cuts it down. Seconds of the processor stand beside those of the clock,
since other work on a machine counts in the latter only. ``limits`` are the target by the seconds of the processor, so
that 1 and more is within it; the targets grow with the number of episodes.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.report import Report, parser, show
from benchmarks.timing import once
from polyturn.record.query import open_tables
from polyturn.record.shards import close_shards
from polyturn.record.write import open_run
from polyturn.types import Episode, Message, PolicyInfo, Score, Span, Task, Trajectory, Turn, assistant, user

COUNT = 10_000
TURNS, TOKENS = 5, 200
"""Of an episode; told, and as many sampled, in a turn."""
KEPT = 50
"""Different episodes, which are recorded in turn under new names."""
TARGETS = {"written": 30.0, "token columns": 3.0}
"""Seconds for ``COUNT`` episodes."""


def episode(number: int, draw: np.random.Generator) -> Episode:
    """Turns of tokens told and tokens sampled."""
    messages: list[Message] = []
    spans: list[Span] = []
    turns: list[Turn] = []
    for k in range(TURNS):
        messages.append(user("x" * 300, id=f"u{k}"))
        spans.append(Span(len(spans) - 1, draw.integers(0, 49_000, TOKENS).astype(np.int32)))
        ids = draw.integers(0, 49_000, TOKENS).astype(np.int32)
        spans.append(Span(len(spans) - 1, ids, True, -draw.exponential(size=TOKENS)))
        place = len(messages)
        messages.append(assistant("y" * 600, id=f"a{k}", spans=(("agent", "main", len(spans) - 1),)))
        turns.append(Turn(k, "agent", "main", tuple(range(place)), place, (len(spans) - 1,)))
    return Episode(
        f"e{number}", Task(f"t{number % KEPT}", "f"), number, f"g{number // 4}", number % 4, train=frozenset({"agent"}),
        cast={"agent": PolicyInfo("main", "model")}, scores={"s": {"agent": Score(float(number % 2))}},
        trajectories=(Trajectory("agent", "main", None, tuple(messages), tuple(turns), tuple(spans)),),
    )  # fmt: skip


def write(folder: Path, count: int) -> None:
    """Records so many episodes."""
    draw = np.random.default_rng(0)
    kept = [episode(number, draw) for number in range(KEPT)]
    with open_run(folder) as recorder:
        for number in range(count):
            one = kept[number % KEPT]
            recorder.episode(Episode(
                f"e{number}", one.task, number, train=one.train, cast=one.cast, trajectories=one.trajectories,
                scores=one.scores))  # fmt: skip


def answer(folder: Path, sql: str) -> Any:
    """The rows of a question in SQL."""
    with open_tables([folder], asked=sql) as tables:
        return tables.ask(sql).rows


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints. Raises: AssertionError where a token is missing from the record."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--episodes", type=int, default=COUNT)
    arguments = made.parse_args(argv)
    count = arguments.episodes
    command = "python -m benchmarks.record " + " ".join(sys.argv[1:] if argv is None else argv)
    title = f"record: {count:,} episodes of {2 * TURNS * TOKENS:,} tokens"
    report = Report(title, command, ("numpy", "pyarrow", "duckdb"))
    report.row("seconds", "what", "median", "worst", "of the processor")
    seen: dict[str, list[tuple[float, float]]] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(arguments.repeats):
        with TemporaryDirectory() as beside:
            run = Path(beside) / "run"
            for what, work in steps(run, count).items():
                seen.setdefault(what, []).append(once(work))
    for what, each in seen.items():
        wall, spent = (sorted(column) for column in zip(*each, strict=True))
        median = spent[len(spent) // 2]
        report.row("seconds", what, wall[len(wall) // 2], wall[-1], median)
        report.details[what] = {"wall_s": wall, "cpu_s": spent}
        if what in TARGETS:
            report.limits[f"{what} within {TARGETS[what] * count / COUNT:g} s"] = TARGETS[what] * count / COUNT / median
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report.details["mib_beyond_the_start"] = (most - before) / 1024
    show(report, as_json=arguments.json)


def steps(run: Path, count: int) -> dict[str, Callable[[], object]]:
    """What is measured, in order; the answers are checked."""

    def columns() -> None:
        ((found, total),) = answer(run, "SELECT count(*), sum(logprob) FROM tokens WHERE sampled")
        assert found == count * TURNS * TOKENS and total < 0, (found, total)

    def counted() -> None:
        assert answer(run, "SELECT count(*) FROM episodes") == [(count,)]

    return {
        "written": lambda: write(run, count), "closed": lambda: close_shards(run), "token columns": columns,
        "opened and counted": counted,
    }  # fmt: skip


if __name__ == "__main__":
    main()
