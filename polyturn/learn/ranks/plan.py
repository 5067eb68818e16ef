"""Which rank computes what: passes of about equal size, dealt in rounds that all ranks compute together."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from polyturn.arrays import Tree, pruned
from polyturn.forest.layout import Pass, pack
from polyturn.types import IntArray

LOOSER = (1.0, 1.1, 1.25, 1.5, 2.0)
"""Budgets that are tried, as multiples of an even share: a little more room may spare a whole round."""


def rounds(passes: Sequence[Pass], ranks: int) -> list[tuple[Pass, ...]]:
    """The passes in rounds of at most one a rank, large ones together, for a round takes as long as its largest.

    >>> from numpy import arange
    >>> [[one.nodes for one in each] for each in rounds([Pass(arange(1), n) for n in (5, 9, 2, 8, 1)], 2)]
    [[9, 8], [5, 2], [1]]
    """
    order = sorted(passes, key=lambda one: -one.nodes)
    return [tuple(order[start : start + ranks]) for start in range(0, len(order), ranks)]


def shares(tree: Tree, node_R: IntArray, limit: int, ranks: int, unit_R: IntArray | None = None) -> list[Pass]:
    """Passes as :func:`polyturn.forest.layout.pack` makes them, none with more than ``limit`` nodes where it can be
    helped, in sizes with which the rounds over ``ranks`` ranks are shortest in nodes.

    A tree that is cut between two ranks is computed on both as far as they share it, which is counted.
    """
    if ranks == 1 or not len(node_R):
        return pack(tree, node_R, limit, unit_R)
    nodes = len(pruned(tree, node_R)[0].id_U)
    even = nodes / (ranks * ceil(nodes / (limit * ranks)))
    budgets = sorted({min(limit, ceil(even * looser)) for looser in LOOSER} | {limit})
    return min((pack(tree, node_R, budget, unit_R) for budget in budgets), key=lambda found: length(found, ranks))


def length(passes: Sequence[Pass], ranks: int) -> tuple[int, int]:
    """(nodes that the rounds take one after the other, rounds)."""
    dealt = rounds(passes, ranks)
    return sum(each[0].nodes for each in dealt), len(dealt)
