"""Log-probabilities, loss and backward of one batch: the forest against TRL's own path, and against matrix products.

``python -m benchmarks.learner`` (TRL comes with ``make lint`` or ``pip install polyturn[trl]``); ``--dtype``,
``--train``, ``--groups`` and ``--layers`` cut it down; ``--profile`` tells where our time goes instead. Both train the
same parameters from the same weights on the same tokens, with the same loss, whose ratio is taken to the weights
themselves. Setting up, optimizer and tokenizing are not timed.
"""

from __future__ import annotations

import argparse
import gc
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import psutil
import torch

from benchmarks import shares
from benchmarks.matrices import matrix_rate, operations
from benchmarks.models import Train, load, load_tokenizer
from benchmarks.reference import Shape, Work, advantages, episodes, rows, tokens
from benchmarks.report import Report, parser, show
from benchmarks.timing import fastest, interleaved, peak_bytes
from polyturn.learn.gradient import Reader, accumulate, make_batch
from polyturn.learn.learner import Learner
from polyturn.learn.memory import resident_bytes
from polyturn.losses.policy_gradient import policy_gradient

MICRO_BATCHES = (1, 2, 4, 8, 16)
PASSES = (1024, 2304, 4608)
"""Tree nodes a pass; a group has about 2,220."""
LIMIT = 16 * 2**30
"""Bytes that a setting may take to count."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is computed with, and what learns."""

    dtype: str = "float32"
    train: Train = "full"
    layers: int | None = None
    device: str = "cpu"

    @property
    def name(self) -> str:
        return f"{self.dtype} {self.train}"


class Ours:
    """The learner's own gradient of the reference work."""

    def __init__(self, case: Case, work: Work) -> None:
        low = None if case.dtype == "float32" else case.dtype
        model = load(case.train, layers=case.layers).to(case.device)
        self.learner = Learner(model, lr=1e-5, dtype=low)
        self.laid = tokens(episodes(work))
        self.advantage_N = advantages(self.laid)
        self.weight_N = np.full(len(self.laid), 1 / len(self.laid))
        self.nodes = len(self.laid.tree.id_U)

    def run(self, tokens_per_pass: int) -> float:
        """The loss; leaves the gradient of the batch in the parameters."""
        self.learner.optimizer.zero_grad(set_to_none=True)
        columns = {"advantage_N": self.advantage_N, "weight_N": self.weight_N}
        batch = make_batch(self.laid, None, columns, cast(torch.Tensor, self.learner.forest.head.weight))
        reader = Reader(self.learner.forest, self.learner.heads)
        return float(accumulate(reader, batch, policy_gradient, tokens_per_pass).sums["loss"])


class Theirs:
    """TRL's gradient of the reference work."""

    def __init__(self, case: Case, work: Work) -> None:
        from benchmarks.learner_trl import Trl

        self.rows = rows(episodes(work))
        laid = tokens(episodes(work))
        first = np.searchsorted(laid.trajectory_N, np.arange(len(laid.trajectories)))
        self.advantage_R = advantages(laid)[first][[row.rollout for row in self.rows]]
        model = load(case.train, layers=case.layers).to(case.device)
        self.trl = Trl(model, load_tokenizer(), low=case.dtype == "bfloat16", device=case.device)

    def run(self, micro_batch: int) -> float:
        """The loss; leaves the gradient of the batch in the parameters."""
        for parameter in self.trl.model.parameters():
            parameter.grad = None
        return self.trl.run(self.rows, self.advantage_R, micro_batch)


def gradient(model: Any) -> dict[str, torch.Tensor]:
    """Name -> gradient."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """``|one - other| / |other|`` over all parameters together. Raises: AssertionError where the names differ."""
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())[:3]
    gap = sum(float((one[name] - other[name]).double().square().sum()) for name in one)
    size = sum(float(value.double().square().sum()) for value in other.values())
    return float((gap / size) ** 0.5)


def measure(case: Case, work: Work, report: Report, repeats: int) -> None:
    """One case: sweep, repeats, gradients, rate; into the report."""
    ours, theirs = Ours(case, work), Theirs(case, work)
    small = replace(work, groups=min(work.groups, 2))
    heading = f"{case.name}: sweep over {small.groups} groups"
    best_pass = _best(partial(_swept, ours, small), PASSES, report, (heading, "ours, {} nodes a pass"))
    best_rows = _best(partial(_swept, theirs, small), MICRO_BATCHES, report, (heading, "TRL, {} rows"))
    timings = interleaved(
        {"ours": lambda: ours.run(best_pass), "trl": lambda: theirs.run(best_rows)}, repeats=repeats
    )
    gap = apart(gradient(ours.learner.model), gradient(theirs.trl.model))
    rate, shape = matrix_rate(getattr(torch, case.dtype))
    least = operations(ours.learner.model, ours.laid, ours.nodes)
    reached = least / timings["ours"].median / rate
    table = "one batch"
    if table not in report.tables:
        report.row(table, "case", "ours s", "worst", "TRL s", "worst", "times", "gradients apart", "of matrix rate")
    report.row(
        table, case.name, timings["ours"].median, timings["ours"].worst, timings["trl"].median, timings["trl"].worst,
        timings["trl"].median / timings["ours"].median, gap, reached,
    )  # fmt: skip
    report.ratios[f"trl {case.name}"] = timings["trl"].median / timings["ours"].median
    report.limits[f"matrix products {case.name}"] = reached
    report.details[case.name] = {
        "ours": timings["ours"].told(), "trl": timings["trl"].told(), "pass": best_pass, "micro_batch": best_rows,
        "sweep": [list(row) for row in report.tables[heading]],
        "gradients_apart": gap, "matrix_gflops": rate / 1e9, "matrix_shape": shape, "operations": least,
        "nodes": ours.nodes, "trained": len(ours.laid), "trl_tokens": sum(len(row.ids) for row in theirs.rows),
    }  # fmt: skip


def _best(run: Callable[[int], object], settings: Sequence[int], report: Report, told: tuple[str, str]) -> int:
    """The fastest setting among those that stay under :data:`LIMIT`; every one is a row of the report."""
    best, found = fastest(settings, run, most=LIMIT / 2**30, holds=psutil.virtual_memory().total / 2**30)
    for setting in settings:
        cells = (found[setting][0], "s", found[setting][1], "GiB") if setting in found else ("not tried: too large",)
        report.row(told[0], told[1].format(setting), *cells)
    return int(best)


def _swept(contender: Ours | Theirs, small: Work, setting: int) -> None:
    """One setting over less work than the whole."""
    if isinstance(contender, Theirs):
        whole = contender.rows
        count = small.groups * small.rollouts
        contender.rows = [row for row in whole if row.rollout < count]
        contender.run(setting)
        contender.rows = whole
        return
    whole_laid = contender.laid, contender.advantage_N, contender.weight_N
    contender.laid = tokens(episodes(small))
    contender.advantage_N = advantages(contender.laid)
    contender.weight_N = np.full(len(contender.laid), 1 / len(contender.laid))
    contender.run(setting)
    contender.laid, contender.advantage_N, contender.weight_N = whole_laid
    gc.collect()


def peak(contender: str, case: Case, work: Work) -> tuple[float, float]:
    """(peak, peak before the batch) of this process in MiB; one group in one pass for either."""
    one = replace(work, groups=1)
    made: Ours | Theirs = Ours(case, one) if contender == "ours" else Theirs(case, one)
    before = resident_bytes() / 2**20
    setting = 10**9 if contender == "ours" else one.rollouts
    return peak_bytes(lambda: made.run(setting)) / 2**20, before


def compare_peaks(case: Case, arguments: argparse.Namespace, report: Report) -> None:
    """Peak memory of each in a process of its own, one group a pass; one that finds too little memory is said to."""
    table = "peak memory, one group a pass, MiB"
    if table not in report.tables:
        report.row(table, "case", "ours", "above loaded", "TRL", "above loaded", "ours / TRL")
    found = {contender: _own_peak(contender, case, arguments) for contender in ("ours", "trl")}
    cells = (("more than there is", "") if peaks is None else (f"{peaks[0]:.0f}", f"{peaks[0] - peaks[1]:.0f}")
             for peaks in found.values())
    ours, theirs = found.values()
    share = None if ours is None or theirs is None else ours[0] / theirs[0]
    report.row(table, case.name, *(cell for pair in cells for cell in pair), "" if share is None else share)
    report.details[case.name]["peak_mib"] = {
        name: None if peaks is None else {"peak": peaks[0], "loaded": peaks[1]} for name, peaks in found.items()}
    report.details[case.name]["peak_share"] = share


def _own_peak(contender: str, case: Case, arguments: argparse.Namespace) -> tuple[float, float] | None:
    """(peak, peak before the batch) of a process of its own in MiB; None where the system killed it."""
    command = [sys.executable, "-m", "benchmarks.learner", "--peak", contender, "--dtype", case.dtype, "--train",
               case.train, *flags(arguments)]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL:
        return None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    told = done.stdout.split()
    return float(told[-2]), float(told[-1])


def tell_shares(case: Case, work: Work, report: Report) -> None:
    """Where the time of ours goes, over one group in one pass."""
    ours = Ours(case, replace(work, groups=1))
    with shares.of_learner():
        found, plain = shares.profiled(lambda: ours.run(10**9))
    shares.add(report, f"{case.name}, one group", found, plain)


def flags(arguments: argparse.Namespace) -> list[str]:
    """The work as a command line."""
    found = [f"--turns={arguments.turns}", f"--shape={arguments.shape}", f"--threads={arguments.threads}"]
    return [*found, *([f"--layers={arguments.layers}"] if arguments.layers else [])]


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--dtype", choices=["float32", "bfloat16"], action="append", help="default: both")
    made.add_argument("--train", choices=["full", "lora"], action="append", help="default: both")
    made.add_argument("--groups", type=int, default=8)
    made.add_argument("--turns", type=int, default=6)
    made.add_argument("--shape", choices=["full", "window", "summary"], default="full")
    made.add_argument("--layers", type=int, help="only the first layers of the model, for a quick look")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--peak", choices=["ours", "trl"], help="print peak and loaded MiB of this process, and end")
    made.add_argument("--profile", action="store_true", help="tell where our time goes, on one thread, and no more")
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    work = Work(groups=arguments.groups, turns=arguments.turns, shape=cast(Shape, arguments.shape))
    cases = [
        Case(dtype, cast(Train, train), arguments.layers)
        for train in arguments.train or ("full", "lora") for dtype in arguments.dtype or ("float32", "bfloat16")
    ]  # fmt: skip
    if arguments.peak:
        print(*peak(arguments.peak, cases[0], work))
        return
    command = "python -m benchmarks.learner " + " ".join(sys.argv[1:] if argv is None else argv)
    report = Report("learner: log-probabilities, loss, backward", command, ("trl", "transformers", "peft"))
    for case in cases:
        if arguments.profile:
            tell_shares(case, work, report)
            continue
        measure(case, work, report, arguments.repeats)
        gc.collect()
        compare_peaks(case, arguments, report)
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()
