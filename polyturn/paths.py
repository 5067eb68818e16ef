"""Tokens of bare paths that nobody played: values of what was said, replies put behind other prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polyturn.arrays import Source, Tokens, Tree
from polyturn.errors import BadInput
from polyturn.types import Episode, IntArray, Task, Trajectory


def merged(paths: Sequence[IntArray]) -> tuple[Tree, list[list[int]]]:
    """The tree of all paths with equal beginnings merged, and the nodes of each path.

    >>> tree, nodes = merged([np.array([5, 6, 7]), np.array([5, 6, 8])])
    >>> tree.id_U.tolist(), tree.parent_U.tolist(), nodes
    ([5, 6, 7, 8], [-1, 0, 1, 1], [[0, 1, 2], [0, 1, 3]])
    """
    places: dict[tuple[int, int], int] = {}
    nodes: list[list[int]] = []
    for path in paths:
        nodes.append([])
        parent = -1
        for token in path.tolist():
            parent = places.setdefault((parent, token), len(places))
            nodes[-1].append(parent)
    keys = np.array(list(places), np.int32).reshape(-1, 2)
    return Tree(keys[:, 1].copy(), keys[:, 0].copy()), nodes


def path_tokens(
    paths: Sequence[IntArray], marks: Sequence[Sequence[int]], *, temperature: float = 1.0,
) -> Tokens:
    """The marked tokens of bare paths, for :class:`polyturn.learn.learner.Learner`; row b of the B axis is path b.

    ``marks[b]`` are places in path b, from 1 on (the first id has nothing before it); ``turn_N`` counts the marks of a
    path. Nothing in it was sampled, so that nothing but a critic or an estimate may be made of it.
    Raises: BadInput for a place outside its path.
    """
    tree, nodes = merged(paths)
    node_N, turn_N, row_N = [], [], []
    for b, (row, places) in enumerate(zip(nodes, marks, strict=True)):
        for k, place in enumerate(places):
            if not 1 <= place < len(row):
                raise BadInput(f"place {place} is marked in path {b} of {len(row)} ids; expected 1..{len(row) - 1}")
            node_N.append(row[place])
            turn_N.append(k)
            row_N.append(b)
    count = len(node_N)
    sources = tuple(
        Source(Episode(f"path-{b}", Task(f"path-{b}", "bare path"), 0), Trajectory("bare", "bare"), b)
        for b in range(len(paths))
    )
    trajectory_N = np.array(row_N, np.int32)
    return Tokens(
        tree, np.array(node_N, np.int32), np.zeros(count, np.bool_), np.full(count, np.nan),
        np.full(count, temperature), np.zeros(count, np.int32), np.array(turn_N, np.int32), trajectory_N,
        trajectory_N.copy(), sources,
        np.full(len(paths), -1, np.int32),
    )
