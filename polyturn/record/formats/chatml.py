"""Rows with a column of chat messages (ChatML) beside free columns, as datasets on hubs have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, dict_of, each, tool_dicts, tools_of
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import episode_of, identity, rows, trajectory_of, value_of
from polyturn.types import Episode, Score, Task


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a row. ``id``, ``task``, ``family`` and ``reward`` are read where they are there; other free
    columns stay with the episode as they are."""
    messages = each(record["messages"], store)
    trajectory = trajectory_of(messages, policy="chatml", tools=tools_of(record.get("tools")))
    reward, task, family = record.get("reward"), record.get("task"), record.get("family")
    scores = {} if reward is None else {"chatml": Score(reward.number())}
    known = None if task is None else Task(task.text(), "chatml" if family is None else family.text())
    return [episode_of(trajectory, id=identity(record.value), format="chatml", task=known, scores=scores)]


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One row a dialogue. Arguments of calls are JSON text: as objects, tables would give each call the keys of all."""
    for episode in group:
        for dialogue in rows(episode, give.seats):
            row: dict[str, Any] = {"messages": [dict_of(m, give.store) for m in dialogue.messages]}
            if dialogue.trajectory.tools:
                row["tools"] = tool_dicts(dialogue.trajectory.tools)
            yield {**row, "task": episode.task.id, "family": episode.task.family,
                   "reward": value_of(episode, dialogue.trajectory.seat)}
