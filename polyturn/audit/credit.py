"""Faults of credit: each trained token was sampled, once, by the policy and seat that learned from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polyturn.arrays import BoolArray
from polyturn.audit.found import fault
from polyturn.record.credit import may_demonstrate, waived
from polyturn.record.read import read_credit
from polyturn.record.rules import owners
from polyturn.types import Episode, Finding, Span, Trajectory, root_of

ABOVE_ZERO = 1e-6
"""How far rounding may lift a log-probability above zero."""


class CreditRows:
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
        return [fault("unknown_episode", _place(rows[0]), len(rows), reason) for rows in self.rows.values()]

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
            return [fault("unknown_span", place, int(trained.sum()), "credit for tokens that are not in the ledger")]
        span = trajectory.spans[row["span"]]
        if any(row[name] is not None and len(row[name]) != len(span.ids) for name in ("weight", "advantage", "old")):
            return [fault("unknown_token", place, len(weight), f"{len(weight)} weights for {len(span.ids)} tokens")]
        names = waived(row)
        shown = "demonstrations" in names and not span.sampled and may_demonstrate(episode, trajectory)
        for name in sorted(names - {"demonstrations"} | ({"demonstrations"} if shown else set())):
            self.waivers[name] = self.waivers.get(name, 0) + int(trained.sum())
        checks = {**_place_checks(row, episode, trajectory, shown), **_token_checks(row, span, shown),
                  **self._update_checks(row, span, trained)}
        return [fault(name, {**place, "token": int((bad & trained).argmax())}, int((bad & trained).sum()), reason)
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


def _place_checks(row: Mapping[str, Any], episode: Episode, trajectory: Trajectory, shown: bool) -> _Checks:
    """Whether this span of this episode may be trained at all; ``shown``: as a demonstration."""
    span = trajectory.spans[row["span"]]
    wrote = owners(trajectory).get(row["span"], [])
    turn = wrote[0] if wrote else None
    wrong: Mapping[str, tuple[bool, Callable[[], str]]] = {
        "not_sampled": (not span.sampled and not shown, lambda: "trained, and not sampled by the policy"),
        "owner": (len(wrote) != 1, lambda: f"{len(wrote)} turns own the span; expected one"),
        "wrong_turn": (turn is not None and turn.at != row["at"],
                       lambda: f"credited to the turn at {row['at']}, written by {[t.at for t in wrote]}"),
        "dropped_turn": (any(t.dropped for t in wrote), lambda: f"its turn was taken back: {wrote[0].dropped}"),
        "fork": (any(t.branch for t in wrote), lambda: f"sampled while searching in branch {wrote[0].branch}"),
        "failed_episode": (episode.stop.kind == "error", lambda: f"the episode failed: {episode.stop.reason}"),
        "not_training": (root_of(trajectory.seat) not in episode.train,
                         lambda: f"the seat does not learn; those that do: {sorted(episode.train)}"),
    }
    everywhere = np.ones(len(span.ids), bool)
    return {name: (everywhere, reason()) for name, (is_wrong, reason) in wrong.items() if is_wrong}


def _token_checks(row: Mapping[str, Any], span: Span, shown: bool) -> _Checks:
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
    if not shown:
        checks["unknown_logprob"] = (~np.isfinite(logprob), "the log-probability when it was sampled is unknown")
    return checks


def _outside(span: Span) -> BoolArray:
    if span.support is None or len(span.support) != len(span.ids):
        return np.zeros(len(span.ids), bool)
    return np.array([bool(allowed) and token not in allowed
                     for token, allowed in zip(span.ids.tolist(), span.support, strict=True)], bool)
