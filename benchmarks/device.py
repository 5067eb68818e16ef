"""The same work on a GPU: gradients against those of the processor, learner against TRL, rollouts against transformers.

``python -m benchmarks.device`` takes the first GPU (``--device``). It first shows that the numbers are right there:
float32 gradients of the forest equal those of the processor and those of TRL's rows, and the sampler's
log-probabilities equal the learner's. Then it times what ``benchmarks.learner`` and ``benchmarks.rollout`` time, at
the best of the settings tried.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import dialogue
from benchmarks.learner import Case, Ours, Theirs, apart, gradient
from benchmarks.reference import Work
from benchmarks.report import Report, parser, show
from benchmarks.rollout import Ours as Rollouts
from benchmarks.rollout_hf import generate, model_of
from benchmarks.timing import interleaved, sweep
from polyturn.learn.learner import Learner
from polyturn.policies.device import device_of, name_device

PASSES = (2304, 4608, 20000)
"""Tree nodes a pass."""
MICRO_BATCHES = (8, 16, 32, 64)
"""Rows of TRL a pass."""
ROWS = (32, 64)
"""Rows a call of ``generate``."""
CONCURRENCY = (32, 64)


def settled(work: Callable[[], Any]) -> None:
    """Runs it and waits until the GPU has done so."""
    work()
    torch.cuda.synchronize()


def agreement(device: str, work: Work, report: Report) -> None:
    """Float32 gradients of one group, three ways."""
    one = Work(groups=1, rollouts=work.rollouts, turns=work.turns, shape=work.shape)
    here, there = Ours(Case(device=device), one), Ours(Case(), one)
    theirs = Theirs(Case(device=device), one)
    here.run(10**9)
    there.run(10**9)
    theirs.run(one.rollouts)
    own = {name: value.cpu() for name, value in gradient(here.learner.model).items()}
    rows = {name: value.cpu() for name, value in gradient(theirs.trl.model).items()}
    found = {"processor": apart(own, gradient(there.learner.model)), "TRL on the GPU": apart(own, rows)}
    for name, gap in found.items():
        report.row("float32 gradients of one group, apart from", name, gap)
    report.details["gradients_apart"] = found


def learner(case: Case, work: Work, repeats: int, report: Report) -> None:
    """Log-probabilities, loss and backward of one batch."""
    ours, theirs = Ours(case, work), Theirs(case, work)
    best_pass = quickest(
        lambda n: settled(lambda: ours.run(n)), PASSES, report, f"{case.name}: ours, {{}} nodes a pass")
    best_rows = quickest(
        lambda n: settled(lambda: theirs.run(n)), MICRO_BATCHES, report, f"{case.name}: TRL, {{}} rows")
    timings = interleaved(
        {"ours": lambda: settled(lambda: ours.run(best_pass)), "trl": lambda: settled(lambda: theirs.run(best_rows))},
        repeats=repeats)
    peaks = [peak_mib(lambda: ours.run(best_pass)), peak_mib(lambda: theirs.run(best_rows))]
    compared(report, f"learner {case.name}", timings["ours"], timings["trl"], *peaks)


def peak_mib(work: Callable[[], Any]) -> float:
    """The most memory of the GPU that tensors took during a call, above what they took before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    settled(work)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def rollouts(dtype: str, device: str, work: Work, repeats: int, report: Report) -> None:
    """The reference episodes, and how far the sampler's log-probabilities are from the learner's."""
    ours = Rollouts(dtype, work, None)
    concurrency = quickest(ours.run, CONCURRENCY, report, f"{dtype}: ours, {{}} episodes at once")
    scripts = dialogue.scripts(ours.groups)
    model = model_of(dtype).to(device)
    rows = quickest(lambda n: generate(model, scripts, n), ROWS, report, f"{dtype}: generate, {{}} rows")
    timings = interleaved(
        {"ours": partial(ours.run, concurrency), "generate": lambda: generate(model, scripts, rows)}, repeats=repeats)
    compared(report, f"rollouts {dtype}", timings["ours"], timings["generate"])
    if dtype == "float32":
        report.details["sampler_gap"] = sampler_gap(ours)
        report.row("largest gap of log-probabilities, sampler and learner", dtype, report.details["sampler_gap"])
    ours.policy.close()


def sampler_gap(ours: Rollouts) -> float:
    """How far the log-probabilities of sampled tokens are from those of the learner, at most, over the first group."""
    spans = [episode.trajectories[0].spans for episode in ours.groups[0]]
    paths = [np.concatenate([span.ids for span in path]) for path in spans]
    found = Learner(ours.policy.model, lr=1e-5).score(paths)
    said = [np.concatenate([np.full(len(s.ids), np.nan) if s.logprobs is None else s.logprobs for s in path])
            for path in spans]  # fmt: skip
    return max(float(np.nanmax(np.abs(own - other))) for own, other in zip(found, said, strict=True))


def quickest(run: Callable[[int], Any], settings: tuple[int, ...], report: Report, told: str) -> int:
    """The fastest of some settings, each told."""
    seconds = sweep(settings, run)
    for setting in settings:
        report.row("sweep", told.format(setting), seconds[setting], "s")
        print(told.format(setting), f"{seconds[setting]:.3f} s", file=sys.stderr, flush=True)
    return min(settings, key=seconds.__getitem__)


def compared(report: Report, name: str, ours: Any, other: Any, *peaks: float) -> None:
    """One row of the result."""
    if "result" not in report.tables:
        report.row("result", "case", "ours s", "worst", "theirs s", "worst", "times", "peak MiB", "theirs")
    times = other.median / ours.median
    report.row("result", name, ours.median, ours.worst, other.median, other.worst, times, *peaks)
    report.ratios[name] = times
    report.details[name] = {"ours": ours.told(), "theirs": other.told(), "peak_mib": list(peaks)}


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints. Raises: BadInput without a GPU."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--device", default="cuda")
    made.add_argument("--groups", type=int, default=8)
    made.add_argument("--turns", type=int, default=6)
    made.add_argument("--only", nargs="*", choices=["agreement", "learner", "rollouts"],
                      default=["agreement", "learner", "rollouts"])
    arguments = made.parse_args(argv)
    device = str(device_of(arguments.device))
    name_device(device)
    report = Report("on a GPU", "python -m benchmarks.device " + " ".join(sys.argv[1:] if argv is None else argv),
                    ("trl", "transformers", "peft"))  # fmt: skip
    report.details["gpu"] = torch.cuda.get_device_name(torch.device(device))
    run_all(arguments, device, Work(groups=arguments.groups, turns=arguments.turns), report)
    show(report, as_json=arguments.json)


def run_all(arguments: argparse.Namespace, device: str, work: Work, report: Report) -> None:
    """What was asked for, into the report."""
    if "agreement" in arguments.only:
        agreement(device, work, report)
    for dtype in ("float32", "bfloat16"):
        if "learner" in arguments.only:
            learner(Case(dtype=dtype, device=device), work, arguments.repeats, report)
        if "rollouts" in arguments.only:
            rollouts(dtype, device, work, arguments.repeats, report)


if __name__ == "__main__":
    main()
