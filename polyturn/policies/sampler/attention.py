"""The one attention function that the engine registers with transformers. What it needs travels as a keyword argument
of the forward (``polyturn_rows``), never as a mode of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from polyturn.policies.sampler.slots import Slots
from polyturn.types import IntArray

NAME = "polyturn_slots"
CALL = 600
"""Keys whose reading costs about as much as one more call; runs are joined up to this waste."""
BEGINNING = 64
"""Ids by which a beginning that is read once for several slots grows."""
TOGETHER = 64
"""Ids of a piece up to which its heads are multiplied in one call."""


@dataclass(frozen=True, slots=True)
class Piece:
    """``count`` new ids of each of some slots, whose rows begin at ``row``, slot by slot."""

    row: int
    count: int
    slots: tuple[int, ...]
    longest: int
    """Keys that are read of every slot."""
    hidden: torch.Tensor | None = None
    """0 or -inf to add, [slots, count, longest]; None = one slot that held nothing, plainly causal."""

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.row, self.row + self.count * len(self.slots))

    def seen(self, held: torch.Tensor) -> torch.Tensor:
        """[slots, heads, longest, size] of a cache: a view for one slot, else a copy."""
        if len(self.slots) == 1:
            return held[self.slots[0] : self.slots[0] + 1, :, : self.longest]
        return torch.stack([held[slot, :, : self.longest] for slot in self.slots])


@dataclass(frozen=True, slots=True)
class Shared:
    """The first ``length`` keys of the W slots of a run, each of F different beginnings read once, for M slots or fewer
    that begin with it."""

    length: int
    first: torch.Tensor
    """[F]: a slot that holds each beginning."""
    from_FM: torch.Tensor
    """[F M]: slots of the run, the first of a beginning in place of those that are not there."""
    at_W: torch.Tensor
    """[W]: where each slot of the run stands among them."""

    def joined(self, part: torch.Tensor) -> torch.Tensor:
        """[F heads, M group, any] of [W, heads, group, any]: what asks for the same beginning as one matrix."""
        each: torch.Tensor = part.index_select(0, self.from_FM).unflatten(0, (len(self.first), -1))
        return each.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def back(self, part: torch.Tensor, heads: int, group: int) -> torch.Tensor:
        """[W, heads, group, any] of [F heads, M group, any]."""
        each: torch.Tensor = part.unflatten(1, (-1, group)).unflatten(0, (-1, heads)).transpose(1, 2)
        return each.flatten(0, 1).index_select(0, self.at_W)

    def to(self, device: torch.device) -> Shared:
        """The same on a device."""
        return Shared(self.length, self.first.to(device), self.from_FM.to(device), self.at_W.to(device))


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
    """0 or -inf to add, [slots, longest - what is shared]; None = all equally long."""
    shared: Shared | None = None
    """What is read once for several slots."""


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
        runs = tuple(
            replace(run, place=_on(run.place, device), mask=_on(run.mask, device),
                    shared=None if run.shared is None else run.shared.to(device)) for run in self.runs)
        pieces = tuple(replace(piece, hidden=_on(piece.hidden, device)) for piece in self.pieces)
        return replace(self, slot_T=self.slot_T.to(device), position_T=self.position_T.to(device), runs=runs,
                       pieces=pieces)


def _on(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device)


Sharer = Callable[[Sequence[tuple[int, int]]], Shared | None]
"""What the slots of a run, given as (slot, keys) pairs, have in common."""


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
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    out[rows.count :] = 0
    for run in rows.runs:
        out[run.row : run.row + run.count] = _attend_run(run, query, keys, values, scaling)
    for piece in rows.pieces:
        out[piece.rows] = _attend_piece(piece, query, keys, values, scaling)
    return out[None], None


def _attend_piece(
    piece: Piece, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    asked = query[0, :, piece.rows].unflatten(1, (len(piece.slots), piece.count)).transpose(0, 1)
    key, value = piece.seen(keys), piece.seen(values)
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        seen = _piece_by_products(piece, asked, key, value, scaling)
    else:
        seen = scaled_dot_product_attention(
            asked, key, value, attn_mask=None if piece.hidden is None else piece.hidden[:, None].to(asked.dtype),
            is_causal=piece.hidden is None, scale=scaling, enable_gqa=True,
        )
    return seen.transpose(1, 2).flatten(0, 1)


def _piece_by_products(
    piece: Piece, asked: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """The same [slots, query heads, count, size] of queries in that form by products with ``key`` and ``value`` [slots,
    heads, longest, size] and softmax in float32: about twice as fast as the fused one in bfloat16. Few ids are
    multiplied for all heads at once, many head by head."""
    slots, heads, end, size = key.shape
    hidden = _causal(piece.count) if piece.hidden is None else piece.hidden
    each = (asked * (size**-0.5 if scaling is None else scaling)).reshape(slots * heads, -1, size)

    def attended(each: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        score = torch.bmm(each, key.transpose(1, 2)).float()
        score.view(slots, -1, piece.count, end).add_(hidden[:, None])
        return torch.bmm(torch.softmax(score, -1).to(value.dtype), value)

    key, value = key.flatten(0, 1), value.flatten(0, 1)
    if piece.count <= TOGETHER:
        out = attended(each, key, value)
    else:
        parts = zip(each.split(1), key.split(1), value.split(1), strict=True)
        out = torch.cat([attended(*part) for part in parts])
    return out.view(slots, asked.shape[1], piece.count, -1)


@lru_cache(maxsize=8)
def _causal(count: int) -> torch.Tensor:
    """[1, count, count], to add: -inf where a key comes after an id."""
    return torch.full((1, count, count), float("-inf")).triu_(1)


def pieces_of(places: Sequence[tuple[int, int, int]], row: int) -> tuple[Piece, ...]:
    """Pieces over (slot, ids it holds, new ids) in the order of their rows, which begin at ``row``.

    Neighbours of as many new ids, at most :data:`TOGETHER`, are joined while the keys read in vain cost less than
    another call. A long piece is one slot's.
    """
    found: list[list[tuple[int, int, int]]] = []
    for slot, start, count in places:
        if found and found[-1][0][2] == count <= TOGETHER:
            lengths = [before + count for _, before, _ in found[-1]]
            if max(*lengths, start + count) * (len(lengths) + 1) <= sum(lengths) + start + count + CALL:
                found[-1].append((slot, start, count))
                continue
        found.append([(slot, start, count)])
    pieces = []
    for joined in found:
        count, longest = joined[0][2], max(start + count for _, start, count in joined)
        hidden = None
        if len(joined) > 1 or joined[0][1]:
            start_P = torch.tensor([start for _, start, _ in joined])
            last = start_P[:, None, None] + torch.arange(count)[:, None]
            hidden = torch.zeros(len(joined), count, longest).masked_fill_(torch.arange(longest) > last, float("-inf"))
        pieces.append(Piece(row, count, tuple(slot for slot, _, _ in joined), longest, hidden))
        row += count * len(joined)
    return tuple(pieces)


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
    if width == 1:
        k, v = (held[run.low : run.high, :, : run.longest] for held in (keys, values))
        seen = scaled_dot_product_attention(asked, k, v, scale=scaling)
    else:
        seen = _by_products(asked * (size**-0.5 if scaling is None else scaling), keys, values, run)
    seen = seen.reshape(width, query.shape[1], -1)
    return seen if run.place is None else seen[run.place]


def _by_products(asked: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, run: Run) -> torch.Tensor:
    """The same for several slots, of scaled queries [width, heads, group, size], by batched products over views of the
    cache: torch's fused kernel takes about twice as long for one new id a slot. A common beginning is read once."""
    width, heads, group, size = asked.shape
    begin = 0 if run.shared is None else run.shared.length
    own_k, own_v = (held[run.low : run.high].flatten(0, 1)[:, begin : run.longest] for held in (keys, values))
    each = asked.reshape(-1, group, size)
    score = torch.bmm(own_k, each.transpose(1, 2)).transpose(1, 2).contiguous()  # from the left nothing is copied
    if run.mask is not None:
        score.view(width, heads * group, -1).add_(run.mask.to(score)[:, None])
    if run.shared is None:
        return torch.bmm(torch.softmax(score, -1), own_v).view(width, heads, group, -1)
    common_k, common_v = (held[run.shared.first, :, :begin].flatten(0, 1) for held in (keys, values))
    common = run.shared.back(torch.bmm(run.shared.joined(asked), common_k.transpose(1, 2)), heads, group)
    share = torch.softmax(torch.cat([common.view(len(score), group, -1), score], -1), -1)
    found = torch.bmm(share[..., begin:], own_v).view(width, heads, group, -1)
    mixed = torch.bmm(run.shared.joined(share[..., :begin].reshape(width, heads, group, begin)), common_v)
    return found.add_(run.shared.back(mixed, heads, group))


def runs_of(places: Sequence[tuple[int, int]], share: Sharer = lambda places: None) -> tuple[Run, ...]:
    """Runs over (slot, keys) pairs in rising order of slots, one row each from row 0.

    Neighbours are joined while the keys read in vain cost less than another call. ``share`` says of the slots of a run
    what they have in common.
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
        found.append(_run(run, sum(other.count for other in found), share))
    return tuple(found)


def _run(places: Sequence[tuple[int, int]], row: int, share: Sharer) -> Run:
    low, high = places[0][0], places[-1][0] + 1
    longest = max(length for _, length in places)
    shared = share(places) if len(places) > 1 else None
    begin = 0 if shared is None else shared.length
    place = torch.tensor([slot - low for slot, _ in places])
    mask = None
    if high - low > len(places) or any(length < longest for _, length in places):
        length_S = torch.full((high - low,), begin + 1)
        length_S[place] = torch.tensor([length for _, length in places])
        mask = torch.zeros(high - low, longest - begin)
        mask.masked_fill_(torch.arange(begin, longest) >= length_S[:, None], float("-inf"))
    return Run(row, len(places), low, high, longest, place if high - low > len(places) else None, mask, shared)


def shared_of(
    places: Sequence[tuple[int, int]], path: Callable[[int], IntArray], *, worth: int
) -> Shared | None:
    """What is best read once for the slots of a run of (slot, keys) pairs, ``path`` being the ids of a slot; None where
    it would save the reading of less than ``worth`` keys.

    A beginning of L ids that F different slots hold for all of W saves (W - 3 F) L keys: those of the F are copied
    (read, written and read) before they are multiplied.
    """
    low = places[0][0]
    found: tuple[int, int, list[list[int]]] = (worth, 0, [])
    for length in range(BEGINNING, min(length for _, length in places), BEGINNING):
        slots_of: dict[bytes, list[int]] = {}
        for slot, _ in places:
            slots_of.setdefault(path(slot)[:length].tobytes(), []).append(slot)
        if 3 * len(slots_of) >= len(places):
            break  # longer ones differ more
        saved = (len(places) - 3 * len(slots_of)) * length
        found = max(found, (saved, length, list(slots_of.values())), key=lambda one: one[0])
    _, begin, members = found
    if not members:
        return None
    widest = max(map(len, members))
    from_FM = torch.tensor([[*slots, *slots[:1] * (widest - len(slots))] for slots in members]) - low
    at_W = torch.zeros(places[-1][0] + 1 - low, dtype=torch.long)
    for number, slots in enumerate(members):
        at_W[torch.tensor(slots) - low] = torch.arange(len(slots)) + number * widest
    return Shared(begin, torch.tensor([slots[0] for slots in members]), from_FM.flatten(), at_W)
