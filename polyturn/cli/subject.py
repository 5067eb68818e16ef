"""What is played: an environment by name, an environment file, or a recipe's held-out tasks, as matches.

An environment file is a ``.py`` file with a function ``suite()``. The policy to be judged sits in the seats whose
player's policy is ``"main"``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from inspect import signature
from itertools import islice
from typing import Any

from polyturn.agents.chat import ChatAgent
from polyturn.cli.listing import envs
from polyturn.cli.recipe import Recipe, is_recipe, load, module_of, read_settings, shipped
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import AgentMaker, Match, Player, Suite
from polyturn.seeds import derive
from polyturn.types import Sampling, Seat, Task

MAIN = "main"
"""The name of the policy that is judged."""
MOST_TASKS = 10_000
"""The largest split that is played whole."""


def suite_of(subject: str, options: Sequence[str] = ()) -> Suite:
    """The suite of this name or in this file, made with ``options`` as ``attack=direct``.

    Raises: UnknownName, BadInput.
    """
    known = {str(entry["name"]): entry for entry in envs()}
    if subject in known:
        maker: Callable[..., Suite] = getattr(import_module(str(known[subject]["module"])), subject)
        return maker(**read_options(subject, maker, options))
    if not subject.endswith(".py"):
        raise UnknownName("environment", subject, known)
    own: Callable[..., Suite] | None = getattr(module_of(subject), "suite", None)
    if own is None:
        raise BadInput(f"{subject} has no function suite(); an environment file needs one that returns its Suite")
    return own(**read_options(subject, own, options))


def read_options(subject: str, maker: Callable[..., Suite], options: Sequence[str]) -> dict[str, Any]:
    """Arguments of a suite's maker from texts ``NAME=VALUE``; a value is JSON where it can be, else a text.

    Raises: UnknownName for an argument that the maker does not have, BadInput for what is none.
    """
    known = [name for name, one in signature(maker).parameters.items() if one.kind is not one.VAR_KEYWORD]
    found: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise BadInput(f"--option {option!r} sets nothing; expected NAME=VALUE, as attack=direct")
        if name not in known:
            raise UnknownName(f"option of {subject}", name, known)
        found[name] = option_value(text)
    return found


def option_value(text: str) -> Any:
    """The JSON value that a text is, lists as tuples; else the text itself.

    >>> option_value("3"), option_value("direct"), option_value('["boil", "melt"]'), option_value("null")
    (3, 'direct', ('boil', 'melt'), None)
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def free_seats(suite: Suite, task: Task) -> list[Seat]:
    """The seats of a task that no default player takes."""
    default = getattr(suite, "default_cast", None)
    taken: Mapping[Seat, object] = default(task) if default else {}
    return [seat for seat in suite.spec.seats if seat not in taken]


def held_out(
    suite: Suite, *, tasks: int | None, trials: int, sampling: Sampling = Sampling(), mask: bool = False,
    agent: AgentMaker | None = None, seed: int = 0, split: str = "test",
) -> list[Match]:
    """A match for each of the first ``tasks`` tasks of a split (None: all), the judged policy in every free seat.

    ``agent`` makes what plays there; None = a plain chat agent with ``sampling`` and ``mask``. Worlds and draws derive
    from ``seed`` and the task, so that no two tasks share them. Raises: BadInput where all of an endless split are
    asked for.
    """
    make = agent or partial(ChatAgent, sampling=sampling, mask=mask)
    asked = list(islice(suite.tasks(split), MOST_TASKS + 1 if tasks is None else tasks))
    if len(asked) > MOST_TASKS and tasks is None:
        raise BadInput(f"the split {split!r} of {suite.spec.name} has more than {MOST_TASKS} tasks, or does not end; "
                       "say how many with --tasks")
    return [
        Match(
            suite, task, {seat: Player(make, MAIN) for seat in free_seats(suite, task)},
            derive("held out", task.id, seed), trials,
        )
        for task in asked
    ]


@dataclass(frozen=True)
class Exam:
    """What is played, and the recipe's settings where it is a recipe's."""

    matches: list[Match]
    settings: Any = None


def exam_of(
    subject: str, flags: Sequence[str], *, tasks: int | None, trials: int | None, sampling: Sampling, mask: bool,
    split: str | None = None, options: Sequence[str] = (),
) -> Exam:
    """The matches of a subject. A recipe says itself how it samples and what it holds out; ``flags`` are those of its
    Settings. Of an environment the test tasks are played, or those of another ``split``.

    Raises: UnknownName for a subject that is neither, BadInput for a recipe without held-out tasks.
    """
    if not is_recipe(subject) and not subject.endswith(".py"):
        known = [str(entry["name"]) for entry in envs()]
        if subject not in known:
            raise UnknownName("environment or recipe", subject, [*known, *shipped()])
    if is_recipe(subject):
        if options:
            raise BadInput(f"{subject} is a recipe, whose settings are flags of their own; leave out --option")
        if split is not None:
            raise BadInput(f"{subject} is a recipe, which says itself what it holds out; leave out --split")
        recipe = load(subject)
        return exam_of_recipe(recipe, read_settings(recipe, flags), tasks, trials)
    if flags:
        raise BadInput(f"{subject} is an environment and takes no settings; leave out {' '.join(flags)}")
    return Exam(held_out(
        suite_of(subject, options), tasks=tasks, trials=trials or 1, sampling=sampling, mask=mask,
        split=split or "test"))


def exam_of_recipe(recipe: Recipe, settings: Any, tasks: int | None, trials: int | None) -> Exam:
    """A recipe's held-out matches. Raises: BadInput for a recipe without them."""
    if recipe.held_out is None:
        raise BadInput(f"recipe {recipe.name} has no held-out tasks (no function held_out(settings))")
    matches = list(recipe.held_out(settings))
    if tasks is not None:
        matches = first_of_each(matches, tasks)
    if trials is not None:
        matches = [replace(match, rollouts=trials) for match in matches]
    return Exam(matches, settings)


def first_of_each(matches: Sequence[Match], tasks: int) -> list[Match]:
    """The first ``tasks`` matches of each environment."""
    kept: dict[str, list[Match]] = {}
    for match in matches:
        kept.setdefault(match.suite.spec.name, []).append(match)
    return [match for each in kept.values() for match in each[:tasks]]
