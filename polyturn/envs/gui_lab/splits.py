"""Which pairs of pages are trained on and which are held out: by sub-tree, by edge, or by a second application."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from polyturn.envs.gui_lab.app import App, AppSpec, make_app
from polyturn.errors import BadInput
from polyturn.seeds import generator

Pair = tuple[int, int]
"""Start and goal."""
ByLength = Mapping[int, tuple[Pair, ...]]
LENGTHS = (1, 7)
HELD_OUT = ("subtree", "edge", "app")


@dataclass(frozen=True, slots=True)
class Rule:
    """How tasks are held out.

    ``subtree``: the pages under a ``share`` of the root's children; every path into, out of or inside them is test.
    Their single clicks (paths of length 1) are still trained on with ``single_clicks``, so that what is held out is
    putting known clicks together. ``edge``: a ``share`` of the icons; every shortest path over one is test.
    ``app``: another application, drawn from ``seed + 1``.
    """

    by: Literal["subtree", "edge", "app"] = "subtree"
    share: float = 0.2
    single_clicks: bool = True

    def __post_init__(self) -> None:
        if self.by not in HELD_OUT:
            raise BadInput(f"held out by {self.by!r}; expected one of {', '.join(HELD_OUT)}")
        if not 0 < self.share < 1:
            raise BadInput(f"share is {self.share}; expected a number between 0 and 1")


@dataclass(frozen=True, slots=True)
class Split:
    """The pairs of both splits by the length of their shortest path, and where each stands."""

    train: ByLength
    test: ByLength
    train_app: AppSpec
    test_app: AppSpec


def pairs(app: App, lengths: tuple[int, int] = LENGTHS) -> Iterator[tuple[Pair, int]]:
    """Every (start, goal) with a shortest path of one of the lengths (both ends included), with its length. A pop-up
    is neither start nor goal."""
    ends = [page.index for page in app.pages if page.index not in app.popups]
    for goal in ends:
        far = app.distances(goal)
        for start in ends:
            length = far[start]
            if length is not None and lengths[0] <= length <= lengths[1] and start != goal:
                yield (start, goal), length


@lru_cache(maxsize=32)
def split(spec: AppSpec, rule: Rule = Rule(), lengths: tuple[int, int] = LENGTHS) -> Split:
    """The split of an application; equal arguments give the same one.

    Raises: BadInput for lengths that are no range from 1 on, and where a split would be empty.
    """
    if not 1 <= lengths[0] <= lengths[1]:
        raise BadInput(f"lengths is {lengths}; expected (shortest, longest) from 1 on")
    app = make_app(spec)
    if rule.by == "app":
        looks = None if spec.looks is None else spec.looks + 1
        other = replace(spec, seed=spec.seed + 1, looks=looks)
        return _checked(Split(_sorted(pairs(app, lengths)), _sorted(pairs(make_app(other), lengths)), spec, other))
    is_test = _by_subtree(app, rule) if rule.by == "subtree" else _by_edge(app, rule)
    train: list[tuple[Pair, int]] = []
    test: list[tuple[Pair, int]] = []
    for pair, length in pairs(app, lengths):
        where = is_test(pair, length)
        if where is not None:
            (test if where else train).append((pair, length))
    return _checked(Split(_sorted(iter(train)), _sorted(iter(test)), spec, spec))


def _by_subtree(app: App, rule: Rule) -> Callable[[Pair, int], bool | None]:
    """True = test, False = train, None = neither (the shortest path leads through held-out pages)."""
    branches = sorted({branch for page in app.pages if (branch := app.branch(page.index)) is not None})
    if len(branches) < 2:
        raise BadInput(f"the root has {len(branches)} sub-trees; expected at least 2 to hold one out")
    held = _drawn(app, "subtree", branches, rule.share)
    inside = {page.index for page in app.pages if app.branch(page.index) in held}
    through = _paths_over(app, lambda page, target: target in inside)

    def is_test(pair: Pair, length: int) -> bool | None:
        if not inside & set(pair):
            return None if through(pair) else False
        return not (length == 1 and rule.single_clicks)

    return is_test


def _by_edge(app: App, rule: Rule) -> Callable[[Pair, int], bool | None]:
    """True where the shortest path leads over a held-out icon."""
    edges = [(page.index, target) for page in app.pages for e, target in app.moves(page.index) if e.kind == "icon"]
    held = {edges[place] for place in _drawn(app, "edge", list(range(len(edges))), rule.share)}
    over = _paths_over(app, lambda page, target: (page, target) in held)
    return lambda pair, length: over(pair)


def _drawn(app: App, name: str, items: list[int], share: float) -> set[int]:
    count = min(len(items) - 1, max(1, round(share * len(items))))
    draws = generator("gui_lab held out", name, app.spec.seed)
    return {items[place] for place in draws.permutation(len(items))[:count].tolist()}


def _paths_over(app: App, marked: Callable[[int, int], bool]) -> Callable[[Pair], bool]:
    """Whether the shortest path of a pair has a marked step (page, the page after); found once for each goal."""
    known: dict[int, list[bool]] = {}

    def of_goal(goal: int) -> list[bool]:
        far = app.distances(goal)
        over = [False] * len(app.pages)
        for page in sorted((p for p in range(len(far)) if far[p]), key=lambda p: far[p] or 0):
            best = app.best(page, goal)
            assert best is not None and best.target is not None
            over[page] = marked(page, best.target) or over[best.target]
        return over

    def has(pair: Pair) -> bool:
        start, goal = pair
        if goal not in known:
            known[goal] = of_goal(goal)
        return known[goal][start]

    return has


def _sorted(found: Iterator[tuple[Pair, int]]) -> ByLength:
    by_length: dict[int, list[Pair]] = {}
    for pair, length in found:
        by_length.setdefault(length, []).append(pair)
    return {length: tuple(sorted(by_length[length])) for length in sorted(by_length)}


def _checked(found: Split) -> Split:
    for name, by_length in (("train", found.train), ("test", found.test)):
        if not by_length:
            raise BadInput(f"the {name} split is empty: draw a larger application, or other lengths")
    return found


def endless(by_length: ByLength, *key: str | int) -> Iterator[Pair]:
    """Pairs without end, every length as often as every other; which pair of a length is drawn."""
    draws = generator("gui_lab endless", *key)
    while True:
        for found in by_length.values():
            yield found[int(draws.integers(len(found)))]


def balanced(by_length: ByLength, count: int, *key: str | int) -> list[Pair]:
    """``count`` different pairs (or all there are), as evenly over the lengths as their numbers allow, lengths in
    turn."""
    draws = generator("gui_lab balanced", *key)
    shuffled = [[found[place] for place in draws.permutation(len(found)).tolist()] for found in by_length.values()]
    rounds = max(map(len, shuffled))
    every = [row[place] for place in range(rounds) for row in shuffled if place < len(row)]
    return every[:count]
