"""tau-bench results: ``{"task_id", "reward", "info", "traj", "trial"}``, one trial of one task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polyturn.errors import BadInput
from polyturn.json_numbers import whole_or_none
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, dict_of, each
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import episode_of, identity, rows, trajectory_of, value_of
from polyturn.types import Episode, Score, Stop, Task

FAMILY = "tau-bench"


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a trial: the task with its gold actions as payload, the reward as a score. A trial that broke
    (an ``error`` in its info) is an error and has no score, for it was recorded as a zero that nobody earned."""
    number, trial = record["task_id"].whole(), record["trial"].whole()
    info, reward = record["info"].object(), record["reward"].number()
    if trial < 0:
        raise BadInput(f"{record.where}.trial: is {trial}; expected a number from 0 on")
    given = record["traj"].items()
    messages = each(record["traj"], store) if given else []
    broke = isinstance(info.get("error"), str)
    trajectory = trajectory_of(messages, policy=FAMILY, stop=Stop("error", "the trial broke") if broke else None)
    task = info.get("task")
    found = episode_of(
        trajectory, id=identity(record.value), format=FAMILY, trial=trial,
        task=Task(str(number), FAMILY, {"task": task} if isinstance(task, dict) else {}),
        scores={} if broke else {FAMILY: Score(reward, reward == 1.0)},
        stop=Stop("error", "the trial broke") if broke else Stop("done"), error=info["error"] if broke else None,
        final={"reward_info": info["reward_info"]} if isinstance(info.get("reward_info"), dict) else None,
    )
    return [found]


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One result a dialogue; a task whose id is no number has its place in ``info``."""
    for episode in group:
        for dialogue in rows(episode, give.seats):
            info: dict[str, Any] = {}
            task = episode.task.payload.get("task")
            info["task"] = task if isinstance(task, dict) else {"id": episode.task.id, "family": episode.task.family,
                                                                **dict(episode.task.payload)}
            final = dict(episode.final or {})
            if isinstance(final.get("reward_info"), dict):
                info["reward_info"] = final["reward_info"]
            if episode.error is not None:
                info["error"] = episode.error
            value = value_of(episode, dialogue.trajectory.seat)
            yield {"task_id": whole_or_none(episode.task.id) or 0,
                   "reward": 0.0 if value is None else value, "info": info,
                   "traj": [dict_of(message, give.store) for message in dialogue.messages], "trial": episode.trial}
