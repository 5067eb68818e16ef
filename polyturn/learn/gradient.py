"""From a loss to gradients, a pass at a time: what is summed does not depend on how the batch was cut.

A loss is a sum over tokens, so the gradients of its parts add up. A part that may not be cut (the loss needs a whole
trajectory) but does not fit into one pass is walked twice: first its log-probabilities without a graph, on which the
loss gives ``g_N = dL / dlogprob_N``; then pass by pass the gradient of ``sum(g_N * logprob_N)``, which is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polyturn.arrays import Measured, Tokens, take
from polyturn.errors import BadInput, NotFinite
from polyturn.forest.layout import Pass, pack
from polyturn.forest.model import Forest
from polyturn.losses.learned import Learned, Loss, unit_of
from polyturn.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model says about some tokens; tensors over N."""

    logprob_N: Tensor
    entropy_N: Tensor
    heads: Mapping[str, Tensor] = field(default_factory=dict)

    def parts(self) -> dict[str, Tensor]:
        """All of it by name."""
        return {"logprob_N": self.logprob_N, "entropy_N": self.entropy_N, **self.heads}


@dataclass(frozen=True, slots=True)
class Reader:
    """A model with its value heads."""

    forest: Forest
    heads: nn.ModuleDict

    def values(self, hidden_RH: Tensor) -> dict[str, Tensor]:
        """Head name -> value_R."""
        return {name: head(hidden_RH)[:, 0] for name, head in self.heads.items()}

    def read(self, tokens: Tokens, hidden_NH: Tensor, index_N: IntArray) -> Reading:
        """The tokens ``index_N``, given the hidden states before them."""
        support = {new: tokens.support[n] for new, n in enumerate(index_N.tolist()) if n in tokens.support}
        found = self.forest.logprobs(hidden_NH, tokens.id_N[index_N], tokens.temperature_N[index_N], support)
        return Reading(*found, self.values(hidden_NH))

    def run(self, tokens: Tokens, index_N: IntArray) -> Reading:
        """The tokens ``index_N``, by one forward over the part of the tree that they need."""
        return self.read(tokens, self.forest.hidden(tokens.tree, before(tokens)[index_N]), index_N)


def before(tokens: Tokens) -> IntArray:
    """The node before each token, where it is predicted from.

    Raises: BadInput for a token that begins its path.
    """
    node_N = tokens.tree.parent_U[tokens.node_N]
    if len(node_N) and node_N.min() < 0:
        first = place(tokens, int(np.argmin(node_N)))
        raise BadInput(f"{first} begins its path, so nothing predicts it; a prompt must come before it")
    return node_N


def place(tokens: Tokens, n: int) -> str:
    """Where token ``n`` stands, for a message."""
    source = tokens.trajectories[tokens.trajectory_N[n]]
    return (
        f"token {n} (id {tokens.id_N[n]}, episode {source.episode.id}, seat {source.trajectory.seat}, "
        f"turn {tokens.turn_N[n]} of its trajectory)"
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of one update with their constant columns, all of weight other than zero."""

    tokens: Tokens
    kept_N: IntArray
    """Where they stood before those of weight zero were left out."""
    columns: dict[str, Tensor]
    targets: dict[str, Tensor] = field(default_factory=dict)
    """head -> target, NaN = none."""

    def learned(self, index_N: IntArray, reading: Reading) -> Learned:
        """What the loss sees of the tokens ``index_N``; unmeasured old log-probabilities are those of the reading."""
        index = torch.as_tensor(index_N.astype(np.int64), device=reading.logprob_N.device)
        here: dict[str, Any] = {"old_N": reading.logprob_N.detach()}
        here.update({name: column[index] for name, column in self.columns.items()})
        targets = {name: column[index] for name, column in self.targets.items()}
        return Learned(
            logprob_N=reading.logprob_N, entropy_N=reading.entropy_N, heads=reading.heads, targets=targets, **here
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """What is gathered while passes go by."""

    sums: Counter[str]
    old_N: FloatArray
    """Log-probabilities before the step."""
    entropy_N: FloatArray
    heads: dict[str, FloatArray]


def new_tally(count: int) -> Tally:
    """A tally of a batch of ``count`` tokens, none of them seen yet."""
    return Tally(Counter(), np.full(count, np.nan), np.full(count, np.nan), {})


def make_batch(
    tokens: Tokens, measured: Measured | None, columns: Mapping[str, FloatArray | None], like: Tensor,
    targets: Mapping[str, FloatArray] | None = None,
) -> Batch:
    """The batch of the tokens with a weight other than zero; numbers in the type and on the device of ``like``.

    Raises: BadInput for a column of another length; NotFinite for a number that is none, with its token (in
    ``targets`` NaN is allowed, and says that the head learns nothing there).
    """
    read = {} if measured is None else {"old_N": measured.old_N, "reference_N": measured.reference_N}
    given = {**read, **columns}
    known = {name: column for name, column in given.items() if column is not None}
    aims = {f"target of {name}": np.where(np.isnan(aim), 0.0, aim) for name, aim in (targets or {}).items()}
    for name, column in {**known, **aims}.items():
        if column.shape != (len(tokens),):
            raise BadInput(f"{name} has shape {column.shape}; expected ({len(tokens)},), one number for each token")
        if not np.isfinite(column).all():
            worst = int(np.argmin(np.isfinite(column)))
            raise NotFinite(f"{name} is {column[worst]} at {place(tokens, worst)}; nothing was changed")
    kept = np.flatnonzero(known["weight_N"]).astype(np.int32)
    part = take(tokens, kept)
    numbers = {"behavior_N": part.behavior_N, **{name: column[kept] for name, column in known.items()}}
    whole = {
        "turn_N": part.turn_N, "trajectory_N": part.trajectory_N, "group_N": part.group_N, "version_N": part.version_N,
    }  # fmt: skip
    def tensor(column: FloatArray) -> Tensor:
        return torch.as_tensor(column, dtype=like.dtype, device=like.device)

    return Batch(part, kept, {
        **{name: tensor(column) for name, column in numbers.items()},
        **{name: torch.as_tensor(column.astype(np.int64), device=like.device) for name, column in whole.items()},
    }, {name: tensor(aim[kept]) for name, aim in (targets or {}).items()})  # fmt: skip


def accumulate(reader: Reader, batch: Batch, loss: Loss, limit: int) -> Tally:
    """Adds the gradient of the loss over the batch to ``.grad`` of the parameters; returns what was seen on the way.

    ``loss``: the loss; ``nodes``: tree nodes computed with gradients; ``entropy`` and ``kl_old`` (the k3 estimate
    ``exp(d) - 1 - d`` of KL(old || new), d = new - old): sums over tokens. Others come from the loss.

    Raises: NotFinite for a log-probability or a loss that is not finite, before any gradient of its pass.
    """
    tally = new_tally(len(batch.tokens))
    node_N = before(batch.tokens)
    for one in pack(batch.tokens.tree, node_N, limit, unit_numbers(batch.tokens, unit_of(loss))):
        parts = pack(batch.tokens.tree, node_N[one.index_R], limit) if one.nodes > limit else []
        if len(parts) > 1:
            _replay(reader, batch, loss, one, parts, tally)
        else:
            reading = reader.run(batch.tokens, one.index_R)
            evaluate(batch, loss, one.index_R, reading, tally).backward()
            tally.sums["nodes"] += one.nodes
    return tally


def unit_numbers(tokens: Tokens, unit: str) -> IntArray | None:
    """A number for each token, equal within a unit; None where every token stands alone."""
    if unit == "token":
        return None
    if unit == "turn":
        return tokens.trajectory_N * (int(tokens.turn_N.max(initial=0)) + 1) + tokens.turn_N
    return tokens.trajectory_N if unit == "trajectory" else tokens.group_N


def evaluate(batch: Batch, loss: Loss, index_N: IntArray, reading: Reading, tally: Tally) -> Tensor:
    """The loss of some tokens; adds to the tally. Raises: as :func:`accumulate`, and BadInput for a loss that is no
    scalar or depends on nothing that was read."""
    _refuse_broken(batch.tokens, index_N, reading)
    learned = batch.learned(index_N, reading)
    found, metrics = loss(learned)
    if found.ndim or not found.requires_grad:
        raise BadInput(
            f"the loss has shape {tuple(found.shape)} and {'a' if found.requires_grad else 'no'} gradient; expected a "
            "scalar that depends on logprob_N, entropy_N or a head"
        )
    if not bool(torch.isfinite(found)):
        raise NotFinite(
            f"the loss is {found.item()} over {len(index_N)} tokens whose log-probabilities are finite, the first one "
            f"{place(batch.tokens, int(index_N[0]))}; nothing was changed"
        )
    with torch.no_grad():
        gone = learned.logprob_N - learned.old_N
        tally.old_N[index_N] = reading.logprob_N.double().cpu().numpy()
        tally.entropy_N[index_N] = reading.entropy_N.double().cpu().numpy()
        for name, value_N in reading.heads.items():
            tally.heads.setdefault(name, np.full(len(batch.tokens), np.nan))[index_N] = value_N.double().cpu().numpy()
        tally.sums.update({
            "loss": found.item(), "entropy": reading.entropy_N.sum().item(),
            "kl_old": (torch.expm1(gone) - gone).sum().item(), **metrics,
        })  # fmt: skip
    return found


def _refuse_broken(tokens: Tokens, index_N: IntArray, reading: Reading) -> None:
    for name, values in reading.parts().items():
        fine = torch.isfinite(values.detach())
        if not bool(fine.all()):
            worst = int(torch.argmin(fine.to(torch.int8)))
            where = place(tokens, int(index_N[worst]))
            raise NotFinite(f"{name} is {values[worst].item()} at {where}; nothing was changed")


def _replay(reader: Reader, batch: Batch, loss: Loss, one: Pass, parts: list[Pass], tally: Tally) -> None:
    """The two passes over a unit that does not fit into one."""
    with torch.no_grad():
        pieces = [reader.run(batch.tokens, one.index_R[part.index_R]).parts() for part in parts]
    order = torch.as_tensor(np.argsort(np.concatenate([part.index_R for part in parts])))
    leaves = {
        name: torch.cat([piece[name] for piece in pieces])[order].requires_grad_() for name in pieces[0]
    }  # fmt: skip
    evaluate(batch, loss, one.index_R, reading_of(leaves), tally).backward()
    for part in parts:
        index = torch.as_tensor(part.index_R.astype(np.int64))
        fresh = reader.run(batch.tokens, one.index_R[part.index_R]).parts()
        terms = [(fresh[name] * leaf.grad[index]).sum() for name, leaf in leaves.items() if leaf.grad is not None]
        torch.stack(terms).sum().backward()
        tally.sums["nodes"] += part.nodes


def reading_of(parts: Mapping[str, Tensor]) -> Reading:
    """The reading that :meth:`Reading.parts` was made of."""
    heads = {name: value for name, value in parts.items() if name not in ("logprob_N", "entropy_N")}
    return Reading(parts["logprob_N"], parts["entropy_N"], heads)
