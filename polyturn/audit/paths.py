"""Faults of the paths: the rules that every episode keeps, and media that are named and missing."""

from __future__ import annotations

from collections.abc import Iterator

from polyturn.audit.found import fault
from polyturn.media import Media
from polyturn.record.rules import broken
from polyturn.types import Episode, Finding, Trajectory


def leaves(trajectory: Trajectory) -> list[int]:
    """The spans that no other span follows, one for each path."""
    parents = {span.parent for span in trajectory.spans}
    return [index for index in range(len(trajectory.spans)) if index not in parents]


def path_faults(episode: Episode) -> Iterator[Finding]:
    """What is wrong with the turns, spans, owners and calls of one episode: rules R1 to R6 of
    :mod:`polyturn.record.rules`."""
    for found in broken(episode):
        yield fault(found.way, found.target, found.value, f"{found.rule}: {found.reason}")


def media_faults(episode: Episode, media: Media) -> Iterator[Finding]:
    """Every picture and sound that a message names lies in the run's store."""
    for trajectory in episode.trajectories:
        for index, message in enumerate(trajectory.messages):
            for name in (part.media for part in message.parts if part.media is not None and part.media not in media):
                place = {"episode": episode.id, "seat": trajectory.seat, "policy": trajectory.policy, "message": index}
                yield fault("missing_media", place, name, "a message names media that the run's store does not hold")
