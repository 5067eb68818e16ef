"""A token tree in depth-first order, cut into chains, and cut into passes that fit into memory.

A **chain** is a run without a branch. Depth first, all that descends from a chain stands in one block behind it, so
attention over the tree is a list of rectangles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from polyturn.arrays import Tree, pruned
from polyturn.forest.packed import Packed
from polyturn.forest.packed import pack as pack_pieces
from polyturn.types import IntArray


@dataclass(frozen=True, slots=True)
class Chain:
    """Rows ``start:stop`` of the layout; all descendants are rows ``stop:end``.

    ``Tree([5, 6, 7, 8], [-1, 0, 1, 1])`` has the chains ``(0, 2, 4)``, ``(2, 3, 3)`` and ``(3, 4, 4)``.
    """

    start: int
    stop: int
    end: int
    above: tuple[tuple[int, int], ...] = ()
    """The row ranges of its ancestors, root first."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A tree in depth-first order, as it travels through the model's forward."""

    order_U: IntArray
    """Row -> tree node."""
    depth_U: IntArray
    """Row -> position."""
    chains: tuple[Chain, ...]
    recompute: bool = False
    """True: a layer's activations are computed again in the backward pass instead of being kept."""
    windows: dict[int, int | None] = field(default_factory=dict)
    """Filled in by the forward: layer -> sliding window with which it was called."""
    masks: dict[tuple[int | None, torch.device], list[torch.Tensor]] = field(default_factory=dict)
    """Filled in by :meth:`seen`."""
    packs: dict[torch.device, Packed] = field(default_factory=dict)
    """Filled in by :meth:`packed`."""
    rotations: dict[int, tuple[object, tuple[torch.Tensor, torch.Tensor] | None]] = field(default_factory=dict)
    """Filled in by the layers: what the rotary embedding gave, and what was found in it."""

    def roots(self) -> list[Chain]:
        """The chains that begin a tree."""
        return [chain for chain in self.chains if not chain.above]

    def pieces(self) -> list[tuple[int, int, tuple[tuple[int, int], ...]]]:
        """(first row, end, row ranges above) of each run of rows on one path, cut where a path leaves the one before.

        >>> lay(Tree(np.array([5, 6, 7, 8]), np.array([-1, 0, 0, 1]))).pieces()
        [(0, 3, ()), (3, 4, ((0, 1),))]
        """
        found: list[tuple[int, int, tuple[tuple[int, int], ...]]] = []
        before = None
        for chain in self.chains:
            if before is not None and chain.above and chain.above[-1] == (before.start, before.stop):
                found[-1] = (found[-1][0], chain.stop, found[-1][2])
            else:
                found.append((chain.start, chain.stop, chain.above))
            before = chain
        return found

    def packed(self, device: torch.device) -> Packed:
        """The pieces as a GPU's kernel reads them. Made once for a device."""
        if device not in self.packs:
            self.packs[device] = pack_pieces(self.pieces(), device)
        return self.packs[device]

    def seen(self, window: int | None, device: torch.device) -> list[torch.Tensor]:
        """For each tree, [rows, rows]: True where a row sees another (itself, its ancestors, of them the ``window``
        nearest with itself). Made once for a device and a window."""
        key = (window, device)
        if key not in self.masks:
            self.masks[key] = [self._seen(root, window).to(device) for root in self.roots()]
        return self.masks[key]

    def _seen(self, root: Chain, window: int | None) -> torch.Tensor:
        seen = np.zeros((root.end - root.start,) * 2, np.bool_)
        for chain in self.chains:
            if root.start <= chain.start < root.end:
                columns = np.concatenate([np.arange(a, b) for a, b in (*chain.above, (chain.start, chain.stop))])
                behind = self.depth_U[chain.start : chain.stop, None] - self.depth_U[columns]
                inside = (behind >= 0) & (behind < (window or len(self.depth_U)))
                seen[chain.start - root.start : chain.stop - root.start, columns - root.start] = inside
        return torch.from_numpy(seen)


def lay(tree: Tree, *, recompute: bool = False) -> Layout:
    """The depth-first layout of a tree; children keep their order.

    >>> lay(Tree(np.array([5, 6, 7, 8]), np.array([-1, 0, 0, 1]))).order_U.tolist()
    [0, 1, 3, 2]
    """
    below: list[list[int]] = [[] for _ in tree.id_U]
    roots: list[int] = []
    for node, parent in enumerate(tree.parent_U.tolist()):
        (below[parent] if parent >= 0 else roots).append(node)
    order: list[int] = []
    depths: list[int] = []
    runs: list[tuple[int, int, int]] = []
    stack = [(root, -1, 0) for root in reversed(roots)]
    while stack:
        node, above, depth = stack.pop()
        start = len(order)
        while True:
            order.append(node)
            depths.append(depth)
            depth += 1
            if len(below[node]) != 1:
                break
            node = below[node][0]
        stack.extend((child, len(runs), depth) for child in reversed(below[node]))
        runs.append((start, len(order), above))
    return Layout(np.array(order, np.int64), np.array(depths, np.int64), _chains(runs), recompute)


def _chains(runs: Sequence[tuple[int, int, int]]) -> tuple[Chain, ...]:
    """The chains of (start, stop, index of the run above) in depth-first order."""
    ends = [stop for _, stop, _ in runs]
    for index in range(len(runs) - 1, -1, -1):
        above = runs[index][2]
        if above >= 0:
            ends[above] = max(ends[above], ends[index])
    chains: list[Chain] = []
    for (start, stop, above), end in zip(runs, ends, strict=True):
        over = (*chains[above].above, (chains[above].start, chains[above].stop)) if above >= 0 else ()
        chains.append(Chain(start, stop, end, over))
    return tuple(chains)


@dataclass(frozen=True, slots=True)
class Pass:
    """Reads that go through the model together."""

    index_R: IntArray
    """Which reads, ascending."""
    nodes: int
    """Nodes of the part of the tree that they need."""


def pack(tree: Tree, node_R: IntArray, limit: int, unit_R: IntArray | None = None) -> list[Pass]:
    """Passes over all reads (each in one), none larger than ``limit`` nodes unless one indivisible piece is.

    Indivisible are the reads on one path, and the reads of one unit with all paths that it touches.
    """
    if not len(node_R):
        return []
    part, place_R = pruned(tree, node_R)
    order_U = lay(part).order_U
    leaf_U = _first_leaf(part, order_U)
    piece_R = leaf_U[place_R] if unit_R is None else _joined(leaf_U[place_R], unit_R)
    row_U = np.empty(len(order_U), np.int64)
    row_U[order_U] = np.arange(len(order_U))
    pieces: dict[int, list[int]] = {}
    for r in np.argsort(row_U[place_R], kind="stable").tolist():
        pieces.setdefault(int(piece_R[r]), []).append(r)
    parents, places = part.parent_U.tolist(), place_R.tolist()
    passes: list[Pass] = []
    held: set[int] = set()
    reads: list[int] = []
    for piece in pieces.values():
        fresh = _fresh(parents, [places[r] for r in piece], held)
        if reads and len(held) + len(fresh) > limit:
            passes.append(Pass(np.array(sorted(reads), np.int32), len(held)))
            held, reads = set(), []
            fresh = _fresh(parents, [places[r] for r in piece], held)
        held |= fresh
        reads.extend(piece)
    return [*passes, Pass(np.array(sorted(reads), np.int32), len(held))]


def _fresh(parents: Sequence[int], nodes: Sequence[int], held: set[int]) -> set[int]:
    """The nodes on the paths to ``nodes`` that are not held yet."""
    found: set[int] = set()
    for start in nodes:
        node = start
        while node >= 0 and node not in held and node not in found:
            found.add(node)
            node = parents[node]
    return found


def _first_leaf(tree: Tree, order_U: IntArray) -> IntArray:
    """Node -> the first leaf below it in depth-first order (itself for a leaf)."""
    leaf_U = np.full(len(order_U), -1, np.int32)
    parents = tree.parent_U.tolist()
    for node in order_U[::-1].tolist():
        if leaf_U[node] < 0:
            leaf_U[node] = node
        if parents[node] >= 0:
            leaf_U[parents[node]] = leaf_U[node]
    return leaf_U


def _joined(leaf_R: IntArray, unit_R: IntArray) -> IntArray:
    """A label for each read; reads of one leaf or of one unit share it (also through others)."""
    above: dict[tuple[str, int], tuple[str, int]] = {}

    def top(item: tuple[str, int]) -> tuple[str, int]:
        while above.setdefault(item, item) != item:
            above[item] = above[above[item]]
            item = above[item]
        return item

    for leaf, unit in zip(leaf_R.tolist(), unit_R.tolist(), strict=True):
        above[top(("leaf", leaf))] = top(("unit", unit))
    labels: dict[tuple[str, int], int] = {}
    return np.array([labels.setdefault(top(("leaf", leaf)), len(labels)) for leaf in leaf_R.tolist()], np.int32)
