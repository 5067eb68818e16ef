"""Pairs for preference learning: of one group, the attempt that was worth most against the one that was worth least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.dialogue import Dialogue, dialogues, episode_of, shown, trajectory_of, value_of
from polyturn.types import Episode, Message, Score, Tool


@dataclass(frozen=True, slots=True)
class Pair:
    """What both attempts begin with, and how each goes on from their first difference."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Tool, ...]


def pairs(group: Sequence[Episode], give: Give) -> Iterator[Pair]:
    """The pair of each seat whose attempts differ in value: first the best, then the worst.

    A pair is given only if both go on with a reply from where they first differ: where the environment had already said
    different things there is nothing to prefer. Of several contexts the first that differs is meant.
    """
    for seat, policy in dict.fromkeys((t.seat, t.policy) for e in group for t in shown(e, give.seats)):
        found: list[tuple[float, list[Dialogue]]] = []
        for episode in group:
            trajectory, value = episode.trajectory(seat, policy), value_of(episode, seat)
            ends = [] if trajectory is None else dialogues(trajectory)
            if value is not None and ends:
                found.append((value, ends))
        if not found:
            continue
        best, worst = max(found, key=lambda one: one[0]), min(found, key=lambda one: one[0])
        if best[0] > worst[0]:
            yield from _first(best[1], worst[1])


def _first(better: Sequence[Dialogue], worse: Sequence[Dialogue]) -> Iterator[Pair]:
    """The pair of the first context in which two attempts differ, if they part at a reply there."""
    shortest = min(len(better), len(worse))
    for a, b in zip(better[:shortest], worse[:shortest], strict=True):
        if [_said(message) for message in a.messages] != [_said(message) for message in b.messages]:
            pair = as_pair(a, b)
            if pair is not None:
                yield pair
            return


def as_pair(better: Dialogue, worse: Dialogue) -> Pair | None:
    """Both dialogues cut where they first differ; None unless both go on with a reply of their own there."""
    same, shortest = 0, min(len(better.messages), len(worse.messages))
    for a, b in zip(better.messages[:shortest], worse.messages[:shortest], strict=True):
        if _said(a) != _said(b):
            break
        same += 1
    if same not in better.turns or same not in worse.turns:
        return None
    tools = better.trajectory.tools or worse.trajectory.tools
    return Pair(better.messages[:same], better.messages[same:], worse.messages[same:], tools)


def _said(message: Message) -> Any:
    """What a message says, whatever its ids are."""
    return message.role, message.parts, [(call.name, call.arguments, call.raw) for call in message.calls]


def both(pair: Pair, *, id: str, format: str, verifier: str) -> list[Episode]:
    """The two episodes of an imported pair, in one group: worth 1 and 0; only what follows the prompt was said here."""
    found = []
    first = len(pair.prompt)
    for trial, (end, value) in enumerate(((pair.chosen, 1.0), (pair.rejected, 0.0))):
        messages = (*pair.prompt, *end)
        replies = {i for i, m in enumerate(messages) if m.role == "assistant" and i >= first}
        trajectory = trajectory_of(messages, policy=format, replies=replies, tools=pair.tools)
        found.append(episode_of(trajectory, id=f"{id}.{trial}", format=format, group=id, trial=trial,
                                scores={verifier: Score(value)}))
    return found
