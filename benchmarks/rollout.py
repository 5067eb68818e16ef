"""The reference episodes with an environment that costs nothing: our rollouts against samplers that record nothing.

``python -m benchmarks.rollout`` runs ``generate`` and continuous batching of transformers beside ours; ``--against
engine`` our own episodes with transformers' continuous batching as the engine of the policy; ``--vllm PYTHON`` adds
vLLM of another environment (``make peers-vllm``). Ours plays whole episodes and its clock stops when the
record is on disk; the others are handed ids. The same ids are shown and as many are written by all. ``--profile`` tells
where our time goes instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers.modeling_utils import AttentionInterface

from benchmarks import dialogue, shares
from benchmarks.dialogue import Canned, Script
from benchmarks.models import load, load_tokenizer
from benchmarks.reference import Shape, Work
from benchmarks.report import Report, parser, show
from benchmarks.rollout_hf import Continuous, generate, model_of
from benchmarks.timing import Timing, fastest, interleaved
from polyturn.chat import Chat
from polyturn.policies.embedded import embedded_model
from polyturn.policies.local import Local
from polyturn.policies.sampler.attention import NAME, attention
from polyturn.policies.sampler.choose import EngineName
from polyturn.policies.sampler.driven import Driven
from polyturn.policies.sampler.request import Request, drawn_request
from polyturn.policies.sampler.weights import twin_of
from polyturn.record.write import RunRecorder
from polyturn.rollout.pool import Pool, play
from polyturn.types import Group, Sampling

ROWS = (16, 32, 64)
"""Rows a call of ``generate`` that are tried."""
BATCH_TOKENS = (256, 512, 2048)
"""Tokens a step of continuous batching that are tried."""
CONCURRENCY = (32, 64)
"""Episodes at once of ours that are tried."""
STEP_ROWS = 32
"""Sequences in the decode step that is compared with its products."""


class Ours:
    """Whole episodes, recorded."""

    def __init__(self, dtype: Any, work: Work, layers: int | None, engine: EngineName = "") -> None:
        tokenizer = load_tokenizer()
        chat = Chat(tokenizer)
        chat.stop_ids = ()  # every reply is as long as the work says
        self.policy = Local(load(layers=layers), chat, dtype=dtype, engine=engine)
        self.suite = Canned(work, chat, tokenizer)
        self.groups: list[Group] = []

    def run(self, concurrency: int) -> int:
        """Plays all from empty caches; returns the ids written."""
        self.policy.publish(self.policy.version + 1)
        with tempfile.TemporaryDirectory() as folder, RunRecorder(Path(folder) / "run") as recorder:
            self.groups = asyncio.run(play(
                dialogue.matches(self.suite), {"main": self.policy}, recorder=recorder, pool=Pool(concurrency)))
        spans = [s for group in self.groups for e in group for s in e.trajectories[0].spans if s.sampled]
        return sum(len(span.ids) for span in spans)


def contenders(
    ours: Ours, dtype: str, layers: int | None, report: Report, asked: Sequence[str]
) -> dict[str, Callable[[], Any]]:
    """Name -> one pass over the work at the contender's best setting, found over two groups and told."""
    found: dict[str, Callable[[], Any]] = {}
    heading = f"{dtype}: sweep"
    found["ours"] = partial(ours.run, best(ours.run, CONCURRENCY, report, heading, "ours, {} episodes at once"))
    scripts = dialogue.scripts(ours.groups)
    count = 2 * ours.suite.work.rollouts
    if "generate" in asked:
        model = model_of(dtype, layers)
        few = scripts[:count]
        sizes = [n for n in ROWS if n <= len(scripts)] or [len(scripts)]
        rows = best(lambda n: generate(model, few * (n // len(few) or 1), n), sizes, report, heading,
                    "generate, {} rows", per=lambda n: max(n, len(few)))  # fmt: skip
        found["transformers generate"] = lambda: generate(model, scripts, rows)
    if "continuous" in asked:
        other = model_of(dtype, layers)
        tokens = best(lambda n: Continuous(other, n).run(scripts[:count]), BATCH_TOKENS, report, heading,
                      "continuous batching, {} tokens a step")  # fmt: skip
        found["transformers continuous"] = lambda: Continuous(other, tokens).run(scripts)
    if "engine" in asked:
        paged = Ours(dtype, ours.suite.work, layers, "continuous")
        found["ours by continuous"] = partial(
            paged.run, best(paged.run, CONCURRENCY, report, heading, "ours by continuous, {} episodes at once"))
    return found


def best(
    run: Callable[[int], Any], settings: Sequence[int], report: Report, heading: str, told: str, *,
    per: Callable[[int], float] = lambda n: 1.0,
) -> int:
    """The fastest setting, each told; ``per``: the work that a setting's call does, as a number."""
    chosen, found = fastest(settings, run, per=per)
    for setting, (seconds, _) in found.items():
        report.row(heading, told.format(setting), seconds, "s")
    return int(chosen)


def vllm(python: str, scripts: Sequence[Script], dtype: str, repeats: int) -> tuple[Timing, str]:
    """The seconds of vLLM in its own environment, and its version."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scripts.json"
        dialogue.write(path, scripts)
        command = [python, str(Path(__file__).with_name("rollout_vllm.py")), str(path), str(embedded_model()), dtype,
                   str(repeats)]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3600)
    told = json.loads(done.stdout.splitlines()[-1])
    expected = sum(sum(script.lengths) for script in scripts)
    assert set(told["written"]) == {expected}, (told["written"], expected)
    return Timing(tuple(told["seconds"]), tuple(told["cpu_seconds"])), str(told["version"])


def tell_shares(dtype: str, layers: int | None, work: Work, report: Report) -> None:
    """Where the time of ours goes, over one group: episodes, engine and record."""
    ours = Ours(dtype, replace(work, groups=1), layers)
    with shares.of_sampler(ours.policy.sampling_model):
        found, plain = shares.profiled(lambda: ours.run(CONCURRENCY[0]))
    ours.policy.close()
    shares.add(report, f"{dtype}, one group", found, plain)


# ---------------------------------------------------------------- one decode step


def decode_step(dtype: str, layers: int | None, *, path: int = 300, repeats: int = 40) -> tuple[float, float]:
    """Median seconds of one step of the engine at :data:`STEP_ROWS` sequences of the reference work, whose groups begin
    alike, and of its matrix products alone, by the faster of torch's own call and ours."""
    model = twin_of(model_of(dtype, layers), getattr(torch, dtype))
    driven = Driven(model, cache_bytes=2**30)
    draw = np.random.default_rng(0)
    work = Work()
    prompts = [_ids(draw, work.prompt) for _ in range(STEP_ROWS // work.rollouts)]
    with torch.inference_mode():
        requests = [_seated(driven, prompts[0], _ids(draw, path - work.prompt))]
        driven.slots.measured()
        for number in range(1, STEP_ROWS):
            requests.append(_seated(driven, prompts[number // work.rollouts], _ids(draw, path - work.prompt)))
        products = [m for m in model.modules() if isinstance(m, nn.Linear)]
        inputs = {m.in_features: torch.randn(STEP_ROWS, m.in_features).to(model.dtype) for m in products}
        steps, floors = [], []
        for _ in range(repeats):
            for request in requests:
                request.add(int(draw.integers(100, 40000)), 0.0, ())
            steps.append(_seconds(lambda: driven.step(requests)))
            floors.append(min(
                _seconds(lambda: [m(inputs[m.in_features]) for m in products]),
                _seconds(lambda: [nn.functional.linear(inputs[m.in_features], m.weight) for m in products]),
            ))  # fmt: skip
    return float(np.median(steps)), float(np.median(floors))


def _ids(draw: np.random.Generator, count: int) -> Any:
    return draw.integers(100, 40000, count).astype(np.int32)


def _seated(driven: Driven, prompt: Any, more: Any) -> Request:
    request = drawn_request(np.concatenate([prompt, more]), Sampling(), seed=0, limit=2048, stop_ids=())
    assert driven.admit(request)
    driven.step([request])
    return request


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def growth(dtype: Any, layers: int | None, work: Work, report: Report) -> None:
    """Seconds per new id (shown or written, each once) at 6 and at 24 turns, of all and beside attention, whose work
    grows with the length of the path."""
    whole, beside = {}, {}
    for turns in (6, 24):
        ours = Ours(dtype, Work(groups=work.groups, rollouts=work.rollouts, turns=turns), layers)
        written = ours.run(CONCURRENCY[-1])
        with attending() as attended:
            runs = []
            for _ in range(2):
                before = attended[0]
                runs.append((_seconds(partial(ours.run, CONCURRENCY[-1])), attended[0] - before))
        seconds, spent = min(runs)
        stats = ours.policy.stats
        new = written + work.groups * (work.prompt + work.rollouts * (turns - 1) * work.observation)
        whole[turns], beside[turns] = seconds / new, (seconds - spent) / new
        report.row("growth", f"{dtype}, {turns} turns", seconds, new, 1e6 * whole[turns], 1e6 * beside[turns],
                   stats.restarted)  # fmt: skip
        ours.policy.close()
    report.limits[f"growth 6 to 24 turns {dtype}"] = whole[6] / whole[24]
    report.limits[f"growth 6 to 24 turns {dtype} beside attention"] = beside[6] / beside[24]


@contextmanager
def attending() -> Iterator[list[float]]:
    """The seconds that engines spend in attention, caches included, while it is open: the one entry of a list."""
    seconds = [0.0]

    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        found = attention(*given, **named)
        seconds[0] += time.perf_counter() - began
        return found

    AttentionInterface.register(NAME, timed)
    try:
        yield seconds
    finally:
        AttentionInterface.register(NAME, attention)


# ---------------------------------------------------------------- the command


def measure(dtype: str, work: Work, arguments: argparse.Namespace, report: Report) -> None:
    """One dtype, into the report."""
    layers = arguments.layers
    ours = Ours(dtype, work, layers)
    runs = contenders(ours, dtype, layers, report, arguments.against)
    timings = interleaved(runs, repeats=arguments.repeats)
    if arguments.vllm:
        timings["vllm"], told = vllm(arguments.vllm, dialogue.scripts(ours.groups), dtype, arguments.repeats)
        report.details["vllm"] = told
    ours.policy.close()
    if "rollouts" not in report.tables:
        report.row("rollouts", "contender", "median s", "worst", "times")
    for name, timing in timings.items():
        times = timing.median / timings["ours"].median
        report.row("rollouts", f"{dtype} {name}", timing.median, timing.worst, times)
        report.details[f"{dtype} {name}"] = timing.told()
        if name != "ours":
            report.ratios[f"{name} {dtype}"] = times


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--dtype", choices=["float32", "bfloat16"], action="append", help="default: both")
    made.add_argument("--groups", type=int, default=8)
    made.add_argument("--turns", type=int, default=6)
    made.add_argument("--shape", choices=["full", "window", "summary"], default="full")
    made.add_argument("--layers", type=int, help="only the first layers of the model, for a quick look")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    peers = ["generate", "continuous", "engine"]
    made.add_argument("--against", nargs="*", default=peers[:2], choices=peers)
    made.add_argument("--vllm", metavar="PYTHON", help="the interpreter of an environment with vLLM")
    parts = ["rollouts", "step", "growth"]
    made.add_argument("--only", nargs="*", choices=parts, default=parts)
    made.add_argument("--profile", action="store_true", help="tell where our time goes, on one thread, and no more")
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    work = Work(groups=arguments.groups, turns=arguments.turns, shape=cast(Shape, arguments.shape))
    command = "python -m benchmarks.rollout " + " ".join(sys.argv[1:] if argv is None else argv)
    report = Report("rollouts: reference episodes, environment at no cost", command, ("transformers",))
    if "growth" in arguments.only and not arguments.profile:
        report.row("growth", "case", "s", "new ids", "µs per new id", "beside attention", "restarted")
    for dtype in arguments.dtype or ("float32", "bfloat16"):
        if arguments.profile:
            tell_shares(dtype, arguments.layers, work, report)
            continue
        if "rollouts" in arguments.only:
            measure(dtype, work, arguments, report)
        if "step" in arguments.only:
            step, floor = decode_step(dtype, arguments.layers)
            report.row("one decode step of 32 sequences", dtype, 1e3 * step, "ms", 1e3 * floor, "ms for its products")
            report.limits[f"decode step {dtype}"] = floor / step
        if "growth" in arguments.only:
            growth(dtype, arguments.layers, work, report)
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()
