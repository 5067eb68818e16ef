"""``polyturn study``: arms of a recipe over seeds, each run a process, into one file of results and a plot."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyturn.cli.listing import PACKAGE
from polyturn.cli.parse import Parser, finite, positive, print_json
from polyturn.cli.recipe import idle, load, module_of, with_values
from polyturn.cli.signals import Terminated
from polyturn.errors import BadInput, PolyturnError

if TYPE_CHECKING:
    from polyturn.evaluate.study import Study, Trial
    from polyturn.progress import Progress

EXAMPLES = (
    "polyturn study spiral", "polyturn study spiral --dry-run", "polyturn study my_recipe.py --jobs 1 --write .",
)


class TrialFailed(PolyturnError):
    """A run of a study failed; the others are kept, and the study goes on from them when it is started again."""


@dataclass(frozen=True)
class Plan:
    """How the runs of a study are made."""

    recipe: str
    folder: Path
    jobs: int
    timeout_s: float
    code_sha256: str


def command(name: str, arguments: list[str]) -> int:
    """Runs what is missing, and writes the results. Runs at work end with the command and are made anew by the next."""
    asked = _parser().all_known(arguments)
    from polyturn.evaluate.study import to_choose, to_report
    from polyturn.record.run import code_sha256

    recipe, study = study_of(asked.recipe)
    folder = Path(asked.folder or f"runs/study-{recipe}")
    plan = Plan(asked.recipe, folder, asked.jobs, asked.timeout, code_sha256())
    if asked.dry_run:
        first = to_choose(study)
        runs = effective(plan.recipe, [*first, *to_report(study, dict.fromkeys(study.arms, 0))])
        return _foresee(plan, runs, asked.json)
    try:
        found = asyncio.run(conduct(recipe, study, plan))
    except (KeyboardInterrupt, Terminated) as error:
        error.add_note("the same command goes on with the runs that are missing")
        raise
    path = write(found, Path(asked.write))
    if asked.json:
        print_json({**found, "written": str(path)})
    else:
        print(f"{found['figure']}\nwritten: {path} and {path.with_suffix('.svg').name}; runs: {folder}")
    return 0


def _parser() -> Parser:
    parser = Parser("study", "Compare the arms of a recipe over seeds: settings are chosen on seeds of their own, the "
                    "report has every point, intervals and paired differences. Runs that are there already are kept.",
                    EXAMPLES)
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe (name or .py file) with a STUDY")
    parser.add_argument("--jobs", type=positive, default=max(os.cpu_count() or 1, 1), help="runs at once (all cores)")
    parser.add_argument("--folder", default="", help="where the runs are kept (runs/study-RECIPE)")
    parser.add_argument("--write", default="docs/results", help="where results and plot are written (docs/results)")
    parser.add_argument("--timeout", type=positive, default=1200, help="seconds that one run may take (1200)")
    parser.add_argument("--dry-run", action="store_true", help="only list the runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    return parser


def study_of(subject: str) -> tuple[str, Study]:
    """The recipe's name and its ``STUDY``, whose settings are all known to the recipe.

    Raises: BadInput for a recipe without one, UnknownName for a setting that does not exist.
    """
    from importlib import import_module

    from polyturn.evaluate.study import Study

    recipe = load(subject)
    module = module_of(subject) if subject.endswith(".py") else import_module(f"polyturn.recipes.{subject}")
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise BadInput(f"{subject} has no STUDY; it needs a module constant STUDY = Study(outcome=..., arms=..., "
                       "baseline=...) from polyturn.evaluate.study")
    for arm in study.arms:
        for tried in range(len(study.tried)):
            with_values(recipe, study.settings(arm, tried, study.report[0]))
    return recipe.name, study


def effective(subject: str, trials: Sequence[Trial]) -> list[Trial]:
    """The trials without the settings that do nothing for their arm, which ``polyturn run`` would refuse."""
    recipe = load(subject)
    lean = []
    for trial in trials:
        dropped = idle(recipe, with_values(recipe, trial.settings))
        lean.append(replace(trial, settings={k: v for k, v in trial.settings.items() if k not in dropped}))
    return lean


async def conduct(recipe: str, study: Study, plan: Plan) -> dict[str, Any]:
    """Runs the study and returns its results.

    Raises: TrialFailed for the first run that failed, when those at work have ended.
    """
    from polyturn.evaluate.study import chosen, results, to_choose, to_report
    from polyturn.progress import make_progress
    from polyturn.record.run import versions

    progress = make_progress(sys.stderr)
    started = time.monotonic()
    try:
        tried = await run_all(effective(plan.recipe, to_choose(study)), study, plan, progress, "choosing settings")
        best = chosen(study, tried)
        reported = await run_all(effective(plan.recipe, to_report(study, best)), study, plan, progress, "reporting")
    finally:
        progress.close()
    found = results(recipe, study, tried, reported)
    told = {"command": f"polyturn study {plan.recipe}", "date": time.strftime("%Y-%m-%d"), "versions": versions()}
    return {**found, **told, "code_sha256": plan.code_sha256, "seconds": round(time.monotonic() - started, 1)}


async def run_all(
    trials: Sequence[Trial], study: Study, plan: Plan, progress: Progress, name: str
) -> list[Trial]:
    """The trials with what came of them, ``plan.jobs`` at a time."""
    if trials:
        progress.stage(name, len(trials))
    slots = asyncio.Semaphore(plan.jobs)
    count = iter(range(len(trials)))

    async def one(trial: Trial) -> Trial:
        async with slots:
            done = await run_trial(trial, study, plan)
        outcome = done.outcome.get(study.outcome)
        progress.iteration(next(count), {} if outcome is None else {f"score/{trial.arm}": float(outcome)})
        return done

    tasks = [asyncio.ensure_future(one(trial)) for trial in trials]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_trial(trial: Trial, study: Study, plan: Plan) -> Trial:
    """One run as a process of ``polyturn run`` (of this very package) with one thread; a finished run of the same code
    and settings is read instead. Raises: TrialFailed."""
    folder = plan.folder / trial.name
    if not is_done(folder, trial, plan):
        if folder.exists():
            shutil.rmtree(folder)
        await _process([*words(plan.recipe, trial.settings), "--folder", str(folder), "--json"], trial, plan)
    return read_trial(folder, trial, study, plan)


async def _process(arguments: Sequence[str], trial: Trial, plan: Plan) -> None:
    plan.folder.mkdir(parents=True, exist_ok=True)
    log = plan.folder / f"{trial.name}.log"
    own = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    changed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": own}
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "polyturn", "run", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=file,
            stderr=file, env={**os.environ, **changed},
        )
        try:
            async with asyncio.timeout(plan.timeout_s):
                code = await process.wait()
        except TimeoutError:
            raise TrialFailed(f"run {trial.name} took more than {plan.timeout_s:.0f} s; see {log}") from None
        finally:
            await ended(process)
    if code != 0:
        lines = log.read_text("utf-8", "replace").strip().splitlines() or ["no output"]
        raise TrialFailed(f"run {trial.name} ended with {code}: {lines[-1]} (see {log})")


async def ended(process: asyncio.subprocess.Process) -> None:
    """Ends a process that is at work, and comes back when it is gone, however often it is cancelled meanwhile."""
    if process.returncode is None:
        process.kill()
    while process.returncode is None:
        with suppress(asyncio.CancelledError):
            await process.wait()


def words(recipe: str, settings: Mapping[str, Any]) -> list[str]:
    """The command line of a run's settings: ``["spiral", "--lr", "0.001", "--no-mask"]``."""
    found = [recipe]
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            found += [f"--{flag}", *map(str, value)]
        else:
            found += [f"--{flag}", str(value)]
    return found


def is_done(folder: Path, trial: Trial, plan: Plan) -> bool:
    """Whether the folder holds this very run, finished, of the same code."""
    from polyturn.record.run import read_info

    if not (folder / "run.json").is_file() or not (folder / "results.json").is_file():
        return False
    info = read_info(folder)
    same = all(info.settings.get(name) == _plain(value) for name, value in trial.settings.items())
    return same and info.code_sha256 == plan.code_sha256 and info.status == "finished"


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def read_trial(folder: Path, trial: Trial, study: Study, plan: Plan) -> Trial:
    """What a finished run found."""
    from polyturn.evaluate.study import trial_hash
    from polyturn.record.read import read_metrics

    found = json.loads((folder / "results.json").read_text("utf-8"))
    outcome = found.get("outcome") or {}
    rows = read_metrics(folder) if study.curve else []
    return replace(
        trial, outcome=outcome, curve=curve_of(rows, study), seconds=round(float(found.get("seconds", 0.0)), 1),
        sha256=trial_hash(trial.settings, plan.code_sha256, outcome),
    )


def curve_of(rows: Sequence[Mapping[str, Any]], study: Study) -> tuple[tuple[int, float], ...]:
    """(iteration, value) of the study's curve; the iterations of a later stage go on where the stage before ended."""
    told = [row for row in rows if study.curve in row["values"]]
    points: list[tuple[int, float]] = []
    for stage in study.stages or [row["stage"] for row in told[-1:]]:
        first = points[-1][0] + 1 if points else 0
        points += [(first + row["iteration"], row["values"][study.curve]) for row in told if row["stage"] == stage]
    return tuple(points)


def write(found: Mapping[str, Any], folder: Path) -> Path:
    """Writes ``<name>.json`` and ``<name>.svg``; returns the first."""
    from polyturn.evaluate.study_plot import plot
    from polyturn.record.run import write_whole

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['name']}.json"
    text = json.dumps(finite(found), ensure_ascii=False, indent=1)
    short = re.sub(r"\[\s+(-?[\d.e+-]+),\s+(-?[\d.e+-]+)\s+\]", r"[\1, \2]", text)
    write_whole(path, f"{short}\n".encode())
    write_whole(path.with_suffix(".svg"), plot(found).encode())
    return path


def _foresee(plan: Plan, runs: Sequence[Trial], as_json: bool) -> int:
    lines = [" ".join(("polyturn run", *words(plan.recipe, trial.settings))) for trial in runs]
    if as_json:
        print_json({"recipe": plan.recipe, "folder": str(plan.folder), "runs": lines})
    else:
        print("\n".join(lines))
        print(f"{len(lines)} runs, {plan.jobs} at a time, into {plan.folder}; those reported at the chosen settings")
    return 0
