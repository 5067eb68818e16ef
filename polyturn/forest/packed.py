"""Tree attention on a GPU: one call of torch's memory-efficient kernel over pieces of different lengths.

A GPU would rather read a key twice than begin many small calls. The rows of a layout are cut where a path leaves the
one before it; each piece attends to a copy of its whole path, whose keys stand side by side, so that pairs of tokens
that do not see each other cost nothing. The gradients of copies are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_BOTTOM_RIGHT = 2
"""The kernel's causal mask in which the last row of a piece sees all of its keys."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Pieces of a layout's rows, each with the keys of its path."""

    row_K: Tensor
    """The rows of the layout whose keys stand side by side, piece after piece."""
    query_P1: Tensor
    """Where the queries of each piece begin, and the end; int32, as the kernel reads it."""
    key_P1: Tensor
    """The same of the keys."""
    longest: tuple[int, int]
    """Most queries and most keys of a piece."""


def pack(pieces: Sequence[tuple[int, int, tuple[tuple[int, int], ...]]], device: torch.device) -> Packed:
    """Of the pieces that :meth:`polyturn.forest.layout.Layout.pieces` gives."""
    keys = [np.concatenate([np.arange(a, b) for a, b in (*above, (start, stop))]) for start, stop, above in pieces]
    queries = [stop - start for start, stop, _ in pieces]
    bounds = [torch.tensor(np.cumsum([0, *sizes]), dtype=torch.int32, device=device)
              for sizes in (queries, [len(each) for each in keys])]  # fmt: skip
    rows = torch.from_numpy(np.concatenate(keys)).to(device)
    return Packed(rows, bounds[0], bounds[1], (max(queries), max(len(each) for each in keys)))


def fits(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether the kernel takes heads of ``size`` numbers of this type there."""
    return device.type == "cuda" and dtype in (torch.float32, torch.bfloat16, torch.float16) and size % 8 == 0


def forward(query: Tensor, key: Tensor, value: Tensor, packed: Packed, scale: float) -> tuple[Tensor, ...]:
    """(output [1, heads, U, D], log-sum-exp as the kernel keeps it, its two seeds) of query [1, heads, U, D], key and
    value [1, key heads, U, D]."""
    k, v = (_copied(x, packed, query.shape[1]) for x in (key, value))
    out, total, *seeds, _, _ = torch.ops.aten._efficient_attention_forward(
        query.transpose(1, 2), k, v, None, packed.query_P1, packed.key_P1, *packed.longest, 0.0, _BOTTOM_RIGHT, True,
        scale=scale,
    )  # fmt: skip
    return out.transpose(1, 2), total, *seeds


def backward(slope: Tensor, saved: tuple[Tensor, ...], packed: Packed, scale: float) -> tuple[Tensor, ...]:
    """Gradients by query, key and value, those of copies added in float32; ``saved`` = query, key, value and what
    :func:`forward` gave."""
    query, key, value, out, total, *seeds = saved
    k, v = (_copied(x, packed, query.shape[1]) for x in (key, value))
    by_q, by_k, by_v, _ = torch.ops.aten._efficient_attention_backward(
        slope.to(query.dtype).transpose(1, 2), query.transpose(1, 2), k, v, None, out.transpose(1, 2), packed.query_P1,
        packed.key_P1, *packed.longest, total, 0.0, *seeds, _BOTTOM_RIGHT, False, scale=scale,
    )  # fmt: skip
    return by_q.transpose(1, 2), *(_added(x, like, packed) for x, like in ((by_k, key), (by_v, value)))


def _copied(x: Tensor, packed: Packed, heads: int) -> Tensor:
    """[1, K, heads, D] of ``x`` [1, key heads, U, D]."""
    rows = x[0].transpose(0, 1).index_select(0, packed.row_K)
    return rows.repeat_interleave(heads // x.shape[1], 1)[None]


def _added(by_copies: Tensor, like: Tensor, packed: Packed) -> Tensor:
    """[1, key heads, U, D] in float32 of the gradients [1, K, heads, D] of copies."""
    key_heads, count = like.shape[1:3]
    parts = by_copies[0].unflatten(1, (key_heads, -1)).sum(2, dtype=torch.float32)
    whole: Tensor = parts.new_zeros(count, *parts.shape[1:]).index_add_(0, packed.row_K, parts)
    return whole.transpose(0, 1)[None]
