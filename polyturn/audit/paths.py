"""Faults of the paths: rules R1 to R3, owners of sampled spans, media that are named and missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from polyturn.audit.found import fault
from polyturn.media import Media
from polyturn.types import Episode, Finding, Span, Trajectory, Turn


def leaves(trajectory: Trajectory) -> list[int]:
    """The spans that no other span follows, one for each path."""
    parents = {span.parent for span in trajectory.spans}
    return [index for index in range(len(trajectory.spans)) if index not in parents]


def path_faults(episode: Episode) -> Iterator[Finding]:
    """What is wrong with the turns, spans and owners of one episode."""
    ats = [turn.at for trajectory in episode.trajectories for turn in trajectory.turns]
    if len(set(ats)) < len(ats):
        yield fault("turn_order", {"episode": episode.id}, len(ats) - len(set(ats)), "two turns share one place")
    for trajectory in episode.trajectories:
        place = {"episode": episode.id, "seat": trajectory.seat, "policy": trajectory.policy}
        for index, span in enumerate(trajectory.spans):
            yield from _span_faults(index, span, {**place, "span": index})
        for turn in trajectory.turns:
            yield from _turn_faults(turn, trajectory, {**place, "turn": turn.at})
        yield from _owner_faults(trajectory, place)
        info = episode.cast.get(trajectory.seat)
        scripted = info is not None and info.name == trajectory.policy and info.kind in ("scripted", "human")
        sampled = [i for i, span in enumerate(trajectory.spans) if span.sampled]
        if scripted and sampled:
            yield fault("sampled_by_script", {**place, "span": sampled[0]}, len(sampled),
                        f"R3: sampled spans of a {info.kind if info else ''} policy; only a model samples")


def media_faults(episode: Episode, media: Media) -> Iterator[Finding]:
    """Every picture and sound that a message names lies in the run's store."""
    for trajectory in episode.trajectories:
        for index, message in enumerate(trajectory.messages):
            for name in (part.media for part in message.parts if part.media is not None and part.media not in media):
                place = {"episode": episode.id, "seat": trajectory.seat, "policy": trajectory.policy, "message": index}
                yield fault("missing_media", place, name, "a message names media that the run's store does not hold")


def _span_faults(index: int, span: Span, place: Mapping[str, Any]) -> Iterator[Finding]:
    if not -1 <= span.parent < index:
        yield fault("parent_order", place, span.parent, f"the parent is {span.parent}; expected -1 to {index - 1}")
    for name, values in (("logprobs", span.logprobs), ("support", span.support)):
        if values is not None and len(values) != len(span.ids):
            yield fault("length", place, len(values), f"R2: {len(values)} {name} for {len(span.ids)} ids")


def _turn_faults(turn: Turn, trajectory: Trajectory, place: Mapping[str, Any]) -> Iterator[Finding]:
    if (turn.seat, turn.policy) != (trajectory.seat, trajectory.policy):
        yield fault("foreign_turn", place, None, f"the turn is of seat {turn.seat}, policy {turn.policy}")
    if any(not 0 <= index < len(trajectory.messages) for index in (*turn.prompt, turn.reply)):
        yield fault("unknown_message", place, None, "prompt or reply point beyond the messages")
    if any(not 0 <= index < len(trajectory.spans) for index in turn.spans):
        yield fault("unknown_span", place, None, "R1: the turn owns spans beyond those of its trajectory")
    elif any(trajectory.spans[b].parent != a for a, b in pairwise(turn.spans)):
        yield fault("broken_chain", place, None, "R1: the turn's spans do not follow each other on one path")


def _owner_faults(trajectory: Trajectory, place: Mapping[str, Any]) -> Iterator[Finding]:
    """Every sampled span was written by exactly one turn."""
    wrote = owners(trajectory)
    for index, span in enumerate(trajectory.spans):
        if span.sampled and len(wrote.get(index, ())) != 1:
            yield fault("owner", {**place, "span": index}, len(wrote.get(index, ())),
                           f"R1: {len(wrote.get(index, ()))} turns own a sampled span; expected one")


def owners(trajectory: Trajectory) -> dict[int, list[Turn]]:
    """Span -> the turns that say they wrote it."""
    found: dict[int, list[Turn]] = {}
    for turn in trajectory.turns:
        for index in turn.spans:
            found.setdefault(index, []).append(turn)
    return found
