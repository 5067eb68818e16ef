"""One update as the record tells it: the very arrays that credit was given on, laid out again from the episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from polyturn.arrays import BoolArray, Measured, Source, Tokens, Turns, as_turns, in_play, lay_out
from polyturn.record.credit import waived, writer_of
from polyturn.types import Episode, Finding, FloatArray, IntArray, PolicyInfo, Turn

Row: TypeAlias = Mapping[str, Any]
Key: TypeAlias = tuple[int, int] | str


@dataclass(frozen=True, slots=True)
class Update:
    """What one policy learned from in one update. Arrays follow the legend of :mod:`polyturn.arrays`; a token that the
    update did not hold has weight 0 and an unknown (NaN) advantage."""

    stage: str
    iteration: int
    version: int | None
    """Of the weights before the update."""
    waivers: frozenset[str]
    """Of all of its rows."""
    turns: Turns
    advantage_N: FloatArray
    weight_N: FloatArray
    old_N: FloatArray
    reference_N: FloatArray
    span_N: IntArray
    """Span of its trajectory."""
    offset_N: IntArray
    """Place in the span."""
    first: bool = True
    """Whether no update before it was made by weights of this version: a round of several updates publishes once."""

    @property
    def tokens(self) -> Tokens:
        """The laid out tokens."""
        return self.turns.tokens

    @property
    def imitates(self) -> bool:
        """Whether every token with weight is a demonstration, so that nothing was learned by what it was worth."""
        return "demonstrations" in self.waivers and not self.tokens.sampled_N[self.weight_N != 0].any()

    @property
    def held_N(self) -> BoolArray:
        """True for tokens that the update held, in turns that can have credit."""
        tokens, turns = self.tokens, self.turns
        live_BK = turns.kept_BK & turns.valid_B[:, None]
        held: BoolArray = np.isfinite(self.advantage_N) & live_BK[tokens.trajectory_N, tokens.turn_N]
        return held

    def place(self, n: int) -> dict[str, Any]:
        """Where token ``n`` stands, as the target of a finding."""
        tokens = self.tokens
        source = tokens.trajectories[int(tokens.trajectory_N[n])]
        turn = in_play(source.trajectory)[int(tokens.turn_N[n])]
        return {**self.row_place(int(tokens.trajectory_N[n])), "turn": turn.at, "span": int(self.span_N[n]),
                "token": int(self.offset_N[n])}

    def row_place(self, b: int) -> dict[str, Any]:
        """Where trajectory ``b`` stands, as the target of a finding."""
        source = self.tokens.trajectories[b]
        return {"episode": source.episode.id, "seat": source.trajectory.seat, "policy": source.trajectory.policy,
                "iteration": self.iteration, "stage": self.stage}

    def turn_of(self, n: int) -> Turn:
        """The turn that wrote token ``n``."""
        source = self.tokens.trajectories[int(self.tokens.trajectory_N[n])]
        return in_play(source.trajectory)[int(self.tokens.turn_N[n])]

    def first_BK(self) -> FloatArray:
        """The advantage of each turn's first held token; NaN where it holds none."""
        first = np.full(self.turns.kept_BK.shape, np.nan)
        held = np.flatnonzero(self.held_N)[::-1]
        first[self.tokens.trajectory_N[held], self.tokens.turn_N[held]] = self.advantage_N[held]
        return first

    def alike_B(self) -> FloatArray:
        """The one advantage of all held tokens of a trajectory; NaN where they differ, or where it holds none."""
        held = self.held_N
        low_B, high_B = (np.full(len(self.tokens.trajectories), end) for end in (np.inf, -np.inf))
        np.minimum.at(low_B, self.tokens.trajectory_N[held], self.advantage_N[held])
        np.maximum.at(high_B, self.tokens.trajectory_N[held], self.advantage_N[held])
        same_B = high_B - low_B <= 1e-9 * np.maximum(np.abs(low_B), np.abs(high_B))
        return np.where(same_B & np.isfinite(low_B), low_B, np.nan)


Detector: TypeAlias = Callable[[Update], Iterator[Finding]]


def key_of(row: Row) -> Key:
    """What a row of credit names its episode by: its play, or its id where the row names no play."""
    return str(row["episode"]) if row["play"] is None else (row["attempt"], row["play"])


def info_of(source: Source) -> PolicyInfo | None:
    """Who wrote a trajectory, where the cast says so, for its seat or another."""
    return writer_of(source.episode, source.trajectory)


def _group(episode: Episode) -> str:
    return episode.group or episode.id


def _groups(rows: Sequence[Row], episodes: Mapping[Key, Episode]) -> dict[int | None, str]:
    """Place of a group in the update -> the group that most of its episodes were played in: one that was put among them
    belongs to it too, and groups that the update took apart stand together, as they were played."""
    members: dict[int, dict[Key, str]] = {}
    for row in rows:
        if row.get("batch_group") is not None:
            members.setdefault(row["batch_group"], {})[key_of(row)] = _group(episodes[key_of(row)])
    return {place: Counter(found.values()).most_common(1)[0][0] for place, found in members.items()}


def rebuilt(rows: Sequence[Row], episodes: Mapping[Key, Episode], *, first: bool = True) -> Update:
    """The update of these rows, all of one policy. Raises: as :func:`polyturn.arrays.lay_out` and ``as_turns``."""
    groups: dict[str, dict[Key, Episode]] = {}
    named = _groups(rows, episodes)
    for row in rows:
        key = key_of(row)
        groups.setdefault(named.get(row.get("batch_group"), _group(episodes[key])), {})[key] = episodes[key]
    tokens = lay_out([tuple(group.values()) for group in groups.values()], rows[0]["policy"])
    keys = {id(episode): key for group in groups.values() for key, episode in group.items()}
    found = {(key_of(row), row["seat"], row["span"]): row for row in rows}
    columns: dict[str, list[FloatArray]] = {name: [np.zeros(0)] for name in ("advantage", "weight", *_READ, *_PLACE)}
    for source in tokens.trajectories:
        for span in (span for turn in in_play(source.trajectory) for span in turn.spans):
            length = len(source.trajectory.spans[span].ids)
            row = found.get((keys[id(source.episode)], source.trajectory.seat, span), {})
            for name, empty in {"advantage": np.nan, "weight": 0.0, **dict.fromkeys(_READ, np.nan)}.items():
                values = row.get(name)
                columns[name].append(np.full(length, empty) if values is None or len(values) != length else values)
            columns["span"].append(np.full(length, float(span)))
            columns["offset"].append(np.arange(length, dtype=np.float64))
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    reference_N = None if np.isnan(whole["reference"]).all() else whole["reference"]
    turns = as_turns(tokens, Measured(whole["old"], reference_N, whole["entropy"]))
    one, waivers = rows[0], frozenset(name for row in rows for name in waived(row))
    return Update(
        one["stage"], one["iteration"], one["version"], waivers, turns, whole["advantage"], whole["weight"],
        whole["old"], whole["reference"], whole["span"].astype(np.int32), whole["offset"].astype(np.int32), first,
    )


_READ, _PLACE = ("old", "reference", "entropy"), ("span", "offset")
