"""A decoder layer of the Llama kind over a forest, computed and differentiated as two pieces instead of forty.

``x + o(attention(rotate(q(n), k(n)), v(n)))`` with ``n = norm(x)``, then ``x + down(silu(gate(m)) * up(m))`` with
``m = norm(x)``. Each piece keeps what its gradient cannot be made without; norms and products of gates are made again,
so that far less is kept, written and read than by autograd. The numbers are those of the layer's own forward. Where a
layer is anything else (other modules, hooks, windows, adapters of other kinds), its own forward is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polyturn.forest.attention import attend, attend_back, supported
from polyturn.forest.layout import Layout
from polyturn.forest.matrix import Matrix, Scale, as_matrix

KINDS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"}
"""Classes of transformers whose layers are of this form."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The first piece: norm, q, k, v, o and the layout; ``cos`` and ``sin`` [U, D / 2] of the rotation."""

    norm: Scale
    matrices: tuple[Matrix, Matrix, Matrix, Matrix]
    layout: Layout
    scale: float
    size: int
    """D, the size of a head."""
    cos: Tensor
    sin: Tensor

    def tensors(self) -> list[Tensor | None]:
        """What learns: the norm's weight and four tensors of each matrix."""
        return [self.norm.weight, *(tensor for matrix in self.matrices for tensor in matrix.tensors())]


@dataclass(frozen=True, slots=True)
class Gated:
    """The second piece: norm, gate, up, down."""

    norm: Scale
    matrices: tuple[Matrix, Matrix, Matrix]

    def tensors(self) -> list[Tensor | None]:
        """What learns: the norm's weight and four tensors of each matrix."""
        return [self.norm.weight, *(tensor for matrix in self.matrices for tensor in matrix.tensors())]


def fast_layer(layer: Any, hidden: Tensor, forest: Layout, rotation: tuple[Tensor, Tensor]) -> Tensor | None:
    """The layer's output [1, U, H], or None where it is not of this form."""
    kind = hidden.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    pieces = _pieces(layer, hidden, forest, rotation, low)
    if pieces is None:
        return None
    forest.windows[int(layer.self_attn.layer_idx)] = None
    with torch.autocast(kind, enabled=False):
        first: Tensor = _Attend.apply(hidden[0], pieces[0], *pieces[0].tensors())  # type: ignore[no-untyped-call]
        found: Tensor = _Gate.apply(first, pieces[1], *pieces[1].tensors())  # type: ignore[no-untyped-call]
    return found


def _pieces(layer: Any, hidden: Tensor, forest: Layout, rotation: tuple[Tensor, Tensor],
            low: torch.dtype) -> tuple[Attention, Gated] | None:  # fmt: skip
    if _kind(layer) not in KINDS or hidden.dtype != torch.float32:
        return None
    attention, gated = layer.self_attn, layer.mlp
    if getattr(attention.config, "sliding_window", None) is not None or hidden.shape[0] != 1:
        return None
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    own = [as_matrix(getattr(attention, name), low) for name in names]
    three = [as_matrix(getattr(gated, name), low) for name in ("gate_proj", "up_proj", "down_proj")]
    norms = [_scale(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    silu = type(gated.act_fn).__name__ in ("SiLU", "SiLUActivation")
    if None in own or None in three or None in norms or not silu:
        return None
    size = int(attention.head_dim)
    halves = _halves(forest, rotation, hidden.dtype)
    if halves is None or 2 * halves[0].shape[-1] != size or not supported(hidden.device, low, size):
        return None
    first = Attention(
        norms[0], tuple(own), forest, float(attention.scaling), size, *halves,  # type: ignore[arg-type]
    )  # fmt: skip
    return first, Gated(norms[1], tuple(three))  # type: ignore[arg-type]


def _halves(forest: Layout, rotation: tuple[Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """(cos, sin) [U, D / 2], or None where the halves of a head turn by different angles. Looked into once for all
    layers, for a GPU is waited for."""
    if id(rotation[0]) not in forest.rotations:
        cos, sin = (value[0].to(dtype) for value in rotation)
        half = cos.shape[-1] // 2
        alike = torch.equal(cos[:, :half], cos[:, half:])
        found = (cos[:, :half].contiguous(), sin[:, :half].contiguous()) if alike else None
        forest.rotations[id(rotation[0])] = rotation, found
    return forest.rotations[id(rotation[0])][1]


def _kind(layer: Any) -> str:
    """The name of the layer's class; of a layer that ``fully_shard`` took, that of the class that it had before.

    Sharding puts a class of the same behaviour over it. Its hooks gather the weights around the layer's call, within
    which they are read here, and gather them again, into the same tensors, before its backward pass."""
    kind, *above = type(layer).__mro__
    sharded = bool(above) and above[0].__name__ == "FSDPModule" and kind.__name__ == f"FSDP{above[1].__name__}"
    return str((above[1] if sharded else kind).__name__)


def _scale(norm: nn.Module) -> Scale | None:
    known = type(norm).__name__.endswith("RMSNorm") and hasattr(norm, "variance_epsilon")
    return Scale(norm.weight, norm.variance_epsilon) if known else None  # type: ignore[arg-type]


def _rotated(x: Tensor, piece: Attention, sign: float) -> Tensor:
    """[1, heads, U, D] of ``x`` [U, heads D] turned by the positions (``sign`` = -1: turned back), in the type of x."""
    heads = x.view(len(x), -1, 2, piece.size // 2)
    first, second = heads[:, :, 0], heads[:, :, 1]
    cos, sin = piece.cos[:, None], piece.sin[:, None]
    made = torch.empty_like(heads)
    made[:, :, 0] = torch.mul(first, cos).addcmul_(second, sin, value=-sign)
    made[:, :, 1] = torch.mul(second, cos).addcmul_(first, sin, value=sign)
    return _heads(made.view(len(x), -1), piece.size)


def _heads(x: Tensor, size: int) -> Tensor:
    """[1, heads, U, D] of [U, heads D], without a copy."""
    return x.view(1, len(x), -1, size).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """[U, heads D] of [1, heads, U, D]."""
    return x[0].transpose(0, 1).reshape(x.shape[2], -1)


def _slopes(matrix: Matrix, number: int, ctx: Any) -> list[bool]:
    """Which tensors of a piece's matrix want gradients."""
    start = 3 + 4 * number
    return list(ctx.needs_input_grad[start : start + 4])


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, piece: Attention, *tensors: Tensor) -> Tensor:
        q_of, k_of, v_of, o_of = piece.matrices
        normed, inverse = piece.norm(x, o_of.low)
        query, key = (_rotated(of(normed), piece, 1.0) for of in (q_of, k_of))
        value = _heads(v_of(normed), piece.size)
        out, *kept = attend(query, key, value, piece.layout, piece.scale)
        ctx.piece = piece
        ctx.save_for_backward(x, inverse, query, key, value, out, *kept)
        return x + o_of(_rows(out))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, inverse, *saved = ctx.saved_tensors
        piece: Attention = ctx.piece
        q_of, k_of, v_of, o_of = piece.matrices
        low = o_of.low
        by_out, of_o = o_of.back(_rows(saved[3]), grads[0].to(low), None, _slopes(o_of, 3, ctx))
        parts = attend_back(_heads(by_out, piece.size), tuple(saved), piece.layout, piece.scale)
        by_q, by_k = (_rows(_rotated(_rows(part), piece, -1.0)).to(low) for part in parts[:2])
        by_v = _rows(parts[2]).to(low)
        normed = piece.norm.again(x, inverse, low)
        into, of_q = q_of.back(normed, by_q, None, _slopes(q_of, 0, ctx))
        into, of_k = k_of.back(normed, by_k, into, _slopes(k_of, 1, ctx))
        into, of_v = v_of.back(normed, by_v, into, _slopes(v_of, 2, ctx))
        by_x, by_norm = piece.norm.back(x, inverse, into, needs=ctx.needs_input_grad[2])
        return by_x.add_(grads[0]), None, by_norm, *of_q, *of_k, *of_v, *of_o


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, piece: Gated, *tensors: Tensor) -> Tensor:
        gate_of, up_of, down_of = piece.matrices
        normed, inverse = piece.norm(x, down_of.low)
        gate, up = gate_of(normed), up_of(normed)
        ctx.piece = piece
        ctx.save_for_backward(x, inverse, gate, up)
        return x[None] + down_of(nn.functional.silu(gate).mul_(up))  # no view: a hook may stand on what a layer gives

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, inverse, gate, up = ctx.saved_tensors
        piece: Gated = ctx.piece
        slope = grads[0][0]
        gate_of, up_of, down_of = piece.matrices
        low = down_of.low
        opened = nn.functional.silu(gate)
        by_product, of_down = down_of.back(opened * up, slope.to(low), None, _slopes(down_of, 2, ctx))
        by_up = opened.mul_(by_product)
        by_gate = torch.ops.aten.silu_backward(by_product.mul_(up), gate)
        normed = piece.norm.again(x, inverse, low)
        into, of_gate = gate_of.back(normed, by_gate, None, _slopes(gate_of, 0, ctx))
        into, of_up = up_of.back(normed, by_up, into, _slopes(up_of, 1, ctx))
        by_x, by_norm = piece.norm.back(x, inverse, into, needs=ctx.needs_input_grad[2])
        return by_x.add_(slope), None, by_norm, *of_gate, *of_up, *of_down
