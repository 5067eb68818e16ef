"""The work that every contender does: episodes whose tokens a seed fixes, as spans, as a tree and as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from polyturn.arrays import Tokens, lay_out
from polyturn.types import Episode, FloatArray, IntArray, Span, Stop, Task, Trajectory, Turn

Shape: TypeAlias = Literal["full", "window", "summary"]


@dataclass(frozen=True, slots=True)
class Work:
    """How large the reference work is. ``Work()`` is the one that the tables are made with.

    ``window``: of shape ``window``, how many earlier turns a prompt shows. ``summary_every``, ``summary_tokens``: of
    shape ``summary``, after how many turns one is written and how long it is.
    """

    groups: int = 8
    rollouts: int = 8
    turns: int = 6
    prompt: int = 200
    observation: int = 30
    reply: tuple[int, int] = (8, 16)
    """Fewest and most tokens."""
    shape: Shape = "full"
    window: int = 2
    summary_every: int = 6
    summary_tokens: int = 40
    vocabulary: int = 49152
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One padded row's worth of tokens, as trainers without a tree take them."""

    ids: IntArray
    prompt: int
    """How many ids at the beginning are the prompt."""
    trained_T: IntArray
    """1 where the id is trained in this row; each sampled id is trained in one row only."""
    rollout: int


def episodes(work: Work) -> list[tuple[Episode, ...]]:
    """The groups of episodes; equal for equal ``work``."""
    draw = np.random.default_rng(work.seed)
    found = []
    for g in range(work.groups):
        prompt = _ids(draw, work, work.prompt)
        found.append(tuple(_episode(draw, work, prompt, g, trial) for trial in range(work.rollouts)))
    return found


def _episode(draw: np.random.Generator, work: Work, prompt: IntArray, g: int, trial: int) -> Episode:
    spans = [Span(-1, prompt)]
    own: list[int] = []
    shown: list[tuple[int, int]] = []
    tip = 0
    for k in range(work.turns):
        if work.shape == "window" and k > work.window:
            tip = _again(spans, shown[-work.window :])
        elif work.shape == "summary" and k and k % work.summary_every == 0:
            summary = _write(spans, tip, _ids(draw, work, work.summary_tokens), sampled=True)
            own.append(summary)
            tip = _write(spans, 0, spans[summary].ids, sampled=False)
        seen = _write(spans, tip, _ids(draw, work, work.observation), sampled=False)
        length = int(draw.integers(work.reply[0], work.reply[1] + 1))
        tip = _write(spans, seen, _ids(draw, work, length), sampled=True)
        shown.append((seen, tip))
        own.append(tip)
    turns = tuple(Turn(2 * k, "agent", "main", (), 0, (index,)) for k, index in enumerate(own))
    trajectory = Trajectory("agent", "main", turns=turns, spans=tuple(spans))
    return Episode(
        f"g{g}.{trial}", Task(f"t{g}", "reference"), trial, f"g{g}", trial, train=frozenset({"agent"}),
        trajectories=(trajectory,), stop=Stop("done"),
    )


def _ids(draw: np.random.Generator, work: Work, count: int) -> IntArray:
    return draw.integers(100, work.vocabulary, count).astype(np.int32)


def _write(spans: list[Span], parent: int, ids: IntArray, *, sampled: bool) -> int:
    spans.append(Span(parent, ids, sampled, np.full(len(ids), np.nan) if sampled else None))
    return len(spans) - 1


def _again(spans: list[Span], shown: Sequence[tuple[int, int]]) -> int:
    """A branch from the prompt that shows some earlier observations and replies again; returns its last span."""
    tip = 0
    for index in (index for pair in shown for index in pair):
        tip = _write(spans, tip, spans[index].ids, sampled=False)
    return tip


def tokens(groups: Sequence[tuple[Episode, ...]]) -> Tokens:
    """The work as the learner takes it."""
    return lay_out(groups, "main")


def advantages(laid: Tokens, seed: int = 1) -> FloatArray:
    """advantage_N: one number for each rollout."""
    drawn: FloatArray = np.random.default_rng(seed).normal(size=len(laid.trajectories))[laid.trajectory_N]
    return drawn


def rows(groups: Sequence[tuple[Episode, ...]]) -> list[Row]:
    """The work as rows, one for each path of a rollout that no later prompt continues."""
    found: list[Row] = []
    for rollout, episode in enumerate(episode for group in groups for episode in group):
        spans = episode.trajectories[0].spans
        inner = {span.parent for span in spans}
        free = {index for index, span in enumerate(spans) if span.sampled}
        for leaf in (index for index in range(len(spans)) if index not in inner):
            path: list[int] = []
            above = leaf
            while above >= 0:
                path.insert(0, above)
                above = spans[above].parent
            own = [np.full(len(spans[i].ids), i in free, np.int32) for i in path]
            free -= set(path)
            ids = np.concatenate([spans[i].ids for i in path])
            found.append(Row(ids, len(spans[path[0]].ids), np.concatenate(own), rollout))
    return found
