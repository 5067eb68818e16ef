"""The credit of one update in rows: per span, what each token weighed, was worth, and how likely it was.

A row is for one span of one episode and holds lists as long as the span: ``advantage``, ``weight`` (what multiplies the
token's loss term; zero = not trained), ``old`` (log-probability before the update), ``behavior`` (when it was sampled),
``reference``, ``entropy``, ``clipped``, ``present`` (log-probability at the last of several steps) and ``push``
(derivative of the loss by the log-probability), null where not measured. A null inside a list is unknown. A token of
the span that the update did not hold weighs zero. ``waiver`` names those of :data:`WAIVERS` that hold for the row,
joined by ``+``. ``rule_json`` says by which rule (:class:`Account`), ``steps_json``
by which stages the advantage came about (:class:`polyturn.told.Told`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson

from polyturn.arrays import BoolArray, Measured, Tokens
from polyturn.errors import BadInput, NotFinite, UnknownName
from polyturn.told import Told
from polyturn.types import Episode, FloatArray, IntArray, PolicyInfo, Trajectory

WAIVERS = ("demonstrations", "observations", "steps")
"""``demonstrations``: the tokens of the row were written by a script. ``observations``: its stage's updates also held
tokens that nobody sampled and no turn owns (a baseline that does not mask them); rows hold sampled ones. ``steps``: its
baselines are means over steps and not over rollouts, as its paper has it."""
Waiver = Literal["demonstrations", "observations", "steps"]


@dataclass(frozen=True, slots=True)
class Account:
    """What an update can say of how its credit came about, beside the numbers of the tokens."""

    rule: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: ``advantage``, ``weighting`` and ``loss`` in words, ``clip`` as numbers."""
    told: Sequence[Told] = ()
    """The stages of the advantage."""
    present_N: FloatArray | None = None
    """Log-probability at the weights of the last step, where there were several."""
    push_N: FloatArray | None = None
    """Derivative of the loss by the log-probability; NaN where the weight is zero."""

    clipped_N: BoolArray | None = None
    """Where a clip took the gradient away; None = the loss has none, or it is not known."""

    def steps(self, row: int, turn: int, index_N: IntArray) -> str | None:
        """The stages for some tokens of one turn, as JSON."""
        found = [step for told in self.told if (step := told.at(row, turn, index_N)) is not None]
        return orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS).decode() if found else None


NOTHING = Account()


def credit_rows(
    tokens: Tokens, measured: Measured, advantage_N: FloatArray, weight_N: FloatArray, *, stage: str,
    waivers: Sequence[Waiver] = (), version: int | None = None, clipped_N: BoolArray | None = None,
    account: Account = NOTHING,
) -> list[Mapping[str, Any]]:
    """One row for each span that the update held, in the order of ``tokens``.

    ``waivers`` name the rules that the stage sets aside, so that the audit lets its tokens pass and says so; rows of
    sampled spans are no demonstrations, whatever the stage says.
    ``version`` is that of the weights before the update: no trained token can be newer. A token that stands in
    ``tokens`` twice gets a second row, which the audit reports. Raises: BadInput for arrays of another length,
    NotFinite for a weight or a number that is infinite (and for a weight that is NaN), UnknownName for a waiver.

    Columns: ``episode, seat, policy, at`` (of the turn), ``span, stage, waiver, version, batch_group`` (the place of
    its group in the update: a filter may have put a stored episode among others), ``advantage, weight, old, behavior,
    reference, entropy, clipped, present, push, rule_json, steps_json``.
    """
    for name in waivers:
        if name not in WAIVERS:
            raise UnknownName("waiver", name, WAIVERS)
    arrays = {
        "advantage": advantage_N, "weight": weight_N, "old": measured.old_N, "behavior": tokens.behavior_N,
        "reference": measured.reference_N, "entropy": measured.entropy_N,
        "clipped": account.clipped_N if clipped_N is None else clipped_N,
        "present": account.present_N, "push": account.push_N,
    }
    _check(tokens, arrays)
    rule = orjson.dumps(dict(account.rule)).decode() if account.rule else None
    rows: list[Mapping[str, Any]] = []
    for trajectory, (turn, k), span, index_N, offset_N in _by_span(tokens):
        source = tokens.trajectories[trajectory].trajectory
        length, sampled = len(source.spans[span].ids), source.spans[span].sampled
        waiver = "+".join(name for name in waivers if name != "demonstrations" or not sampled)
        rows.append({
            "episode": tokens.trajectories[trajectory].episode.id, "seat": source.seat, "policy": source.policy,
            "at": turn, "span": span, "stage": stage, "waiver": waiver, "version": version,
            "batch_group": int(tokens.group_N[index_N[0]]),
            **{name: _spread(name, array, index_N, offset_N, length) for name, array in arrays.items()},
            "rule_json": rule, "steps_json": account.steps(trajectory, k, index_N),
        })
    return rows


def waived(row: Mapping[str, Any]) -> frozenset[str]:
    """The waivers of a row of credit.

    >>> sorted(waived({"waiver": "demonstrations+steps"})), waived({"waiver": ""})
    (['demonstrations', 'steps'], frozenset())
    """
    return frozenset(name for name in row["waiver"].split("+") if name)


def writer_of(episode: Episode, trajectory: Trajectory) -> PolicyInfo | None:
    """Who wrote a trajectory, where the cast says so, for its seat or another."""
    seat = episode.cast.get(trajectory.seat)
    return next((i for i in (seat, *episode.cast.values()) if i and i.name == trajectory.policy), None)


def may_demonstrate(episode: Episode, trajectory: Trajectory) -> bool:
    """Whether tokens of a trajectory that nobody sampled may be learned from as demonstrations: not where a model wrote
    it, for then they are what others said, taken for the model's."""
    writer = writer_of(episode, trajectory)
    return writer is None or writer.kind != "model"


def _check(tokens: Tokens, arrays: Mapping[str, Any]) -> None:
    for name, array in arrays.items():
        if array is None:
            continue
        if array.shape != (len(tokens),):
            raise BadInput(f"{name}_N has shape {array.shape}; expected ({len(tokens)},), one for each token")
        bad = ~np.isfinite(array) if name == "weight" else np.isinf(array)
        if bad.any():
            n = int(bad.argmax())
            source = tokens.trajectories[int(tokens.trajectory_N[n])]
            raise NotFinite(f"{name}_N[{n}] is {array[n]} (episode {source.episode.id}, seat {source.trajectory.seat}, "
                            f"turn {int(tokens.turn_N[n])})")


def _spread(name: str, array: Any, index_N: IntArray, offset_N: IntArray, length: int) -> Any:
    """The values of a span's tokens at their places in it; elsewhere zero weight, not clipped, and unknown."""
    if array is None:
        return None
    empty: Any = {"weight": 0.0, "clipped": False}.get(name, np.nan)
    out = np.full(length, empty)
    out[offset_N] = array[index_N]
    return out


def _by_span(tokens: Tokens) -> Iterator[tuple[int, tuple[int, int], int, IntArray, IntArray]]:
    """Trajectory row, ``Turn.at`` with the turn's index, span, the tokens of that span, and their places in it."""
    depth_N = tokens.tree.depth_U()[tokens.node_N]
    starts: dict[int, list[int]] = {}
    for b, k, index_N in _by_turn(tokens):
        trajectory = tokens.trajectories[b].trajectory
        turn = [turn for turn in trajectory.turns if not turn.branch][k]
        if b not in starts:
            starts[b] = _starts(trajectory)
        for span in turn.spans:
            place_N = depth_N[index_N] - starts[b][span]
            inside = (place_N >= 0) & (place_N < len(trajectory.spans[span].ids))
            for layer in _layers(place_N[inside]):
                yield b, (turn.at, k), span, index_N[inside][layer], place_N[inside][layer]


def _by_turn(tokens: Tokens) -> Iterator[tuple[int, int, IntArray]]:
    """Trajectory row, turn index, and the tokens of that turn in their order."""
    if not len(tokens):
        return
    order = np.lexsort((np.arange(len(tokens)), tokens.turn_N, tokens.trajectory_N))
    keys = np.stack([tokens.trajectory_N[order], tokens.turn_N[order]])
    cuts = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
    for index_N in np.split(order.astype(np.int32), cuts):
        yield int(tokens.trajectory_N[index_N[0]]), int(tokens.turn_N[index_N[0]]), index_N


def _starts(trajectory: Trajectory) -> list[int]:
    """Per span, how many tokens stand before it on its path."""
    starts: list[int] = []
    for span in trajectory.spans:
        starts.append(starts[span.parent] + len(trajectory.spans[span.parent].ids) if span.parent >= 0 else 0)
    return starts


def _layers(place_N: IntArray) -> Iterator[BoolArray]:
    """One mask if every place occurs once; a further one for each further occurrence."""
    seen: dict[int, int] = {}
    layer_N = np.zeros(len(place_N), np.int32)
    for n, place in enumerate(place_N.tolist()):
        layer_N[n] = seen.get(place, 0)
        seen[place] = int(layer_N[n]) + 1
    for layer in range(int(layer_N.max()) + 1 if len(layer_N) else 0):
        yield layer_N == layer
