"""The book of the slots: which ids stand in each, how many are cached, whose it is, when it was used last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polyturn.types import IntArray


class Book:
    """One row a slot (S of them), in arrays, so that a request is compared with all paths at once.

    ``known_S`` = leading ids whose keys and values are cached, ``length_S`` = ids of the path as of its last step,
    ``used_S`` = when it was last used, ``owned_S`` = whether a request is at work in it.
    """

    def __init__(self) -> None:
        self._size = 0
        self._ids = np.zeros((4, 64), np.int32)
        self._columns = np.zeros((3, 4), np.int64)
        self._owned = np.zeros(4, np.bool_)

    def __len__(self) -> int:
        return self._size

    @property
    def known_S(self) -> NDArray[np.int64]:
        """Cached leading ids."""
        return self._columns[0, : self._size]

    @property
    def length_S(self) -> NDArray[np.int64]:
        """Ids of the path."""
        return self._columns[1, : self._size]

    @property
    def used_S(self) -> NDArray[np.int64]:
        """Time of the last use."""
        return self._columns[2, : self._size]

    @property
    def owned_S(self) -> NDArray[np.bool_]:
        """Whether a request works in it."""
        return self._owned[: self._size]

    def add(self) -> int:
        """A new slot in which nothing stands; returns its number."""
        if self._size == len(self._owned):
            self._grow(rows=max(4, 2 * self._size))
        self._size += 1
        self._write(self._size - 1, 0, 0, 0, owned=False)
        return self._size - 1

    def seat(self, slot: int, path: IntArray, known: int, used: int) -> None:
        """A request begins work on ``path``, of which ``known`` ids are cached."""
        self._spell(slot, path, 0)
        self._write(slot, known, len(path), used, owned=True)

    def follow(self, slot: int, path: IntArray, known: int) -> None:
        """The request's path has grown to ``path`` and its cache to ``known`` ids."""
        self._spell(slot, path, int(self.length_S[slot]))
        self.length_S[slot], self.known_S[slot] = len(path), known

    def leave(self, slot: int, known: int, used: int) -> None:
        """The request's work is over; ``known`` ids of it stay."""
        self._write(slot, known, known, used, owned=False)

    def keep(self, slots: Sequence[int]) -> None:
        """Only these slots, in this order."""
        chosen = list(slots)
        self._ids, self._owned = self._ids[chosen], self._owned[chosen]
        self._columns = self._columns[:, chosen]
        self._size = len(chosen)

    def path(self, slot: int) -> IntArray:
        """The ids that stand in a slot."""
        return self._ids[slot, : self.length_S[slot]]

    def common_S(self, ids: IntArray) -> NDArray[np.int64]:
        """For every slot, how many leading ids its path shares with ``ids``; at most its length."""
        width = min(len(ids), self._ids.shape[1])
        unequal = self._ids[: self._size, :width] != ids[:width]
        if not width:
            return np.zeros(self._size, np.int64)
        return np.minimum(np.where(unequal.any(axis=1), unequal.argmax(axis=1), width), self.length_S)

    def _spell(self, slot: int, path: IntArray, start: int) -> None:
        if len(path) > self._ids.shape[1]:
            self._grow(columns=2 * len(path))
        self._ids[slot, start : len(path)] = path[start:]

    def _write(self, slot: int, known: int, length: int, used: int, *, owned: bool) -> None:
        self._columns[:, slot] = known, length, used
        self._owned[slot] = owned

    def _grow(self, *, rows: int = 0, columns: int = 0) -> None:
        old_ids, old_columns, old_owned = self._ids, self._columns, self._owned
        shape = max(rows, len(old_ids)), max(columns, old_ids.shape[1])
        self._ids = np.zeros(shape, np.int32)
        self._ids[: len(old_ids), : old_ids.shape[1]] = old_ids
        self._columns = np.zeros((3, shape[0]), np.int64)
        self._columns[:, : len(old_owned)] = old_columns
        self._owned = np.zeros(shape[0], np.bool_)
        self._owned[: len(old_owned)] = old_owned
