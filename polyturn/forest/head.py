"""Log-probabilities and entropies of tokens from the hidden states before them, a tile of the vocabulary at a time.

A tile of logits stays in the processor's cache while its maximum, its sum of exponentials and its part of the entropy
are taken. The backward pass makes the gradient of a tile in place and adds its products up, so that no array of tokens
x vocabulary stands twice, and none at all once the batch is large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyturn.forest.products import product

TILE = {"cpu": 2**21, "cuda": 2**27}
"""Logits of a tile: 8 MiB in float32, which stay in a processor's cache; half a GiB on a GPU, which wants large
products."""
KEPT = 2**25
"""Up to this many logits (tokens x vocabulary) their exponentials are kept for the backward pass; beyond it they are
computed again."""


@dataclass(frozen=True, slots=True)
class Head:
    """What becomes of a product of hidden state and vocabulary matrix, and in which numbers gradients are multiplied.

    ``logit = cap * tanh(scale * product / cap)``, without ``cap`` ``scale * product``. ``low``: the type that the
    products of the backward pass are computed in (None: that of the weights). Logits are always computed in the type
    of the weights.
    """

    scale: float = 1.0
    cap: float | None = None
    low: torch.dtype | None = None
    keep: bool = True
    """False: never keep exponentials."""

    def shaped(self, product: Tensor, heat_N1: Tensor | None) -> Tensor:
        """``logit / temperature``, in place."""
        if self.scale != 1.0:
            product.mul_(self.scale)
        if self.cap:
            product.div_(self.cap).tanh_().mul_(self.cap)
        return product if heat_N1 is None else product.div_(heat_N1)

    def slope(self, gradient: Tensor, logit: Tensor | None, heat_N1: Tensor | None) -> Tensor:
        """The gradient by the product, given that by ``logit / temperature``, in place."""
        if heat_N1 is not None:
            gradient.div_(heat_N1)
        if self.cap and logit is not None:
            whole = logit if heat_N1 is None else logit * heat_N1
            gradient.mul_(1 - (whole / self.cap).square_())
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)


def read(hidden_NH: Tensor, weight_VH: Tensor, id_N: Tensor, heat_N: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """``(logprob_N, entropy_N)``: of the ids under ``softmax(logit / heat)``, and of that distribution, in nats.

    ``logprob = z[id] - log sum_v exp(z_v)``, ``entropy = log sum_v exp(z_v) - sum_v p_v z_v`` with z the logits over
    their temperature. Gradients reach hidden states and weights through both.
    """
    found: tuple[Tensor, Tensor] = _Read.apply(hidden_NH, weight_VH, id_N, heat_N, head)  # type: ignore[no-untyped-call]
    return found


def _tiles(tokens: int, weight_VH: Tensor) -> list[slice]:
    vocabulary = len(weight_VH)
    width = max(512, TILE.get(weight_VH.device.type, TILE["cpu"]) // max(tokens, 1))
    return [slice(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]


def _heat(heat_N: Tensor) -> Tensor | None:
    """[N, 1], or None where every temperature is 1."""
    return None if bool((heat_N == 1).all()) else heat_N[:, None]


@dataclass(slots=True)
class _Sums:
    """Running over tiles: the largest z so far, and sums of ``exp(z - high)`` and ``exp(z - high) z``."""

    high_N: Tensor
    sum_N: Tensor
    mean_N: Tensor
    chosen_N: Tensor

    def add(self, z_NV: Tensor, space_NV: Tensor, place_N: Tensor) -> Tensor:
        """Takes a tile in, in ``space_NV``; returns the maximum that the exponentials there are relative to."""
        inside = (place_N >= 0) & (place_N < z_NV.shape[1])
        at = z_NV.gather(1, place_N.clamp(0, z_NV.shape[1] - 1)[:, None])[:, 0]
        self.chosen_N = torch.where(inside, at, self.chosen_N)
        high_N = torch.maximum(self.high_N, z_NV.amax(1))
        fade_N = torch.exp(self.high_N - high_N)
        torch.sub(z_NV, high_N[:, None], out=space_NV).exp_()
        self.sum_N = self.sum_N * fade_N + space_NV.sum(1)
        self.mean_N = self.mean_N * fade_N + z_NV.mul_(space_NV).sum(1)
        self.high_N = high_N
        return high_N


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, id_N: Tensor, heat_N: Tensor, head: Head) -> Any:
        ctx.set_materialize_grads(False)
        count, vocabulary = len(id_N), len(weight_VH)
        zero_N = hidden_NH.new_zeros(count)
        sums = _Sums(torch.full_like(zero_N, -torch.inf), zero_N, zero_N, zero_N)
        tiles, heat_N1 = _tiles(count, weight_VH), _heat(heat_N)
        space = hidden_NH.new_empty(count, tiles[0].stop)
        graph = any(ctx.needs_input_grad[:2])
        keep = graph and head.keep and not head.cap and count * vocabulary <= KEPT
        kept = hidden_NH.new_empty(count if keep else 0, vocabulary, dtype=head.low or hidden_NH.dtype)
        highs = []
        for tile in tiles:
            z_NV, space_NV = product(hidden_NH, weight_VH[tile]), space[:, : tile.stop - tile.start]
            high_N = sums.add(head.shaped(z_NV, heat_N1), space_NV, id_N - tile.start)
            if keep:
                kept[:, tile] = space_NV
                highs.append(high_N)
        total_N = sums.high_N + sums.sum_N.log()
        logprob_N, entropy_N = sums.chosen_N - total_N, total_N - sums.mean_N / sums.sum_N
        if graph:
            ctx.save_for_backward(hidden_NH, weight_VH, id_N, heat_N, logprob_N, total_N, entropy_N, kept, *highs)
            ctx.head, ctx.keep = head, keep
        return logprob_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, id_N, heat_N, logprob_N, total_N, entropy_N, kept, *highs = ctx.saved_tensors
        head, needs, (by_logprob_N, by_entropy_N) = ctx.head, ctx.needs_input_grad, grads
        low, heat_N1 = head.low or hidden_NH.dtype, _heat(heat_N)
        to_hidden = torch.zeros_like(hidden_NH) if needs[0] else None
        to_weight = torch.empty_like(weight_VH) if needs[1] else None
        low_NH = hidden_NH.to(low)
        again = not ctx.keep or by_entropy_N is not None
        given_N = torch.zeros_like(logprob_N) if by_logprob_N is None else by_logprob_N
        for number, tile in enumerate(_tiles(len(id_N), weight_VH)):
            place_N = id_N - tile.start
            if again:
                z_NV = head.shaped(product(hidden_NH, weight_VH[tile]), heat_N1)
                slope_NV = _slope(z_NV, total_N, place_N, (given_N, by_entropy_N, entropy_N))
                slope_NV = head.slope(slope_NV, z_NV if head.cap else None, heat_N1).to(low)
            else:
                rate_N = -given_N * torch.exp(highs[number] - total_N) / heat_N * head.scale
                slope_NV = torch.mul(kept[:, tile], rate_N[:, None].to(low))
                right_N = given_N * -torch.expm1(logprob_N) / heat_N * head.scale
                _put(slope_NV, place_N, right_N.to(low))
            if to_hidden is not None:
                to_hidden.add_(product(slope_NV, weight_VH[tile].to(low).t()))
            if to_weight is not None:
                to_weight[tile] = product(slope_NV.t(), low_NH.t())
        return to_hidden, to_weight, None, None, None


def _slope(z_NV: Tensor, total_N: Tensor, place_N: Tensor,
           by: tuple[Tensor, Tensor | None, Tensor]) -> Tensor:  # fmt: skip
    """The gradient by z of ``given logprob + by_entropy entropy``: ``given (1[id] - p) - by_entropy p (log p +
    entropy)``. ``by`` = given, by_entropy, entropy."""
    given_N, by_entropy_N, entropy_N = by
    inside_N = torch.nonzero((place_N >= 0) & (place_N < z_NV.shape[1]))[:, 0]
    if by_entropy_N is None:
        p_NV = torch.exp(z_NV - total_N[:, None]).mul_(-given_N[:, None])
    else:
        log_NV = z_NV - total_N[:, None]
        p_NV = log_NV.exp()
        p_NV = p_NV.mul_(-given_N[:, None] - by_entropy_N[:, None] * (log_NV + entropy_N[:, None]))
    p_NV[inside_N, place_N[inside_N]] += given_N[inside_N]
    return p_NV


def _put(into_NV: Tensor, place_N: Tensor, value_N: Tensor) -> None:
    """``into[n, place_n] = value_n`` where the place is inside."""
    inside_N = torch.nonzero((place_N >= 0) & (place_N < into_NV.shape[1]))[:, 0]
    into_NV[inside_N, place_N[inside_N]] = value_N[inside_N]
