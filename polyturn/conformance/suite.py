"""Does a suite keep its contract? :func:`check_suite` plays its tasks, its oracle and its null player."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from polyturn.agents.chat import AnswerAgent
from polyturn.conformance.env import any_answer, check_env, is_json
from polyturn.conformance.failed import CheckFailed, check_nothing_left, demand, running
from polyturn.errors import BadInput
from polyturn.policies.dictated import Dictated
from polyturn.protocols import Answer, Match, Player, Suite
from polyturn.rollout.episode import Place, play_episode
from polyturn.types import Episode, Score, Stop, Task

MOST_TEST_TASKS = 100_000
Maker = Callable[[Task, str], Answer]
"""(task, seat) -> a scripted player."""


async def check_suite(
    suite: Suite, *, tasks: int = 3, seed: int = 0, figures: Mapping[str, float] | None = None, scored: int = 64,
    most_steps: int = 200,
) -> Mapping[str, float]:
    """The mean scores measured (``oracle``, ``null``, ``random``, where the suite has them), when the suite keeps the
    contract of :class:`polyturn.protocols.Suite`.

    Checked: the spec; the splits (``test`` finite and the same each time, no task of it in ``train``, other names
    refused); the environments of the first ``tasks`` test tasks (:func:`check_env`); the verifier (scores in 0..1, the
    same each time, none for an episode that broke); mean scores over up to ``scored`` test tasks against ``figures``
    (default: ``suite.figures``) within four standard errors; oracle at least null. Raises: CheckFailed.
    """
    before = running()
    name = suite.spec.name
    _check_spec(suite)
    test = _check_tasks(suite)
    for task in test[:tasks]:
        demand(is_json(task.payload), f"the payload of {task.id} is no plain JSON, so that it cannot be recorded")
        players = _players(suite, task, seed)
        await check_env(partial(suite.make, task, seed), spec=suite.spec, answers=players, most_steps=most_steps)
    stated = dict(getattr(suite, "figures", {}) if figures is None else figures)
    measured = {}
    for who, maker in _makers(suite, seed).items():
        values = [await _score(suite, task, seed, partial(maker, task)) for task in test[:scored]]
        measured[who] = sum(values) / len(values)
        if who in stated:
            _check_figure(f"{name}: the {who} player", values, stated[who])
    if {"oracle", "null"} <= measured.keys():
        demand(measured["oracle"] >= measured["null"], f"{name}: the oracle scores {measured['oracle']:.3f}, less than "
               f"the player that does nothing, {measured['null']:.3f}; is the score upside down?")
    await check_nothing_left(before, name)
    return measured


def _check_spec(suite: Suite) -> None:
    spec = suite.spec
    demand(bool(spec.name) and bool(spec.seats), f"the spec {spec} has no name or no seats")
    demand(len(set(spec.seats)) == len(spec.seats), f"{spec.name} names a seat twice: {spec.seats}")
    demand(not any("/" in seat or not seat for seat in spec.seats), f"{spec.name} has the seats {spec.seats}; "
           "a '/' makes a sub-seat, which only an agent may have")
    demand(bool(spec.invalid), f"{spec.name} does not say what an illegal reply costs; fill in Spec.invalid")
    demand(spec.step_timeout_s > 0, f"{spec.name} has the deadline {spec.step_timeout_s} s; expected more than 0")


def _check_tasks(suite: Suite) -> list[Task]:
    """The test tasks."""
    name = suite.spec.name
    test = list(islice(suite.tasks("test"), MOST_TEST_TASKS + 1))
    demand(0 < len(test) <= MOST_TEST_TASKS, f"{name} has {len(test)} test tasks or more; expected a finite, held-out "
           f"set of 1 to {MOST_TEST_TASKS}")
    demand(all(isinstance(task, Task) and task.id and task.family for task in test), f"{name} gives test tasks that "
           "are no Task, or have no id or family")
    again = list(islice(suite.tasks("test"), len(test)))
    demand(again == test, f"{name} gives other test tasks the second time; draw them from a fixed seed, and give a "
           "fresh iterator each time")
    ids = {task.id for task in test}
    demand(len(ids) == len(test), f"{name} has two test tasks with the same id")
    train = list(islice(suite.tasks("train"), 2 * len(test) + 8))
    demand(bool(train), f"{name} has no train tasks")
    shared = sorted(ids & {task.id for task in train})
    demand(not shared, f"{name} trains on its test tasks: {shared[:5]} stand in both splits")
    try:
        list(islice(suite.tasks("no such split"), 1))
    except LookupError:
        return test
    except ValueError:
        return test
    raise CheckFailed(f"{name} gave tasks of the split 'no such split'; raise UnknownName, or a slip in a name "
                      "evaluates on the wrong tasks")


def _players(suite: Suite, task: Task, seed: int) -> Callable[[str], Answer]:
    """Random players where the suite has them, for they go through more of the rules than ``any_answer``."""
    random_answer = getattr(suite, "random_answer", None)
    if random_answer is None:
        return any_answer

    def players(seat: str) -> Answer:
        drawn: Answer = random_answer(task, seed, seat)

        def play(ask: Any) -> Any:
            return drawn(ask) if ask.legal else any_answer(seat)(ask)

        return play

    return players


def _makers(suite: Suite, seed: int) -> dict[str, Maker]:
    """The scripted players that the suite has."""
    found: dict[str, Maker] = {}
    task = next(iter(suite.tasks("test")))
    for who in ("oracle", "null"):
        maker = getattr(suite, who, None)
        if maker is not None and _answers(maker, task):
            found[who] = partial(_for_any_seat, maker)
    random_answer = getattr(suite, "random_answer", None)
    if random_answer is not None and "random" in getattr(suite, "figures", {}):
        found["random"] = lambda task, seat: random_answer(task, seed, seat)
    return found


def _for_any_seat(maker: Callable[[Task], Answer], task: Task, seat: str) -> Answer:
    return maker(task)


def _answers(maker: Callable[[Task], Answer], task: Task) -> bool:
    try:
        return callable(maker(task))
    except BadInput:
        return False


async def _score(suite: Suite, task: Task, seed: int, maker: Callable[[str], Answer]) -> float:
    """The mean score over the seats of one episode, which is checked on the way."""
    cast = {seat: Player(partial(_agent, maker, seat), "dictated") for seat in suite.spec.seats}
    match = Match(suite, task, cast, seed)
    episode = await play_episode(match, {"dictated": Dictated()}, Place(f"check-{task.id}"))
    demand(episode.stop.kind != "error", f"{suite.spec.name}, task {task.id}: the episode broke: {episode.stop.reason}")
    scores = await _checked_scores(suite, episode)
    values = [score.value for score in scores.values() if score.value is not None]
    demand(bool(values), f"{suite.spec.name}, task {task.id}: no seat has a score after {episode.stop}")
    return sum(values) / len(values)


def _agent(maker: Callable[[str], Answer], seat: str) -> AnswerAgent:
    return AnswerAgent(maker(seat))


async def _checked_scores(suite: Suite, episode: Episode) -> Mapping[str, Score]:
    name = suite.spec.name
    verifier: Callable[[Sequence[Any]], Awaitable[Any]] | None = getattr(suite, "verifier", None)
    if verifier is None:
        raise CheckFailed(f"{name} has no verifier, so that nothing can be learned or compared; give it one")
    given = await verifier([(episode,)])
    demand(given == await verifier([(episode,)]), f"{name}: the verifier gave the same episode another score the "
           "second time; it may use nothing but the log and the final state")
    demand(set(given) == {episode.id}, f"{name}: the verifier scored {sorted(given)}; expected [{episode.id!r}]")
    broken = replace(episode, id="broken", stop=Stop("error", "a check"), error="a check")
    demand(not (await verifier([(broken,)])).get("broken"), f"{name}: the verifier scored an episode whose stop is an "
           "error; an environment that broke must never count as a loss")
    scores: Mapping[str, Score] = given[episode.id]
    for seat, score in scores.items():
        demand(seat in suite.spec.seats, f"{name}: the verifier scored {seat!r}; the seats are {suite.spec.seats}")
        demand(score.value is None or (math.isfinite(score.value) and 0 <= score.value <= 1),
               f"{name}: the verifier gave {seat!r} {score.value}; expected 0..1, or None to abstain")
    return scores


def _check_figure(who: str, values: Sequence[float], stated: float) -> None:
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    allowed = max(0.02, 4 * spread / math.sqrt(len(values)))
    demand(abs(mean - stated) <= allowed, f"{who} scores {mean:.3f} over {len(values)} tasks; {stated:.3f} is stated "
           f"(allowed: {allowed:.3f} away)")
