"""The caches: per layer one tensor [slots, heads, capacity, size]; a slot holds the keys and values of one path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from polyturn.policies.sampler.book import Book
from polyturn.policies.sampler.request import Request

STEP = 64
"""Capacity comes in multiples of this, so that every slot begins at an aligned address."""
WORTH_WAITING = 16
"""Ids of a common prefix for which a request waits until another has computed them."""


class Slots:
    """Slots under a byte budget. The coldest free slot is given away first; what it held is computed again when it is
    asked for. At least one slot always exists, however small the budget."""

    def __init__(self, cache_bytes: int) -> None:
        self.cache_bytes = cache_bytes
        self.capacity = STEP
        self.owners: list[Request | None] = []
        self.book = Book()
        self.token_bytes = 0
        self._allocated = 0
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._clock = 0

    # -------------------------------------------------------- tensors

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The key and value tensors of a layer, made like its first ``key`` and ``value`` [1, heads, T, size]."""
        if index not in self._layers:
            self._layers[index] = (self._zeros(key), self._zeros(value))
        return self._layers[index]

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self._allocated, like.shape[1], self.capacity, like.shape[3])

    def measured(self) -> None:
        """Notes the bytes of one token, once every layer has been seen."""
        self.token_bytes = sum(
            t.shape[1] * t.shape[3] * t.element_size() for pair in self._layers.values() for t in pair
        )

    def keys_of(self, size: int) -> int:
        """The fewest keys, with their values, that take ``size`` bytes of one layer."""
        return -(-size * len(self._layers) // max(1, self.token_bytes))

    def drop(self) -> None:
        """Forgets everything (the weights changed); no slot may have an owner."""
        self.owners, self.book, self._allocated, self._layers, self.capacity = [], Book(), 0, {}, STEP

    def most(self, capacity: int) -> int:
        """How many slots of a capacity the budget holds."""
        return max(1, self.cache_bytes // max(1, self.token_bytes * capacity))

    def _rebuild(self, keep: Sequence[int], allocated: int, capacity: int) -> None:
        """New tensors with the kept slots in front, layer by layer."""
        for index, pair in self._layers.items():
            fresh = []
            for old in pair:
                new = old.new_zeros(allocated, old.shape[1], capacity, old.shape[3])
                for place, slot in enumerate(keep):
                    known = int(self.book.known_S[slot])
                    new[place, :, :known] = old[slot, :, :known]
                fresh.append(new)
            self._layers[index] = (fresh[0], fresh[1])
        self.owners = [self.owners[slot] for slot in keep]
        self.book.keep(keep)
        for place, owner in enumerate(self.owners):
            if owner is not None:
                owner.slot = place
        self._allocated, self.capacity = allocated, capacity

    def hold(self, length: int) -> list[Request]:
        """Makes every slot hold ``length`` ids; returns the requests that lost theirs to the budget, which start over
        (the latest first)."""
        if length <= self.capacity:
            return []
        needed = -(-length // STEP) * STEP
        room = self.cache_bytes // max(1, self.token_bytes * len(self.owners))
        capacity = max(needed, min(needed + needed // 4, room))  # no more: it is all written anew
        capacity = capacity // STEP * STEP
        ranked = sorted(range(len(self.owners)), key=self._warmth, reverse=True)
        keep = sorted(ranked[: self.most(capacity)])
        lost = [self.owners[slot] for slot in ranked[self.most(capacity) :]]
        self._rebuild(keep, len(keep), capacity)
        return [_restarted(owner) for owner in lost if owner is not None]

    def _warmth(self, slot: int) -> tuple[bool, int]:
        """Owned slots are warmest, of them the earliest request; then the last used."""
        owner = self.owners[slot]
        return (True, -owner.order) if owner is not None else (False, int(self.book.used_S[slot]))

    # -------------------------------------------------------- whose slot is it

    def admit(self, request: Request) -> bool:
        """Gives the request a slot that begins with as much of its path as is cached anywhere.

        Its own continued slot, else a copy (fork) of another's beginning. False = wait: all slots are taken, or
        another request is about to compute a long common beginning.
        """
        ids = request.path[: request.length - 1 if request.score is None else request.first]
        common_S = self.book.common_S(ids)
        best, length = self._best(common_S)
        if self._coming(common_S) >= length + WORTH_WAITING:
            return False
        target = self._target(best, length)
        if target < 0:
            return False
        if target != best and length:
            for pair in self._layers.values():
                for tensor in pair:
                    tensor[target, :, :length] = tensor[best, :, :length]
        self._clock += 1
        self.owners[target] = request
        self.book.seat(target, request.path[: request.length], length, self._clock)
        request.slot, request.fed = target, length
        if request.cached < 0:
            request.cached = min(length, request.prompt)
        return True

    def _best(self, common_S: NDArray[np.int64]) -> tuple[int, int]:
        """The slot with the longest cached beginning, a free one if there is one, and its length; -1 and 0 for none."""
        cached_S = np.minimum(common_S, self.book.known_S)
        length = int(cached_S.max(initial=0))
        if not length:
            return -1, 0
        longest = np.flatnonzero(cached_S == length)
        free = longest[~self.book.owned_S[longest]]
        return int(free[-1] if len(free) else longest[0]), length

    def _coming(self, common_S: NDArray[np.int64]) -> int:
        """The longest beginning that a request now at work will have computed."""
        book = self.book
        at_work_S = book.owned_S & (book.length_S - book.known_S > 1)
        return int(common_S[at_work_S].max(initial=0))

    def _target(self, best: int, length: int) -> int:
        """The slot to write: the best match if nothing of it is lost, else an empty one, else the coldest, or -1."""
        book = self.book
        if best >= 0 and not book.owned_S[best] and book.known_S[best] == length:
            return best
        free = np.flatnonzero(~book.owned_S)
        empty = free[book.known_S[free] == 0]
        if len(empty):
            return int(empty[0])
        if len(self.owners) < self.most(self.capacity):
            if len(self.owners) == self._allocated:
                wanted = min(max(4, 2 * self._allocated), self.most(self.capacity))
                self._rebuild(range(len(self.owners)), wanted, self.capacity)
            self.owners.append(None)
            return self.book.add()
        cold = free[free != best] if len(free) > 1 else free
        return int(cold[book.used_S[cold].argmin()]) if len(cold) else -1

    def release(self, request: Request, broken: bool = False) -> None:
        """Frees the request's slot; its cache stays for who continues the path, unless it is broken (not finite)."""
        if request.slot < 0:
            return
        self._clock += 1
        self.owners[request.slot] = None
        self.book.leave(request.slot, 0 if broken else request.fed, self._clock)
        if broken:
            for pair in self._layers.values():
                for tensor in pair:
                    tensor[request.slot] = 0
        request.slot = -1

    def advance(self, request: Request, count: int) -> None:
        """Notes that ``count`` more ids of the request are in its slot."""
        request.fed += count
        self.book.follow(request.slot, request.path[: request.length], request.fed)


def _restarted(request: Request) -> Request:
    request.slot, request.fed = -1, 0
    return request
