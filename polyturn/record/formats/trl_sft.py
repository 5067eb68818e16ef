"""TRL, supervised fine-tuning: ``{"prompt": [..], "completion": [..], "tools"}``, or ``{"messages": [..]}``.

A run of ours gives one row a reply: its context as the prompt, the reply alone as the completion, so that TRL's loss on
completions trains every reply once and nothing that a user or a tool said. Arguments of calls are objects, as TRL has
them. A row that was imported goes back as the one row it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polyturn.errors import BadInput
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, dict_of, each, tool_dicts, tools_of
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import dialogues, episode_of, identity, rows, shown, trajectory_of
from polyturn.types import Episode, Message, Trajectory

NAME = "trl-sft"


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a row; assistant messages of a prompt are context that nobody said here."""
    whole = record.get("messages")
    if whole is not None:
        messages, first = each(whole, store), 0
    else:
        prompt = record["prompt"].items()
        messages, first = each(record["prompt"], store) if prompt else [], len(prompt)
        messages += each(record["completion"], store, first=first)
    replies = {i for i, m in enumerate(messages) if m.role == "assistant" and i >= first}
    if not replies:
        raise BadInput(f"{record.where}: holds no reply of the assistant, so there is nothing to learn")
    trajectory = trajectory_of(messages, policy=NAME, replies=replies, tools=tools_of(record.get("tools")))
    source = {"shape": "messages"} if whole is not None else {"shape": "prompt", "first": first}
    return [episode_of(trajectory, id=identity(record.value), format=NAME, source=source)]


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One row a reply; an imported row as it was."""
    for episode in group:
        source = episode.source or {}
        if source.get("format") == NAME:
            for dialogue in rows(episode, give.seats):
                yield _as_it_was(source, dialogue.messages, dialogue.trajectory, give.store)
            continue
        for trajectory in shown(episode, give.seats):
            for dialogue in dialogues(trajectory):
                for place in sorted(dialogue.trained):
                    yield row(dialogue.messages[:place], dialogue.messages[place: place + 1], trajectory, give.store)


def row(
    prompt: Sequence[Message], completion: Sequence[Message], trajectory: Trajectory, store: Store
) -> dict[str, Any]:
    """A row of prompt and completion, with the tools that the trajectory was offered."""
    found: dict[str, Any] = {"prompt": as_dicts(prompt, store), "completion": as_dicts(completion, store)}
    return {**found, "tools": tool_dicts(trajectory.tools)} if trajectory.tools else found


def as_dicts(messages: Sequence[Message], store: Store) -> list[dict[str, Any]]:
    """Messages as TRL takes them."""
    return [dict_of(message, store, arguments="object") for message in messages]


def _as_it_was(
    source: Mapping[str, Any], messages: Sequence[Message], trajectory: Trajectory, store: Store
) -> dict[str, Any]:
    if source.get("shape") != "messages":
        first = int(source.get("first", 0))
        return row(messages[:first], messages[first:], trajectory, store)
    found: dict[str, Any] = {"messages": as_dicts(messages, store)}
    return {**found, "tools": tool_dicts(trajectory.tools)} if trajectory.tools else found
