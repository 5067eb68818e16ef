"""The whole training step on the reference work: rollouts, scores, credit, one update, against the same recipe in TRL.

``python -m benchmarks.step`` (``--groups 1 --layers 2 --repeats 1 --no-sweep`` is a look). Each contender is a process
of its own that takes one update whenever it is its turn. TRL 1.16 runs its ``GRPOTrainer`` with a ``rollout_func``, by
the faster of the engines that run on a processor: ``generate`` and continuous batching of transformers (its weights
reach vLLM by NCCL, which needs a GPU). Episodes, lengths of replies, score, optimizer, clip and dtype are the same;
ours also records all of it, and its clock stops when the record is on disk.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from benchmarks.contender import Contender
from benchmarks.learner import Case
from benchmarks.models import Train
from benchmarks.reference import Work
from benchmarks.report import Report, parser, show
from benchmarks.timing import Timing

NAMES = ("ours", "trl")
"""Ours first: it writes down what TRL's sampler is shown."""


def measure(case: Case, work: Work, arguments: argparse.Namespace, report: Report) -> None:
    """One case into the report. Raises: AssertionError where the contenders did not write and train as many tokens."""
    with tempfile.TemporaryDirectory() as folder:
        running: dict[str, Contender] = {}
        settings: dict[str, Any] = {}
        try:
            for name in NAMES:
                running[name] = Contender.start(command(name, case, work, Path(folder), arguments))
                told = running[name].told()
                settings[name] = told["setting"]
                for what, seconds, gib in told["sweep"]:
                    report.row(f"{case.name}: sweep", f"{name}, {what}", seconds, "s", gib, "GiB")
                assert running[name].told() == {"ready": True}
            found = rounds(running, arguments.repeats, arguments.updates)
        finally:
            for contender in running.values():
                contender.close()
    add(report, case.name, found, settings)


def command(name: str, case: Case, work: Work, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """The command line of a contender's process."""
    return [
        sys.executable, "-m", "benchmarks.step", "--contender", name, "--folder", str(folder), "--dtype", case.dtype,
        "--train", case.train, "--groups", str(work.groups), "--turns", str(work.turns), "--threads",
        str(arguments.threads), *([f"--layers={case.layers}"] if case.layers else []),
        *(["--no-sweep"] if arguments.no_sweep else []),
    ]  # fmt: skip


Told = Mapping[str, float]


def rounds(running: Mapping[str, Contender], repeats: int, updates: int) -> dict[str, list[list[Told]]]:
    """Name -> for each counted round what each of its updates took. One round before them warms up; the order turns."""
    found: dict[str, list[list[Told]]] = {name: [] for name in running}
    names = list(running)
    for r in range(1 + repeats):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            took: list[Told] = [running[name].go() for _ in range(updates)]
            print(f"round {r}, {name}: {sum(each['seconds'] for each in took):.1f} s", file=sys.stderr, flush=True)
            if r:
                found[name].append(took)
    return found


def timing_of(took: Sequence[Sequence[Told]]) -> Timing:
    """Seconds of rounds, each the sum over its updates.

    >>> timing_of([[{"seconds": 1.0, "cpu_seconds": 2.0}, {"seconds": 3.0, "cpu_seconds": 5.0}]])
    Timing(seconds=(4.0,), cpu_seconds=(7.0,))
    """
    return Timing(
        tuple(sum(each["seconds"] for each in one) for one in took),
        tuple(sum(each["cpu_seconds"] for each in one) for one in took),
    )


def add(report: Report, case: str, found: Mapping[str, list[list[Told]]], settings: Mapping[str, Any]) -> None:
    """Puts a case's rows, ratios and details into the report. Raises: AssertionError as :func:`measure`."""
    done = {name: {(each["written"], each["trained"]) for one in took for each in one} for name, took in found.items()}
    assert len(set.union(*done.values())) == 1, f"not the same work: {done}"
    written = next(iter(done["ours"]))[0]
    timings = {name: timing_of(took) for name, took in found.items()}
    table = "updates of the same episodes"
    if table not in report.tables:
        report.row(table, "contender", "median s", "worst", "cpu s", "of it rollouts", "peak GiB", "times", "cpu times")
    for name, timing in timings.items():
        every = [each for one in found[name] for each in one]
        times = timing.median / timings["ours"].median
        cpu = median(timing.cpu_seconds) / median(timings["ours"].cpu_seconds)
        share = sum(each["rollouts"] for each in every) / sum(each["seconds"] for each in every)
        peak = max(each["peak"] for each in every) / 2**30
        report.row(table, f"{case} {name}", timing.median, timing.worst, median(timing.cpu_seconds), share, peak, times,
                   cpu)  # fmt: skip
        report.details[f"{case} {name}"] = timing.told() | {
            "rollouts_share": share, "peak_gib": peak, "setting": settings[name], "tokens_written": written,
            "cpu_times": cpu,
        }  # fmt: skip
        if name != "ours":
            report.ratios[f"{name} {case}"] = times


def made_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--dtype", choices=["float32", "bfloat16"], action="append", help="default: both")
    made.add_argument("--train", choices=["full", "lora"], action="append", help="default: full")
    made.add_argument("--groups", type=int, default=8)
    made.add_argument("--turns", type=int, default=6)
    made.add_argument("--layers", type=int, help="only the first layers of the model, for a quick look")
    made.add_argument("--updates", type=int, default=1, help="updates in a round")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--no-sweep", action="store_true", help="the first setting of each, for a quick look")
    made.add_argument("--contender", choices=NAMES, help="be one of the processes; the benchmark starts them itself")
    made.add_argument("--folder", type=Path, help="of a contender")
    return made


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    arguments = made_parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    work = Work(groups=arguments.groups, turns=arguments.turns)
    cases = [
        Case(dtype, cast(Train, train), arguments.layers)
        for train in arguments.train or ("full",) for dtype in arguments.dtype or ("float32", "bfloat16")
    ]  # fmt: skip
    if arguments.contender:
        module = importlib.import_module(f"benchmarks.step_{arguments.contender}")
        module.serve(cases[0], work, arguments.folder, swept=not arguments.no_sweep)
        return
    told = "python -m benchmarks.step " + " ".join(sys.argv[1:] if argv is None else argv)
    report = Report("the whole training step", told, ("trl", "transformers", "peft"))
    for case in cases:
        measure(case, work, arguments, report)
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()
