"""Scores that were earned by the words of others, found by blanking those words.

A verifier that reads a whole transcript as if the policy had said it pays for what a tool returned (verl issue 6392).
The counterfactual is cheap: the same episode in which everything that tools, users and the environment said after the
first reply is empty, with the same replies, events and final state. A score of what the policy did cannot fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polyturn.protocols import Verifier
from polyturn.types import Episode, Group, Trajectory

EPISODES = 8
"""At most about so many episodes are scored again."""
FALL = 1e-3
"""The smallest fall: a verifier that runs a model reads other numbers in another batch."""


async def borrowed(verifier: Verifier, groups: Sequence[Group]) -> int:
    """How many of the best-scored episodes score lower, in any seat, once what others said is blanked.

    ``groups`` were scored by this verifier. Whole groups are scored again, best ones first, for a verifier may compare
    their members; nothing is recorded. Raises: what the verifier raises on such episodes.
    """
    whole = [tuple(e for e in group if verifier.name in e.scores) for group in groups]
    chosen: list[Group] = []
    for group in sorted((group for group in whole if group), key=lambda g: -_best(g, verifier.name)):
        if not chosen or sum(map(len, chosen)) + len(group) <= EPISODES:
            chosen.append(group)
    scores = await verifier([tuple(blanked(episode) for episode in group) for group in chosen]) if chosen else {}
    fell = 0
    for episode in (episode for group in chosen for episode in group):
        again = scores.get(episode.id, {})
        pairs = [(score.value, again[seat].value) for seat, score in episode.scores[verifier.name].items()
                 if seat in again]
        fell += any(was is not None and now is not None and now < was - FALL * max(1.0, abs(was)) for was, now in pairs)
    return fell


def _best(group: Group, verifier: str) -> float:
    values = [score.value for e in group for score in e.scores[verifier].values() if score.value is not None]
    return max(values, default=float("-inf"))


def blanked(episode: Episode) -> Episode:
    """The episode in which every message of others after a seat's first reply is empty; ids and calls stay."""
    return replace(episode, trajectories=tuple(_blanked(t) for t in episode.trajectories))


def _blanked(trajectory: Trajectory) -> Trajectory:
    first = min((turn.reply for turn in trajectory.turns), default=len(trajectory.messages))
    return replace(trajectory, messages=tuple(
        message if i <= first or message.origin == "policy" or message.role == "assistant" else message.edited(parts=())
        for i, message in enumerate(trajectory.messages)))
