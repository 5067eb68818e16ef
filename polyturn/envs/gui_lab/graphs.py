"""Page graphs drawn from a seed: trees, acyclic graphs, small worlds, and cyclic graphs with pop-ups."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyturn.errors import BadInput
from polyturn.seeds import generator

if TYPE_CHECKING:
    import numpy as np

KINDS = ("tree", "acyclic", "small_world", "cyclic")
BRANCHING = (5, 3, 2, 2, 1, 1)
"""Children of a page at depth 0, 1, ...: 231 pages of depth 0 to 6, as in the paper's default engine."""
SHORTCUTS = 0.25
"""Icons beside those of the tree, as a share of the pages (``acyclic``, ``cyclic``)."""
NEIGHBOURS = 4
"""Links of a page to its nearest in the ring of a ``small_world``."""
REWIRED = 0.2
"""Share of these links that lead somewhere else."""
INTERRUPTED = 0.2
"""Share of the icons of a ``cyclic`` graph that open a pop-up first."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Pages 0 .. n - 1 (0 = the root) and what their icons open: ``Graph((0, 1), (None, 0), ((1,), ()), {})``."""

    depth: tuple[int, ...]
    """Least number of icons from the root; a pop-up and the page beneath it count as one."""
    parent: tuple[int | None, ...]
    """Where ``back`` leads."""
    opens: tuple[tuple[int, ...], ...]
    """Per page, the pages that its icons open, one icon each."""
    beneath: Mapping[int, int]
    """Pop-up -> the page that it covers, which its ``close`` opens."""

    def __len__(self) -> int:
        return len(self.depth)


def draw_graph(kind: str, seed: int, branching: Sequence[int] = BRANCHING, *, random_children: bool = False) -> Graph:
    """The graph of one of :data:`KINDS`; the same arguments give the same graph.

    ``tree``: a page at depth k has ``branching[k]`` children (with ``random_children`` 1 to that many).
    ``acyclic``: the tree and shortcuts downwards. ``cyclic``: the tree, links to anywhere else, and pop-ups that
    interrupt some icons. ``small_world`` (Watts and Strogatz): as many pages as the tree, on a ring, each linked to its
    nearest neighbours, some links led elsewhere. Raises: BadInput for a graph of one page or of unknown kind.

    >>> len(draw_graph("tree", 0)), draw_graph("tree", 0).opens[0]
    (231, (1, 2, 3, 4, 5))
    """
    if kind not in KINDS:
        raise BadInput(f"no graph of kind {kind!r}; expected one of {', '.join(KINDS)}")
    if not branching or min(branching) < 1:
        raise BadInput(f"branching is {tuple(branching)}; expected at least one number, none below 1")
    draws = generator("gui_lab graph", kind, seed, *branching, int(random_children))
    parent, opens = _tree(draws, branching, random_children)
    if kind == "tree":
        return _graph(opens, parent)
    if kind == "small_world":
        return _graph(_ring(draws, len(parent)))
    depth = _graph(opens, parent).depth
    _add_shortcuts(draws, opens, depth, downwards=kind == "acyclic")
    return _graph(opens, parent) if kind == "acyclic" else _interrupted(draws, opens, parent)


def _tree(
    draws: np.random.Generator, branching: Sequence[int], random_children: bool
) -> tuple[list[int | None], list[list[int]]]:
    parent: list[int | None] = [None]
    opens: list[list[int]] = [[]]
    level = [0]
    for most in branching:
        below: list[int] = []
        for page in level:
            for _ in range(int(draws.integers(1, most + 1)) if random_children else most):
                below.append(len(parent))
                opens[page].append(len(parent))
                parent.append(page)
                opens.append([])
        level = below
    return parent, opens


def _ring(draws: np.random.Generator, count: int) -> list[list[int]]:
    """The nearest neighbour clockwise is never led elsewhere, so that every page can be reached."""
    opens: list[list[int]] = []
    for page in range(count):
        near = [page + step for far in range(1, NEIGHBOURS // 2 + 1) for step in (far, -far)]
        targets: list[int] = []
        for place, other in enumerate(near):
            free = [goal for goal in range(count) if goal != page and goal not in targets]
            drawn = draws.random() < REWIRED and place > 0
            target = free[int(draws.integers(len(free)))] if drawn and free else other % count
            if target != page and target not in targets:
                targets.append(target)
        opens.append(targets)
    return opens


def _add_shortcuts(
    draws: np.random.Generator, opens: list[list[int]], depth: Sequence[int], *, downwards: bool
) -> None:
    """Adds icons in place; ``downwards`` ones lead at least two levels deeper, the others anywhere."""
    count = len(opens)
    for _ in range(round(SHORTCUTS * count)):
        page = int(draws.integers(count))
        free = [goal for goal in range(count) if goal != page and goal not in opens[page]
                and (depth[goal] > depth[page] + 1 or not downwards)]
        if free:
            opens[page].append(free[int(draws.integers(len(free)))])


def _interrupted(draws: np.random.Generator, opens: list[list[int]], parent: list[int | None]) -> Graph:
    """The graph with a pop-up between some icons and the pages that they open."""
    beneath: dict[int, int] = {}
    pages = len(opens)
    for page in range(pages):
        for place, target in enumerate(opens[page]):
            if draws.random() < INTERRUPTED:
                popup = pages + len(beneath)
                beneath[popup] = target
                opens[page][place] = popup
    whole = [*opens, *([] for _ in beneath)]
    return _graph(whole, [*parent, *(None for _ in beneath)], beneath)


def _graph(
    opens: Sequence[Sequence[int]], parent: Sequence[int | None] | None = None,
    beneath: Mapping[int, int] | None = None,
) -> Graph:
    """The graph with depths by breadth-first search, and parents by it where none are given."""
    beneath = beneath or {}
    depth: dict[int, int] = {0: 0}
    found: dict[int, int | None] = {0: None}
    waiting = deque([0])
    while waiting:
        page = waiting.popleft()
        for target in opens[page]:
            for goal in (target, beneath.get(target, target)):
                if goal not in depth:
                    depth[goal], found[goal] = depth[page] + 1, page
                    if goal not in beneath:
                        waiting.append(goal)
    if len(depth) != len(opens):
        raise BadInput(f"{len(opens) - len(depth)} pages cannot be reached from the root")
    parents = [found[page] for page in range(len(opens))] if parent is None else parent
    return Graph(
        tuple(depth[page] for page in range(len(opens))), tuple(parents), tuple(map(tuple, opens)), dict(beneath),
    )
