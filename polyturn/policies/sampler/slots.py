"""The caches: per layer one tensor [slots, heads, capacity, size]; a slot holds the keys and values of one path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polyturn.policies.sampler.request import Request
from polyturn.types import IntArray

STEP = 64
"""Capacity comes in multiples of this, so that every slot begins at an aligned address."""
WORTH_WAITING = 16
"""Ids of a common prefix for which a request waits until another has computed them."""


@dataclass(slots=True)
class Slot:
    """Place of one path: ``path[:known]`` is in the cache."""

    path: IntArray
    known: int = 0
    used: int = 0
    owner: Request | None = None

    def common(self, ids: IntArray) -> int:
        """Leading ids that are cached here."""
        return common(self.path[: self.known], ids)


def common(first: IntArray, second: IntArray) -> int:
    """The length of the longest common beginning.

    >>> import numpy as np
    >>> common(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    length = min(len(first), len(second))
    unequal = first[:length] != second[:length]
    return int(unequal.argmax()) if unequal.any() else length


class Slots:
    """Slots under a byte budget. The coldest free slot is given away first; what it held is computed again when it is
    asked for. At least one slot always exists, however small the budget."""

    def __init__(self, cache_bytes: int) -> None:
        self.cache_bytes = cache_bytes
        self.capacity = STEP
        self.slots: list[Slot] = []
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

    def drop(self) -> None:
        """Forgets everything (the weights changed); no slot may have an owner."""
        self.slots, self._allocated, self._layers, self.capacity = [], 0, {}, STEP

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
                    known = self.slots[slot].known
                    new[place, :, :known] = old[slot, :, :known]
                fresh.append(new)
            self._layers[index] = (fresh[0], fresh[1])
        self.slots = [self.slots[slot] for slot in keep]
        for place, kept in enumerate(self.slots):
            if kept.owner is not None:
                kept.owner.slot = place
        self._allocated, self.capacity = allocated, capacity

    def hold(self, length: int) -> list[Request]:
        """Makes every slot hold ``length`` ids; returns the requests that lost theirs to the budget, which start over
        (the latest first)."""
        if length <= self.capacity:
            return []
        needed = -(-length // STEP) * STEP
        capacity = max(needed, min(2 * self.capacity, self.cache_bytes // max(1, self.token_bytes * len(self.slots))))
        capacity = capacity // STEP * STEP
        ranked = sorted(range(len(self.slots)), key=self._warmth, reverse=True)
        keep = sorted(ranked[: self.most(capacity)])
        lost = [self.slots[slot].owner for slot in ranked[self.most(capacity) :]]
        self._rebuild(keep, len(keep), capacity)
        return [_restarted(owner) for owner in lost if owner is not None]

    def _warmth(self, slot: int) -> tuple[bool, int]:
        """Owned slots are warmest, of them the earliest request; then the last used."""
        owner = self.slots[slot].owner
        return (True, -owner.order) if owner is not None else (False, self.slots[slot].used)

    # -------------------------------------------------------- whose slot is it

    def admit(self, request: Request) -> bool:
        """Gives the request a slot that begins with as much of its path as is cached anywhere.

        Its own continued slot, else a copy (fork) of another's beginning. False = wait: all slots are taken, or
        another request is about to compute a long common beginning.
        """
        ids = request.path[: request.length - 1 if request.score is None else request.first]
        best, length = -1, 0
        for index, slot in enumerate(self.slots):
            shared = slot.common(ids)
            if shared > length or (shared == length and shared and slot.owner is None):
                best, length = index, shared
        if self._coming(ids) >= length + WORTH_WAITING:
            return False
        target = self._target(best, length)
        if target < 0:
            return False
        if target != best and length:
            for pair in self._layers.values():
                for tensor in pair:
                    tensor[target, :, :length] = tensor[best, :, :length]
        self._clock += 1
        self.slots[target] = Slot(request.path, length, self._clock, request)
        request.slot, request.fed = target, length
        if request.cached < 0:
            request.cached = min(length, request.prompt)
        return True

    def _coming(self, ids: IntArray) -> int:
        """The longest beginning of ``ids`` that a request now at work will have computed."""
        owners = [slot.owner for slot in self.slots if slot.owner is not None and slot.owner.pending > 1]
        return max((common(owner.path[: owner.length], ids) for owner in owners), default=0)

    def _target(self, best: int, length: int) -> int:
        """The slot to write: the best match if nothing of it is lost, else an empty one, else the coldest, or -1."""
        if best >= 0 and self.slots[best].owner is None and self.slots[best].known == length:
            return best
        empty = next((i for i, slot in enumerate(self.slots) if slot.owner is None and not slot.known), None)
        if empty is not None:
            return empty
        if len(self.slots) < self.most(self.capacity):
            if len(self.slots) == self._allocated:
                wanted = min(max(4, 2 * self._allocated), self.most(self.capacity))
                self._rebuild(range(len(self.slots)), wanted, self.capacity)
            self.slots.append(Slot(np.empty(0, np.int32)))
            return len(self.slots) - 1
        free = [i for i, slot in enumerate(self.slots) if slot.owner is None]
        cold = [i for i in free if i != best] or free
        return min(cold, key=lambda i: self.slots[i].used, default=-1)

    def release(self, request: Request, broken: bool = False) -> None:
        """Frees the request's slot; its cache stays for who continues the path, unless it is broken (not finite)."""
        if request.slot < 0:
            return
        slot = self.slots[request.slot]
        self._clock += 1
        slot.owner, slot.known, slot.used = None, request.fed, self._clock
        if broken:
            slot.known = 0
            for pair in self._layers.values():
                for tensor in pair:
                    tensor[request.slot] = 0
        request.slot = -1

    def advance(self, request: Request, count: int) -> None:
        """Notes that ``count`` more ids of the request are in its slot."""
        request.fed += count
        self.slots[request.slot].known = request.fed


def _restarted(request: Request) -> Request:
    request.slot, request.fed = -1, 0
    return request
