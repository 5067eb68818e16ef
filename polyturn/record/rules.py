"""The rules that every episode keeps, whoever wrote it; what breaks one is named with its place.

R1 a turn owns the spans it wrote, and every sampled span has one owner. R2 one log-probability (and support) for each
id. R3 only a model samples. R4 a tool's answer names a call that was made before it. R5 a span stands behind its
parent. R6 indices lead to what is there, and no two turns share a place. R7 every number is finite, every value has an
exact form on disk. (R8, that readers pass over unknown columns and writers keep what an importer put aside, is about
files.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from polyturn.errors import BadInput, NotFinite
from polyturn.record.shape import shape_of, written
from polyturn.types import Episode, Finding, Span, Trajectory, Turn

_EPISODE = shape_of(Episode)
Place = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    """One rule that an episode breaks: which, in what way, where, the value that is wrong."""

    rule: str
    way: str
    target: Place
    value: float | str | None
    reason: str


def broken_rules(episode: Episode) -> Iterator[Finding]:
    """What of an episode breaks a rule; nothing for a good one."""
    try:
        written(_EPISODE, episode, f"episode {episode.id}")
    except (BadInput, NotFinite) as error:
        yield Finding("R7", {"episode": episode.id}, None, str(error), "rules", "1")
        return
    for found in broken(episode):
        yield Finding(found.rule, found.target, found.value, found.reason, "rules", "1")


def check_rules(episode: Episode, where: str) -> None:
    """Raises: BadInput for the first rule that an episode breaks."""
    for found in broken_rules(episode):
        at = ", ".join(f"{key} {value}" for key, value in found.target.items())
        raise BadInput(f"{where}: breaks {found.name} ({at}): {found.reason}")


def broken(episode: Episode) -> Iterator[Broken]:
    """What of an episode breaks R1 to R6."""
    whole = {"episode": episode.id}
    ats = Counter(turn.at for t in episode.trajectories for turn in t.turns)
    for at, count in ats.items():
        if count > 1:
            yield Broken("R6", "turn_order", {**whole, "turn": at}, count, f"{count} turns share the place {at}")
    known = Counter((t.seat, t.policy) for t in episode.trajectories)
    for (seat, policy), count in known.items():
        if count > 1:
            yield Broken("R6", "two_trajectories", {**whole, "seat": seat}, count,
                         f"{count} trajectories of {seat} and {policy}")
    for trajectory in episode.trajectories:
        place = {**whole, "seat": trajectory.seat, "policy": trajectory.policy}
        if trajectory.parent is not None and trajectory.parent not in known:
            yield Broken("R6", "unknown_parent", place, None, f"its parent {trajectory.parent} has no trajectory")
        yield from _script(episode, trajectory, place)
        for index, span in enumerate(trajectory.spans):
            yield from _span(index, span, {**place, "span": index})
        for turn in trajectory.turns:
            yield from _turn(turn, trajectory, {**place, "turn": turn.at})
        yield from _owners(trajectory, place)
        yield from _calls(trajectory, place)
    for verifier, by_seat in episode.scores.items():
        for seat, score in by_seat.items():
            for at in (at for at in score.turns if at not in ats):
                yield Broken("R6", "unknown_turn", {**whole, "seat": seat}, at,
                             f"{verifier} scored turn {at}; there is none")


def owners(trajectory: Trajectory) -> dict[int, list[Turn]]:
    """Span -> the turns that say they wrote it."""
    found: dict[int, list[Turn]] = {}
    for turn in trajectory.turns:
        for index in turn.spans:
            found.setdefault(index, []).append(turn)
    return found


def _script(episode: Episode, trajectory: Trajectory, place: Place) -> Iterator[Broken]:
    info = episode.cast.get(trajectory.seat)
    sampled = [index for index, span in enumerate(trajectory.spans) if span.sampled]
    if info is not None and info.name == trajectory.policy and info.kind in ("scripted", "human") and sampled:
        yield Broken("R3", "sampled_by_script", {**place, "span": sampled[0]}, len(sampled),
                     f"{len(sampled)} sampled spans of a {info.kind} policy; only a model samples")


def _span(index: int, span: Span, place: Place) -> Iterator[Broken]:
    if not -1 <= span.parent < index:
        yield Broken("R5", "parent_order", place, span.parent,
                     f"its parent is {span.parent}; expected -1 to {index - 1}")
    for name, values in (("log-probabilities", span.logprobs), ("supports", span.support)):
        if values is not None and len(values) != len(span.ids):
            yield Broken("R2", "length", place, len(values), f"{len(values)} {name} for {len(span.ids)} ids")


def _turn(turn: Turn, trajectory: Trajectory, place: Place) -> Iterator[Broken]:
    messages, spans = len(trajectory.messages), len(trajectory.spans)
    if (turn.seat, turn.policy) != (trajectory.seat, trajectory.policy):
        yield Broken("R6", "foreign_turn", place, None, f"the turn is of seat {turn.seat}, policy {turn.policy}")
    wrong = [index for index in (*turn.prompt, turn.reply) if not 0 <= index < messages]
    if wrong:
        yield Broken("R6", "unknown_message", place, wrong[0], f"it names the message {wrong[0]}; there are {messages}")
    elif turn.reply in turn.prompt:
        yield Broken("R6", "reply_in_prompt", place, turn.reply, f"its reply {turn.reply} stands in its own prompt")
    beyond = [index for index in turn.spans if not 0 <= index < spans]
    if beyond:
        yield Broken("R1", "unknown_span", place, beyond[0], f"it owns the span {beyond[0]}; there are {spans}")
    elif any(trajectory.spans[b].parent != a for a, b in pairwise(turn.spans)):
        yield Broken("R1", "broken_chain", place, None, "its spans do not follow each other on one path")


def _owners(trajectory: Trajectory, place: Place) -> Iterator[Broken]:
    wrote = owners(trajectory)
    for index, span in enumerate(trajectory.spans):
        count = len(wrote.get(index, ()))
        if count > 1 or (span.sampled and not count):
            yield Broken("R1", "owner", {**place, "span": index}, count, f"{count} turns own it; expected one")


def _calls(trajectory: Trajectory, place: Place) -> Iterator[Broken]:
    made: set[str] = set()
    for index, message in enumerate(trajectory.messages):
        if message.role == "tool" and message.call_id is not None and message.call_id not in made:
            yield Broken("R4", "unknown_call", {**place, "message": index}, message.call_id,
                         f"answers the call {message.call_id!r}; no call of this name was made before it")
        made |= {call.id for call in message.calls}
