"""Do advantages and losses keep their contracts?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from polyturn.arrays import Advantage, Measured, Tokens, Turns, as_turns, lay_out
from polyturn.conformance.failed import demand
from polyturn.seeds import derive, generator
from polyturn.types import (
    Episode,
    FloatArray,
    Group,
    Message,
    Score,
    Span,
    Stop,
    Task,
    Trajectory,
    Turn,
    assistant,
    user,
)

if TYPE_CHECKING:
    from polyturn.losses.learned import Learned, Loss

NEAR = 1e-9
"""How far two computations of the same number in float64 may lie apart, beside its size."""


def made_groups(
    seed: int = 0, *, families: Sequence[str] = ("family",), seats: Sequence[str] = ("agent",), groups: int = 3,
    members: int = 4,
) -> list[Group]:
    """Groups of episodes with random tokens, rewards and scores; every group has a dropped turn, a trajectory that was
    cut and an abstention.

    >>> [len(group) for group in made_groups(groups=2, members=3)]
    [3, 3]
    """
    return [
        tuple(_episode(seed, g, m, families[g % len(families)], seats) for m in range(members)) for g in range(groups)
    ]


def _episode(seed: int, group: int, member: int, family: str, seats: Sequence[str]) -> Episode:
    draws = generator("made_groups", seed, group, member)
    trajectories = tuple(_trajectory(draws, seat, place, len(seats), member) for place, seat in enumerate(seats))
    abstained = member == 3
    scores = {seat: Score(None if abstained else float(draws.integers(0, 5)) / 4) for seat in seats}
    return Episode(
        f"e{group}.{member}", Task(f"t{group}", family), seed, f"g{group}", member, train=frozenset(seats),
        trajectories=trajectories, scores={"score": scores}, stop=Stop("truncated" if member == 1 else "done"),
    )


def _trajectory(draws: np.random.Generator, seat: str, place: int, seats: int, member: int) -> Trajectory:
    spans: list[Span] = []
    turns: list[Turn] = []
    messages: list[Message] = []
    for k in range(int(draws.integers(1, 5)) + (member == 2)):
        size = int(draws.integers(1, 6))
        spans.append(Span(len(spans) - 1, draws.integers(0, 50, 3).astype(np.int32)))
        ids = draws.integers(0, 50, size).astype(np.int32)
        spans.append(Span(len(spans) - 1, ids, True, -draws.random(size), 1))
        messages += [user("?"), assistant("!")]
        turns.append(Turn(
            k * seats + place, seat, "main", tuple(range(2 * k + 1)), 2 * k + 1, (2 * k + 1,), step=k,
            rewards={"reward": float(draws.normal())}, dropped="a check" if member == 2 and k == 0 else "",
        ))
    return Trajectory(seat, "main", messages=tuple(messages), turns=tuple(turns), spans=tuple(spans))


def made_turns(groups: Sequence[Group]) -> Turns:
    """The batch by turn, with measured values (a head ``value``) that depend on the token's own place alone."""
    tokens = lay_out(groups, "main")
    columns = {name: _drawn(tokens, name) for name in ("old", "reference", "entropy", "value")}
    end_B = np.array([_value("end", source.episode.id, source.trajectory.seat) for source in tokens.trajectories])
    measured = Measured(
        -columns["old"], -columns["reference"], columns["entropy"], {"value": columns["value"]}, {"value": end_B}
    )
    return as_turns(tokens, measured, anchor=lambda trajectory, turn: f"{trajectory.seat} {turn.step}")


def _drawn(tokens: Tokens, name: str) -> FloatArray:
    seen: dict[tuple[int, int], int] = {}
    values = []
    for b, k in zip(tokens.trajectory_N.tolist(), tokens.turn_N.tolist(), strict=True):
        source = tokens.trajectories[b]
        seen[b, k] = seen.get((b, k), -1) + 1
        values.append(_value(name, source.episode.id, source.trajectory.seat, k, seen[b, k]))
    return np.array(values)


def _value(*parts: str | int) -> float:
    return derive(*parts) / 2**63


def check_advantage(
    advantage: Advantage, *, families: Sequence[str] = ("family",), seats: Sequence[str] = ("agent",), seed: int = 0,
    ordered: bool = False, extra: Callable[[list[Group]], list[Group]] = list,
) -> None:
    """Nothing, when the advantage keeps the contract of :data:`polyturn.arrays.Advantage`.

    Checked on random batches: shape [B, K] or [N]; finite; zero where there is no turn, where a context took it back
    (by turn) and where the verifier abstained; the batch untouched; the same twice; each trajectory's advantage
    independent of the order of groups and of members; or, with ``ordered``, for a rule in which the batch's order is
    time, independent of later groups. ``extra`` may give the groups what the rule reads besides the channels ``score``
    and ``reward``. A rule with memory is copied first, so it learns nothing here.
    Raises: CheckFailed.

    >>> check_advantage(lambda turns: np.where(turns.kept_BK & turns.valid_B[:, None], 1.0, 0.0))
    """
    groups = extra(made_groups(seed, families=families, seats=seats))
    turns = made_turns(groups)
    before = deepcopy(_arrays(turns))
    value = deepcopy(advantage)(turns)
    for name, array in _arrays(turns).items():
        same = np.array_equal(array, before[name], equal_nan=array.dtype.kind == "f")
        demand(same, f"the advantage changed turns.{name} in place; work on a copy")
    by_turn = _check_shape(value, turns)
    demand(bool(np.isfinite(value).all()), f"the advantage has {int((~np.isfinite(value)).sum())} entries that are no "
           "numbers; a NaN in reward_CBK means that nothing was paid (use turns.reward_BK), and a deviation may be 0")
    _check_zeros(value, turns, by_turn)
    demand(np.array_equal(value, deepcopy(advantage)(turns)), "the advantage gave the same batch other values the "
           "second time; a rule with memory learns in observe(), not when it is called")
    other = made_turns(groups[:-1] if ordered else [tuple(reversed(group)) for group in reversed(groups)])
    found = _by_name(value, turns, by_turn)
    how = "without the last group" if ordered else "with the groups in another order"
    for place, again in _by_name(deepcopy(advantage)(other), other, by_turn).items():
        demand(np.allclose(found[place], again, rtol=NEAR, atol=NEAR), f"{place} (episode, seat) has the advantage "
               f"{found[place]} or, {how}, {again}; compare by group_B and seat_B, not by row")


def _arrays(turns: Turns) -> dict[str, Any]:
    found = {f.name: getattr(turns, f.name) for f in fields(Turns)}
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    return arrays | {f"tokens.{f.name}": value for f in fields(Tokens)
                     if isinstance(value := getattr(turns.tokens, f.name), np.ndarray)}


def _check_shape(value: Any, turns: Turns) -> bool:
    """Whether the advantage is by turn."""
    shapes = {turns.kept_BK.shape: True, (len(turns.tokens),): False}
    demand(isinstance(value, np.ndarray) and value.shape in shapes, f"the advantage has the shape "
           f"{getattr(value, 'shape', type(value).__name__)}; expected [B, K] = {turns.kept_BK.shape} or "
           f"[N] = {(len(turns.tokens),)}")
    demand(value.dtype.kind == "f", f"the advantage is of type {value.dtype}; expected floating-point numbers")
    return shapes[value.shape]


def _check_zeros(value: FloatArray, turns: Turns, by_turn: bool) -> None:
    if not by_turn:
        silent_N = ~turns.valid_B[turns.tokens.trajectory_N]
        demand(bool((value[silent_N] == 0).all()), "tokens of a trajectory whose verifier abstained have an advantage; "
               "multiply by valid_B, for no score is not the score 0")
        return
    demand(bool((value[turns.finish_BK == ""] == 0).all()), "turns that were never taken (padding) have an advantage; "
           "multiply by kept_BK")
    demand(bool((value[~turns.kept_BK] == 0).all()), "turns that a context took back have an advantage; multiply by "
           "kept_BK")
    demand(bool((value[~turns.valid_B] == 0).all()), "trajectories whose verifier abstained have an advantage; "
           "multiply by valid_B, for no score is not the score 0")


def _by_name(value: FloatArray, turns: Turns, by_turn: bool) -> dict[tuple[str, str], FloatArray]:
    sources = turns.tokens.trajectories
    names = [(source.episode.id, source.trajectory.seat) for source in sources]
    if by_turn:
        return {name: value[b][turns.finish_BK[b] != ""] for b, name in enumerate(names)}
    return {name: value[turns.tokens.trajectory_N == b] for b, name in enumerate(names)}


# ---------------------------------------------------------------- losses


def check_loss(loss: Loss, *, heads: Sequence[str] = ("value",), seed: int = 0) -> None:
    """Nothing, when the loss keeps the contract of :data:`polyturn.losses.learned.Loss`.

    Checked in float64 on random tokens: a finite scalar with a gradient in ``logprob_N``, ``entropy_N`` or a head;
    linear in ``weight_N``, so that it never divides by what it sees; zero weights give zero loss and gradient; over
    parts that keep its declared unit whole, loss, gradient and metrics add up; its input untouched.
    Raises: CheckFailed.

    >>> check_loss(lambda learned: (-(learned.weight_N * learned.logprob_N).sum(), {}))
    """
    import torch

    from polyturn.losses.learned import unit_of

    learned = _learned(seed, heads)
    value, metrics, gradient = _measured(loss, learned)
    demand(any(bool((g != 0).any()) for g in gradient.values()), "the loss has no gradient in logprob_N, entropy_N or "
           "any head; a detach() too many?")
    demand(all(bool(torch.isfinite(g).all()) for g in gradient.values()), "the gradient is not finite")
    doubled, _, _ = _measured(loss, replace(learned, weight_N=2 * learned.weight_N))
    demand(_near(doubled, 2 * value), f"with twice the weights the loss is {doubled:.6g} instead of {2 * value:.6g}; "
           "a loss is sum(weight_N * term) and never divides: averages are made once, in the weighting")
    none, _, silent = _measured(loss, replace(learned, weight_N=torch.zeros_like(learned.weight_N)))
    demand(none == 0 and not any(bool((g != 0).any()) for g in silent.values()), "with zero weights the loss is "
           f"{none} or has a gradient; every term is multiplied by weight_N")
    keep_N = _first_half(learned, unit_of(loss))
    halves = [_measured(loss, _part(learned, part_N)) for part_N in (keep_N, ~keep_N)]
    total = sum(half[0] for half in halves)
    demand(_near(total, value), f"the loss of the parts adds up to {total:.6g}, of the whole it is {value:.6g}; it "
           f"needs tokens together that its unit ({unit_of(loss)!r}) does not name, or it divides")
    for name, whole in gradient.items():
        apart = torch.zeros_like(whole)
        apart[keep_N], apart[~keep_N] = halves[0][2][name], halves[1][2][name]
        demand(bool(torch.allclose(apart, whole, rtol=NEAR, atol=NEAR)), f"the gradient in {name} of the parts is not "
               "that of the whole; a baseline or a statistic of the batch stands in the loss; move it into the credit")
    demand(_same(learned, _learned(seed, heads)), "the loss changed its input in place; work on a copy")
    for name in metrics:
        summed = sum(half[1].get(name, 0.0) for half in halves)
        demand(_near(summed, metrics[name]), f"the metric {name!r} of the parts adds up to {summed:.6g}, of the whole "
               f"it is {metrics[name]:.6g}; a metric is a sum over tokens, with its count beside it")


def _near(one: float, other: float) -> bool:
    return bool(abs(one - other) <= NEAR * (1 + abs(one) + abs(other)))


def _learned(seed: int, heads: Sequence[str]) -> Learned:
    """Random tokens: 2 groups of 3 trajectories of 2 turns of 3 tokens."""
    import torch

    from polyturn.losses.learned import Learned

    draws = generator("check_loss", seed)
    trajectory, turn = np.repeat(np.arange(6), 6), np.tile(np.repeat(np.arange(2), 3), 6)

    def drawn(low: float, high: float) -> Any:
        return torch.from_numpy(draws.uniform(low, high, 36))

    old_N = drawn(-3.0, -0.1)
    return Learned(
        (old_N + drawn(-0.3, 0.0)).requires_grad_(), old_N, old_N + drawn(-0.1, 0.1),
        torch.from_numpy(draws.normal(size=6)[trajectory]), drawn(0.1, 1.0), torch.from_numpy(turn),
        torch.from_numpy(trajectory), torch.from_numpy(trajectory // 3), torch.zeros(36, dtype=torch.int64),
        drawn(0.1, 2.0).requires_grad_(), old_N + drawn(-0.2, 0.2), drawn(-1.0, 1.0),
        {name: drawn(-1.0, 1.0).requires_grad_() for name in heads}, {name: drawn(-1.0, 1.0) for name in heads},
    )


def _measured(loss: Loss, learned: Learned) -> tuple[float, Mapping[str, float], dict[str, Any]]:
    """Loss, metrics and gradients, each checked for its form."""
    import torch

    value, metrics = loss(learned)
    demand(isinstance(value, torch.Tensor) and value.dim() == 0, f"the loss is {value!r}; expected a scalar tensor")
    demand(bool(torch.isfinite(value)), f"the loss is {float(value.detach())}; expected a finite number")
    demand(isinstance(metrics, Mapping) and all(isinstance(v, float) for v in metrics.values()),
           f"the metrics are {metrics!r}; expected a mapping of floats")
    leaves = {"logprob_N": learned.logprob_N, **({"entropy_N": learned.entropy_N} if learned.entropy_N is not None
                                                 else {}), **learned.heads}
    if not value.requires_grad:
        return float(value.detach()), metrics, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, retain_graph=True)
    return float(value.detach()), metrics, {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }


def _first_half(learned: Learned, unit: str) -> Any:
    """A mask of some of the tokens that keeps every unit whole and cuts trajectories unevenly where it may."""
    import torch

    key_N = {"token": torch.arange(len(learned.turn_N)), "turn": learned.trajectory_N * 2 + learned.turn_N,
             "trajectory": learned.trajectory_N, "group": learned.group_N}[unit]
    return (key_N % 5 == 0) | (key_N % 5 == 3)


def _part(learned: Learned, keep_N: Any) -> Learned:
    columns = {f.name: _cut(getattr(learned, f.name), keep_N) for f in fields(learned)}
    heads = {name: leaf.detach().requires_grad_() for name, leaf in columns["heads"].items()}
    leaves = {name: columns[name].detach().requires_grad_() for name in ("logprob_N", "entropy_N")}
    return replace(learned, **{**columns, **leaves, "heads": heads})


def _same(one: Learned, other: Learned) -> bool:
    import torch

    columns = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    pairs = [(a[name], b[name]) for a, b in columns if isinstance(a, Mapping) for name in a]
    pairs += [(a, b) for a, b in columns if isinstance(a, torch.Tensor)]
    return all(bool(torch.equal(a, b)) for a, b in pairs)


def _cut(value: Any, keep_N: Any) -> Any:
    if value is None:
        return None
    return {name: inner[keep_N] for name, inner in value.items()} if isinstance(value, Mapping) else value[keep_N]
