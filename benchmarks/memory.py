"""Memory of a training run over an hour: does it grow.

``python -m benchmarks.memory`` (``--minutes 2 --every 1`` for a look) starts ``polyturn run group_rl`` as anybody would
(guess the number, a tiny model whose replies are masked to legal ones, so that it learns from the first update on;
``--model ""`` is the embedded 135M one), looks at the memory of the process and all it started every few seconds, asks
the run to stop when the time is over, and fits a line to what came after the warm-up.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.report import Report, parser, show
from polyturn.evaluate.stats import t_quantile
from polyturn.record.control import ask
from polyturn.record.read import read_metrics
from polyturn.record.run import is_locked

BLOCKS = 12
"""Stretches of time whose means a line is fitted to: neighbouring looks are too much alike to count as so many."""
ENVIRONMENT = "guess_the_number"


@dataclass(frozen=True, slots=True)
class Look:
    """Memory at a moment: bytes in RAM of all processes together, and the same with shared pages divided by how many
    share them (``pss``, what they really take)."""

    at: float
    rss: int
    pss: int
    processes: int


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth by the hour with its interval of 95 %, in what was given."""

    mean: float
    low: float
    high: float


def slope(at_s: Sequence[float], values: Sequence[float], blocks: int = BLOCKS) -> Slope:
    """A line through the means of so many stretches of equal length, by least squares; the interval is Student's.

    Unknown (NaN) where fewer than three stretches hold a value.
    """
    times, given = np.asarray(at_s, float), np.asarray(values, float)
    unknown = Slope(float("nan"), float("nan"), float("nan"))
    if len(times) < 3 or times[-1] <= times[0]:
        return unknown
    place = np.minimum(((times - times[0]) / (times[-1] - times[0]) * blocks).astype(int), blocks - 1)
    held = [b for b in range(blocks) if (place == b).any()]
    if len(held) < 3:
        return unknown
    x = np.array([times[place == b].mean() for b in held]) / 3600
    y = np.array([given[place == b].mean() for b in held])
    spread = float(np.square(x - x.mean()).sum())
    mean = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    left = y - y.mean() - mean * (x - x.mean())
    degrees = len(held) - 2
    error = float(np.sqrt(np.square(left).sum() / degrees / spread))
    reach = t_quantile(0.975, degrees) * error
    return Slope(mean, mean - reach, mean + reach)


def family(process: int) -> list[int]:
    """A process and all that it started, directly or not, as far as they live."""
    found = [process]
    for one in found:
        for thread in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in thread.read_text().split()]
            except OSError:  # it ended between two looks
                continue
    return found


def look(process: int, at: float) -> Look | None:
    """The memory of a process and its children now; None where it has ended."""
    sums = {"Rss": 0, "Pss": 0}
    count = 0
    for one in family(process):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:  # it ended between two looks
            continue
        read = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
        for name in sums:
            sums[name] += read.get(name, 0)
        count += bool(read)
    return Look(at, sums["Rss"], sums["Pss"], count) if count else None


def watch(running: subprocess.Popen[bytes], seconds: float, every_s: float) -> Iterator[Look]:
    """Looks at a running process for so long. Raises: RuntimeError where it ends before."""
    began = time.monotonic()
    while (at := time.monotonic() - began) < seconds:
        found = look(running.pid, at)
        if running.poll() is not None or found is None:
            raise RuntimeError(f"the run ended after {at:.0f} s with {running.wait()}; its last words are above")
        yield found
        time.sleep(every_s)


def tiny_folder(folder: Path) -> Path:
    """A folder with a fresh tiny model whose tokenizer knows the words of the environment."""
    from polyturn.policies.tiny import TINY, open_model
    from polyturn.verbs import play

    episodes = play(ENVIRONMENT, "oracle", tasks=8)
    texts = [message.text for episode in episodes for t in episode.trajectories for message in t.messages]
    model = open_model(TINY, lambda: texts)
    model.save(folder)
    model.close()
    return folder


def train(folder: Path, model: str, minutes: float, every_s: float) -> tuple[list[Look], dict[str, float]]:
    """Looks at a run of so many minutes, and what it did in them."""
    line = [
        sys.executable, "-m", "polyturn", "run", "group_rl", "--folder", str(folder), "--environment", ENVIRONMENT,
        "--model", model, "--iterations", str(10**6), "--mask", "--max-tokens", "8", "--test-tasks", "4",
        "--trials", "1",
    ]  # fmt: skip
    running = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        looks = list(watch(running, 60 * minutes, every_s))
        if is_locked(folder):
            ask(folder, "stop", by="benchmarks.memory")
        running.wait(timeout=600)
    finally:
        running.kill()
        running.wait()
    rows = read_metrics(folder)
    done = {"iterations": len(rows), "updates": sum(row["values"].get("learner/steps", 0.0) for row in rows)}
    for name in ("rollout/episodes", "rollout/turns", "rollout/tokens"):
        done[name.removeprefix("rollout/")] = sum(row["values"].get(name, 0.0) for row in rows)
    return looks, done


def tell(report: Report, looks: Sequence[Look], warm_s: float) -> None:
    """Rows and details of what was seen."""
    after = [each for each in looks if each.at >= warm_s]
    report.row("memory after the warm-up, MiB", "of", "first tenth", "last tenth", "most", "an hour more", "from", "to")
    for name, all_bytes in (("rss", [each.rss for each in after]), ("pss", [each.pss for each in after])):
        mib = [size / 2**20 for size in all_bytes]
        tenth = max(1, len(mib) // 10)
        grown = slope([each.at for each in after], mib)
        report.row(
            "memory after the warm-up, MiB", name, float(np.mean(mib[:tenth])), float(np.mean(mib[-tenth:])), max(mib),
            grown.mean, grown.low, grown.high,
        )  # fmt: skip
        report.details[f"{name}_mib_per_hour"] = [grown.mean, grown.low, grown.high]
    report.details["looks"] = [[each.at, each.rss, each.pss, each.processes] for each in looks]


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, runs, prints."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--minutes", type=float, default=60.0)
    made.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    made.add_argument("--warm", type=float, help="minutes that do not count (default: a fifth of all)")
    made.add_argument("--model", help='a folder, or "" for the embedded model (default: a tiny one)')
    arguments = made.parse_args(argv)
    told = "python -m benchmarks.memory " + " ".join(sys.argv[1:] if argv is None else argv)
    report = Report("memory of a training run", told, ("transformers",))
    with tempfile.TemporaryDirectory() as folder:
        model = str(tiny_folder(Path(folder) / "model")) if arguments.model is None else arguments.model
        looks, done = train(Path(folder) / "run", model, arguments.minutes, arguments.every)
    report.row("the run", "minutes", *done)
    report.row("the run", arguments.minutes, *done.values())
    report.details["run"] = done
    tell(report, looks, 60 * (arguments.minutes / 5 if arguments.warm is None else arguments.warm))
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()
