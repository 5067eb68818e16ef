"""Chains and passes: worked by hand, and their promises on random trees."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polyturn.arrays import Tree, pruned
from polyturn.forest.layout import Chain, lay, pack
from tests.tiny import random_tree


def tree(parents: list[int]) -> Tree:
    return Tree(np.arange(len(parents), dtype=np.int32), np.array(parents, np.int32))


def test_chains_of_a_trunk_with_two_branches() -> None:
    # 0-1 then 2 or 3; node 4 continues 2, node 5 is a root of its own.
    layout = lay(tree([-1, 0, 1, 1, 2, -1]))
    assert layout.order_U.tolist() == [0, 1, 2, 4, 3, 5]
    assert layout.depth_U.tolist() == [0, 1, 2, 3, 2, 0]
    assert layout.chains == (
        Chain(0, 2, 5), Chain(2, 4, 4, ((0, 2),)), Chain(4, 5, 5, ((0, 2),)), Chain(5, 6, 6),
    )  # fmt: skip


def test_an_empty_tree_has_no_chains_and_no_passes() -> None:
    assert lay(tree([])).chains == ()
    assert pack(tree([]), np.zeros(0, np.int32), 10) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 3), st.integers(1, 8))
def test_every_row_sees_exactly_its_path(seed: int, nodes: int, roots: int, reach: int) -> None:
    grown = random_tree(np.random.default_rng(seed), max(nodes, roots), roots=roots, reach=reach)
    layout = lay(grown)
    assert sorted(layout.order_U.tolist()) == list(range(len(grown.id_U)))
    seen: dict[int, set[int]] = {row: set() for row in range(len(grown.id_U))}
    for chain in layout.chains:
        for row in range(chain.start, chain.stop):
            seen[row] |= set(range(chain.start, row + 1))
        for row in range(chain.stop, chain.end):
            assert not seen[row] & set(range(chain.start, chain.stop))
            seen[row] |= set(range(chain.start, chain.stop))
        above = {row for start, stop in chain.above for row in range(start, stop)}
        assert above == seen[chain.start] - {chain.start}
    for row, start in enumerate(layout.order_U.tolist()):
        path, node = [], start
        while node >= 0:
            path.append(node)
            node = int(grown.parent_U[node])
        assert {int(layout.order_U[r]) for r in seen[row]} == set(path)
        assert layout.depth_U[row] == len(path) - 1


def test_passes_are_cut_at_branches() -> None:
    # A trunk of 3 and three branches of 4 each; reads at all branch nodes. 3 + 4 + 4 = 11 nodes fit into 12, 15 do not.
    parents = [-1, 0, 1, 2, 3, 4, 5, 2, 7, 8, 9, 2, 11, 12, 13]
    read = np.arange(3, 15, dtype=np.int32)
    passes = pack(tree(parents), read, 12)
    assert [one.index_R.tolist() for one in passes] == [list(range(8)), list(range(8, 12))]
    assert [one.nodes for one in passes] == [11, 7]


def test_one_path_larger_than_the_limit_is_one_pass() -> None:
    passes = pack(tree(list(range(-1, 99))), np.arange(100, dtype=np.int32), 10)
    assert [(len(one.index_R), one.nodes) for one in passes] == [(100, 100)]


def test_a_unit_is_not_split_and_takes_its_paths_with_it() -> None:
    # Leaves 1, 2, 3 under the root 0. Unit 7 holds leaves 1 and 3, so they go together though 2 stands between.
    passes = pack(tree([-1, 0, 0, 0]), np.array([1, 2, 3], np.int32), 1, np.array([7, 8, 7], np.int32))
    assert [one.index_R.tolist() for one in passes] == [[0, 2], [1]]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 40), st.booleans())
def test_each_read_goes_once_and_passes_keep_the_limit(seed: int, nodes: int, limit: int, units: bool) -> None:
    draw = np.random.default_rng(seed)
    grown = random_tree(draw, nodes)
    read = draw.integers(0, nodes, draw.integers(1, 30)).astype(np.int32)
    unit = draw.integers(0, 5, len(read)).astype(np.int32) if units else None
    passes = pack(grown, read, limit, unit)
    assert sorted(r for one in passes for r in one.index_R.tolist()) == list(range(len(read)))
    for one in passes:
        assert one.nodes == len(pruned(grown, read[one.index_R])[0].id_U)
        if unit is None:
            assert one.nodes <= max(limit, int(grown.depth_U()[read].max()) + 1)
    if unit is not None:
        homes = [{int(u) for u in unit[one.index_R]} for one in passes]
        assert sum(len(home) for home in homes) == len(set(unit.tolist()))
