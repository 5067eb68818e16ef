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
from typing import Any

from polyturn.errors import BadInput, NotFinite
from polyturn.record.shape import shape_of, written
from polyturn.types import Episode, Finding, Trajectory, Turn

_EPISODE = shape_of(Episode)


def broken_rules(episode: Episode) -> Iterator[Finding]:
    """What of an episode breaks a rule; nothing for a good one."""
    try:
        written(_EPISODE, episode, f"episode {episode.id}")
    except (BadInput, NotFinite) as error:
        yield _finding("R7", {"episode": episode.id}, str(error))
        return
    ats = Counter(turn.at for t in episode.trajectories for turn in t.turns)
    for at in (at for at, count in ats.items() if count > 1):
        yield _finding("R6", {"episode": episode.id, "turn": at}, f"{ats[at]} turns share the place {at}")
    known = Counter((t.seat, t.policy) for t in episode.trajectories)
    for who in (who for who, count in known.items() if count > 1):
        yield _finding("R6", {"episode": episode.id, "seat": who[0]}, f"two trajectories of {who[0]} and {who[1]}")
    for trajectory in episode.trajectories:
        place = {"episode": episode.id, "seat": trajectory.seat, "policy": trajectory.policy}
        if trajectory.parent is not None and trajectory.parent not in known:
            yield _finding("R6", place, f"its parent {trajectory.parent} has no trajectory")
        info = episode.cast.get(trajectory.seat)
        sampled = [i for i, span in enumerate(trajectory.spans) if span.sampled]
        if info is not None and info.name == trajectory.policy and info.kind in ("scripted", "human") and sampled:
            yield _finding("R3", {**place, "span": sampled[0]}, f"{len(sampled)} sampled spans of a {info.kind} policy")
        yield from _spans(trajectory, place)
        yield from _messages(trajectory, place)
    for verifier, by_seat in episode.scores.items():
        for seat, score in by_seat.items():
            for at in (at for at in score.turns if at not in ats):
                place = {"episode": episode.id, "seat": seat}
                yield _finding("R6", place, f"{verifier} scored turn {at}; there is none")


def check_rules(episode: Episode, where: str) -> None:
    """Raises: BadInput for the first rule that an episode breaks."""
    for found in broken_rules(episode):
        at = ", ".join(f"{key} {value}" for key, value in found.target.items())
        raise BadInput(f"{where}: breaks {found.name} ({at}): {found.reason}")


def _spans(trajectory: Trajectory, place: Mapping[str, Any]) -> Iterator[Finding]:
    owners = Counter(span for turn in trajectory.turns for span in turn.spans)
    for index, span in enumerate(trajectory.spans):
        here = {**place, "span": index}
        if not -1 <= span.parent < index:
            yield _finding("R5", here, f"its parent is {span.parent}; expected -1 to {index - 1}")
        for name, values in (("log-probabilities", span.logprobs), ("supports", span.support)):
            if values is not None and len(values) != len(span.ids):
                yield _finding("R2", here, f"{len(values)} {name} for {len(span.ids)} ids")
        if owners[index] > 1 or (span.sampled and owners[index] == 0):
            yield _finding("R1", here, f"{owners[index]} turns own it; expected one")
    for index in (index for index in owners if not 0 <= index < len(trajectory.spans)):
        yield _finding("R1", place, f"a turn owns the span {index}; there are {len(trajectory.spans)}")


def _messages(trajectory: Trajectory, place: Mapping[str, Any]) -> Iterator[Finding]:
    count = len(trajectory.messages)
    for turn in trajectory.turns:
        yield from _turn(turn, trajectory, {**place, "turn": turn.at})
    made: set[str] = set()
    for index, message in enumerate(trajectory.messages):
        if message.role == "tool" and message.call_id is not None and message.call_id not in made:
            yield _finding("R4", {**place, "message": index}, f"answers the call {message.call_id!r}; no call of this "
                           f"name was made before it ({count} messages)")
        made |= {call.id for call in message.calls}


def _turn(turn: Turn, trajectory: Trajectory, place: Mapping[str, Any]) -> Iterator[Finding]:
    count = len(trajectory.messages)
    if (turn.seat, turn.policy) != (trajectory.seat, trajectory.policy):
        yield _finding("R6", place, f"a turn of {turn.seat} and {turn.policy}")
    wrong = [index for index in (*turn.prompt, turn.reply) if not 0 <= index < count]
    if wrong:
        yield _finding("R6", place, f"it names the message {wrong[0]}; there are {count}")
    elif turn.reply in turn.prompt:
        yield _finding("R6", place, f"its reply {turn.reply} stands in its own prompt")


def _finding(name: str, target: Mapping[str, Any], reason: str) -> Finding:
    return Finding(name, target, None, reason, "rules", "1")
