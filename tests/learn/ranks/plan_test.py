"""Passes for several ranks: balanced, each read once, within the budget, units whole."""

from __future__ import annotations

import numpy as np
import pytest

from polyturn.arrays import Tree
from polyturn.forest.layout import Pass, pack
from polyturn.learn.gradient import before, unit_numbers
from polyturn.learn.ranks.plan import length, rounds, shares
from tests.tiny import random_tokens


def chains(*lengths: int) -> Tree:
    """Trees of one path each."""
    starts = np.cumsum([0, *lengths[:-1]])
    parents = [-1 if i == 0 else at + i - 1 for at, n in zip(starts, lengths, strict=True) for i in range(n)]
    return Tree(np.full(len(parents), 7, np.int32), np.array(parents, np.int32))


def test_trees_are_halved_where_one_process_would_take_one_pass() -> None:
    # Four trees of 10 and a budget of 100: one pass of 40 for one process, two passes of 20 at a time for two ranks.
    tree = chains(10, 10, 10, 10)
    every = np.arange(40, dtype=np.int32)
    assert [one.nodes for one in pack(tree, every, 100)] == [40]
    assert [one.nodes for one in shares(tree, every, 100, 2)] == [20, 20]
    assert length(shares(tree, every, 100, 2), 2) == (20, 1)


def test_a_little_more_room_spares_a_round() -> None:
    # 9 + 4 + 8 + 3 = 24 nodes, 12 each for two ranks: in that order 12 a pass makes [9], [4+8], [3], two rounds of
    # 12 + 3 = 15. A budget of 14 (12 * 1.1 and more) makes [9+4], [8+3]: one round of 13.
    tree = chains(9, 4, 8, 3)
    every = np.arange(24, dtype=np.int32)
    assert length(pack(tree, every, 12), 2) == (15, 2)
    assert length(shares(tree, every, 100, 2), 2) == (13, 1)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("unit", ["token", "trajectory", "group"])
def test_every_read_is_computed_once_and_units_stay_whole(ranks: int, unit: str) -> None:
    draw = np.random.default_rng(ranks)
    for limit in (12, 40, 1000):
        tokens = random_tokens(draw, trajectories=8)
        unit_N = unit_numbers(tokens, unit)
        found = shares(tokens.tree, before(tokens), limit, ranks, unit_N)
        assert sorted(n for one in found for n in one.index_R.tolist()) == list(range(len(tokens)))
        if unit_N is not None:
            where = {n: i for i, one in enumerate(found) for n in one.index_R.tolist()}
            assert all(len({where[n] for n in np.flatnonzero(unit_N == u).tolist()}) == 1 for u in set(unit_N.tolist()))
        naive = pack(tokens.tree, before(tokens), limit, unit_N)
        assert length(found, ranks)[0] <= length(naive, ranks)[0]
        assert max(one.nodes for one in found) <= max(limit, *(one.nodes for one in naive))


def test_a_round_takes_passes_of_like_size() -> None:
    passes = [Pass(np.arange(1), nodes) for nodes in (3, 100, 4, 90, 80)]
    assert [[one.nodes for one in each] for each in rounds(passes, 2)] == [[100, 90], [80, 4], [3]]
    assert rounds([], 2) == []


def test_nothing_to_read_is_no_pass() -> None:
    assert shares(chains(3), np.zeros(0, np.int32), 10, 2) == []
