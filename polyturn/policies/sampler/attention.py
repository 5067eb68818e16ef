"""The one attention function that the engine registers with transformers. What it needs travels as a keyword argument
of the forward (``polyturn_rows``), never as a mode of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from polyturn.policies.sampler.slots import Slots

NAME = "polyturn_slots"
CALL = 600
"""Keys whose reading costs about as much as one more call; runs are joined up to this waste."""
TOGETHER = 64
"""Ids of a piece up to which its heads are multiplied in one call."""


@dataclass(frozen=True, slots=True)
class Piece:
    """``count`` new ids of one slot after the ``start`` that it holds; their rows begin at ``row``."""

    row: int
    count: int
    slot: int
    start: int
    mask: torch.Tensor | None = None
    """Which keys [count, start + count] each id sees; None = plainly causal."""


@dataclass(frozen=True, slots=True)
class Run:
    """One new id in each of some slots within ``low..high``, whose rows begin at ``row``."""

    row: int
    count: int
    low: int
    high: int
    longest: int
    """Keys that are read of every slot."""
    place: torch.Tensor | None = None
    """Slot minus ``low`` of each row; None = every slot in order."""
    mask: torch.Tensor | None = None
    """0 or -inf to add, [slots, longest]; None = all equally long."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One forward: a row per new id. Rows past ``count`` are padding."""

    slots: Slots
    count: int
    slot_T: torch.Tensor
    position_T: torch.Tensor
    runs: tuple[Run, ...]
    pieces: tuple[Piece, ...]

    def to(self, device: torch.device) -> Rows:
        """The same with its indices and masks on a device, so that no layer has to bring them there."""
        if device.type == "cpu":
            return self
        runs = tuple(replace(run, place=_on(run.place, device), mask=_on(run.mask, device)) for run in self.runs)
        pieces = tuple(replace(piece, mask=_on(piece.mask, device)) for piece in self.pieces)
        return replace(self, slot_T=self.slot_T.to(device), position_T=self.position_T.to(device), runs=runs,
                       pieces=pieces)


def _on(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device)


def attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, *, polyturn_rows: Rows, scaling: float | None = None, **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention [1, T, heads, size] of the rows over their own slots; writes ``key`` and ``value`` into them first.

    Raises: TypeError for a form of attention that is not driven here (windows, soft caps, sinks).
    """
    for name in ("sliding_window", "softcap", "s_aux"):
        if more.get(name) is not None:
            raise TypeError(f"attention with {name} is not driven by the slot engine")
    rows = polyturn_rows
    keys, values = rows.slots.layer(int(module.layer_idx), key, value)  # type: ignore[arg-type]
    keys[rows.slot_T, :, rows.position_T] = key[0, :, : rows.count].transpose(0, 1)
    values[rows.slot_T, :, rows.position_T] = value[0, :, : rows.count].transpose(0, 1)
    out = query.new_zeros(query.shape[2], query.shape[1], value.shape[3])
    for run in rows.runs:
        out[run.row : run.row + run.count] = _attend_run(run, query, keys, values, scaling)
    for piece in rows.pieces:
        out[piece.row : piece.row + piece.count] = _attend_piece(piece, query, keys, values, scaling)
    return out[None], None


def _attend_piece(
    piece: Piece, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    end = piece.start + piece.count
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        return _piece_by_products(piece, query, keys[piece.slot, :, :end], values[piece.slot, :, :end], scaling)
    seen = scaled_dot_product_attention(
        query[:, :, piece.row : piece.row + piece.count], keys[piece.slot, None, :, :end],
        values[piece.slot, None, :, :end], attn_mask=piece.mask, is_causal=piece.mask is None, scale=scaling,
        enable_gqa=True,
    )
    return seen[0].transpose(0, 1)


def _piece_by_products(
    piece: Piece, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """The same by products with ``key`` and ``value`` [heads, end, size] and softmax in float32: about twice as fast as
    the fused one in bfloat16. Few ids are multiplied for all heads at once, many head by head."""
    heads, end, size = key.shape
    asked = query[0, :, piece.row : piece.row + piece.count] * (size**-0.5 if scaling is None else scaling)
    asked = asked.reshape(heads, -1, size)
    hidden = _hidden(piece.count, piece.start)

    def attended(asked: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        score = (asked @ key.transpose(-1, -2)).float()
        score.view(-1, piece.count, end).add_(hidden)
        return torch.softmax(score, -1).to(value.dtype) @ value

    if piece.count <= TOGETHER:
        out = attended(asked, key.contiguous(), value.contiguous())
    else:
        out = torch.stack([attended(*one) for one in zip(asked, key, value, strict=True)])
    return out.view(query.shape[1], piece.count, -1).transpose(0, 1)


@lru_cache(maxsize=64)
def _hidden(count: int, start: int) -> torch.Tensor:
    """[count, start + count], to add: -inf where a key comes after an id; equal pieces of all layers share it."""
    return torch.full((count, start + count), float("-inf")).triu_(start + 1)


def _attend_run(
    run: Run, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Query heads that share a key head are taken as so many queries; so nothing is repeated."""
    heads, size = keys.shape[1], keys.shape[3]
    asked = query[0, :, run.row : run.row + run.count].transpose(0, 1)
    width = run.high - run.low
    if run.place is not None:
        spread = asked.new_zeros(width, *asked.shape[1:])
        spread[run.place] = asked
        asked = spread
    asked = asked.reshape(width, heads, -1, size)
    k, v = keys[run.low : run.high], values[run.low : run.high]
    if asked.dtype == torch.bfloat16:
        seen = _by_products(asked, k, v, run, scaling)
    else:
        mask = None if run.mask is None else run.mask[:, None, None].to(asked).expand(-1, 1, asked.shape[2], -1)
        k, v = k[:, :, : run.longest], v[:, :, : run.longest]
        seen = scaled_dot_product_attention(asked, k, v, attn_mask=mask, scale=scaling)
    seen = seen.reshape(width, query.shape[1], -1)
    return seen if run.place is None else seen[run.place]


def _by_products(
    asked: torch.Tensor, k: torch.Tensor, v: torch.Tensor, run: Run, scaling: float | None
) -> torch.Tensor:
    """The same with two batched products over views of the cache and softmax in float32: about twice as fast as the
    fused one in bfloat16 when there is one new id a slot."""
    width, heads, group, size = asked.shape
    scale = size**-0.5 if scaling is None else scaling
    k, v = k.flatten(0, 1)[:, : run.longest], v.flatten(0, 1)[:, : run.longest]
    score = torch.bmm((asked * scale).flatten(0, 1), k.transpose(1, 2)).float()
    if run.mask is not None:
        score.view(width, heads * group, -1).add_(run.mask.to(score)[:, None])
    return torch.bmm(torch.softmax(score, -1).to(v.dtype), v).view(width, heads, group, -1)


def runs_of(places: Sequence[tuple[int, int]], capacity: int = 0) -> tuple[Run, ...]:
    """Runs over (slot, keys) pairs in rising order of slots, one row each from row 0.

    Neighbours are joined while the keys read in vain cost less than another call. ``capacity`` > 0: slots that are at
    least half full are read as a whole, for a product over a part of a cache would copy it first.
    """
    runs: list[list[tuple[int, int]]] = []
    for slot, length in places:
        if runs:
            low, last = runs[-1][0][0], runs[-1][-1][0]
            longest = max(size for _, size in runs[-1])
            apart = longest * (last + 1 - low) + length + CALL
            if max(longest, length) * (slot + 1 - low) <= apart:
                runs[-1].append((slot, length))
                continue
        runs.append([(slot, length)])
    found: list[Run] = []
    for run in runs:
        found.append(_run(run, sum(other.count for other in found), capacity))
    return tuple(found)


def _run(places: Sequence[tuple[int, int]], row: int, capacity: int) -> Run:
    low, high = places[0][0], places[-1][0] + 1
    longest = max(length for _, length in places)
    if longest <= capacity <= 2 * longest:
        longest = capacity
    place = torch.tensor([slot - low for slot, _ in places])
    mask = None
    if high - low > len(places) or any(length < longest for _, length in places):
        length_S = torch.ones(high - low, dtype=torch.long)
        length_S[place] = torch.tensor([length for _, length in places])
        mask = torch.zeros(high - low, longest)
        mask.masked_fill_(torch.arange(longest) >= length_S[:, None], float("-inf"))
    return Run(row, len(places), low, high, longest, place if high - low > len(places) else None, mask)
