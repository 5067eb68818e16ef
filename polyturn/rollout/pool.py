"""Many matches at once: groups in the order they were proposed, whatever the order they finish in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace

from polyturn.errors import BadInput, first_of
from polyturn.protocols import Match, Policy, Recorder, Suite
from polyturn.rollout.episode import Place, play_episode
from polyturn.types import Episode, Group
from polyturn.waits import Waiting


@dataclass(frozen=True, slots=True)
class Pool:
    """How many episodes run together, and what happens to those that break.

    ``retries`` counts how often an episode that ended in an error is played again (same seeds); the last attempt
    stands, errors included. Nothing is dropped here: a filter decides.
    """

    concurrency: int = 64
    retries: int = 0
    call_timeout_s: float = 600.0


async def play(
    matches: Sequence[Match], policies: Mapping[str, Policy], *, label: str = "play", recorder: Recorder | None = None,
    pool: Pool = Pool(), finished: Callable[[Episode], None] | None = None,
    done: Mapping[tuple[str, int], Episode] | None = None,
) -> list[Group]:
    """One group for each match, in order. ``label`` begins the ids of groups and episodes and must be unique in a run.

    ``finished`` is called with each episode as it ends (for progress). What stands in ``done`` by group and trial, from
    an earlier attempt, is not played again; it must be of the same match. Raises what is wrong with a match or with the
    program itself (the first of several), after the other episodes were stopped; errors inside an episode are data.
    """
    gate, rooms = asyncio.Semaphore(pool.concurrency), Rooms()

    async def one(index: int, trial: int) -> Episode:
        match, group = matches[index], f"{label}.{index}"
        if done and (group, trial) in done:
            return _same(done[group, trial], match)
        async with rooms.of(match.suite), gate:
            for attempt in range(pool.retries + 1):
                name = f"{group}.{trial}" + (f"r{attempt}" if attempt else "")
                episode = await play_episode(
                    match, policies, Place(name, group, trial, match.iteration), recorder=recorder,
                    call_timeout_s=pool.call_timeout_s,
                )
                if episode.stop.kind != "error":
                    break
        if finished is not None:
            finished(episode)
        return episode

    tasks: dict[tuple[int, int], asyncio.Task[Episode]] = {}
    def count() -> str:
        ended = sum(task.done() for task in tasks.values())
        return f"{ended} of {len(tasks)} have ended, at most {pool.concurrency} are played at once"

    try:
        with Waiting("the loop", f"episodes of {label}", count):
            async with asyncio.TaskGroup() as running:
                for index, match in enumerate(matches):
                    for trial in range(match.rollouts):
                        tasks[index, trial] = running.create_task(one(index, trial))
    except BaseExceptionGroup as group:
        raise first_of(group) from group
    return [
        tuple(tasks[index, trial].result() for trial in range(match.rollouts)) for index, match in enumerate(matches)
    ]


class Rooms:
    """How many plays of each suite may begin, where its spec limits them."""

    def __init__(self) -> None:
        self._gates: dict[int, asyncio.Semaphore] = {}

    def of(self, suite: Suite) -> AbstractAsyncContextManager[object]:
        """What a play of the suite holds from its beginning to its end."""
        if suite.spec.at_once is None:
            return nullcontext()
        return self._gates.setdefault(id(suite), asyncio.Semaphore(suite.spec.at_once))


def _same(episode: Episode, match: Match) -> Episode:
    if (episode.task, episode.seed) != (match.task, match.seed):
        raise BadInput(f"episode {episode.id} was of task {episode.task.id} and seed {episode.seed}, and is now to be "
                       f"of {match.task.id} and {match.seed}: what was begun is not what is asked for")
    return episode


def without_errors(groups: Sequence[Group]) -> list[Group]:
    """The groups without episodes that ended in an error; a group with none left is gone."""
    kept = [tuple(episode for episode in group if episode.stop.kind != "error") for group in groups]
    return [group for group in kept if group]


def alive(groups: Sequence[Group], verifier: str = "score") -> list[Group]:
    """The groups whose rollouts did not all score the same: in the others a group baseline leaves nothing to learn."""
    found = []
    for group in groups:
        values = {
            (seat, score.value) for episode in group for seat, score in episode.scores.get(verifier, {}).items()
            if seat in episode.train
        }
        if len(values) > len({seat for seat, _ in values}):
            found.append(group)
    return found


def with_iteration(matches: Sequence[Match], iteration: int) -> list[Match]:
    """The matches, marked as belonging to an iteration."""
    return [replace(match, iteration=iteration) for match in matches]
