"""Results read back from run folders: of an evaluation, or of the ratings inside a training run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from polyturn.errors import BadInput, UnknownName
from polyturn.evaluate.agreement import Verdict, agreement, corrected_rate, krippendorff_alpha
from polyturn.evaluate.benchmark import Result, as_groups, evaluate, result
from polyturn.evaluate.trials import broke, seats_of, succeeded
from polyturn.protocols import Match, Policy
from polyturn.record.read import read_episodes, read_plain
from polyturn.record.run import read_info
from polyturn.record.shape import shape_of
from polyturn.record.write import RunRecorder
from polyturn.rollout.pool import Pool
from polyturn.types import Episode, Group, all_turns, root_of

EVALUATE = "evaluate"
"""The label of what ``polyturn eval`` plays."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One result with what it was made of."""

    result: Result
    facts: Mapping[str, Any]
    """Task set, policies with their hashes, sampling, verifier, code, versions, start and end."""
    judges: Mapping[str, Any] = field(default_factory=dict)
    """Agreement of the verifiers that scored the episodes, where there are several."""


def read_results(
    folder: Path, *, label: str | None = None, policy: str = "main", verifier: str | None = None,
    truth: str | None = None,
) -> dict[str, Recorded]:
    """Label -> result of all that the run played without learning from it, in order of their first episode.

    Such are the episodes of ``polyturn eval`` and the ratings before, between and after the stages of a recipe. One
    ``label`` if given. ``policy`` names the policy that is rated, ``verifier`` the score that is read (None: the only
    one), ``truth`` a verifier whose scores are the labels that the other is measured against.
    Raises: UnknownName for a label that is not there; BadInput for a run without such episodes, and for one that broke
    off before its scores were given.
    """
    found: dict[str, list[Episode]] = {}
    for episode in _probes(folder):
        found.setdefault(_label(episode), []).append(episode)
    if label is not None and label not in found:
        raise UnknownName(f"rating in {folder}", label, found)
    if not found:
        raise BadInput(f"{folder} holds no episode that was played without being learned from, so nothing to compare")
    chosen = found if label is None else {label: found[label]}
    return {name: _recorded(folder, name, episodes, policy, (verifier, truth)) for name, episodes in chosen.items()}


async def evaluate_once(
    matches: Sequence[Match], policies: Mapping[str, Policy], *, policy: str, label: str, recorder: RunRecorder,
    pool: Pool = Pool(), finished: Callable[[Episode], None] | None = None,
) -> Result:
    """:func:`polyturn.evaluate.benchmark.evaluate`, or its result as an earlier attempt of this run recorded it whole.

    A run that is gone on with may have left the rated weights behind, so what counts in its record is read and not
    played again: broken episodes too, since another play of them would be by other weights. What was cut short before
    the checkpoint that the run goes on from is void, and is played.
    Raises: BadInput where the record holds another number of episodes under ``label``.
    """
    found = [e for e in read_episodes(recorder.folder) if _label(e) == label] if recorder.attempt > 1 else []
    if not found:
        return await evaluate(
            matches, policies, policy=policy, label=label, recorder=recorder, pool=pool, finished=finished)
    groups = as_groups(found)
    stand, expected = [e for group in groups for e in group], sum(match.rollouts for match in matches)
    if len(stand) != expected or any(not e.scores and not broke(e) for e in stand):
        raise BadInput(f"{recorder.folder} holds {len(stand)} episodes of {label!r}, {expected} were to be played and "
                       "scored, and the weights of then are gone; begin the run anew")
    return result(groups, seats_of(policy))


def played(folder: Path, label: str = EVALUATE) -> dict[tuple[str, int], Episode]:
    """Group and trial -> the episode that a run has played already, to be scored again; those that broke while they
    were played are left out."""
    found = [e for e in _probes(folder, as_played=True) if _label(e) == label and not broke(e)]
    return {(episode.group, episode.trial): replace(episode, scores={}) for episode in found}


def _probes(folder: Path, *, as_played: bool = False) -> Iterator[Episode]:
    decode = shape_of(Episode).decode
    for _, plain in read_plain(folder, as_played=as_played):
        if not plain["train"] and not plain["parent"]:
            episode: Episode = decode(plain)
            yield episode


def _label(episode: Episode) -> str:
    """``"before"`` of the group ``"before.3"``."""
    return (episode.group or episode.id).rsplit(".", 1)[0]


def _recorded(
    folder: Path, label: str, episodes: Sequence[Episode], policy: str, verifiers: tuple[str | None, str | None]
) -> Recorded:
    groups = as_groups(episodes)
    whole = [episode for group in groups for episode in group if not broke(episode)]
    unscored = [episode.id for episode in whole if not episode.scores]
    if unscored:
        raise BadInput(f"{folder}: {len(unscored)} of {len(whole)} episodes of {label!r} have no score, since the run "
                       f"broke off before; an evaluation goes on with: polyturn eval --resume {folder}")
    verifier, truth = verifiers
    found = result(groups, seats_of(policy), verifier=verifier)
    return Recorded(found, _facts(folder, label, groups, policy, verifier), judges_of(whole, policy, verifier, truth))


def _facts(folder: Path, label: str, groups: Sequence[Group], policy: str, verifier: str | None) -> dict[str, Any]:
    info = read_info(folder)
    episodes = [episode for group in groups for episode in group]
    tasks = sorted({json.dumps([e.task.family, e.task.id, e.seed, dict(e.task.payload)], sort_keys=True, default=str)
                    for e in episodes})
    seats = seats_of(policy)
    infos: dict[str, dict[str, Any]] = {"policy": {}, "others": {}}
    for episode in episodes:
        rated = set(seats(episode))
        for seat, who in episode.cast.items():
            infos["policy" if seat in rated else "others"][json.dumps(asdict(who), sort_keys=True)] = asdict(who)
    drawn = {json.dumps({**asdict(turn.sampling), "seed": None, "choices": turn.sampling.choices is not None},
                        sort_keys=True)
             for e in episodes for turn in all_turns(e) if root_of(turn.seat) in set(seats(e))}
    return {
        "label": label, "recipe": info.recipe, "settings": dict(info.settings), "verifiers": sorted(
            {name for e in episodes for name in e.scores}), "verifier": verifier,
        "tasks": len(tasks), "tasks_sha256": hashlib.sha256("\n".join(tasks).encode()).hexdigest(),
        **{name: [each[key] for key in sorted(each)] for name, each in infos.items()},
        "sampling": [json.loads(one) for one in sorted(drawn)], "versions": dict(info.versions),
        "code_sha256": info.code_sha256, "started": min(e.started for e in episodes),
        "ended": max(e.ended for e in episodes),
    }


# ---------------------------------------------------------------- judges


def judges_of(
    episodes: Sequence[Episode], policy: str, verifier: str | None, truth: str | None
) -> dict[str, Any]:
    """Agreement of all pairs of verifiers on whether a seat succeeded, and the rate corrected by the labels."""
    seats = seats_of(policy)
    names = sorted({name for episode in episodes for name in episode.scores})
    if truth is not None and truth not in names:
        raise UnknownName("verifier", truth, names)
    items = [(episode, seat) for episode in episodes for seat in seats(episode)]
    verdicts = {name: [_verdict(episode, seat, name) for episode, seat in items] for name in names}
    if len(names) < 2:
        return {}
    pairs = {f"{one} / {two}": asdict(agreement(verdicts[one], verdicts[two])) for one, two in combinations(names, 2)}
    found: dict[str, Any] = {"pairs": pairs, "alpha": krippendorff_alpha(list(zip(*verdicts.values(), strict=True)))}
    if truth is not None and verifier is not None:
        given = [v for v in verdicts[verifier] if v is not None]
        labelled = [(bool(label), bool(verdict)) for label, verdict in
                    zip(verdicts[truth], verdicts[verifier], strict=True) if label is not None and verdict is not None]
        found["corrected"] = asdict(corrected_rate(sum(map(bool, given)), len(given), labelled))
    return found


def _verdict(episode: Episode, seat: str, name: str) -> Verdict:
    score = episode.scores.get(name, {}).get(seat)
    return None if score is None or score.value is None else succeeded(score.success, score.value)
