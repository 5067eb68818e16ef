"""From episodes to flat arrays: :func:`lay_out` makes the token axis, :func:`as_turns` the turn axis.

Legend, used in every array name: **B** trajectories, **K** turns, **N** trained tokens, **U** tree nodes, **C** reward
channels, **G** group members, **V** vocabulary, **T** tokens of one path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from polyturn.errors import BadInput, NotFinite, NotTrainable
from polyturn.types import Episode, FloatArray, Group, IntArray, Score, Trajectory, Turn, root_of

BoolArray: TypeAlias = NDArray[np.bool_]
TextArray: TypeAlias = NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Tree:
    """The context in which every trained token is computed: tokens whose parents come first.

    Two replies to one prompt ``[5, 6]``: ``Tree(id_U=[5, 6, 7, 8], parent_U=[-1, 0, 1, 1])``. Equal spans under one
    parent stand once.
    """

    id_U: IntArray
    parent_U: IntArray
    """Index of the token before it; -1 at a root."""

    def depth_U(self) -> IntArray:
        """The position of each node on its path, 0 at a root."""
        depth_U = np.zeros(len(self.id_U), np.int32)
        for node, parent in enumerate(self.parent_U.tolist()):
            if parent >= 0:
                depth_U[node] = depth_U[parent] + 1
        return depth_U

    def path(self, node: int) -> IntArray:
        """The ids from the root down to ``node``."""
        found = []
        while node >= 0:
            found.append(self.id_U[node])
            node = int(self.parent_U[node])
        return np.array(found[::-1], np.int32)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a row of the B axis comes from."""

    episode: Episode
    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class Tokens:
    """The trained (or scored) tokens, each once, trajectory by trajectory in time order.

    ``id_N = tree.id_U[node_N]``; a token is predicted from the node's parent.
    """

    tree: Tree
    node_N: IntArray
    sampled_N: BoolArray
    """False: a demonstration, spelled and not drawn."""
    behavior_N: FloatArray
    """Log-probability when it was drawn; NaN = unknown."""
    temperature_N: FloatArray
    """Temperature of the distribution whose log-probability is meant (1 where it was greedy or demonstrated)."""
    version_N: IntArray
    turn_N: IntArray
    """Index k of its turn in its trajectory."""
    trajectory_N: IntArray
    group_N: IntArray
    trajectories: tuple[Source, ...]
    end_B: IntArray
    """The last node of each trajectory's last turn, where a value after the end is read; -1 if it has none."""
    support: Mapping[int, IntArray] = field(default_factory=dict)
    """n -> the ids a mask allowed at token n; absent = the whole vocabulary."""

    @property
    def id_N(self) -> IntArray:
        """The token ids."""
        return self.tree.id_U[self.node_N]

    def __len__(self) -> int:
        return len(self.node_N)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the learner read before credit is given, at the weights before the update."""

    old_N: FloatArray
    """Log-probability of each token at temperature and support of its sampling."""
    reference_N: FloatArray | None = None
    entropy_N: FloatArray | None = None
    heads: Mapping[str, FloatArray] = field(default_factory=dict)
    """name -> value_N, read at the node before the token."""
    end: Mapping[str, FloatArray] = field(default_factory=dict)
    """name -> value_B, read at ``end_B``."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The same batch by turn; rows are trajectories, padded with turns of zero tokens."""

    channels: tuple[str, ...]
    reward_CBK: FloatArray
    """NaN = nothing was paid."""
    tokens_BK: IntArray
    """Trained tokens of each turn; 0 = padding or nothing trained."""
    step_BK: IntArray
    purpose_BK: TextArray
    finish_BK: TextArray
    kept_BK: BoolArray
    """False for padding and for turns that a context took back."""
    anchor_BK: TextArray | None
    """Turns with equal anchors answered the same observation."""
    stop_B: TextArray
    bootstrap_B: FloatArray
    """Value after the last turn where the trajectory was cut (stop ``truncated``), else 0."""
    valid_B: BoolArray
    """False where a verifier abstained: no score, so no credit."""
    seat_B: TextArray
    family_B: TextArray
    group_B: IntArray
    episode_B: IntArray
    root_B: IntArray
    """Row of the root seat's trajectory in the same episode (itself for a root)."""
    tokens: Tokens
    measured: Measured | None = None

    def reward_BK(self, channels: Sequence[str] = ("score",)) -> FloatArray:
        """The sum over the named channels, 0 where nothing was paid.

        Raises: BadInput for an unknown channel.
        """
        unknown = set(channels) - set(self.channels)
        if unknown:
            raise BadInput(f"no reward channel {sorted(unknown)}; this batch has {list(self.channels)}")
        rows = [self.channels.index(name) for name in channels]
        return np.nansum(self.reward_CBK[rows], axis=0)


Advantage: TypeAlias = Callable[[Turns], FloatArray]
"""``advantage_BK``, or ``advantage_N`` where credit is by token."""
Weighting: TypeAlias = Callable[[Turns, Tokens], FloatArray]
"""``weight_N``, made once for the whole batch; zero = not trained."""


def lay_out(groups: Sequence[Group], policy: str) -> Tokens:
    """The tokens that ``policy`` wrote from seats that train, each once, over one merged tree.

    Turns of forks are left out. Raises: NotTrainable for an episode that ended in an error, or for a turn whose tokens
    are unknown (filter such groups before).
    """
    grown = _Grown()
    for g, group in enumerate(groups):
        for episode in group:
            _refuse_failed(episode)
            for trajectory in episode.trajectories:
                if trajectory.policy == policy and root_of(trajectory.seat) in episode.train:
                    grown.add(g, episode, trajectory)
    return grown.tokens()


def _refuse_failed(episode: Episode) -> None:
    if episode.stop.kind == "error":
        raise NotTrainable(f"episode {episode.id} ended in an error ({episode.stop.reason}); drop it before training")


class _Grown:
    """The arrays of :class:`Tokens` while trajectories are added."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.last: dict[tuple[int, bytes], int] = {}
        self.columns: dict[str, list[float]] = {name: [] for name in _COLUMNS}
        self.support: dict[int, IntArray] = {}
        self.sources: list[Source] = []
        self.ends: list[int] = []

    def add(self, group: int, episode: Episode, trajectory: Trajectory) -> None:
        turns = [turn for turn in trajectory.turns if not turn.branch]
        last = self._grow(trajectory, turns)
        for k, turn in enumerate(turns):
            if not turn.spans:
                raise NotTrainable(
                    f"episode {episode.id}, seat {trajectory.seat}, turn at {turn.at}: its tokens are unknown "
                    f"(policy {turn.policy!r} gave none), so nothing can be trained on it"
                )
            for index in turn.spans:
                self._own(trajectory, turn, index, last[index], (k, len(self.sources), group))
        self.ends.append(last[turns[-1].spans[-1]] if turns else -1)
        self.sources.append(Source(episode, trajectory))

    def _grow(self, trajectory: Trajectory, turns: Sequence[Turn]) -> dict[int, int]:
        """Grows the tree by the spans that the turns stand on; returns span index -> its last node."""
        needed = sorted({above for turn in turns for index in turn.spans for above in trajectory.path(index)})
        last: dict[int, int] = {}
        for index in needed:
            span = trajectory.spans[index]
            parent = last[span.parent] if span.parent >= 0 else -1
            key = (parent, np.asarray(span.ids, np.int32).tobytes())
            if key not in self.last:
                for token in span.ids.tolist():
                    self.ids.append(token)
                    self.parents.append(parent)
                    parent = len(self.ids) - 1
                self.last[key] = parent
            last[index] = self.last[key]
        return last

    def _own(self, trajectory: Trajectory, turn: Turn, index: int, last: int, place: tuple[int, int, int]) -> None:
        span = trajectory.spans[index]
        count = len(span.ids)
        nodes = [last]
        for _ in range(count - 1):
            nodes.append(self.parents[nodes[-1]])
        logprobs = np.full(count, np.nan) if span.logprobs is None else span.logprobs
        temperature = turn.sampling.temperature if span.sampled and turn.sampling.temperature > 0 else 1.0
        for offset, node in enumerate(reversed(nodes if count else [])):
            if span.support is not None and span.support[offset]:
                self.support[len(self.columns["node"])] = np.array(span.support[offset], np.int32)
            row = (node, span.sampled, logprobs[offset], temperature, span.version, *place)
            for name, value in zip(_COLUMNS, row, strict=True):
                self.columns[name].append(value)

    def tokens(self) -> Tokens:
        column = {name: np.array(self.columns[name], dtype) for name, dtype in _COLUMNS.items()}
        return Tokens(
            Tree(np.array(self.ids, np.int32), np.array(self.parents, np.int32)),
            *(column[name] for name in _COLUMNS),
            trajectories=tuple(self.sources), end_B=np.array(self.ends, np.int32), support=self.support,
        )


_COLUMNS = {
    "node": np.int32, "sampled": np.bool_, "behavior": np.float64, "temperature": np.float64, "version": np.int32,
    "turn": np.int32, "trajectory": np.int32, "group": np.int32,
}


def pruned(tree: Tree, node_N: IntArray) -> tuple[Tree, IntArray]:
    """The part of a tree on the paths to ``node_N``, and these nodes' places in it."""
    wanted = np.zeros(len(tree.id_U), bool)
    wanted[node_N] = True
    for node in range(len(tree.id_U) - 1, -1, -1):
        if wanted[node] and tree.parent_U[node] >= 0:
            wanted[tree.parent_U[node]] = True
    place_U = np.cumsum(wanted, dtype=np.int32) - 1
    parent = tree.parent_U[wanted]
    parent_U = np.where(parent >= 0, place_U[parent], -1).astype(np.int32)
    return Tree(tree.id_U[wanted], parent_U), place_U[node_N].astype(np.int32)


def take(tokens: Tokens, index_N: IntArray) -> Tokens:
    """Some of the tokens, over the part of the tree that they need; trajectories keep their rows."""
    tree, node_N = pruned(tokens.tree, tokens.node_N[index_N])
    support = {new: tokens.support[old] for new, old in enumerate(index_N.tolist()) if old in tokens.support}
    return replace(
        tokens, tree=tree, node_N=node_N, sampled_N=tokens.sampled_N[index_N], behavior_N=tokens.behavior_N[index_N],
        temperature_N=tokens.temperature_N[index_N], version_N=tokens.version_N[index_N],
        turn_N=tokens.turn_N[index_N], trajectory_N=tokens.trajectory_N[index_N], group_N=tokens.group_N[index_N],
        end_B=np.full(len(tokens.trajectories), -1, np.int32), support=support,
    )


def as_turns(
    tokens: Tokens, measured: Measured | None = None, *, anchor: Callable[[Trajectory, Turn], str] | None = None
) -> Turns:
    """The batch by turn: rewards by channel, one channel for each verifier (its score lands on the seat's last turn).

    Raises: NotFinite for a reward that is no number, with its place.
    """
    rows = [[turn for turn in s.trajectory.turns if not turn.branch] for s in tokens.trajectories]
    shape = (len(rows), max((len(row) for row in rows), default=0))
    paid = [_paid(source, row) for source, row in zip(tokens.trajectories, rows, strict=True)]
    channels = tuple(sorted({name for row in paid for turn in row for name in turn}))
    reward_CBK = np.full((len(channels), *shape), np.nan)
    for b, row in enumerate(paid):
        for k, values in enumerate(row):
            for name, value in values.items():
                reward_CBK[channels.index(name), b, k] = value
    tokens_BK = np.zeros(shape, np.int32)
    np.add.at(tokens_BK, (tokens.trajectory_N, tokens.turn_N), 1)
    kept_BK = _filled(shape, rows, lambda turn: not turn.dropped, False)
    episodes = {id(s.episode): i for i, s in enumerate({id(s.episode): s for s in tokens.trajectories}.values())}
    group_B = np.zeros(len(rows), np.int32)
    group_B[tokens.trajectory_N] = tokens.group_N
    return Turns(
        channels=channels, reward_CBK=reward_CBK, tokens_BK=tokens_BK,
        step_BK=_filled(shape, rows, lambda turn: turn.step, 0),
        purpose_BK=_filled(shape, rows, lambda turn: turn.purpose, ""),
        finish_BK=_filled(shape, rows, lambda turn: turn.finish, ""), kept_BK=kept_BK,
        anchor_BK=_anchors(tokens, rows, shape, anchor) if anchor else None,
        stop_B=np.array([(s.trajectory.stop or s.episode.stop).kind for s in tokens.trajectories], np.str_),
        bootstrap_B=_bootstrap(tokens, measured), valid_B=np.array([_scored(s) for s in tokens.trajectories], bool),
        seat_B=np.array([s.trajectory.seat for s in tokens.trajectories], np.str_),
        family_B=np.array([s.episode.task.family for s in tokens.trajectories], np.str_),
        group_B=group_B, episode_B=np.array([episodes[id(s.episode)] for s in tokens.trajectories], np.int32),
        root_B=_roots(tokens), tokens=tokens, measured=measured,
    )


def _filled(shape: tuple[int, int], rows: Sequence[Sequence[Turn]], read: Callable[[Turn], object], empty: object) -> NDArray:  # type: ignore[type-arg]
    table = [[read(turn) for turn in row] + [empty] * (shape[1] - len(row)) for row in rows]
    kind = {bool: np.bool_, int: np.int32, str: np.str_}[type(empty)]
    return np.array(table, kind).reshape(shape)


def _anchors(tokens: Tokens, rows: Sequence[Sequence[Turn]], shape: tuple[int, int], anchor: Callable[[Trajectory, Turn], str]) -> TextArray:
    table = np.full(shape, "", object)
    for b, row in enumerate(rows):
        for k, turn in enumerate(row):
            table[b, k] = anchor(tokens.trajectories[b].trajectory, turn)
    return table.astype(np.str_)


def _score(source: Source, verifier: str) -> Score | None:
    """The score of the trajectory's own seat, or of its root."""
    by_seat = source.episode.scores[verifier]
    seat = source.trajectory.seat
    return by_seat.get(seat) or by_seat.get(root_of(seat))


def _scored(source: Source) -> bool:
    scores = [_score(source, verifier) for verifier in source.episode.scores]
    return all(score is None or score.value is not None for score in scores)


def _paid(source: Source, row: Sequence[Turn]) -> list[dict[str, float]]:
    """Per turn, channel -> value. Scores are read for the last turn; a sub-seat inherits its root's credit and so is
    paid only what its own seat earned."""
    paid = [dict(turn.rewards) for turn in row]
    for verifier, by_seat in source.episode.scores.items():
        score = by_seat.get(source.trajectory.seat)
        if score is None or not row:
            continue
        if score.value is not None:
            paid[-1][verifier] = paid[-1].get(verifier, 0.0) + score.value
        for values, turn in zip(paid, row, strict=True):
            values.update({f"{verifier}/{name}": value for name, value in score.turns.get(turn.at, {}).items()})
    for values, turn in zip(paid, row, strict=True):
        for name, value in values.items():
            if not np.isfinite(value):
                raise NotFinite(f"episode {source.episode.id}, turn at {turn.at}: reward {name!r} is {value}")
    return paid


def _bootstrap(tokens: Tokens, measured: Measured | None) -> FloatArray:
    value_B = np.zeros(len(tokens.trajectories))
    if measured is not None and "value" in measured.end:
        cut = np.array([(s.trajectory.stop or s.episode.stop).kind == "truncated" for s in tokens.trajectories], bool)
        value_B[cut] = measured.end["value"][cut]
    return value_B


def _roots(tokens: Tokens) -> IntArray:
    rows: dict[tuple[int, str], int] = {}
    for b, source in enumerate(tokens.trajectories):
        rows.setdefault((id(source.episode), source.trajectory.seat), b)
    return np.array(
        [rows.get((id(s.episode), root_of(s.trajectory.seat)), b) for b, s in enumerate(tokens.trajectories)], np.int32
    )
