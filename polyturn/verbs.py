"""``run``, ``evaluate`` and ``play`` as plain functions, for scripts and notebooks; ``polyturn`` re-exports them.

They also work where an event loop is running already (a notebook): the work is then done in a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from polyturn.types import Sampling

if TYPE_CHECKING:
    from polyturn.evaluate.benchmark import Result
    from polyturn.protocols import Agent, Match, Policy, Suite
    from polyturn.types import Episode

T = TypeVar("T")


def waited(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, also inside a running loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    box: list[T] = []
    trouble: list[BaseException] = []

    def target() -> None:
        try:
            box.append(asyncio.run(work))
        except BaseException as error:  # handed to the caller below
            trouble.append(error)

    thread = threading.Thread(target=target, name="polyturn")
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    return box[0]


def run(
    recipe: str, *, folder: str | Path | None = None, runs: str | Path = "runs", deterministic: bool = False,
    quiet: bool = False, ranks: int = 1, **settings: Any,
) -> dict[str, Any]:
    """The results of a recipe (a name, or a ``.py`` file), as ``polyturn run RECIPE --json`` prints them.

    ``settings`` are fields of the recipe's Settings: ``run("quickstart", seed=1)``. ``ranks``: processes that learn
    together, for recipes that allow it. Raises: UnknownName, BadInput, and
    what the recipe raises.
    """
    from polyturn.cli.recipe import load, refuse_idle, with_values
    from polyturn.cli.run import Order, execute, unused

    found = load(recipe)
    refuse_idle(found, with_values(found, settings), deterministic=deterministic)
    place = unused(Path(runs) / f"{found.name}-{time.strftime('%Y%m%d-%H%M%S')}") if folder is None else Path(folder)
    order = Order(found, recipe, with_values(found, settings), place, deterministic=deterministic, ranks=ranks)
    return waited(execute(order, quiet=quiet))


def resume(run_folder: str | Path, *, quiet: bool = False, ranks: int = 1) -> dict[str, Any]:
    """The results of a run that was broken off, gone on with from its last checkpoint, by any number of ``ranks``."""
    from polyturn.cli.run import execute, order_to_resume

    return waited(execute(replace(order_to_resume(Path(run_folder)), ranks=ranks), quiet=quiet))


def train(
    suite: Suite, *, folder: str | Path, resume: bool = False, deterministic: bool = False, quiet: bool = False,
    ranks: int = 1, agent: Callable[[], Agent] | None = None, **settings: Any,
) -> dict[str, Any]:
    """The results of group-relative reinforcement learning on a suite of one's own: the recipe ``group_rl``.

    ``settings`` are fields of :class:`polyturn.recipes.group_rl.Settings`: ``train(suite, folder="runs/mine",
    iterations=50, lr=2e-5)``. ``agent`` makes what plays, where a plain chat agent will not do. With ``resume`` the run
    in ``folder`` is gone on with; suite and settings must be given again, as they were.
    """
    from polyturn.cli.recipe import load, with_values
    from polyturn.cli.run import Order, execute
    from polyturn.recipes.group_rl import learn

    async def main(chosen: Any, run: Any) -> None:
        await learn(suite, chosen, run, agent)

    recipe = replace(load("group_rl"), main=main)
    chosen = with_values(recipe, {"environment": suite.spec.name, **settings})
    order = Order(recipe, "group_rl", chosen, Path(folder), resume=resume, deterministic=deterministic,
                  ranks=ranks)
    return waited(execute(order, quiet=quiet))


def evaluate(
    subject: str | Suite, policy: str | Policy = "base", *, tasks: int | None = None, trials: int = 1,
    sampling: Sampling = Sampling(max_tokens=64), mask: bool = False, agent: Callable[[], Agent] | None = None,
) -> Result:
    """The rows of a policy on an environment: a name, a ``.py`` file or a suite, with its first ``tasks`` test tasks.

    ``policy`` is a policy, or a word or folder as ``polyturn eval --policy`` takes it. ``agent`` makes the agent that
    plays (default: a plain chat agent with ``sampling`` and ``mask``). A recipe's held-out tasks: ``polyturn eval``.
    """
    return waited(_evaluated(_matches(subject, tasks, trials, sampling, mask, agent), policy, isinstance(subject, str)))


def play(
    subject: str | Suite, policy: str | Policy = "random", *, tasks: int = 1, trials: int = 1,
    sampling: Sampling = Sampling(max_tokens=64), mask: bool = False, agent: Callable[[], Agent] | None = None,
) -> list[Episode]:
    """Scored episodes of a policy on an environment; the arguments are those of :func:`evaluate`.

    >>> [episode.stop.kind for episode in play("guess_the_number", "oracle", tasks=2)]
    ['done', 'done']
    """
    matches = _matches(subject, tasks, trials, sampling, mask, agent)
    result = waited(_evaluated(matches, policy, isinstance(subject, str)))
    return [episode for group in result.groups for episode in group]


def _matches(
    subject: str | Suite, tasks: int | None, trials: int, sampling: Sampling, mask: bool,
    agent: Callable[[], Agent] | None,
) -> list[Match]:
    from polyturn.cli.subject import held_out, suite_of

    suite = suite_of(subject) if isinstance(subject, str) else subject
    return held_out(suite, tasks=tasks, trials=trials, sampling=sampling, mask=mask, agent=agent)


async def _evaluated(matches: Sequence[Match], policy: str | Policy, own: bool) -> Result:
    """The result; a suite that was made here (``own``) is closed."""
    try:
        return await _rated(matches, policy)
    finally:
        for match in matches[:1] if own else ():
            await match.suite.close()


async def _rated(matches: Sequence[Match], policy: str | Policy) -> Result:
    from polyturn.cli.evaluate import closed
    from polyturn.cli.policy import open_policy, seated
    from polyturn.cli.subject import MAIN
    from polyturn.evaluate.benchmark import evaluate as rated

    judged = {m.task.id: [seat for seat, player in m.cast.items() if player.policy == MAIN] for m in matches}
    if not isinstance(policy, str):
        return await rated(matches, {MAIN: policy}, policy=MAIN, seats=lambda episode: judged[episode.task.id])
    opened = open_policy(policy)
    try:
        return await rated(seated(policy, matches), {MAIN: opened}, policy=MAIN)
    finally:
        await closed(opened)
