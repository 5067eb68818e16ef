"""The audit: every trained token of a run proved to be sampled, once, by the policy and seat that learned from it.

:func:`audit_run` reads the record alone. It walks every path (rules R1 to R3: a turn's spans are what that turn wrote,
arrays are as long as their ids, sampled spans belong to a model), every medium that a message names, and every row of
credit whose weight is not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from polyturn.arrays import BoolArray
from polyturn.media import Media
from polyturn.record.read import count_turns, read_credit, read_plays
from polyturn.types import Episode, Finding, Span, Trajectory, Turn, root_of

ABOVE_ZERO = 1e-6
"""How far rounding may lift a log-probability above zero."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """``tokens`` trained tokens and ``paths`` leaf paths were checked; no ``faults`` = all of them hold."""

    tokens: int
    paths: int
    faults: list[Finding]
    waivers: Mapping[str, int]
    """Named waiver -> the number of trained tokens it let pass (``observations``: beside which it let others pass)."""
    unchecked: tuple[str, ...] = ()
    """What the record does not say, so that it could not be checked."""

    def as_json(self) -> dict[str, Any]:
        """``{"tokens", "paths", "faults", "waivers", "unchecked"}`` of JSON values."""
        return {
            "tokens": self.tokens, "paths": self.paths,
            "faults": [{**asdict(fault), "target": dict(fault.target)} for fault in self.faults],
            "waivers": dict(self.waivers), "unchecked": list(self.unchecked),
        }


def audit_run(folder: Path | str) -> AuditReport:
    """Checks the record of a run. Raises: BadInput for a folder without a run and for a damaged line."""
    credit = _Credit(Path(folder))
    faults: list[Finding] = []
    paths = 0
    recorded = count_turns(folder)
    media = Media(Path(folder) / "media")
    for key, episode in read_plays(folder):
        turns = sum(len(trajectory.turns) for trajectory in episode.trajectories)
        if recorded.get(key, 0) > turns:
            faults.append(_finding("lost_turn", {"episode": episode.id}, recorded[key] - turns,
                                   "turns were recorded when they were sampled and are not in the episode"))
        faults += _episode_faults(episode)
        faults += _media_faults(episode, media)
        paths += sum(len(leaves(trajectory)) for trajectory in episode.trajectories)
        for row in credit.take(key, episode.id):
            faults += credit.faults(row, episode)
    faults += credit.left_over()
    unchecked = ("versions: credit rows name no weights version",) if credit.versionless else ()
    return AuditReport(credit.tokens, paths, faults, credit.waivers, unchecked)


def leaves(trajectory: Trajectory) -> list[int]:
    """The spans that no other span follows, one for each path."""
    parents = {span.parent for span in trajectory.spans}
    return [index for index in range(len(trajectory.spans)) if index not in parents]


def _finding(name: str, target: Mapping[str, Any], value: float | str | None, reason: str) -> Finding:
    return Finding(name, target, value, reason, "audit", "1")


# ---------------------------------------------------------------- paths


def _episode_faults(episode: Episode) -> Iterator[Finding]:
    ats = [turn.at for trajectory in episode.trajectories for turn in trajectory.turns]
    if len(set(ats)) < len(ats):
        yield _finding("turn_order", {"episode": episode.id}, len(ats) - len(set(ats)), "two turns share one place")
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
            yield _finding("sampled_by_script", {**place, "span": sampled[0]}, len(sampled),
                           f"R3: sampled spans of a {info.kind if info else ''} policy; only a model samples")


def _media_faults(episode: Episode, media: Media) -> Iterator[Finding]:
    """Every picture and sound that a message names lies in the run's store."""
    for trajectory in episode.trajectories:
        for index, message in enumerate(trajectory.messages):
            for name in (part.media for part in message.parts if part.media is not None and part.media not in media):
                place = {"episode": episode.id, "seat": trajectory.seat, "policy": trajectory.policy, "message": index}
                yield _finding("missing_media", place, name, "a message names media that the run's store does not hold")


def _span_faults(index: int, span: Span, place: Mapping[str, Any]) -> Iterator[Finding]:
    if not -1 <= span.parent < index:
        yield _finding("parent_order", place, span.parent, f"the parent is {span.parent}; expected -1 to {index - 1}")
    for name, values in (("logprobs", span.logprobs), ("support", span.support)):
        if values is not None and len(values) != len(span.ids):
            yield _finding("length", place, len(values), f"R2: {len(values)} {name} for {len(span.ids)} ids")


def _turn_faults(turn: Turn, trajectory: Trajectory, place: Mapping[str, Any]) -> Iterator[Finding]:
    if (turn.seat, turn.policy) != (trajectory.seat, trajectory.policy):
        yield _finding("foreign_turn", place, None, f"the turn is of seat {turn.seat}, policy {turn.policy}")
    if any(not 0 <= index < len(trajectory.messages) for index in (*turn.prompt, turn.reply)):
        yield _finding("unknown_message", place, None, "prompt or reply point beyond the messages")
    if any(not 0 <= index < len(trajectory.spans) for index in turn.spans):
        yield _finding("unknown_span", place, None, "R1: the turn owns spans beyond those of its trajectory")
    elif any(trajectory.spans[b].parent != a for a, b in pairwise(turn.spans)):
        yield _finding("broken_chain", place, None, "R1: the turn's spans do not follow each other on one path")


def _owner_faults(trajectory: Trajectory, place: Mapping[str, Any]) -> Iterator[Finding]:
    """Every sampled span was written by exactly one turn."""
    owners = _owners(trajectory)
    for index, span in enumerate(trajectory.spans):
        if span.sampled and len(owners.get(index, ())) != 1:
            yield _finding("owner", {**place, "span": index}, len(owners.get(index, ())),
                           f"R1: {len(owners.get(index, ()))} turns own a sampled span; expected one")


def _owners(trajectory: Trajectory) -> dict[int, list[Turn]]:
    owners: dict[int, list[Turn]] = {}
    for turn in trajectory.turns:
        for index in turn.spans:
            owners.setdefault(index, []).append(turn)
    return owners


# ---------------------------------------------------------------- credit


class _Credit:
    """The rows of credit by episode, and what was counted on the way."""

    def __init__(self, folder: Path) -> None:
        self.rows: dict[tuple[int, int] | str, list[dict[str, Any]]] = {}
        self.tokens = 0
        self.waivers: dict[str, int] = {}
        self.versionless = False
        self._trained: dict[tuple[Any, ...], BoolArray] = {}
        for row in read_credit(folder):
            key = row["episode"] if row["play"] is None else (row["attempt"], row["play"])
            self.rows.setdefault(key, []).append(row)

    def take(self, key: tuple[int, int], episode_id: str) -> list[dict[str, Any]]:
        """The rows of one episode, by its play, or by its id where the row names no play."""
        return self.rows.pop(key, []) + self.rows.pop(episode_id, [])

    def left_over(self) -> list[Finding]:
        """Credit for episodes that are not in the record."""
        reason = "credit for an episode that is not in the record"
        return [_finding("unknown_episode", _place(rows[0]), len(rows), reason) for rows in self.rows.values()]

    def faults(self, row: Mapping[str, Any], episode: Episode) -> list[Finding]:
        """What is wrong with the trained tokens of one row."""
        place = _place(row)
        weight = row["weight"]
        trained = ~(weight == 0)
        if not trained.any():
            return []
        self.tokens += int(trained.sum())
        trajectory = next((t for t in episode.trajectories if (t.seat, t.policy) == (row["seat"], row["policy"])), None)
        if trajectory is None or not 0 <= row["span"] < len(trajectory.spans):
            return [_finding("unknown_span", place, int(trained.sum()), "credit for tokens that are not in the ledger")]
        span = trajectory.spans[row["span"]]
        if any(row[name] is not None and len(row[name]) != len(span.ids) for name in ("weight", "advantage", "old")):
            return [_finding("unknown_token", place, len(weight), f"{len(weight)} weights for {len(span.ids)} tokens")]
        waived = row["waiver"] == "demonstrations" and not span.sampled
        if waived or row["waiver"] == "observations":
            self.waivers[row["waiver"]] = self.waivers.get(row["waiver"], 0) + int(trained.sum())
        checks = {**_place_checks(row, episode, trajectory, waived), **_token_checks(row, span, waived),
                  **self._update_checks(row, span, trained)}
        return [_finding(name, {**place, "token": int((bad & trained).argmax())}, int((bad & trained).sum()), reason)
                for name, (bad, reason) in checks.items() if (bad & trained).any()]

    def _update_checks(self, row: Mapping[str, Any], span: Span, trained: BoolArray) -> _Checks:
        """Once per update, and by no newer weights."""
        key = tuple(row[name] for name in ("attempt", "update", "play", "episode", "seat", "policy", "span"))
        before = self._trained.get(key, np.zeros(len(trained), bool))
        self._trained[key] = before | trained
        checks: _Checks = {"trained_twice": (before & trained, "trained twice in one update")}
        if row["version"] is None:
            self.versionless = True
        elif span.version > row["version"]:
            reason = f"written by version {span.version}, trained by the older version {row['version']}"
            checks["newer_version"] = (trained, reason)
        return checks


_Checks = dict[str, tuple[BoolArray, str]]


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"episode": row["episode"], "seat": row["seat"], "policy": row["policy"], "turn": row["at"],
            "span": row["span"], "iteration": row["iteration"], "stage": row["stage"]}


def _place_checks(row: Mapping[str, Any], episode: Episode, trajectory: Trajectory, waived: bool) -> _Checks:
    """Whether this span of this episode may be trained at all."""
    span = trajectory.spans[row["span"]]
    owners = _owners(trajectory).get(row["span"], [])
    turn = owners[0] if owners else None
    wrong: Mapping[str, tuple[bool, Callable[[], str]]] = {
        "not_sampled": (not span.sampled and not waived, lambda: "trained, and not sampled by the policy"),
        "owner": (len(owners) != 1, lambda: f"{len(owners)} turns own the span; expected one"),
        "wrong_turn": (turn is not None and turn.at != row["at"],
                       lambda: f"credited to the turn at {row['at']}, written by {[t.at for t in owners]}"),
        "dropped_turn": (any(t.dropped for t in owners), lambda: f"its turn was taken back: {owners[0].dropped}"),
        "fork": (any(t.branch for t in owners), lambda: f"sampled while searching in branch {owners[0].branch}"),
        "failed_episode": (episode.stop.kind == "error", lambda: f"the episode failed: {episode.stop.reason}"),
        "not_training": (root_of(trajectory.seat) not in episode.train,
                         lambda: f"the seat does not learn; those that do: {sorted(episode.train)}"),
    }
    everywhere = np.ones(len(span.ids), bool)
    return {name: (everywhere, reason()) for name, (is_wrong, reason) in wrong.items() if is_wrong}


def _token_checks(row: Mapping[str, Any], span: Span, waived: bool) -> _Checks:
    """Whether each token's numbers can be: finite weights, log-probabilities known and at most zero, ids allowed."""
    length = len(span.ids)
    unknown = np.full(length, np.nan)
    logprob = span.logprobs if span.logprobs is not None and len(span.logprobs) == length else unknown
    behavior = unknown if row["behavior"] is None else row["behavior"]
    old = unknown if row["old"] is None else row["old"]
    differs = ~((behavior == logprob) | (np.isnan(behavior) & np.isnan(logprob)))
    checks: _Checks = {
        "weight": (~np.isfinite(row["weight"]), "the weight is not finite"),
        "advantage": (~np.isfinite(row["advantage"]), "the advantage is unknown"),
        "behavior": (differs, "the log-probability in the credit is not the one in the ledger"),
        "unknown_old": (~np.isfinite(old), "the learner's log-probability is unknown"),
        "positive_old": (old > ABOVE_ZERO, "the learner's log-probability is above zero"),
        "positive_logprob": (logprob > ABOVE_ZERO, "the log-probability is above zero"),
        "outside_support": (_outside(span), "the id is not among those that its mask allowed"),
    }
    if not waived:
        checks["unknown_logprob"] = (~np.isfinite(logprob), "the log-probability when it was sampled is unknown")
    return checks


def _outside(span: Span) -> BoolArray:
    if span.support is None or len(span.support) != len(span.ids):
        return np.zeros(len(span.ids), bool)
    return np.array([bool(allowed) and token not in allowed
                     for token, allowed in zip(span.ids.tolist(), span.support, strict=True)], bool)
