"""Credit by comparison with other rollouts: the stages *normalise*, *inherit*, *broadcast*, and what is made of them.

``A = (R - centre) / (scale + epsilon)``, where the statistics run over **root** trajectories that were scored, one per
rollout, however many turns, paths or sub-seats a rollout has. A sub-seat then takes its root's advantage.

Letters beside the legend of :mod:`polyturn.arrays`: **I** = the items that are normalised; **J** = the sets in which
they are compared (equal keys).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from polyturn.arrays import BoolArray, Turns
from polyturn.errors import BadInput, UnknownName
from polyturn.told import tell
from polyturn.types import FloatArray, IntArray

Centre: TypeAlias = Literal["mean", "leave_one_out", "none"]
Scale: TypeAlias = Literal["population", "sample", "root_mean_square", "none"]
Unit: TypeAlias = Literal["rollout", "turn", "token"]
Singleton: TypeAlias = Literal["zero", "keep"]

EQUAL = 1e-12
"""Values of one set that differ by no more than this part of the largest are equal: their difference is rounding."""

# ---------------------------------------------------------------- which rows and turns count


def spoken_BK(turns: Turns) -> BoolArray:
    """True for real turns, also for those that were taken back; False for padding."""
    spoken: BoolArray = turns.finish_BK != ""
    return spoken


def live_BK(turns: Turns) -> BoolArray:
    """True for turns that can have credit: kept, in a trajectory that was scored."""
    return turns.kept_BK & turns.valid_B[:, None]


def counted_B(turns: Turns) -> BoolArray:
    """True for rows that enter statistics: roots that spoke and were scored, one per rollout and seat."""
    counted: BoolArray = (turns.root_B == np.arange(len(turns.root_B))) & turns.valid_B & spoken_BK(turns).any(axis=1)
    return counted


def units_BK(turns: Turns, unit: Unit) -> FloatArray:
    """How much each turn counts in a statistic: 1 by turn, its tokens by token, its share of its rollout by rollout.

    Turns of sub-seats, dropped turns and turns of rows that abstained count 0.
    """
    if unit not in ("rollout", "turn", "token"):
        raise UnknownName("unit", unit, ("rollout", "turn", "token"))
    counts_BK = (live_BK(turns) & counted_B(turns)[:, None]).astype(np.float64)
    if unit == "token":
        return counts_BK * turns.tokens_BK
    if unit == "rollout":
        counts_BK /= np.maximum(counts_BK.sum(axis=1, keepdims=True), 1)
    return counts_BK


# ---------------------------------------------------------------- keys


def keys_B(turns: Turns, key: Sequence[str]) -> IntArray:
    """One number per row, equal where all named columns are: ``group``, ``seat`` (of the root), ``family``."""
    return _joined(key, {name: read(turns) for name, read in _ROW_KEYS.items()}, len(turns.root_B))


def keys_BK(turns: Turns, key: Sequence[str]) -> IntArray:
    """One number per turn: the columns of :func:`keys_B`, and ``turn`` (its place among the kept turns of its row),
    ``step``, ``purpose``, ``anchor`` (the observation that it answers).

    Raises: BadInput where ``anchor`` is asked for and ``as_turns`` was given none.
    """
    if "anchor" in key and turns.anchor_BK is None:
        raise BadInput("the key names 'anchor', but this batch has none; give as_turns(..., anchor=...) a function")
    shape = turns.kept_BK.shape
    rows = {name: np.broadcast_to(read(turns)[:, None], shape) for name, read in _ROW_KEYS.items()}
    columns: dict[str, NDArray[Any]] = rows | {
        "turn": np.cumsum(turns.kept_BK, axis=1), "step": turns.step_BK, "purpose": turns.purpose_BK,
        "anchor": np.zeros(shape) if turns.anchor_BK is None else turns.anchor_BK,
    }
    return _joined(key, columns, turns.kept_BK.size).reshape(shape)


_ROW_KEYS: Mapping[str, Callable[[Turns], NDArray[Any]]] = {
    "group": lambda turns: turns.group_B, "seat": lambda turns: turns.seat_B[turns.root_B],
    "family": lambda turns: turns.family_B,
}


def _joined(key: Sequence[str], columns: Mapping[str, NDArray[Any]], size: int) -> IntArray:
    if isinstance(key, str):
        raise BadInput(f"key is the text {key!r}; expected a sequence of names, as in ({key!r},)")
    joined_I = np.zeros(size, np.int64)
    for name in key:
        if name not in columns:
            raise UnknownName("key", name, columns)
        code_I = np.unique(columns[name], return_inverse=True)[1].reshape(-1)
        joined_I = np.unique(joined_I * (size + 1) + code_I, return_inverse=True)[1].reshape(-1)
    return joined_I.astype(np.int32)


# ---------------------------------------------------------------- normalise


def normalise_I(
    value_I: FloatArray, key_I: IntArray, weight_I: FloatArray, *, centre: Centre = "mean", scale: Scale = "none",
    epsilon: float = 1e-6, singleton: Singleton = "zero",
) -> FloatArray:
    """``(value - centre) / (scale + epsilon)`` within each set of equal keys; no division where ``scale`` is "none".

    ``weight_I`` says how much an item counts in the statistics (0 = not at all; it is then only transformed by those
    of its set). With ``W = sum w``, ``m = sum w v / W`` and ``S = sum w (v - m)**2``:

    - centre: "mean" ``m``; "leave_one_out" the mean without the item itself, ``v - c = (v - m) W / (W - w)``; "none" 0.
    - scale: "population" ``sqrt(S / W)``; "sample" ``sqrt(S / (W - 1))``; "root_mean_square" ``sqrt(sum w v**2 / W)``.
    - A set of equal values is exactly 0 after centring, and is never divided by its deviation, which is 0.
    - A set of weight 1 (one rollout, one turn, one token) has nothing to compare with: ``singleton`` "zero" gives 0,
      "keep" the value as it is. A set in which nothing counts gives 0.

    >>> normalise_I(np.array([1.0, 0.0, 0.5]), np.array([0, 0, 1]), np.ones(3), scale="population", epsilon=0.0)
    array([ 1., -1.,  0.])
    """
    return _normal(
        value_I, key_I, weight_I, centre=centre, scale=scale, epsilon=epsilon, singleton=singleton).out_I


@dataclass(frozen=True, slots=True)
class _Normal:
    """``out = (value - centre) / divisor``, but for sets with nothing to compare; ``count`` = the weight of the set."""

    out_I: FloatArray
    centre_I: FloatArray
    divisor_I: FloatArray
    count_I: FloatArray

    def told(self, shape: tuple[int, ...]) -> dict[str, FloatArray]:
        """Its numbers for :func:`polyturn.told.tell`."""
        return {"centre": self.centre_I.reshape(shape), "divisor": self.divisor_I.reshape(shape),
                "count": self.count_I.reshape(shape)}


def _normal(
    value_I: FloatArray, key_I: IntArray, weight_I: FloatArray, *, centre: Centre, scale: Scale, epsilon: float,
    singleton: Singleton,
) -> _Normal:
    _check_choices(centre, scale, singleton)
    n_J = int(key_I.max(initial=-1)) + 1

    def per_J(amount_I: FloatArray) -> FloatArray:
        return np.bincount(key_I, amount_I, n_J).astype(np.float64)

    weight_J = per_J(weight_I)
    divisor_J = np.where(weight_J > 0, weight_J, 1.0)
    mean_J = per_J(weight_I * value_I) / divisor_J
    equal_J = _equal_J(value_I, key_I, weight_I > 0, n_J)
    off_I = np.where(equal_J[key_I] & (weight_I > 0), 0.0, value_I - mean_J[key_I])
    square_J = per_J(weight_I * (value_I if scale == "root_mean_square" else off_I) ** 2)
    out_I = value_I.astype(np.float64) if centre == "none" else off_I
    if centre == "leave_one_out":
        others_I = weight_J[key_I] - weight_I
        out_I = off_I * weight_J[key_I] / np.where(others_I > 0, others_I, 1.0)
    centre_I, divisor_I = value_I - out_I, np.ones(len(value_I))
    if scale != "none":
        degrees_J = np.maximum(weight_J - 1, 1.0) if scale == "sample" else divisor_J
        spread_J = np.sqrt(square_J / degrees_J)
        flat_J = equal_J if scale != "root_mean_square" else square_J == 0
        divisor_I = np.where(flat_J, 1.0, spread_J + epsilon)[key_I]
        out_I = out_I / divisor_I
    single_J = (weight_J > 0) & (weight_J < 1.5)
    out_I = np.where(single_J[key_I], value_I if singleton == "keep" else 0.0, out_I)
    return _Normal(np.where((weight_J > 0)[key_I], out_I, 0.0), centre_I, divisor_I, weight_J[key_I])


def _check_choices(centre: str, scale: str, singleton: str) -> None:
    if centre not in ("mean", "leave_one_out", "none"):
        raise UnknownName("centre", centre, ("mean", "leave_one_out", "none"))
    if scale not in ("population", "sample", "root_mean_square", "none"):
        raise UnknownName("scale", scale, ("population", "sample", "root_mean_square", "none"))
    if singleton not in ("zero", "keep"):
        raise UnknownName("singleton rule", singleton, ("zero", "keep"))


def _equal_J(value_I: FloatArray, key_I: IntArray, counts_I: BoolArray, n_J: int) -> BoolArray:
    low_J, high_J = np.full(n_J, np.inf), np.full(n_J, -np.inf)
    np.minimum.at(low_J, key_I[counts_I], value_I[counts_I])
    np.maximum.at(high_J, key_I[counts_I], value_I[counts_I])
    seen_J = high_J >= low_J
    low_J, high_J = np.where(seen_J, low_J, 0.0), np.where(seen_J, high_J, 0.0)
    equal_J: BoolArray = high_J - low_J <= EQUAL * np.maximum(np.abs(low_J), np.abs(high_J))
    return equal_J


def normalise_BK(
    value_BK: FloatArray, turns: Turns, *, key: Sequence[str], unit: Unit, centre: Centre = "mean",
    scale: Scale = "population", epsilon: float = 1e-6, singleton: Singleton = "zero",
) -> FloatArray:
    """:func:`normalise_I` over the turns of a batch, which count by ``unit``; 0 where a turn cannot have credit.

    The statistics run over roots; turns of sub-seats are transformed by those of their set. Raises: BadInput for
    "leave_one_out" by rollout (a turn is no rollout; use :func:`group_relative`).
    """
    if centre == "leave_one_out" and unit == "rollout":
        raise BadInput("leave_one_out by rollout compares whole rollouts: use group_relative, or unit turn or token")
    normal = _normal(
        value_BK.ravel(), keys_BK(turns, key).ravel(), units_BK(turns, unit).ravel(), centre=centre, scale=scale,
        epsilon=epsilon, singleton=singleton)
    out_BK = np.where(live_BK(turns), normal.out_I.reshape(value_BK.shape), 0.0)
    tell("normalise", "BK", out_BK, value=value_BK, **normal.told(value_BK.shape), key=list(key), unit=unit, by=centre,
         scale=scale, epsilon=epsilon)
    return out_BK


# ---------------------------------------------------------------- inherit and broadcast


def total_B(turns: Turns, channels: Sequence[str] = ("score",)) -> FloatArray:
    """What each row was paid over all its turns, the dropped ones included."""
    total: FloatArray = turns.reward_BK(channels).sum(axis=1)
    tell("channels", "B", total, **{f"paid {name}": turns.reward_BK((name,)).sum(axis=1) for name in channels})
    return total


def inherit_B(value_B: FloatArray, turns: Turns) -> FloatArray:
    """Each row's root's value."""
    own_B = value_B[turns.root_B]
    tell("inherit", "B", own_B, root=turns.seat_B[turns.root_B])
    return own_B


def broadcast_BK(value_B: FloatArray, turns: Turns) -> FloatArray:
    """Each row's value on its turns that can have credit, 0 elsewhere."""
    return np.where(live_BK(turns), value_B[:, None], 0.0)


# ---------------------------------------------------------------- compositions


def group_relative(
    turns: Turns, *, channels: Sequence[str] = ("score",), key: Sequence[str] = ("group", "seat"),
    centre: Centre = "mean", scale: Scale = "none", epsilon: float = 1e-6, singleton: Singleton = "zero",
) -> FloatArray:
    """``advantage_BK``: each rollout's total reward against its group's: channels, normalise (unit: rollout), inherit,
    broadcast. What a sub-seat was paid itself does not enter; it takes its root's advantage.

    Raises: BadInput for an unknown channel, UnknownName for an unknown key or rule.
    """
    total = total_B(turns, channels)
    counts_B = counted_B(turns).astype(np.float64)
    normal = _normal(
        total, keys_B(turns, key), counts_B, centre=centre, scale=scale, epsilon=epsilon, singleton=singleton)
    tell("normalise", "B", normal.out_I, value=total, **normal.told(total.shape), key=list(key), unit="rollout",
         by=centre, scale=scale, epsilon=epsilon)
    return broadcast_BK(inherit_B(normal.out_I, turns), turns)


def group_centred(
    turns: Turns, *, channels: Sequence[str] = ("score",), key: Sequence[str] = ("group", "seat")
) -> FloatArray:
    """``advantage_BK = R - mean R`` over the group (Dr. GRPO): no division, so that easy groups do not shout."""
    return group_relative(turns, channels=channels, key=key)


def group_standardised(
    turns: Turns, *, channels: Sequence[str] = ("score",), key: Sequence[str] = ("group", "seat"),
    scale: Scale = "population", epsilon: float = 1e-6,
) -> FloatArray:
    """``advantage_BK = (R - mean R) / (std R + epsilon)`` over the group (GRPO); "sample" divides by n - 1."""
    return group_relative(turns, channels=channels, key=key, scale=scale, epsilon=epsilon)


def leave_one_out(
    turns: Turns, *, channels: Sequence[str] = ("score",), key: Sequence[str] = ("group", "seat")
) -> FloatArray:
    """``advantage_BK = R - mean R of the others`` (RLOO): n / (n - 1) times :func:`group_centred`."""
    return group_relative(turns, channels=channels, key=key, centre="leave_one_out")


@dataclass(slots=True)
class RoleBaseline:
    """``advantage_BK = gamma**left (R - b[role])`` with a running baseline per role, for games in which a group mean is
    no baseline (self-play: one side's win is the other's loss). ``left``: the row's own kept turns after this one.

    A role is what is equal in the columns of ``key`` (of :func:`keys_B`, but ``group``); roles start at 0, and
    ``alpha`` 1 leaves them there. Each scored root moves its role in the order of the batch, ``b <- alpha b + (1 -
    alpha) R``. With ``order`` "batch" every row is compared with b as it was before the batch, with "rollout" as it was
    before the row itself (then earlier rows of the batch have moved it). Calling is pure; :meth:`observe`, once per
    batch, keeps what the batch moved.
    """

    alpha: float = 0.95
    channels: Sequence[str] = ("score",)
    key: Sequence[str] = ("family", "seat")
    order: Literal["batch", "rollout"] = "batch"
    gamma: float = 1.0
    baseline: dict[tuple[str, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("gamma", self.gamma)):
            if not 0 <= value <= 1:
                raise BadInput(f"{name} is {value}; expected a number in 0..1")
        if self.order not in ("batch", "rollout"):
            raise UnknownName("order of a running baseline", self.order, ("batch", "rollout"))
        for column in self.key:
            if column not in _ROLE_KEYS:
                raise UnknownName("column of a role", column, _ROLE_KEYS)

    def __call__(self, turns: Turns) -> FloatArray:
        before_B, _ = self._moved(turns)
        total = total_B(turns, self.channels)
        tell("normalise", "B", total - before_B, value=total, centre=before_B, key=list(self.key), unit="rollout",
             by="running baseline", alpha=self.alpha, order=self.order)
        credit_BK = broadcast_BK(inherit_B(total - before_B, turns), turns)
        if self.gamma == 1:
            return credit_BK
        left = left_BK(turns)
        out_BK = credit_BK * self.gamma**left
        tell("accumulate", "BK", out_BK, value=credit_BK, gamma=self.gamma, left=left, unit="turn")
        return out_BK

    def observe(self, turns: Turns) -> None:
        """Moves the baselines by this batch's scored roots."""
        _, self.baseline = self._moved(turns)

    def _moved(self, turns: Turns) -> tuple[FloatArray, dict[tuple[str, ...], float]]:
        """What each row is compared with, and the baselines after the batch."""
        known = dict(self.baseline)
        seen = known if self.order == "rollout" else self.baseline
        before = []
        total = turns.reward_BK(self.channels).sum(axis=1).tolist()
        roles: Iterable[tuple[str, ...]] = zip(*(_ROLE_KEYS[name](turns).tolist() for name in self.key), strict=True)
        roles = roles if self.key else [()] * len(total)
        for role, paid, counts in zip(roles, total, counted_B(turns).tolist(), strict=True):
            before.append(seen.get(role, 0.0))
            if counts:
                known[role] = self.alpha * known.get(role, 0.0) + (1 - self.alpha) * paid
        return np.array(before, np.float64), known

    def state(self) -> Mapping[str, Any]:
        """The baselines as JSON values."""
        return {"baseline": [[*role, value] for role, value in sorted(self.baseline.items())]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave. Raises: BadInput for the baselines of other roles."""
        wrong = [row for row in state["baseline"] if len(row) != len(self.key) + 1]
        if wrong:
            raise BadInput(f"the state has the baseline {wrong[0]}; expected {list(self.key)} and a number")
        self.baseline = {tuple(role): float(value) for *role, value in state["baseline"]}


_ROLE_KEYS = {name: read for name, read in _ROW_KEYS.items() if name != "group"}


def left_BK(turns: Turns) -> IntArray:
    """How many kept turns of the same row come after each turn."""
    kept_BK = turns.kept_BK.astype(np.int32)
    left: IntArray = (kept_BK.sum(axis=1, keepdims=True) - np.cumsum(kept_BK, axis=1)).astype(np.int32)
    return np.maximum(left, 0)
