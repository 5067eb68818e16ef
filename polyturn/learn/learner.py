"""The learner: reads a batch at its present weights, and makes one optimizer step from a loss. It knows no tasks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from polyturn.arrays import Measured, Tokens
from polyturn.errors import BadInput, NotFinite
from polyturn.forest.layout import pack
from polyturn.forest.model import Forest
from polyturn.learn.gradient import Batch, Reader, Tally, accumulate, before, make_batch, place
from polyturn.learn.learns import Published
from polyturn.learn.memory import FreedMemory, keep_freed_memory
from polyturn.losses.learned import Loss, Metrics
from polyturn.paths import merged
from polyturn.types import FloatArray, IntArray
from polyturn.waits import waited


class Learner:
    """One model that learns.

    ``model``: a transformers causal language model, or a peft model around one (then its adapters learn); weights that
    learn are float32 or float64. ``trainable``: a regular expression over parameter names, None = those that require
    gradients now. ``reference``: a model to measure ``reference_N`` with, or ``"initial"`` = this model as it is now
    and its heads (with adapters only they are copied). ``heads``: names of linear value heads, zero at first, or name
    -> module from hidden states [R, H] to values [R, 1]. ``dtype``: run the layers in ``"bfloat16"``, weights stay as
    they are. ``recompute``: gradient checkpointing. ``tokens_per_pass``: tree nodes that go through the model at once,
    which bounds memory and changes no result. AdamW decays matrices only. Making one tells the process to keep freed
    memory (:mod:`polyturn.learn.memory`).
    """

    def __init__(
        self, model: nn.Module, *, lr: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.95),
        max_grad_norm: float = 1.0, tokens_per_pass: int = 1024, trainable: str | None = None,
        reference: nn.Module | Literal["initial"] | None = None, heads: Sequence[str] | Mapping[str, nn.Module] = (),
        dtype: str | None = None, recompute: bool = False, clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        if tokens_per_pass < 1:
            raise BadInput(f"tokens_per_pass is {tokens_per_pass}; expected at least 1")
        self.model, self.version = model, 0
        self.last: Measured | None = None
        self.lr, self.weight_decay, self.betas, self.max_grad_norm = lr, weight_decay, betas, max_grad_norm
        self.tokens_per_pass, self.clock = tokens_per_pass, clock
        self.forest = Forest(model, dtype=dtype, recompute=recompute)
        weight: Tensor = self.forest.head.weight  # type: ignore[assignment]
        self.heads = _made_heads(heads, weight)
        self.parameters = chosen(model, trainable) | {f"heads.{n}": p for n, p in self.heads.named_parameters()}
        self._initial = reference == "initial"
        self._freed = FreedMemory()
        watched = _frozen_copy(model) if reference == "initial" else reference
        self.reference = None if watched is None else Forest(watched, dtype=dtype)
        self.reference_heads = nn.ModuleDict(deepcopy(dict(self.heads)) if self._initial else {}).requires_grad_(False)
        self.reset_optimizer()
        keep_freed_memory()

    @property
    def _reader(self) -> Reader:
        return Reader(self.forest, self.heads)

    def reset_optimizer(self) -> None:
        """Forgets the optimizer's moments."""
        self.optimizer = adamw(self.parameters.values(), lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

    # ------------------------------------------------------------ reading

    @waited("the loop", "the learner", "a measurement")
    @torch.no_grad()
    def measure(self, tokens: Tokens) -> Measured:
        """Log-probability, entropy and value heads of every token at the present weights, and the reference's.

        Raises: NotFinite for a log-probability that is not finite, with its token.
        """
        ends = np.flatnonzero(tokens.end_B >= 0) if self.heads else np.zeros(0, np.int64)
        count, node_R = len(tokens), np.concatenate([before(tokens), tokens.end_B[ends]]).astype(np.int32)
        names = ["old_N", "entropy_N", *self.heads, *(["reference_N"] if self.reference else [])]
        column = {name: np.full(count, np.nan) for name in names}
        end = {name: np.full(len(tokens.trajectories), np.nan) for name in self.heads}
        for one in pack(tokens.tree, node_R, self.tokens_per_pass):
            index_N, rows = one.index_R[one.index_R < count], one.index_R[one.index_R >= count] - count
            hidden_RH = self.forest.hidden(tokens.tree, node_R[one.index_R])
            found = self._reader.read(tokens, hidden_RH[: len(index_N)], index_N)
            column["old_N"][index_N] = floats(found.logprob_N)
            column["entropy_N"][index_N] = floats(found.entropy_N)
            for name, value_R in self._reader.values(hidden_RH).items():
                column[name][index_N] = floats(value_R[: len(index_N)])
                end[name][ends[rows]] = floats(value_R[len(index_N) :])
            if self.reference is not None:
                other = Reader(self.reference, nn.ModuleDict()).run(tokens, index_N)
                column["reference_N"][index_N] = floats(other.logprob_N)
        refuse_broken(tokens, column)
        return Measured(
            column["old_N"], column.get("reference_N"), column["entropy_N"], {n: column[n] for n in self.heads}, end
        )

    @torch.no_grad()
    def values(self, tokens: Tokens, *, reference: bool = False) -> dict[str, FloatArray]:
        """head -> value_N, read at the node before each token; no log-probabilities are computed.

        ``reference``: by the heads and weights of the reference. Raises: BadInput for heads that it does not have.
        """
        if not self.heads or (reference and not self.reference_heads):
            raise BadInput("there are no heads to read; pass heads=, and reference='initial' for those of a reference")
        forest, heads = self.forest, self.heads
        if reference and self.reference is not None:
            forest, heads = self.reference, self.reference_heads
        node_N = before(tokens)
        found = {name: np.full(len(tokens), np.nan) for name in heads}
        for one in pack(tokens.tree, node_N, self.tokens_per_pass):
            hidden_RH = forest.hidden(tokens.tree, node_N[one.index_R])
            for name, value_R in Reader(forest, heads).values(hidden_RH).items():
                found[name][one.index_R] = floats(value_R)
        refuse_broken(tokens, found)
        return found

    @torch.no_grad()
    def score(self, paths: Sequence[IntArray]) -> list[FloatArray]:
        """Per path, log p(id_t | ids before t); the first entry is NaN. Equal beginnings are computed once."""
        tree, nodes = merged(paths)
        node_N = np.array([n for path in nodes for n in path[1:]], np.int32)
        found_N = np.zeros(len(node_N))
        before_N = tree.parent_U[node_N]
        for one in pack(tree, before_N, self.tokens_per_pass):
            hidden_NH = self.forest.hidden(tree, before_N[one.index_R])
            ones = np.ones(len(one.index_R))
            found_N[one.index_R] = floats(self.forest.logprobs(hidden_NH, tree.id_U[node_N[one.index_R]], ones, {})[0])
        cuts = np.cumsum([max(len(path) - 1, 0) for path in nodes])[:-1]
        return [
            np.concatenate([[np.nan], part]) if len(path) else np.zeros(0)
            for path, part in zip(nodes, np.split(found_N, cuts), strict=True)
        ]

    @torch.no_grad()
    def _reference_N(self, reference: Forest, batch: Batch) -> Tensor:
        """The reference's log-probabilities of a batch."""
        column = torch.zeros(len(batch.tokens), dtype=batch.columns["weight_N"].dtype, device=self.forest.device)
        for one in pack(batch.tokens.tree, before(batch.tokens), self.tokens_per_pass):
            found = Reader(reference, nn.ModuleDict()).run(batch.tokens, one.index_R)
            column[torch.as_tensor(one.index_R.astype(np.int64), device=column.device)] = found.logprob_N
        return column

    # ------------------------------------------------------------ learning

    @waited("the loop", "the learner", "an update")
    def update(
        self, tokens: Tokens, measured: Measured | None, advantage_N: FloatArray, weight_N: FloatArray, loss: Loss, *,
        target_N: FloatArray | None = None, targets: Mapping[str, FloatArray] | None = None,
    ) -> Metrics:
        """Metrics of one optimizer step down the loss, summed over all tokens of weight other than zero.

        ``target_N`` is what one head is to predict, ``targets`` (head -> target_N, NaN = nothing) what several are.

        ``measured=None`` says that these weights wrote the batch: the log-probabilities of this update stand for the
        old ones, which saves a forward. ``last`` afterwards holds what was read before the step (NaN at weight zero).
        Tokens of weight zero are not computed. With no other tokens there is no step (``learner/steps`` is 0).
        Entropy and ``kl_old`` are means over tokens, what the loss reports is a sum.

        Raises: BadInput for arrays of another length; NotFinite for a number, loss or gradient that is not finite, with
        the first token or parameter; the weights are then unchanged.
        """
        started = self.clock()
        columns = {"advantage_N": advantage_N, "weight_N": weight_N, "target_N": target_N}
        batch = make_batch(tokens, measured, columns, self.forest.head.weight, targets)  # type: ignore[arg-type]
        count = len(batch.tokens)
        if measured is None and self.reference is not None:
            batch.columns["reference_N"] = self._reference_N(self.reference, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self._freed.give_back()
        try:
            tally = accumulate(self._reader, batch, loss, self.tokens_per_pass)
            norm = self._step() if count else 0.0
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self._freed.give_back()
        self.last = spread(tally, batch, len(tokens))
        return told(tally, count, {"grad_norm": norm, "lr": self.lr, "seconds": self.clock() - started})

    def _step(self) -> float:
        """Clips and steps; returns the norm before clipping."""
        learning = [p for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(learning, self.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            grads = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
            broken = next((n for n, g in grads.items() if not bool(torch.isfinite(g).all())), "the sum of all squares")
            raise NotFinite(f"the gradient is not finite, first in {broken}; the step was not made")
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.optimizer.step()
        return float(norm)

    def publish(self, policy: Published) -> None:
        """Counts the version up and tells the policy."""
        self.version += 1
        policy.publish(self.version)

    @torch.no_grad()
    def renew_reference(self, share: float = 1.0) -> None:
        """``reference = (1 - share) * reference + share * present``, weights and heads: 1 = the model as it is now.

        Raises: BadInput without a reference of its own (``reference="initial"``), or for a share outside 0..1.
        """
        if not self._initial or not 0 < share <= 1:
            raise BadInput(
                f"share is {share}, and the reference is {'its own' if self._initial else 'not its own'}; expected a "
                "number in (0, 1] and a learner made with reference='initial'"
            )
        for name, weight in self._reference_weights().items():
            weight.lerp_(self.parameters[name].to(weight.dtype), share)

    # ------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Weights that learn, the optimizer's moments by parameter name, version, learning rate.

        The arrays are the live ones, so that saving needs no memory: save or copy them before the next update.
        """
        moments = {
            name: {key: value.detach().cpu() for key, value in self.optimizer.state[parameter].items()}
            for name, parameter in self.parameters.items() if parameter in self.optimizer.state
        }  # fmt: skip
        found: dict[str, Any] = {
            "version": self.version, "lr": self.lr, "optimizer": moments,
            "weights": {name: p.detach().cpu() for name, p in self.parameters.items()},
        }  # fmt: skip
        if self._initial:
            found["reference"] = {n: p.detach().cpu() for n, p in self._reference_weights().items()}
        return found

    def _reference_weights(self) -> dict[str, Tensor]:
        """The weights of the initial copy and its heads that differ from the model's, by the names of those."""
        if not self._initial or self.reference is None:
            return {}
        own: dict[str, Tensor] = {n: p for n, p in self.reference.model.named_parameters() if n in self.parameters}
        return own | {f"heads.{name}": p for name, p in self.reference_heads.named_parameters()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over a state; the sampler sees the weights after the next publish.

        Raises: BadInput for other parameters or shapes than this learner's; nothing is changed then.
        """
        copy_into(state["weights"], self.parameters, dry=True)
        if self._initial:
            copy_into(state["reference"], self._reference_weights())
        copy_into(state["weights"], self.parameters)
        self.version, self.lr = int(state["version"]), float(state["lr"])
        self.reset_optimizer()
        for name, moments in state["optimizer"].items():
            self.optimizer.state[self.parameters[name]] = {
                key: torch.as_tensor(value).clone().to(self.parameters[name].device) for key, value in moments.items()
            }


def adamw(parameters: Iterable[Tensor], *, lr: float, betas: tuple[float, float],
          weight_decay: float) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW of some parameters, matrices of which decay and nothing else."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, fused=True)


def told(tally: Tally, count: int, more: Mapping[str, float]) -> Metrics:
    """The metrics of an update over ``count`` tokens; ``more`` = what else is told of the learner, by bare name."""
    metrics: Metrics = {name if "/" in name else f"learner/{name}": value for name, value in tally.sums.items()}
    for name in ("learner/entropy", "learner/kl_old"):
        metrics[name] = metrics.get(name, 0.0) / max(count, 1)
    return {
        "learner/loss": 0.0, "learner/nodes": 0, **metrics, "learner/tokens": count, "learner/steps": int(count > 0),
        **{f"learner/{name}": value for name, value in more.items()},
    }  # fmt: skip


def merge(states: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """A state whose weights are ``sum_i weights_i * states_i``, without moments; the weights must sum to 1.

    Raises: BadInput for other parameters in one of the states, or weights that do not sum to 1.
    """
    if len(states) != len(weights) or not states or abs(sum(weights) - 1) > 1e-6:
        raise BadInput(f"{len(states)} states and weights {list(weights)}; expected one weight a state, with sum 1")
    first = states[0]["weights"]
    mixed = {name: torch.zeros_like(torch.as_tensor(value), dtype=torch.float64) for name, value in first.items()}
    for state, weight in zip(states, weights, strict=True):
        copy_into(state["weights"], mixed, dry=True)
        for name, value in state["weights"].items():
            mixed[name] += weight * torch.as_tensor(value).double()
    kept = {name: value.to(torch.as_tensor(first[name]).dtype) for name, value in mixed.items()}
    return {**states[0], "version": max(int(s["version"]) for s in states), "weights": kept, "optimizer": {}}


def copy_into(source: Mapping[str, Any], target: Mapping[str, Tensor], *, dry: bool = False) -> None:
    """Writes arrays into tensors of the same names and shapes."""
    shapes = ({n: tuple(v.shape) for n, v in source.items()}, {n: tuple(v.shape) for n, v in target.items()})
    if shapes[0] != shapes[1]:
        other = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
        raise BadInput(
            f"this state is of another model: {len(other)} parameters differ, the first is {other[0]!r} with shape "
            f"{shapes[0].get(other[0], 'missing')} here and {shapes[1].get(other[0], 'missing')} expected"
        )
    if not dry:
        for name, value in target.items():
            value.copy_(torch.as_tensor(source[name]))


def chosen(model: nn.Module, pattern: str | None) -> dict[str, nn.Parameter]:
    """The parameters that learn; all others stop requiring gradients."""
    named = dict(model.named_parameters())
    found = {n: p for n, p in named.items() if (p.requires_grad if pattern is None else re.search(pattern, n))}
    if not found:
        raise BadInput(f"no parameter matches {pattern!r}; names are like {', '.join(list(named)[:3])}")
    for name, parameter in named.items():
        parameter.requires_grad_(name in found)
        if name in found and parameter.dtype not in (torch.float32, torch.float64):
            raise BadInput(
                f"parameter {name} is {parameter.dtype}; weights that learn must be float32 (small steps are lost "
                "otherwise): load the model with dtype=torch.float32 and pass dtype='bfloat16' to the learner"
            )
    return found


def _made_heads(heads: Sequence[str] | Mapping[str, nn.Module], like: Tensor) -> nn.ModuleDict:
    """The given modules, or zero linear ones of the given names, of the type and on the device of ``like``."""
    if isinstance(heads, Mapping):
        return nn.ModuleDict(dict(heads)).to(like.device, like.dtype)
    made = nn.ModuleDict({name: nn.Linear(like.shape[1], 1, device=like.device, dtype=like.dtype) for name in heads})
    for value in made.parameters():
        nn.init.zeros_(value)
    return made


def _frozen_copy(model: nn.Module) -> nn.Module:
    """A copy that does not learn; weights that do not learn are shared."""
    shared: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
    return deepcopy(model, shared).requires_grad_(False)


def spread(tally: Tally, batch: Batch, count: int) -> Measured:
    """What was read of a batch, at the places of all tokens that it came from."""
    old_N, entropy_N = np.full(count, np.nan), np.full(count, np.nan)
    old_N[batch.kept_N], entropy_N[batch.kept_N] = tally.old_N, tally.entropy_N
    reference_N = None
    if "reference_N" in batch.columns:
        reference_N = np.full(count, np.nan)
        reference_N[batch.kept_N] = floats(batch.columns["reference_N"])
    heads = {name: np.full(count, np.nan) for name in tally.heads}
    for name, value_N in tally.heads.items():
        heads[name][batch.kept_N] = value_N
    return Measured(old_N, reference_N, entropy_N, heads)


def refuse_broken(tokens: Tokens, column: Mapping[str, FloatArray]) -> None:
    """Raises: NotFinite where a measured column holds NaN or infinity, with the place of the first."""
    for name, values in column.items():
        if not np.isfinite(values).all():
            worst = int(np.argmin(np.isfinite(values)))
            raise NotFinite(f"{name} measured as {values[worst]} at {place(tokens, worst)}; the weights are broken")


def floats(values: Tensor) -> FloatArray:
    """A tensor as a float64 array."""
    return values.double().cpu().numpy()
