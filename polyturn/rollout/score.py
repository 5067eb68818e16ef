"""Scores on played groups: each suite's verifier sees its own episodes, and never one that broke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from polyturn.errors import BadInput, DeadlinePassed, NotFinite
from polyturn.protocols import Match, Recorder, Scores, Suite, Verifier
from polyturn.types import Episode, Group
from polyturn.waits import Expired, Waiting, within


async def score_matches(
    matches: Sequence[Match], groups: Sequence[Group], recorder: Recorder | None = None
) -> list[Group]:
    """The groups, in their order, each scored by the verifier of its match's suite. Raises as :func:`score_groups`."""
    scored: dict[int, Group] = {}
    for suite in {id(match.suite): match.suite for match in matches}.values():
        places = [place for place, match in enumerate(matches) if match.suite is suite]
        rated = await score_groups([groups[place] for place in places], suite, recorder)
        scored.update(zip(places, rated, strict=True))
    return [scored[place] for place in range(len(matches))]


async def score_groups(groups: Sequence[Group], suite: Suite, recorder: Recorder | None = None) -> list[Group]:
    """The groups with ``Episode.scores`` filled in by the suite's verifier, under the verifier's name.

    Episodes that ended in an error are not shown to the verifier and get no score. Raises: BadInput for a suite
    without verifier, for a played episode left out and for an unknown one; NotFinite for a score that is no number.
    """
    verifier: Verifier | None = getattr(suite, "verifier", None)
    if verifier is None:
        raise BadInput(f"suite {suite.spec.name!r} has no verifier; give it one so that its episodes can be scored")
    return await score_with(verifier, groups, recorder, timeout_s=suite.spec.score_timeout_s)


async def score_with(
    verifier: Verifier, groups: Sequence[Group], recorder: Recorder | None = None, *, timeout_s: float = 3600.0
) -> list[Group]:
    """As :func:`score_groups`, by any verifier: beside a suite's own score, one more channel of its own name. Raises
    also: DeadlinePassed where all scores together take longer than ``timeout_s``."""
    whole = [tuple(episode for episode in group if not _broke(episode)) for group in groups]
    with Waiting("the loop", f"verifier {verifier.name}", f"scores of {sum(map(len, whole))} episodes", timeout_s):
        try:
            scores = await within(verifier([group for group in whole if group]), timeout_s)
        except Expired as error:
            raise DeadlinePassed(f"verifier {verifier.name!r} did not score within {timeout_s:g} s") from error
    _check_scores(verifier.name, scores, [episode for group in whole for episode in group])
    if recorder is not None:
        recorder.scores(verifier.name, scores)
    return [tuple(_scored(episode, verifier.name, scores) for episode in group) for group in groups]


def _broke(episode: Episode) -> bool:
    return episode.stop.kind == "error" or episode.error is not None


def _scored(episode: Episode, verifier: str, scores: Scores) -> Episode:
    given = scores.get(episode.id)
    return episode if given is None else replace(episode, scores={**episode.scores, verifier: given})


def _check_scores(verifier: str, scores: Scores, episodes: Sequence[Episode]) -> None:
    known = {episode.id for episode in episodes}
    if scores.keys() != known:
        left, more = sorted(known - scores.keys()), sorted(scores.keys() - known)
        raise BadInput(
            f"verifier {verifier!r} left out the episodes {left} and scored the unknown {more}; "
            "it must score every episode it is given (Score(None) to abstain)"
        )
    for episode, by_seat in scores.items():
        for seat, score in by_seat.items():
            if score.value is not None and not isfinite(score.value):
                raise NotFinite(f"verifier {verifier!r} scored {score.value} for seat {seat!r} of episode {episode}")
