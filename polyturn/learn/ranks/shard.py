"""One rank's share of a learner: shards of weights and moments, passes and steps that all ranks make together.

Weights are sharded by FSDP2: a rank keeps one part in so many of each parameter, and gathers a layer around the call
of that layer and around its backward pass. Everything here that touches weights must be called on all ranks, in the
same order; what differs between ranks is the part that they compute, and whether it is any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from polyturn.forest.attention import causal_model
from polyturn.forest.model import Forest
from polyturn.learn.learner import adamw
from polyturn.learn.ranks.part import Part, Whole
from polyturn.policies.skeleton import built, check_whole

Slopes = Mapping[str, Tensor]
"""The loss's derivative by what was read, by name: ``logprob_N``, ``entropy_N``, heads. What is missing is 0."""


class Shard:
    """A rank's share. ``told``: ``model`` as :func:`polyturn.policies.skeleton.described` has it, ``heads`` (names),
    ``reference`` (whether there is one), ``verdict``, ``dtype``, ``recompute``, ``betas``, ``weight_decay``.

    ``source``: on rank 0 the model whose weights are handed round, elsewhere None.
    """

    def __init__(self, told: Mapping[str, Any], mesh: DeviceMesh, device: torch.device, source: Any = None) -> None:
        self.told, self.mesh, self.device = told, mesh, device
        self.whole = self._made(source)
        self.reference = self._made(source).requires_grad_(False) if told["reference"] else None
        self.parameters = {n: p for n, p in _named(self.whole).items() if p.requires_grad}
        self.heads = list(told["heads"])
        self._graph: tuple[Tensor, ...] = ()
        self.reset_optimizer()

    def _made(self, source: Any) -> Whole:
        """The model, sharded, with the source's weights and heads that begin at zero."""
        told = self.told
        model = built(told["model"])
        forest = Forest(model, dtype=told["dtype"], recompute=told["recompute"], verdict=tuple(told["verdict"]))
        like: Tensor = forest.head.weight  # type: ignore[assignment]
        heads = nn.ModuleDict({
            name: nn.Linear(like.shape[1], 1, dtype=like.dtype, device="meta") for name in told["heads"]})
        whole = Whole(forest, heads)
        for layer in forest.layers if forest.exact else []:
            _sharded(layer, self.mesh)
        _sharded(whole, self.mesh)
        whole.to_empty(device=self.device)
        own = {} if source is None else dict(source.named_parameters())
        for name, parameter in _named(whole).items():
            if name.startswith("heads."):
                parameter.data.zero_()
            else:
                self._put(parameter, own.get(name))
        given = {} if source is None else dict(source.named_buffers())
        for name, buffer in model.named_buffers():
            if given:
                buffer.copy_(given[name])
            dist.broadcast(buffer, 0)
        check_whole(whole)
        return whole

    def reset_optimizer(self) -> None:
        """Forgets the moments."""
        self.optimizer = adamw(
            self.parameters.values(), lr=0.0, betas=tuple(self.told["betas"]), weight_decay=self.told["weight_decay"])

    # ------------------------------------------------------------ passes

    @torch.no_grad()
    def read(self, part: Part, *, reference: bool = False) -> dict[str, Tensor]:
        """What the model, or its reference, says about a part: ``logprob_N``, ``entropy_N``, and heads over R."""
        whole = self.reference if reference and self.reference is not None else self.whole
        found = whole(part)
        _released(whole)
        return self._by_name(found)

    def learn(self, part: Part) -> dict[str, Tensor]:
        """The same at the present weights, with its graph kept for :meth:`push`."""
        self._graph = self.whole(part)
        return {name: value.detach() for name, value in self._by_name(self._graph).items()}

    def push(self, slopes: Slopes) -> None:
        """Adds the gradient of ``sum(slope * read)`` over all ranks to the shards.

        Every output is given a slope, be it 0, so that all ranks have gradients of the same parameters.
        """
        graph, self._graph = self._by_name(self._graph), ()
        given = [slopes.get(name, torch.zeros_like(value)).to(value) for name, value in graph.items()]
        outputs, by = zip(*((o, s) for o, s in zip(graph.values(), given, strict=True) if o.requires_grad), strict=True)
        torch.autograd.backward(outputs, by)

    def drop(self) -> None:
        """Forgets the graph that is kept, and all gradients."""
        self._graph = ()
        self.optimizer.zero_grad(set_to_none=True)
        _released(self.whole)

    def _by_name(self, found: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(("logprob_N", "entropy_N", *self.heads), found, strict=True))

    # ------------------------------------------------------------ steps

    def step(self, lr: float, max_norm: float, unused: Sequence[str]) -> tuple[float, list[str]]:
        """Clips by the norm over all ranks and steps; (that norm, parameters whose gradient here is not finite). There
        is no step where the norm is not finite. ``unused``: what the loss did not depend on, so that nothing which only
        serves it moves."""
        for name in self._only_for(unused):
            self.parameters[name].grad = None
        grads = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
        found = torch.nn.utils.clip_grad_norm_([self.parameters[name] for name in grads], max_norm)
        norm = float(found.full_tensor() if isinstance(found, DTensor) else found)
        broken = [n for n, grad in grads.items() if not bool(torch.isfinite(_here(grad)).all())]
        if norm - norm == 0:  # neither infinite nor NaN
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, broken

    def _only_for(self, unused: Sequence[str]) -> list[str]:
        """The learning parameters that only serve these outputs."""
        found = [n for n in self.parameters if n.startswith(tuple(f"heads.{head}." for head in unused))]
        inner = causal_model(self.whole.model)
        weight = inner.get_output_embeddings().weight
        if {"logprob_N", "entropy_N"} <= set(unused) and weight is not inner.get_input_embeddings().weight:
            found += [name for name, parameter in self.parameters.items() if parameter is weight]
        return found

    @torch.no_grad()
    def renew(self, share: float) -> None:
        """``reference = (1 - share) reference + share present``."""
        assert self.reference is not None
        present = _named(self.whole)
        for name, weight in _named(self.reference).items():
            weight.lerp_(present[name], share)

    # ------------------------------------------------------------ whole tensors

    def tensors(self, kind: str) -> dict[str, Any]:
        """Sharded tensors by name: ``weights`` that learn, those of the ``reference``, or ``moments``, there (name,
        key) by ``name/key``, with numbers that are no tensors of weights as they are."""
        if kind == "weights":
            return dict(self.parameters)
        if kind == "reference":
            every = {} if self.reference is None else _named(self.reference)
            return {name: every[name] for name in self.parameters if name in every}
        return {
            f"{name}/{key}": value for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    @torch.no_grad()
    def fetch(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """(name, whole tensor), one after the other, to be consumed on all ranks."""
        for name, value in self.tensors(kind).items():
            yield name, (value.full_tensor() if isinstance(value, DTensor) else value).detach()

    @torch.no_grad()
    def put(self, kind: str, names: Sequence[str], source: Mapping[str, Tensor] | None = None) -> None:
        """Takes over whole tensors, which rank 0 has as ``source``; moments that are not named are forgotten."""
        if kind != "moments":
            for name, target in self.tensors(kind).items():
                self._put(target, None if source is None else source[name])
            return
        self.reset_optimizer()
        for place in names:
            name, _, key = place.rpartition("/")
            parameter = self.parameters[name]
            state = self.optimizer.state[parameter]
            if key == "step":
                count = torch.zeros((), device=self.device) if source is None else source[place].clone().to(self.device)
                dist.broadcast(count, 0)
                state[key] = count
            else:
                state[key] = torch.zeros_like(parameter, requires_grad=False)
                self._put(state[key], None if source is None else source[place])

    @torch.no_grad()
    def _put(self, target: Any, value: Tensor | None) -> None:
        """Writes rank 0's whole tensor into the shards."""
        whole = torch.empty(target.shape, dtype=target.dtype, device=self.device) if value is None else (
            value.detach().to(self.device, target.dtype).contiguous())
        _here(target).copy_(_here(distribute_tensor(whole, self.mesh, target.placements)))


def _sharded(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shards what no module inside has sharded; gradients are summed over ranks, not averaged."""
    fully_shard(module, mesh=mesh)
    assert isinstance(module, FSDPModule)
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)


def _released(module: nn.Module) -> None:
    """Frees the gathered weights that a call leaves behind where no backward pass follows."""
    assert isinstance(module, FSDPModule)
    module.reshard()


def _named(whole: Whole) -> dict[str, nn.Parameter]:
    """Parameters by the names that a learner in one process gives them."""
    heads = {f"heads.{name}": p for name, p in whole.heads.named_parameters()}
    return dict(whole.model.named_parameters()) | heads


def _here(tensor: Any) -> Tensor:
    """This rank's part of a tensor."""
    found: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return found
