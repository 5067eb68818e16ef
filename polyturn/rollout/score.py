"""Scores on played groups: each suite's verifier sees its own episodes, and never one that broke.

A verifier that raises costs the episodes that it cannot score and no others: it is asked again for halves of what it
was shown, down to single episodes. Such an episode then is an error, named after the verifier, in the record too: it is
in no mean, no filter keeps it, nothing is learned from it. Where none can be scored, the verifier is at fault, and the
run ends.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

from polyturn.errors import BadInput, DeadlinePassed, NotFinite, VerifierFailed
from polyturn.protocols import Match, Recorder, Scores, Suite, Verifier
from polyturn.types import Episode, Group, Score, Seat, Stop
from polyturn.waits import Expired, Waiting, within

UNSCORED = "verifier "
"""What ``stop.reason`` of an episode that could not be scored begins with; the verifier's name follows."""


async def score_matches(
    matches: Sequence[Match], groups: Sequence[Group], recorder: Recorder | None = None, *, part: bool = False
) -> list[Group]:
    """The groups, in their order, each scored by the verifier of its match's suite. Raises as :func:`score_groups`;
    VerifierFailed only where no suite's verifier could score anything."""
    scored: dict[int, Group] = {}
    for suite in {id(match.suite): match.suite for match in matches}.values():
        places = [place for place, match in enumerate(matches) if match.suite is suite]
        rated = await score_groups([groups[place] for place in places], suite, recorder, part=True)
        scored.update(zip(places, rated, strict=True))
    found = [scored[place] for place in range(len(matches))]
    if not part:
        refuse_all_unscored(found)
    return found


async def score_groups(
    groups: Sequence[Group], suite: Suite, recorder: Recorder | None = None, *, part: bool = False
) -> list[Group]:
    """The groups with ``Episode.scores`` filled in by the suite's verifier, under the verifier's name.

    Episodes that ended in an error are not shown to the verifier and get no score. One that the verifier raises for, or
    scores with what is no number, ends in an error from here on (:func:`unscored`). ``part``: these groups are some of
    a batch, so that none of them being scored does not end the run.
    Raises: BadInput for a suite without verifier, for a played episode left out and for an unknown one; VerifierFailed
    where no episode could be scored; DeadlinePassed where all scores together take longer than the suite allows.
    """
    verifier: Verifier | None = getattr(suite, "verifier", None)
    if verifier is None:
        raise BadInput(f"suite {suite.spec.name!r} has no verifier; give it one so that its episodes can be scored")
    return await score_with(verifier, groups, recorder, timeout_s=suite.spec.score_timeout_s, part=part)


async def score_with(
    verifier: Verifier, groups: Sequence[Group], recorder: Recorder | None = None, *, timeout_s: float = 3600.0,
    part: bool = False,
) -> list[Group]:
    """As :func:`score_groups`, by any verifier: beside a suite's own score, one more channel of its own name."""
    shown = [whole for group in groups if (whole := tuple(episode for episode in group if not _broke(episode)))]
    with Waiting("the loop", f"verifier {verifier.name}", f"scores of {sum(map(len, shown))} episodes", timeout_s):
        try:
            scores, failed = await within(_rated(verifier, shown), timeout_s)
        except Expired as error:
            raise DeadlinePassed(f"verifier {verifier.name!r} did not score within {timeout_s:g} s") from error
    if recorder is not None:
        recorder.scores(verifier.name, scores)
        if failed:
            recorder.unscored(verifier.name, failed)
    found = [tuple(_scored(episode, verifier.name, scores, failed) for episode in group) for group in groups]
    if not part:
        refuse_all_unscored(found)
    return found


def unscored(episode: Episode) -> bool:
    """Whether the episode was played to its end and ended in an error because a verifier could not score it."""
    return episode.stop.kind == "error" and episode.stop.reason.startswith(UNSCORED)


def refuse_all_unscored(groups: Sequence[Group]) -> None:
    """Raises: VerifierFailed where episodes could not be scored, and all others broke before."""
    episodes = [episode for group in groups for episode in group]
    lost = [episode for episode in episodes if unscored(episode)]
    if lost and all(_broke(episode) for episode in episodes):
        raise VerifierFailed(f"none of {len(lost)} episodes could be scored; of {lost[0].id}, task {lost[0].task.id}: "
                             f"{lost[0].stop.reason}")


def names_unscored(groups: Sequence[Group]) -> str:
    """How many could not be scored, and the first of them with its reason; empty for none."""
    episodes = [episode for group in groups for episode in group]
    lost = [episode for episode in episodes if unscored(episode)]
    if not lost:
        return ""
    return (f"{len(lost)} of {len(episodes)} episodes could not be scored, and nothing is learned from them; "
            f"{lost[0].id}, task {lost[0].task.id}: {lost[0].stop.reason}")


def _broke(episode: Episode) -> bool:
    return episode.stop.kind == "error" or episode.error is not None


def _scored(episode: Episode, verifier: str, scores: Scores, failed: Mapping[str, tuple[str, str]]) -> Episode:
    if episode.id in failed:
        reason, trace = failed[episode.id]
        return replace(episode, stop=Stop("error", reason), error=trace)
    given = scores.get(episode.id)
    return episode if given is None else replace(episode, scores={**episode.scores, verifier: given})


# ---------------------------------------------------------------- which of them

_Rated = tuple[dict[str, Mapping[Seat, Score]], dict[str, tuple[str, str]]]
"""The scores; and of what could not be scored the reason and the traceback."""


async def _rated(verifier: Verifier, groups: Sequence[Group]) -> _Rated:
    """Halves what the verifier raises for, down to one group, of which then each episode is asked for alone."""
    if not groups:
        return {}, {}
    try:
        given = await verifier(groups)
    except Exception as error:
        if len(groups) == 1:
            return await _one_by_one(verifier, groups[0], error)
        half = len(groups) // 2
        first, second = await _rated(verifier, groups[:half]), await _rated(verifier, groups[half:])
        return first[0] | second[0], first[1] | second[1]
    return _checked(verifier.name, given, [episode for group in groups for episode in group])


async def _one_by_one(verifier: Verifier, group: Group, error: Exception) -> _Rated:
    """The group without the episodes that the verifier raises for when it sees them alone, as if they had broken
    before; nothing of it where it then still raises."""
    failed: dict[str, tuple[str, str]] = {}
    for episode in group if len(group) > 1 else ():
        try:
            await verifier([(episode,)])
        except Exception as own:
            failed[episode.id] = _told(verifier.name, own)
    left = tuple(episode for episode in group if episode.id not in failed)
    if failed and left:
        try:
            scores, more = _checked(verifier.name, await verifier([left]), left)
            return scores, failed | more
        except Exception as again:
            error = again
    return {}, failed | {episode.id: _told(verifier.name, error) for episode in left}


def _told(verifier: str, error: Exception) -> tuple[str, str]:
    return f"{UNSCORED}{verifier}: {type(error).__name__}: {error}"[:2000], "".join(traceback.format_exception(error))


def _checked(verifier: str, scores: Scores, episodes: Sequence[Episode]) -> _Rated:
    """The scores, and apart from them the episodes of which one is not finite."""
    known = {episode.id for episode in episodes}
    if scores.keys() != known:
        left, more = sorted(known - scores.keys()), sorted(scores.keys() - known)
        raise BadInput(
            f"verifier {verifier!r} left out the episodes {left} and scored the unknown {more}; "
            "it must score every episode it is given (Score(None) to abstain)"
        )
    failed = {}
    for episode, by_seat in scores.items():
        for seat, score in by_seat.items():
            if score.value is not None and not isfinite(score.value):
                failed[episode] = _told(verifier, NotFinite(f"scored {score.value} for seat {seat!r} of {episode}"))
    return {episode: by_seat for episode, by_seat in scores.items() if episode not in failed}, failed
