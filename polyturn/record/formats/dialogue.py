"""Between dialogues (one list of messages) and episodes: what row formats hold of a trajectory's tree.

A trajectory gives one dialogue for each end of its tree: the messages that the last call there was shown, and its
reply. Every reply is *trained* in one dialogue, the first that shows it; in others it is context. Turns of a search and
turns that a context took back are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyturn.record.formats.chat import Store, dict_of
from polyturn.types import (
    EMPTY,
    Episode,
    Message,
    PolicyInfo,
    Score,
    Stop,
    Task,
    Trajectory,
    Turn,
    root_of,
)

SEAT = "agent"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One list of messages of a trajectory, and which of them are its own replies, to be learned here."""

    trajectory: Trajectory
    messages: tuple[Message, ...]
    turns: Mapping[int, Turn]
    """Place in ``messages`` -> the turn that said it, for each own reply."""
    trained: frozenset[int]
    """Those of these places that no earlier dialogue has trained."""


def dialogues(trajectory: Trajectory) -> list[Dialogue]:
    """The dialogues of a trajectory, in the order in which they ended."""
    turns = [turn for turn in trajectory.turns if not turn.branch and not turn.dropped]
    contexts = [(*turn.prompt, turn.reply) for turn in turns]
    by_reply = {turn.reply: turn for turn in turns}
    found, seen = [], set[int]()
    for context, last in zip(contexts, _are_last(contexts), strict=True):
        if not last:
            continue
        own = {place: by_reply[index] for place, index in enumerate(context) if index in by_reply}
        trained = frozenset(place for place, turn in own.items() if turn.at not in seen)
        seen |= {turn.at for turn in own.values()}
        messages = tuple(trajectory.messages[index] for index in context)
        found.append(Dialogue(trajectory, messages, own, trained))
    return found


def _are_last(contexts: Sequence[Sequence[int]]) -> list[bool]:
    """Whether no other context goes on from one."""
    places: dict[tuple[int, int], int] = {}
    inner, ends = set(), []
    for context in contexts:
        at = -1
        for index in context:
            inner.add(at)
            at = places.setdefault((at, index), len(places))
        ends.append(at)
    return [end not in inner for end in ends]


def shown(episode: Episode, seats: Collection[str] = ()) -> list[Trajectory]:
    """The trajectories that row formats write: those of ``seats`` and their sub-seats; by default of the seats that
    learn, or of all where none does."""
    chosen = set(seats) or set(episode.train)
    found = [t for t in episode.trajectories if not chosen or root_of(t.seat) in chosen or t.seat in chosen]
    return [t for t in found if t.turns or episode.source is not None]


def rows(episode: Episode, seats: Collection[str] = ()) -> Iterator[Dialogue]:
    """The dialogues that row formats write. A linear dialogue that was imported is whole, with what nobody answered."""
    for trajectory in shown(episode, seats):
        turns = {turn.reply: turn for turn in trajectory.turns}
        linear = all(turn.prompt == tuple(range(turn.reply)) for turn in turns.values())
        if episode.source is not None and linear:
            yield Dialogue(trajectory, trajectory.messages, turns, frozenset(turns))
        else:
            yield from dialogues(trajectory)


def value_of(episode: Episode, seat: str) -> float | None:
    """The value of an episode for a seat: the mean of what its verifiers gave, else what it was paid; None where
    neither says anything."""
    root = root_of(seat)
    given = [by[root].value for by in episode.scores.values() if root in by]
    known = [value for value in given if value is not None]
    if known:
        return sum(known) / len(known)
    paid = any(event.kind == "reward" and event.seat == root for event in episode.events)
    return episode.paid(root) if paid and not given else None


def identity(value: Any) -> str:
    """Sixteen digits that the same record always has, in whatever order its keys stand.

    >>> identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prompt_identity(messages: Sequence[Message]) -> str:
    """The same for all dialogues that begin with the same messages up to the first reply."""
    first = next((i for i, message in enumerate(messages) if message.role == "assistant"), len(messages))
    return identity([dict_of(message, Store()) if not any(p.media for p in message.parts)
                     else [message.role, [(p.kind, p.text, p.media) for p in message.parts]]
                     for message in messages[:first]])


def trajectory_of(
    messages: Sequence[Message], *, policy: str, seat: str = SEAT, replies: Collection[int] | None = None,
    **more: Any,
) -> Trajectory:
    """The trajectory of a linear dialogue: every assistant message a turn, or those at ``replies``; the others are
    context that nobody said here."""
    own = {i for i, m in enumerate(messages) if m.role == "assistant"} if replies is None else set(replies)
    turns = tuple(Turn(place, seat, policy, tuple(range(place)), place, (), "tool" if messages[place].calls else "stop",
                       step=step) for step, place in enumerate(sorted(own)))
    said = tuple(message if message.role != "assistant" or i in own else message.edited(origin="copied")
                 for i, message in enumerate(messages))
    return Trajectory(seat, policy, None, said, turns, **more)


def episode_of(
    trajectory: Trajectory, *, id: str, format: str, task: Task | None = None, kind: str = "endpoint",
    scores: Mapping[str, Score] = EMPTY, source: Mapping[str, Any] = EMPTY, stop: Stop = Stop("done"), **more: Any,
) -> Episode:
    """The episode of one imported trajectory; ``scores``: verifier -> what it gave the seat."""
    seat = trajectory.seat
    known = task if task is not None else Task(prompt_identity(trajectory.messages), format)
    return Episode(
        id, known, 0, cast={seat: PolicyInfo(trajectory.policy, kind)}, trajectories=(trajectory,), stop=stop,  # type: ignore[arg-type]
        scores={verifier: {seat: score} for verifier, score in scores.items()},
        source={"format": format, **source}, **more,
    )
