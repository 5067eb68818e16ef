"""Attention of a block of rows to a block of keys by products of bfloat16 matrices: on a CPU the backward pass takes
half the time of the fused kernel, which computes it no faster in bfloat16 than in float32.

Scores are rounded to bfloat16, so what is rounded should be small: the row's maximum (forwards) or its log-sum-exp
(backwards) is subtracted inside of the product, as one or three more columns of the query against keys of 1, and so is
the row's share ``delta`` from the gradient by probabilities. A block of scores is cut so that it stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

SCORES = 2**20
"""Scores that stand at one time: 2 MiB."""
CAUSAL = 256
"""Rows of a causal block that are computed together; half of what they compute against each other is hidden."""
WORTH = 2**14
"""Blocks of fewer scores are left to the fused kernel: there the number of calls decides."""


def worth(query: Tensor, keys: int) -> bool:
    """Whether a block of ``query`` [groups, key heads, rows, D] against so many keys is computed here."""
    return query.dtype == torch.bfloat16 and query.shape[:3].numel() * keys >= WORTH


def forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """(output [groups, key heads, rows, D] in float32, log-sum-exp of each row).

    ``query`` [groups, key heads, rows, D], ``key`` and ``value`` [key heads, keys, D]. ``causal``: as many rows as
    keys, and row r sees the keys 0..r. Scores in the ten thousands, whose maximum bfloat16 misses by more than exp can
    hold, give what is not finite.
    """
    out = torch.empty(query.shape, dtype=torch.float32)
    total = torch.empty(query.shape[:-1], dtype=torch.float32)
    one = _beside(key, torch.ones(*key.shape[:2], 1))
    for rows, keys in _cut(query, key.shape[1], causal):
        part, seen = _merged(query[:, :, rows] * scale), slice(0, keys)
        hidden = _hidden(rows.stop - rows.start) if causal else None
        score = _masked(part @ key[:, seen].transpose(1, 2), hidden, query)
        high = score.float().amax(-1, keepdim=True).to(score.dtype)  # a third of the time that it takes in bfloat16
        score = _masked(_beside(part, -high) @ one[:, seen].transpose(1, 2), hidden, query)
        share = score.exp_()
        size = share.sum(-1, dtype=torch.float32)
        found = (share @ value[:, seen]).float().div_(size[..., None])
        out[:, :, rows] = _split(found, query)
        total[:, :, rows] = _split(high[..., 0].float() + size.log(), query)
    return out, total


def backward(by_out: Tensor, saved: tuple[Tensor, Tensor, Tensor], row: tuple[Tensor, Tensor], causal: bool,
             scale: float) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by query (as it is shaped), key and value [key heads, keys, D], in float32.

    ``saved`` = query, key, value. ``row`` = the log-sum-exp of each row over all keys that it sees, and ``delta = sum_d
    by_out_d out_d``: with ``P = exp(score - total)`` the gradient by the score is ``P (by_out . value - delta)``.
    """
    query, key, value = saved
    by_q = torch.empty(query.shape, dtype=torch.float32)
    by_k, by_v = (torch.zeros(x.shape, dtype=torch.float32) for x in (key, value))
    ones = torch.ones(*key.shape[:2], 3)
    key_3, value_3 = (_beside(x, ones).transpose(1, 2) for x in (key, value))
    for rows, keys in _cut(query, key.shape[1], causal):
        part, slope = _merged(query[:, :, rows] * scale), _merged(by_out[:, :, rows])
        total, delta = (_in_three(_merged(x[:, :, rows, None])) for x in row)
        hidden = _hidden(rows.stop - rows.start) if causal else None
        share = _masked(_beside(part, -total) @ key_3[:, :, :keys], hidden, query).exp_()
        by_v[:, :keys] += share.transpose(1, 2) @ slope
        by_score = (_beside(slope, -delta) @ value_3[:, :, :keys]).mul_(share)
        by_k[:, :keys] += by_score.transpose(1, 2) @ part
        by_q[:, :, rows] = _split((by_score @ key[:, :keys]).float().mul_(scale), query)
    return by_q, by_k, by_v


def _cut(query: Tensor, keys: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """(rows, how many keys they may see), so that about :data:`SCORES` scores stand at a time."""
    heads, count = query.shape[0] * query.shape[1], query.shape[2]
    step = max(64, SCORES // (heads * keys))
    step = min(step, CAUSAL) if causal else step
    pieces = -(-count // step)
    step = -(-count // pieces)
    for start in range(0, count, step):
        stop = min(start + step, count)
        yield slice(start, stop), stop if causal else keys


@lru_cache(maxsize=256)
def _hidden(count: int) -> Tensor:
    """[rows, rows]: 0 where a row sees a key of its own rows, -inf where that key comes later."""
    return torch.full((count, count), -torch.inf, dtype=torch.bfloat16).triu_(1)


def _masked(score: Tensor, hidden: Tensor | None, query: Tensor) -> Tensor:
    """The scores [key heads, groups rows, keys], with the last keys hidden, in place."""
    if hidden is not None:
        score.view(score.shape[0], query.shape[0], -1, score.shape[-1])[..., -len(hidden) :].add_(hidden)
    return score


def _merged(x: Tensor) -> Tensor:
    """[key heads, groups rows, D] of [groups, key heads, rows, D]."""
    return x.transpose(0, 1).flatten(1, 2)


def _split(x: Tensor, query: Tensor) -> Tensor:
    """[groups, key heads, rows, ...] of [key heads, groups rows, ...]."""
    found: Tensor = x.unflatten(1, (query.shape[0], -1)).transpose(0, 1)
    return found


def _beside(x: Tensor, more: Tensor) -> Tensor:
    """``x`` with further columns."""
    return torch.cat([x, more.to(x.dtype)], -1)


def _in_three(x: Tensor) -> Tensor:
    """A float32 column as three bfloat16 columns that add up to it."""
    high = x.to(torch.bfloat16)
    middle = (x - high).to(torch.bfloat16)
    return torch.cat([high, middle, (x - high - middle).to(torch.bfloat16)], -1)
