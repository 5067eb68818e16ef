"""Drives a transformers decoder over slot caches: one flat forward for new ids of any number of requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import AttentionInterface

from polyturn.errors import BadInput
from polyturn.policies.sampler.attention import NAME, Piece, Rows, Run, Shared, attention, pieces_of, runs_of, shared_of
from polyturn.policies.sampler.check import check
from polyturn.policies.sampler.request import Request
from polyturn.policies.sampler.slots import Slots

ROWS = {"cpu": 512, "cuda": 4096}
"""New ids in one forward at most: long prompts are read in parts, between which others go on."""
WIDTH = {"cpu": 64, "cuda": 256}
"""Requests at work at most."""
SAVED = 2**22
"""Bytes of each layer that must not be read again for what that takes beside: a dozen calls."""
FIXED = 32
"""Rows of every forward in deterministic mode."""


class Driven:
    """Feeds requests to the model; ``step`` returns the logits that were asked for.

    ``deterministic``: every forward has exactly ``FIXED`` rows (padded), and every id attends in a call of its own
    over exactly the keys before it, so that an id's numbers depend on its path alone: not on what else waits, on what
    was cached, on how a prompt was cut. A forward costs about a third more than a plain one of as many rows, so
    little is lost with 32 requests at work; with one, 31 rows of 32 are padding and a step takes about four times as
    long.
    """

    name = "slots"

    def __init__(self, model: PreTrainedModel, *, cache_bytes: int, deterministic: bool = False) -> None:
        AttentionInterface.register(NAME, attention)
        model.config._attn_implementation = NAME
        self.model = model
        self.deterministic = deterministic
        kind = model.device.type
        self.rows = FIXED if deterministic else ROWS.get(kind, ROWS["cpu"])
        self.width = FIXED if deterministic else WIDTH.get(kind, WIDTH["cpu"])
        self.slots = Slots(cache_bytes)

    def admit(self, request: Request) -> bool:
        """Seats the request, or says that it must wait."""
        return self.slots.admit(request)

    def release(self, request: Request, broken: bool = False) -> None:
        """Ends the request's work; its cache stays for who continues the path."""
        self.slots.release(request, broken)

    def drop(self) -> None:
        """Forgets all caches, for the weights changed."""
        self.slots.drop()

    def close(self) -> None:
        """Gives the caches back."""
        self.slots.drop()

    def step(self, requests: Sequence[Request]) -> tuple[list[Request], torch.Tensor, list[Request]]:
        """One forward. Returns the requests that reached the end of their ids, the logits of their last ids [R, V] in
        float32 (more rows may follow as padding), and the requests that lost their slot and must be admitted again."""
        lost = self.slots.hold(max(request.fed + count for request, count in self._portions(requests)))
        portions = self._portions([request for request in requests if request not in lost])
        rows, ids_T, position_T = self._rows(portions)
        wanted, ready, scored = self._wanted(portions)
        device = self.model.device
        logits = self.model(
            input_ids=ids_T[None].to(device), position_ids=position_T[None].to(device), use_cache=False,
            logits_to_keep=torch.tensor(self._padded(wanted), device=device), polyturn_rows=rows.to(device),
        ).logits[0].float().cpu()
        for request, at, count, place in scored:
            assert request.score is not None
            request.score(at, logits[place : place + count])
        for request, count in portions:
            self.slots.advance(request, count)
        return ready, logits, lost

    def _portions(self, requests: Sequence[Request]) -> list[tuple[Request, int]]:
        """How many new ids of each request go into this forward: single ones first, in order of slots."""
        left, portions = self.rows, []
        for request in sorted(requests, key=lambda r: (r.pending > 1, r.slot if r.pending == 1 else r.order)):
            count = min(left, request.pending)
            if count:
                portions.append((request, count))
                left -= count
        return portions

    def _rows(self, portions: Sequence[tuple[Request, int]]) -> tuple[Rows, torch.Tensor, torch.Tensor]:
        ids, slots, positions = [], [], []
        for request, count in portions:
            ids.append(request.path[request.fed : request.fed + count])
            slots.append(np.full(count, request.slot))
            positions.append(np.arange(request.fed, request.fed + count))
        slot_T, position_T = np.concatenate(slots), np.concatenate(positions)
        count = len(slot_T)
        padding = np.zeros(self.rows - count if self.deterministic else 0, np.int64)
        rows = Rows(
            self.slots, count, torch.from_numpy(slot_T), torch.from_numpy(position_T), *self._attending(portions)
        )
        ids_T = torch.from_numpy(np.concatenate([*ids, padding]).astype(np.int64))
        return rows, ids_T, torch.from_numpy(np.concatenate([position_T, padding]))

    def _attending(self, portions: Sequence[tuple[Request, int]]) -> tuple[tuple[Run, ...], tuple[Piece, ...]]:
        if self.deterministic:
            each = [(request.slot, request.fed + i) for request, count in portions for i in range(count)]
            return tuple(Run(row, 1, slot, slot + 1, at + 1) for row, (slot, at) in enumerate(each)), ()
        single = [(request.slot, request.fed + 1) for request, _ in portions if request.pending == 1]
        longer = [(request.slot, request.fed, count) for request, count in portions if request.pending > 1]
        return runs_of(single, self._shared), pieces_of(longer, len(single))

    def _shared(self, places: Sequence[tuple[int, int]]) -> Shared | None:
        return shared_of(places, self.slots.book.path, worth=self.slots.keys_of(SAVED))

    def _wanted(
        self, portions: Sequence[tuple[Request, int]]
    ) -> tuple[list[int], list[Request], list[tuple[Request, int, int, int]]]:
        """Rows to project onto the vocabulary: the last of each finished prompt first, then those of scored paths from
        their first wanted position on, as (request, position, count, place)."""
        wanted: list[int] = []
        ready: list[Request] = []
        more: list[int] = []
        scored: list[tuple[Request, int, int, int]] = []
        row = 0
        for request, count in portions:
            if request.score is not None:
                skip = min(max(request.first - request.fed, 0), count)
                if skip < count:
                    scored.append((request, request.fed + skip, count - skip, len(more)))
                    more.extend(range(row + skip, row + count))
            elif count == request.pending:
                wanted.append(row + count - 1)
                ready.append(request)
            row += count
        first = len(wanted)
        return wanted + more, ready, [(r, at, count, first + place) for r, at, count, place in scored]

    def _padded(self, wanted: Sequence[int]) -> list[int]:
        if self.deterministic:
            return [*wanted, *[0] * (FIXED - len(wanted))]
        return list(wanted) or [0]


def check_driven(driven: Driven, plain: PreTrainedModel) -> None:
    """Compares the driven model with its own plain forward, and learns the cache's size.

    Raises: BadInput where they differ (windows, recurrent layers, attention that cannot be replaced).
    """
    check(driven, driven.model, plain)
    driven.slots.measured()
    driven.drop()
    if driven.deterministic:
        _check_rows(driven.model)


def _check_rows(model: torch.nn.Module) -> None:
    """Raises BadInput where a row of a product depends on its place or on the other rows: then no batch of this
    machine can be deterministic."""
    linear = {tuple(m.weight.shape): m for m in model.modules() if isinstance(m, torch.nn.Linear)}
    noise = torch.Generator().manual_seed(0)
    for (_, size), module in linear.items():
        x = torch.randn(FIXED, size, generator=noise).to(module.weight.device)
        other = torch.randn(FIXED, size, generator=noise).to(module.weight.device)
        for place in range(1, FIXED):
            other[place] = x[0]
            if place % 5 == 0 and not torch.equal(module(other)[place], module(x)[0]):
                raise BadInput(
                    f"products of {FIXED} rows with a {tuple(module.weight.shape)} matrix give a row other bits at "
                    "another place here; run without deterministic"
                )
