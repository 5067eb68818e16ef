"""``polyturn run``: a recipe, its settings as flags, one folder that holds everything about the run."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyturn.cli.parse import Parser, finite, print_json
from polyturn.cli.recipe import Recipe, flags, load, read_settings, refuse_idle, shipped, with_values
from polyturn.cli.signals import Terminated, name_folder, stoppable
from polyturn.errors import BadInput, Stopped

if TYPE_CHECKING:
    from polyturn.learn.ranks.group import Ranks
    from polyturn.progress import Progress
    from polyturn.record.run import Status

EXAMPLES = (
    "polyturn run quickstart", "polyturn run quickstart --seed 1 --json", "polyturn run quickstart --dry-run",
    "polyturn run path/to/recipe.py", "polyturn run --resume runs/quickstart-20260101-120000",
)


@dataclass(frozen=True)
class Order:
    """A run to be made: which recipe with which settings, into which folder."""

    recipe: Recipe
    subject: str
    """The recipe's name or file, as it was given."""
    settings: Any
    folder: Path
    resume: bool = False
    deterministic: bool = False
    processes: int = 0
    """Other processes that play, and the Ray cluster whose actors these are."""
    ray: str = ""
    ranks: int = 1
    """Processes that learn together."""


def command(name: str, arguments: list[str]) -> int:
    """Runs a recipe, or says what it would take."""
    words = list(arguments)
    subject = words.pop(0) if words and not words[0].startswith("-") else None
    parser = _parser()
    if {"--help", "-h"} & set(words):
        return _help(parser, subject)
    asked, rest = parser.parse_known_args(words)
    if asked.device:
        from polyturn.policies.device import name_device

        name_device(asked.device)
    if asked.engine:
        from polyturn.policies.sampler.choose import name_engine

        name_engine(asked.engine)
    order = resumed(asked, subject, rest) if asked.resume else fresh(asked, subject, rest, parser)
    order = replace(played_by(order, asked.processes, asked.ray), ranks=asked.ranks)
    refuse_ranks(order)
    if asked.dry_run:
        return dry_run(order, asked.json)
    return _run(order, asked.json)


def _parser() -> Parser:
    parser = Parser("run", f"Run a recipe. Recipes: {', '.join(shipped()) or 'none'}, or a .py file.", EXAMPLES)
    parser.usage = "polyturn run RECIPE [options] [settings of the recipe as flags]"
    parser.add_argument("--runs", default="runs", metavar="FOLDER", help="where run folders are made (runs)")
    parser.add_argument("--folder", metavar="FOLDER", help="this run's own folder, new or empty")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, with its settings")
    parser.add_argument("--deterministic", action="store_true",
                        help="same numbers every time: float32, fixed batches and threads; slower")
    parser.add_argument("--device", default="", help="where models compute: cpu, cuda, cuda:1, mps (the first GPU, "
                        "else cpu)")
    parser.add_argument("--engine", default="", help="how models sample: slots, continuous or plain (the first "
                        "that fits)")
    parser.add_argument("--processes", type=int, default=0, metavar="N",
                        help="decoupled training: so many other processes play the episodes (0: this one)")
    parser.add_argument("--ray", default="", metavar="ADDRESS",
                        help="these are actors of the Ray cluster at HOST:PORT, or auto for the one of this machine")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes that learn together, each with a "
                        "share of weights and batch (docs/scale.md); with --resume too, in any number")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would take, and end")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser


def played_by(order: Order, processes: int, ray: str) -> Order:
    """The order with who plays its episodes. Raises: BadInput where that would do nothing, or is no number."""
    if processes < 0:
        raise BadInput(f"--processes is {processes}; expected 0 (this process plays) or more")
    if ray and not processes:
        raise BadInput(f"--ray {ray} has no effect without --processes: say how many actors are to play")
    if processes and not order.recipe.processes:
        able = [name for name in shipped() if load(name).processes]
        raise BadInput(f"--processes has no effect on {order.subject}, which plays its episodes in this process; those "
                       f"that can have them played by others: {', '.join(able)}")
    return replace(order, processes=processes, ray=ray)


def _help(parser: Parser, subject: str | None) -> int:
    parser.print_help()
    if subject is not None:
        print(f"\nsettings of {subject}:\n")
        read_settings(load(subject), ["--help"])
    return 0


def fresh(asked: argparse.Namespace, subject: str | None, rest: Sequence[str], parser: Parser) -> Order:
    """The order for a new run. Raises: BadInput for settings that would do nothing."""
    if subject is None:
        raise BadInput(f"no recipe given; expected one of {', '.join(shipped())} or a .py file")
    recipe = load(subject)
    clash = sorted(set(flags(recipe.settings)) & set(parser.flags()))
    if clash:
        raise BadInput(f"{subject}: Settings makes {clash[0]}, which polyturn run has for itself; rename the field")
    settings = read_settings(recipe, rest, parser.flags())
    refuse_idle(recipe, settings, deterministic=asked.deterministic)
    return Order(recipe, subject, settings, _folder(asked, recipe), deterministic=asked.deterministic)


def _folder(asked: argparse.Namespace, recipe: Recipe) -> Path:
    if asked.folder:
        return Path(asked.folder)
    return unused(Path(asked.runs) / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}")


def refuse_ranks(order: Order) -> None:
    """Nothing, where the order's ranks can be had. Raises: BadInput for a recipe that keeps its learners to itself."""
    if order.ranks < 1:
        raise BadInput(f"--ranks is {order.ranks}; expected at least 1")
    if order.ranks > 1 and not order.recipe.ranks:
        able = [name for name in shipped() if load(name).ranks]
        raise BadInput(f"{order.subject} learns in one process: it does not say RANKS = True, which promises that its "
                       f"learners are made by run.learner; leave out --ranks, or take one of {', '.join(able)}")


def unused(folder: Path) -> Path:
    """The same folder, or with ``-2``, ``-3`` ... where it exists."""
    names = [folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 1000))]
    return next(name for name in names if not name.exists())


def resumed(asked: argparse.Namespace, subject: str | None, rest: Sequence[str]) -> Order:
    """The order that ``--resume`` gives. Raises: BadInput where settings or another recipe are given beside it."""
    if rest:
        raise BadInput(f"--resume takes the run's own settings; leave out {' '.join(rest)}")
    order = order_to_resume(Path(asked.resume))
    if subject is not None and subject != order.subject:
        raise BadInput(f"{order.folder} is a run of {order.subject}, not of {subject}")
    return order


def order_to_resume(folder: Path) -> Order:
    """The order to go on with a run. Raises: BadInput for no run, or where its recipe has changed."""
    from polyturn.record.run import read_info

    info = read_info(folder)
    changed = BadInput(f"the recipe {info.recipe} has changed since {folder} was begun, so its numbers would mean "
                       "something else; start a new run, or put back the text that stands in run.json")
    file = Path(info.recipe)
    if file.suffix == ".py" and file.is_file() and file.read_text("utf-8", "replace") != info.text:
        raise changed  # before a line of it is run: a run of others may name any file
    recipe = load(info.recipe)
    if recipe.source != info.text:
        raise changed
    settings = with_values(recipe, restored(recipe, info.settings))
    return Order(recipe, info.recipe, settings, folder, True, bool(info.seeds.get("deterministic", False)))


def restored(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings read back from JSON: lists become tuples again, text becomes paths, where the default is one."""
    default = recipe.settings()
    found = {}
    for name, value in values.items():
        was = getattr(default, name, None)
        found[name] = tuple(value) if isinstance(value, list) else Path(value) if isinstance(was, Path) else value
    return found


def stored(settings: Any) -> dict[str, Any]:
    """Settings as JSON values."""
    mapping: dict[str, Any] = json.loads(json.dumps(asdict(settings), default=str))
    return mapping


async def execute(order: Order, *, quiet: bool = False) -> dict[str, Any]:
    """Makes the run and returns its results, with ``run``, ``seconds`` and ``peak_bytes``.

    However it ends, the folder is closed and says how. Under torchrun a process of rank other than 0 only learns, and
    leaves the program here. Raises whatever the recipe raised.
    """
    if order.ranks == 1:
        return await _made(order, quiet, None)
    from polyturn.learn.ranks.group import open_ranks
    from polyturn.policies.device import device_of

    refuse_ranks(order)
    with open_ranks(order.ranks, device=device_of(deterministic=order.deterministic).type) as ranks:
        return await _made(order, quiet, ranks)


async def _made(order: Order, quiet: bool, ranks: Ranks | None) -> dict[str, Any]:
    from polyturn.cli.memory import PeakMemory
    from polyturn.learn.run import Run
    from polyturn.record.report import write_report
    from polyturn.record.write import open_run

    settings = stored(order.settings)
    recorder = open_run(
        order.folder, recipe=order.subject, text=order.recipe.source, settings=settings, resume=order.resume,
        seeds={"seed": settings.get("seed"), "deterministic": order.deterministic},
    )
    started = time.monotonic()
    status: Status = "stopped"
    reason = "interrupted"
    try:
        progress = _progress(order, quiet, lambda: recorder.taken)
        try:
            with PeakMemory() as peak, stoppable(progress.note):
                run = Run(order.folder, recorder, progress, order.deterministic, order.processes, order.ray,
                          ranks=ranks)
                await order.recipe.main(order.settings, run)
        finally:
            progress.close()
        run.keep(seconds=time.monotonic() - started, peak_bytes=peak.bytes)
        status, reason = "finished", ""
    except Stopped as asked:
        reason = str(asked)
        raise
    except Exception as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"[:2000]
        raise
    finally:
        # on a full disk the error that ends the run is told, not that its end cannot be written
        with suppress(OSError) if status != "finished" else nullcontext():
            recorder.close(status, reason)
    write_report(order.folder)
    return {**run.results, "run": str(order.folder)}


def _progress(order: Order, quiet: bool, turns: Callable[[], int]) -> Progress:
    from io import StringIO

    from polyturn.progress import make_progress

    foreseen = order.recipe.foresee(order.settings) if order.recipe.foresee else {}
    return make_progress(StringIO() if quiet else sys.stderr, foreseen=foreseen.get("stages", {}), turns=turns)


def _run(order: Order, as_json: bool) -> int:
    try:
        results = asyncio.run(execute(order))
    except (KeyboardInterrupt, Terminated, OSError) as error:
        name_folder(error, "run", order.folder)
        raise
    if as_json:
        print_json(results)
        return 0
    if order.recipe.text is not None:
        print(order.recipe.text(results))
    print(f"run folder: {order.folder}")
    return 0


def dry_run(order: Order, as_json: bool) -> int:
    """Says what the run would take; nothing is loaded, nothing written."""
    from polyturn.doctor import free_bytes
    from polyturn.progress import duration

    foreseen = dict(order.recipe.foresee(order.settings)) if order.recipe.foresee else {}
    found: dict[str, Any] = {"recipe": order.subject, "folder": str(order.folder), "settings": stored(order.settings),
             "foreseen": finite(foreseen), "disk_free_bytes": free_bytes(order.folder)}
    if as_json:
        print_json(found)
        return 0
    print("\n".join(f"{key} = {value}" for key, value in found["settings"].items()))
    if not foreseen:
        print(f"{order.subject} does not say what it takes (it has no function foresee)")
    if "seconds" in foreseen:
        print(f"time: about {duration(float(foreseen['seconds']))}")
    if "bytes" in foreseen:
        print(f"memory: about {float(foreseen['bytes']) / 2**30:.1f} GiB")
    if "usd" in foreseen:
        print(f"cost: about {float(foreseen['usd']):.2f} USD")
    return 0
