"""From episodes to flat arrays: :func:`lay_out` makes the token axis, :func:`as_turns` the turn axis.

Legend, used in every array name: **B** trajectories, **K** turns, **N** trained tokens, **U** tree nodes, **C** reward
channels, **G** group members, **V** vocabulary, **T** tokens of one path.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from polyturn.errors import BadInput, NotFinite, NotTrainable
from polyturn.types import Episode, FloatArray, Group, IntArray, Span, Trajectory, Turn, root_of

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
        head_R, run_U = _runs(self.parent_U)
        depth_R: list[int] = []
        for parent in self.parent_U[head_R].tolist():
            above = run_U[parent]
            depth_R.append(0 if parent < 0 else depth_R[above] + parent - int(head_R[above]) + 1)
        node_U = np.arange(len(self.id_U), dtype=np.int32)
        return (np.array(depth_R, np.int32) - head_R)[run_U] + node_U

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
    group: int
    """Place of its group among those that were laid out."""


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
        reward_BK: FloatArray = np.nansum(self.reward_CBK[rows], axis=0)
        return reward_BK


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
            if episode.stop.kind == "error":
                raise NotTrainable(f"episode {episode.id} ended in an error ({episode.stop.reason}); drop it first")
            for trajectory in episode.trajectories:
                if trajectory.policy == policy and root_of(trajectory.seat) in episode.train:
                    grown.add(g, episode, trajectory)
    return grown.tokens()


def in_play(trajectory: Trajectory) -> list[Turn]:
    """The turns of real play, in the order in which they were asked for."""
    return sorted((turn for turn in trajectory.turns if not turn.branch), key=lambda turn: turn.at)


class _Grown:
    """The arrays of :class:`Tokens` while trajectories are added, span by span: a span's new nodes stand in a row."""

    def __init__(self) -> None:
        self.size = 0
        self.ids: list[IntArray] = []
        self.parents: list[IntArray] = []
        self.last: dict[tuple[int, bytes], int] = {}
        self.count = 0
        self.columns: dict[str, list[NDArray[Any]]] = {name: [np.zeros(0)] for name in _COLUMNS}
        self.support: dict[int, IntArray] = {}
        self.sources: list[Source] = []
        self.ends: list[int] = []

    def add(self, group: int, episode: Episode, trajectory: Trajectory) -> None:
        turns = in_play(trajectory)
        for turn in turns:
            if not turn.spans:
                raise NotTrainable(
                    f"episode {episode.id}, seat {trajectory.seat}, turn at {turn.at}: its tokens are unknown "
                    f"(policy {turn.policy!r} gave none), so nothing can be trained on it"
                )
        last = self._grow(trajectory, turns)
        for k, turn in enumerate(turns):
            for index in turn.spans:
                self._own(trajectory.spans[index], turn, last[index], (k, len(self.sources), group))
        self.ends.append(last[turns[-1].spans[-1]] if turns else -1)
        self.sources.append(Source(episode, trajectory, group))

    def _grow(self, trajectory: Trajectory, turns: Sequence[Turn]) -> dict[int, int]:
        """Grows the tree by the spans that the turns stand on; returns span index -> its last node."""
        needed: set[int] = set()
        for index in (index for turn in turns for index in turn.spans):
            above = index
            while above >= 0 and above not in needed:
                needed.add(above)
                above = trajectory.spans[above].parent
        last: dict[int, int] = {-1: -1}
        for index in sorted(needed):
            ids = np.asarray(trajectory.spans[index].ids, np.int32)
            parent = last[trajectory.spans[index].parent]
            key = (parent, ids.tobytes())
            if key not in self.last and len(ids):
                parent_U = np.arange(self.size - 1, self.size - 1 + len(ids), dtype=np.int32)
                parent_U[0] = parent
                self.ids.append(ids)
                self.parents.append(parent_U)
                self.size += len(ids)
                self.last[key] = self.size - 1
            last[index] = self.last[key] if len(ids) else parent
        return last

    def _own(self, span: Span, turn: Turn, last: int, place: tuple[int, int, int]) -> None:
        count = len(span.ids)
        temperature = turn.sampling.temperature if span.sampled and turn.sampling.temperature > 0 else 1.0
        logprobs = np.nan if span.logprobs is None else span.logprobs
        row = (np.arange(last - count + 1, last + 1), span.sampled, logprobs, temperature, span.version, *place)
        for name, value in zip(_COLUMNS, row, strict=True):
            self.columns[name].append(np.broadcast_to(np.asarray(value), count))
        for offset, allowed in enumerate(span.support or ()):
            if allowed:
                self.support[self.count + offset] = np.array(allowed, np.int32)
        self.count += count

    def tokens(self) -> Tokens:
        column: dict[str, Any] = {
            f"{name}_N": np.concatenate(self.columns[name]).astype(dtype) for name, dtype in _COLUMNS.items()
        }
        id_U, parent_U = (np.concatenate([np.zeros(0, np.int32), *parts]) for parts in (self.ids, self.parents))
        return Tokens(
            tree=Tree(id_U, parent_U), trajectories=tuple(self.sources), end_B=np.array(self.ends, np.int32),
            support=self.support, **column,
        )


_COLUMNS = {
    "node": np.int32, "sampled": np.bool_, "behavior": np.float64, "temperature": np.float64, "version": np.int32,
    "turn": np.int32, "trajectory": np.int32, "group": np.int32,
}


def _runs(parent_U: IntArray) -> tuple[IntArray, IntArray]:
    """The tree cut into runs, in which each node's parent is the node before it: the first node of each, and the run of
    each node. There are about as many runs as spans, so that walks over runs are short."""
    starts_U = parent_U != np.arange(-1, len(parent_U) - 1)
    starts_U[:1] = True
    return np.flatnonzero(starts_U).astype(np.int32), np.cumsum(starts_U, dtype=np.int32) - 1


def pruned(tree: Tree, node_N: IntArray) -> tuple[Tree, IntArray]:
    """The part of a tree on the paths to ``node_N``, and these nodes' places in it."""
    head_R, run_U = _runs(tree.parent_U)
    deepest_R = np.full(len(head_R), -1, np.int64)
    np.maximum.at(deepest_R, run_U[node_N], node_N)
    parent_R = tree.parent_U[head_R]
    for run in range(len(head_R) - 1, -1, -1):
        if deepest_R[run] >= 0 and parent_R[run] >= 0:
            above = run_U[parent_R[run]]
            deepest_R[above] = max(deepest_R[above], parent_R[run])
    wanted_U = np.arange(len(tree.id_U)) <= deepest_R[run_U]
    place_U = np.cumsum(wanted_U, dtype=np.int32) - 1
    parent_U = tree.parent_U[wanted_U]
    parent_U = np.where(parent_U >= 0, place_U[parent_U], -1).astype(np.int32)
    return Tree(tree.id_U[wanted_U], parent_U), place_U[node_N].astype(np.int32)


def take(tokens: Tokens, index_N: IntArray) -> Tokens:
    """Some of the tokens, over the part of the tree that they need; trajectories keep their rows."""
    tree, node_N = pruned(tokens.tree, tokens.node_N[index_N])
    support = {new: tokens.support[old] for new, old in enumerate(index_N.tolist()) if old in tokens.support}
    columns: dict[str, Any] = {f"{name}_N": getattr(tokens, f"{name}_N")[index_N] for name in _COLUMNS}
    end_B = np.full(len(tokens.trajectories), -1, np.int32)
    return replace(tokens, **columns | {"tree": tree, "node_N": node_N}, end_B=end_B, support=support)


def as_turns(
    tokens: Tokens, measured: Measured | None = None, *, anchor: Callable[[Trajectory, Turn], str] | None = None
) -> Turns:
    """The batch by turn: rewards by channel, one channel for each verifier (its score lands on the seat's last turn).

    ``tokens`` is what :func:`lay_out` returned, whole. Raises: BadInput for tokens out of order, NotFinite for a reward
    that is no number, with its place.
    """
    sources = tokens.trajectories
    if (np.diff(tokens.trajectory_N) < 0).any():
        raise BadInput("the tokens do not stand trajectory by trajectory; give as_turns what lay_out returned, whole")
    rows = [in_play(source.trajectory) for source in sources]
    root_B = _roots(sources, rows)
    paid = [_paid(source, row, root_B[b] == b) for b, (source, row) in enumerate(zip(sources, rows, strict=True))]
    channels = tuple(sorted({name for row in paid for turn in row for name in turn}))
    step_BK = _filled(rows, lambda b, turn: turn.step, 0).astype(np.int32)
    reward_CBK = np.full((len(channels), *step_BK.shape), np.nan)
    for b, k, values in ((b, k, values) for b, row in enumerate(paid) for k, values in enumerate(row)):
        for name, value in values.items():
            reward_CBK[channels.index(name), b, k] = value
    tokens_BK = np.zeros(step_BK.shape, np.int32)
    np.add.at(tokens_BK, (tokens.trajectory_N, tokens.turn_N), 1)
    episodes = {key: i for i, key in enumerate(dict.fromkeys(id(source.episode) for source in sources))}
    return Turns(
        channels=channels, reward_CBK=reward_CBK, tokens_BK=tokens_BK, step_BK=step_BK,
        purpose_BK=_filled(rows, lambda b, turn: turn.purpose, "").astype(np.str_),
        finish_BK=_filled(rows, lambda b, turn: turn.finish, "").astype(np.str_),
        kept_BK=_filled(rows, lambda b, turn: not turn.dropped, False).astype(np.bool_),
        anchor_BK=_filled(rows, lambda b, turn: anchor(sources[b].trajectory, turn), "").astype(np.str_)
        if anchor else None,
        stop_B=np.array([_stop(source) for source in sources], np.str_), bootstrap_B=_bootstrap(tokens, measured),
        valid_B=np.array([_scored(source) for source in sources], np.bool_),
        seat_B=np.array([source.trajectory.seat for source in sources], np.str_),
        family_B=np.array([source.episode.task.family for source in sources], np.str_),
        group_B=np.array([source.group for source in sources], np.int32),
        episode_B=np.array([episodes[id(source.episode)] for source in sources], np.int32),
        root_B=root_B, tokens=tokens, measured=measured,
    )


def _stop(source: Source) -> str:
    return (source.trajectory.stop or source.episode.stop).kind


def _filled(rows: Sequence[Sequence[Turn]], read: Callable[[int, Turn], object], empty: object) -> NDArray[Any]:
    table_BK = np.full((len(rows), max((len(row) for row in rows), default=0)), empty, object)
    for b, row in enumerate(rows):
        table_BK[b, : len(row)] = [read(b, turn) for turn in row]
    return table_BK


def _scored(source: Source) -> bool:
    """Whether no verifier abstained on the trajectory's own seat, or on its root."""
    seat = source.trajectory.seat
    scores = [by_seat.get(seat) or by_seat.get(root_of(seat)) for by_seat in source.episode.scores.values()]
    return all(score is None or score.value is not None for score in scores)


def _paid(source: Source, row: Sequence[Turn], is_root: bool) -> list[dict[str, float]]:
    """Per turn, channel -> value. Scores are read for the last turn, on top of what was paid in a channel of that name.

    What the seat was paid at a turn of another policy counts for the turn before it (or for the first). A sub-seat
    inherits its root's credit and so is paid only what its own seat earned; where the root itself is not in the batch,
    the row that stands in for it is paid the root's rewards too.
    """
    paid: list[dict[str, float]] = [{} for _ in row]
    own = source.trajectory.seat
    seats = {own, root_of(own)} if is_root else {own}
    for turn in (t for other in source.episode.trajectories if other.seat in seats and row for t in in_play(other)):
        place = max(bisect_right(row, turn.at, key=lambda mine: mine.at) - 1, 0)
        for name, value in turn.rewards.items():
            paid[place][name] = paid[place].get(name, 0.0) + value
    for verifier, by_seat in source.episode.scores.items():
        for score in (by_seat[seat] for seat in sorted(seats) if seat in by_seat and row):
            if score.value is not None:
                paid[-1][verifier] = paid[-1].get(verifier, 0.0) + score.value
            for values, turn in zip(paid, row, strict=True):
                values.update({f"{verifier}/{name}": value for name, value in score.turns.get(turn.at, {}).items()})
    for turn, name, value in ((t, *item) for values, t in zip(paid, row, strict=True) for item in values.items()):
        if not np.isfinite(value):
            raise NotFinite(f"episode {source.episode.id}, turn at {turn.at}: reward {name!r} is {value}")
    return paid


def _bootstrap(tokens: Tokens, measured: Measured | None) -> FloatArray:
    cut_B = np.array([_stop(source) == "truncated" for source in tokens.trajectories], np.bool_)
    end = {} if measured is None else measured.end
    return np.where(cut_B, end.get("value", 0.0), 0.0)


def _roots(sources: Sequence[Source], rows: Sequence[Sequence[Turn]]) -> IntArray:
    """The row of each root seat; where the root has no turn in the batch (another policy sat there), its first sub-seat
    stands in for it, so that a rollout is still counted once."""
    place = {
        (id(source.episode), source.trajectory.seat): b
        for b, source in reversed(list(enumerate(sources))) if rows[b]
    }
    return np.array([
        place.setdefault((id(source.episode), root_of(source.trajectory.seat)), b) if rows[b] else b
        for b, source in enumerate(sources)
    ], np.int32)
