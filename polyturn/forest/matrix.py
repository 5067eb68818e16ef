"""Products with a layer's matrices, forwards and backwards by hand: plain ones and ones with a low-rank adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polyturn.forest.products import product


@dataclass(frozen=True, slots=True)
class Matrix:
    """``y = x weight.T + bias + scale (x down.T) up.T``, computed in ``low``.

    ``weight`` [O, I], ``bias`` [O] or None, ``down`` [r, I] and ``up`` [O, r] or None.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor | None
    up: Tensor | None
    scale: float
    low: torch.dtype

    def tensors(self) -> tuple[Tensor | None, ...]:
        """What gradients may be wanted of, in the order of those of :meth:`back`."""
        return self.weight, self.bias, self.down, self.up

    def __call__(self, x: Tensor) -> Tensor:
        """[U, O] of ``x`` [U, I], which is of type ``low``."""
        y = product(x, self.weight.to(self.low))
        if self.bias is not None:
            y.add_(self.bias.to(self.low))
        if self.down is not None and self.up is not None:
            y.addmm_(x @ self.down.to(self.low).t(), self.up.to(self.low).t(), alpha=self.scale)
        return y

    def back(self, x: Tensor, slope: Tensor, into: Tensor | None, needs: Sequence[bool]) -> tuple[Tensor, list[Any]]:
        """(gradient by x, those of :meth:`tensors`); ``slope`` [U, O] is that by y. ``into``: a gradient by x that is
        added. ``needs``: whether each of the tensors wants one."""
        weight = self.weight.to(self.low)
        if into is not None and into.dtype != torch.float32:  # added before it is rounded
            by_x = into.addmm_(slope, weight)
        else:
            by_x = product(slope, weight.t())
            by_x = by_x if into is None else by_x.add_(into)
        found: list[Tensor | None] = [None] * 4
        if needs[0]:
            found[0] = product(slope.t(), x.t()).to(self.weight.dtype)
        if self.bias is not None and needs[1]:
            found[1] = slope.sum(0, dtype=self.bias.dtype)
        if self.down is not None and self.up is not None:
            down = self.down.to(self.low)
            inner = (slope @ self.up.to(self.low)).mul_(self.scale)
            by_x.addmm_(inner, down)
            found[2] = (inner.t() @ x).to(self.down.dtype) if needs[2] else None
            found[3] = (slope.t() @ (x @ down.t())).to(self.up.dtype).mul_(self.scale) if needs[3] else None
        return by_x, found


def as_matrix(module: nn.Module, low: torch.dtype) -> Matrix | None:
    """The matrix that a module multiplies with, or None where it does anything else: hooks, dropout, another forward,
    adapters that are switched off, merged, several, or not a plain product of two."""
    inner: Any = module
    if type(module) is nn.Linear:
        return None if _changed(module) else Matrix(inner.weight, inner.bias, None, None, 1.0, low)
    if not all(hasattr(module, name) for name in ("base_layer", "lora_A", "lora_B", "active_adapters")):
        return None
    names = [name for name in inner.active_adapters if name in inner.lora_A]
    if len(names) != 1 or inner.disable_adapters or inner.merged or inner.lora_variant or _changed(module):
        return None
    parts = (inner.base_layer, inner.lora_A[names[0]], inner.lora_B[names[0]])
    drop = inner.lora_dropout[names[0]]
    quiet = type(drop) is nn.Identity or (type(drop) is nn.Dropout and not (drop.training and drop.p))
    if not quiet or any(type(part) is not nn.Linear or _changed(part) for part in parts):
        return None
    base, down, up = parts
    if down.bias is not None or up.bias is not None:
        return None
    return Matrix(base.weight, base.bias, down.weight, up.weight, float(inner.scaling[names[0]]), low)


def _changed(module: nn.Module) -> bool:
    """Whether somebody hooked into the module or gave this one a forward of its own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


@dataclass(frozen=True, slots=True)
class Scale:
    """Root-mean-square normalisation: ``y = x / sqrt(mean(x ** 2) + epsilon) * weight``."""

    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor, low: torch.dtype) -> tuple[Tensor, Tensor]:
        """(y in ``low``, ``1 / sqrt(...)`` [U, 1])."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.rsqrt(size.square_().div_(x.shape[-1]).add_(self.epsilon))
        return self.again(x, inverse, low), inverse

    def again(self, x: Tensor, inverse: Tensor, low: torch.dtype) -> Tensor:
        """y, given what is divided by."""
        return torch.mul(x, inverse).mul_(self.weight).to(low)

    def back(self, x: Tensor, inverse: Tensor, slope: Tensor, *, needs: bool) -> tuple[Tensor, Tensor | None]:
        """(gradient by x in its type, by the weight)."""
        unit = x * inverse
        slope = slope.to(x.dtype)
        by_weight = (slope * unit).sum(0) if needs else None
        slope = slope * self.weight
        share = torch.linalg.vecdot(slope, unit)[:, None].div_(x.shape[-1])
        return slope.addcmul_(unit, share, value=-1).mul_(inverse), by_weight
