"""OpenAI fine-tuning rows: ``{"messages", "tools", "parallel_tool_calls"}``; a reply of ``weight`` 0 is not learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, dict_of, each, tool_dicts, tools_of
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import Dialogue, episode_of, identity, rows, trajectory_of
from polyturn.types import Episode


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a row. A reply of weight 0 becomes context that nobody said here."""
    given = record["messages"]
    messages = each(given, store)
    replies = []
    for place, item in enumerate(given.items()):
        weight = item.get("weight")
        if messages[place].role == "assistant" and (weight is None or weight.number() != 0):
            replies.append(place)
    tools = tools_of(record.get("tools"))
    trajectory = trajectory_of(messages, policy="openai", replies=replies, tools=tools)
    return [episode_of(trajectory, id=identity(record.value), format="openai")]


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One row a dialogue; replies that another row trains have weight 0."""
    for episode in group:
        for dialogue in rows(episode, give.seats):
            row: dict[str, Any] = {"messages": _messages(dialogue, give.store)}
            if dialogue.trajectory.tools:
                row["tools"] = tool_dicts(dialogue.trajectory.tools)
            yield row


def _messages(dialogue: Dialogue, store: Store) -> list[dict[str, Any]]:
    found = []
    for place, message in enumerate(dialogue.messages):
        given = dict_of(message, store)
        if message.role == "assistant" and place not in dialogue.trained:
            given["weight"] = 0
        found.append(given)
    return found
