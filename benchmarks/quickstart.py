"""``polyturn run quickstart`` measured, and beside it the one of another checkout, in turns.

``python -m benchmarks.quickstart`` runs this checkout and the last commit before speed was worked on
(:data:`BEFORE`); ``--against`` names another commit, or a folder; settings of the recipe follow ``--``: ``python -m
benchmarks.quickstart --repeats 1 -- --warm-updates 1 --iterations 1 --test-tasks 2``. Both are run by the same Python,
as anybody runs them, and get the same settings.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benchmarks.memory import look
from benchmarks.report import Report, parser, show
from polyturn.errors import BadInput

ROOT = Path(__file__).parents[1]
BEFORE = "51d84f6"
"""The recipe has the same settings and plays the same tasks there, and nothing of it was made faster yet."""
FIRST = "rate-base."
"""What the ids of the episodes begin with that the untouched model plays: the first of the model's own."""
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Took:
    """What one run took, and what it reached."""

    seconds: float
    cpu_seconds: float
    """Of the process and all that it waited for."""
    first_score_s: float
    """From the start of the command until the first score of the model itself is on disk."""
    first_update_s: float
    peak: int
    """Most bytes of the process and its children at any look (shared pages once)."""
    score: float
    """Mean over held-out tasks of all environments after stage 2."""
    stages: Mapping[str, float]
    """Seconds of the updates of each stage."""


def checkout(what: str, folder: Path) -> Path:
    """The folder that ``what`` names, or what a commit of this repository held, unpacked into ``folder``.

    Raises: BadInput for what is neither.
    """
    if (Path(what) / "polyturn").is_dir():
        return Path(what).resolve()
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", what], capture_output=True, check=False)
    if packed.returncode:
        raise BadInput(f"{what} is no folder with Polyturn in it and no commit here: {packed.stderr.decode().strip()}")
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


def prepare(place: Path) -> None:
    """Converts the embedded model for a checkout if need be, so that no run pays for it.

    Raises: AssertionError where another Polyturn than the checkout's is imported there.
    """
    code = ("import polyturn; from polyturn.policies.embedded import embedded_model; embedded_model();"
            "print(polyturn.__file__)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment(place), capture_output=True,
                          text=True, check=True)  # fmt: skip
    imported = Path(done.stdout.splitlines()[-1]).resolve()
    assert imported.is_relative_to(place.resolve()), f"{imported} was imported in {place}"


def environment(place: Path) -> dict[str, str]:
    """The environment of a checkout's commands."""
    return {**os.environ, "PYTHONPATH": str(place)}


def run(place: Path, folder: Path, settings: Sequence[str]) -> Took:
    """One run of a checkout. Raises: RuntimeError with its last words where it fails."""
    line = [sys.executable, "-m", "polyturn", "run", "quickstart", "--folder", str(folder), *settings]
    errors = folder.with_suffix(".log")
    with errors.open("w") as heard:
        epoch, began = time.time(), time.monotonic()
        running = subprocess.Popen(
            line, cwd=place, env=environment(place), stdout=subprocess.DEVNULL, stderr=heard)
        first, peak = float("nan"), 0
        while not (ended := os.wait4(running.pid, os.WNOHANG))[0]:
            seen = look(running.pid, 0.0)
            peak = max(peak, 0 if seen is None else seen.pss)
            if isnan(first) and scored(folder / "scores.jsonl", FIRST):
                first = time.monotonic() - began
            time.sleep(POLL_S)
        seconds = time.monotonic() - began
    _, status, used = ended
    running.returncode = os.waitstatus_to_exitcode(status)  # the process is gone, and nobody waits for it again
    if running.returncode:
        raise RuntimeError(f"{' '.join(line)} in {place} ended with {running.returncode}: {errors.read_text()[-3000:]}")
    rows = metrics(folder / "metrics.jsonl")
    results = orjson.loads((folder / "results.json").read_bytes())
    return Took(
        seconds, used.ru_utime + used.ru_stime, first, rows[0]["time"] - epoch, peak,
        results["table"]["stage2"]["mixture"]["mean"], stage_seconds(rows),
    )  # fmt: skip


def scored(path: Path, prefix: str) -> bool:
    """Whether a table of scores has a row about an episode whose id begins so."""
    return path.is_file() and f'"episode":"{prefix}'.encode() in path.read_bytes()


def metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a table of metrics, marks left out, of whatever version of Polyturn.

    Raises: BadInput for a table without any.
    """
    found = []
    for line in path.read_bytes().splitlines():
        start, end = line.find(b"{"), line.rfind(b"}")
        row = orjson.loads(line[start : end + 1])
        if "values" in row:
            found.append(row)
    if not found:
        raise BadInput(f"{path} holds no metrics")
    return found


def stage_seconds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Stage -> seconds of all its iterations.

    >>> stage_seconds([{"stage": "a", "values": {"loop/seconds": s}} for s in (1.0, 2.0)])
    {'a': 3.0}
    """
    found: dict[str, float] = {}
    for row in rows:
        found[row["stage"]] = found.get(row["stage"], 0.0) + row["values"]["loop/seconds"]
    return found


def tell(report: Report, took: Mapping[str, Sequence[Took]]) -> None:
    """Rows, ratios and details; the first name is ours."""
    report.row("quickstart", "checkout", "median s", "worst", "cpu s", "first score s", "first update s", "peak MiB",
               "score", "of")  # fmt: skip
    for name, all_of in took.items():
        report.row(
            "quickstart", name, median(each.seconds for each in all_of), max(each.seconds for each in all_of),
            *(median(getattr(each, field) for each in all_of)
              for field in ("cpu_seconds", "first_score_s", "first_update_s")),
            max(each.peak for each in all_of) / 2**20, median(each.score for each in all_of), len(all_of),
        )  # fmt: skip
        report.details[name] = [asdict(each) for each in all_of]
    report.row("seconds of stages", "checkout", *(stages := list(next(iter(took.values()))[0].stages)))
    for name, all_of in took.items():
        report.row("seconds of stages", name, *(median(each.stages[stage] for each in all_of) for stage in stages))
    own, *others = took
    for other in others:
        for what, field in (("", "seconds"), (", processor", "cpu_seconds"), (", first score", "first_score_s")):
            theirs, ours = (median(getattr(each, field) for each in took[name]) for name in (other, own))
            report.ratios[f"{other}{what}"] = theirs / ours


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    made = parser(__doc__.splitlines()[0])
    made.set_defaults(repeats=2)
    made.add_argument("--against", default=BEFORE, help="a commit of this repository, or the folder of a checkout")
    made.add_argument("--alone", action="store_true", help="measure this checkout only")
    made.add_argument("settings", nargs="*", metavar="-- SETTINGS", help="of the recipe, for both")
    arguments = made.parse_args(argv)
    told = "python -m benchmarks.quickstart " + " ".join(sys.argv[1:] if argv is None else argv)
    report = Report("quickstart", told, ("transformers",))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = {"this checkout": ROOT}
        if not arguments.alone:
            places[arguments.against] = checkout(arguments.against, folder / "before")
        for place in places.values():
            prepare(place)
        took: dict[str, list[Took]] = {each: [] for each in places}
        names = list(places)
        for r in range(arguments.repeats):
            for each in names[r % len(names) :] + names[: r % len(names)]:
                took[each].append(run(places[each], folder / f"{names.index(each)}-{r}", arguments.settings))
                print(f"round {r}, {each}: {took[each][-1].seconds:.0f} s", file=sys.stderr, flush=True)
        tell(report, took)
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()
