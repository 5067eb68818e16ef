"""What a learner on two processes of one machine takes: memory of each, seconds of an update, against one process.

``python -m benchmarks.ranks``. A Llama with random weights; each case is a fresh process with one thread a rank.
Memory is the most that a process held above what it held before the model, after a small one had loaded all libraries;
the driver (rank 0) also holds the model that plays. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.reference import Work, advantages, episodes, tokens
from benchmarks.report import Report, parser, show
from polyturn.learn.learner import Learner
from polyturn.learn.learns import Learns
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.policies.tiny import tiny_model

WORK = Work(groups=2, rollouts=2, turns=3, vocabulary=8192)


def memory(pid: int | str, line: str) -> float:
    """MiB of a process now (``VmRSS``) or at most so far (``VmHWM``)."""
    told = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(row for row in told.splitlines() if row.startswith(line)).split()[1]) / 1024


def updates(make: Callable[[Any], Learns], model: Any, count: int) -> dict[str, Any]:
    """Seconds of some updates, and what the last one said."""
    learner, laid, seconds = make(model), tokens(episodes(WORK)), []
    weight_N = np.full(len(laid), 1.0 / len(laid))
    for _ in range(count):
        began = time.perf_counter()
        found = learner.update(laid, None, advantages(laid), weight_N, policy_gradient)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "nodes": found["learner/nodes"], "grad_norm": found["learner/grad_norm"]}


def case(ranks: int, width: int, layers: int, repeats: int) -> dict[str, Any]:
    """What :func:`updates` found over so many processes, and MiB of each process."""
    torch.set_num_threads(1)
    group: Any = None
    if ranks > 1:
        from polyturn.learn.ranks.group import open_ranks
        from polyturn.learn.ranks.learner import RankedLearner

        group = open_ranks(ranks, device="cpu")

    def make(model: Any) -> Learns:
        return Learner(model, lr=1e-5) if group is None else RankedLearner(group, model, lr=1e-5)

    updates(make, tiny_model(WORK.vocabulary, 0, hidden_size=16, intermediate_size=16), 1)
    every = ["self", *(group.processes if group else [])]
    for pid in every:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = [memory(pid, "VmRSS") for pid in every]
    model = tiny_model(
        WORK.vocabulary, 0, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, initializer_range=0.02,
    )  # fmt: skip
    found = updates(make, model, repeats + 1)
    peaks = [memory(pid, "VmHWM") - held for pid, held in zip(every, before, strict=True)]
    if group is not None:
        group.close()
    size = sum(p.numel() for p in model.parameters()) * 4 / 2**20
    return {**found, "seconds": found["seconds"][1:], "peak_mib": peaks, "weights_mib": size}


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    words = parser(__doc__.splitlines()[0])
    words.add_argument("--width", type=int, default=1024, help="of the model's hidden states")
    words.add_argument("--layers", type=int, default=8, help="of the model")
    words.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    arguments = words.parse_args(argv)
    if arguments.one:
        print(json.dumps(case(arguments.one, arguments.width, arguments.layers, arguments.repeats)))
        return
    report = Report("ranks", "python -m benchmarks.ranks")
    found = {}
    for ranks in (1, 2):
        command = [sys.executable, "-m", "benchmarks.ranks", "--one", str(ranks), "--width", str(arguments.width),
                   "--layers", str(arguments.layers), "--repeats", str(arguments.repeats)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=1800)
        found[ranks] = json.loads(done.stdout.splitlines()[-1])
    table = f"update of {found[1]['nodes']} nodes, weights of {found[1]['weights_mib']:.0f} MiB in float32"
    report.row(table, "processes", "median s", "worst s", "nodes", "peak MiB of each")
    for ranks, one in found.items():
        report.row(table, f"{ranks}", median(one["seconds"]), max(one["seconds"]), one["nodes"],
                   " + ".join(f"{peak:.0f}" for peak in one["peak_mib"]))
    report.ratios["one process, in speed"] = median(found[1]["seconds"]) / median(found[2]["seconds"])
    report.details = {str(ranks): one for ranks, one in found.items()}
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()
