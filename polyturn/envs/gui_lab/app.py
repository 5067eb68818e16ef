"""An application: pages with elements in boxes, what a click opens, and how far every page is from every other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

from polyturn.envs.gui_lab.graphs import BRANCHING, Graph, draw_graph
from polyturn.envs.gui_lab.icons import names
from polyturn.errors import BadInput, UnknownName
from polyturn.seeds import generator

if TYPE_CHECKING:
    import numpy as np

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""
Pixel = tuple[int, int]
Kind = Literal["tree", "acyclic", "small_world", "cyclic"]

WIDTH, HEIGHT = 1179, 2556
ICON = 200
COLUMNS, ROWS = 5, 8
TOP, SIDE, BOTTOM = 150, 60, 60
CLOSE = COLUMNS - 1
"""The place of every pop-up's ``close``."""


@dataclass(frozen=True, slots=True)
class AppSpec:
    """What an application is drawn from: ``AppSpec("tree", seed=3)``. Equal specs give equal applications."""

    kind: Kind = "tree"
    seed: int = 0
    """Draws the graph."""
    branching: tuple[int, ...] = BRANCHING
    random_children: bool = False
    """True: 1 to ``branching[k]`` children."""
    noise: int = 0
    """Pictures on every page that look like icons and do nothing."""
    looks: int | None = None
    """Draws page numbers, icons and places; None = ``seed``. Another number shows the same graph as if never seen."""


@dataclass(frozen=True, slots=True)
class Element:
    """Something in a box: ``Element("teal-star", (60, 150, 260, 350), target=7)``."""

    name: str
    box: Box
    target: int | None = None
    """The page that a click opens; None = nothing happens."""
    kind: Literal["icon", "system", "noise", "veil"] = "icon"

    @property
    def centre(self) -> Pixel:
        """The pixel in the middle."""
        left, top, right, bottom = self.box
        return (left + right) // 2, (top + bottom) // 2

    def covers(self, point: Pixel) -> bool:
        """Whether a pixel lies in the box."""
        left, top, right, bottom = self.box
        return left <= point[0] < right and top <= point[1] < bottom


@dataclass(frozen=True)
class Page:
    """One state of the application; elements later in the order lie above earlier ones."""

    index: int
    name: str
    elements: tuple[Element, ...]
    depth: int
    parent: int | None

    def hit(self, point: Pixel) -> Element | None:
        """The uppermost element at a pixel."""
        return next((element for element in reversed(self.elements) if element.covers(point)), None)

    @cached_property
    def seen(self) -> tuple[Element, ...]:
        """The elements that a click on their centre reaches, veils left out: what can be read and clicked."""
        return tuple(e for e in self.elements if e.kind != "veil" and self.hit(e.centre) is e)

    def element(self, name: str) -> Element | None:
        """The element of this name that can be clicked."""
        return next((element for element in self.seen if element.name == name), None)


@dataclass(frozen=True)
class App:
    """The pages, and everything that is known about the graph."""

    spec: AppSpec
    pages: tuple[Page, ...]
    popups: frozenset[int]
    """Pages that are pop-ups over another; never where a task starts or ends."""

    @cached_property
    def by_name(self) -> dict[str, Page]:
        """Name -> page."""
        return {page.name: page for page in self.pages}

    def page(self, name: str) -> Page:
        """The page of this name. Raises: UnknownName."""
        if name not in self.by_name:
            raise UnknownName("page", name, self.by_name)
        return self.by_name[name]

    def after(self, page: int, point: Pixel) -> int:
        """The page after a click: what the uppermost element there opens, else the same one."""
        hit = self.pages[page].hit(point)
        return page if hit is None or hit.target is None else hit.target

    def moves(self, page: int) -> Iterator[tuple[Element, int]]:
        """The elements of a page that lead somewhere, with where."""
        return ((element, element.target) for element in self.pages[page].seen if element.target is not None)

    @cached_property
    def _into(self) -> list[list[int]]:
        into: list[list[int]] = [[] for _ in self.pages]
        for page in self.pages:
            for _, target in self.moves(page.index):
                into[target].append(page.index)
        return into

    @cached_property
    def _distances(self) -> dict[int, list[int | None]]:
        return {}

    def distances(self, goal: int) -> list[int | None]:
        """Clicks from every page to ``goal`` on a shortest path (breadth-first search); None = no way."""
        if goal not in self._distances:
            found: list[int | None] = [None] * len(self.pages)
            found[goal] = 0
            waiting = deque([goal])
            while waiting:
                page = waiting.popleft()
                for before in self._into[page]:
                    if found[before] is None:
                        found[before] = (found[page] or 0) + 1
                        waiting.append(before)
            self._distances[goal] = found
        return self._distances[goal]

    def distance(self, page: int, goal: int) -> int | None:
        """Clicks on a shortest path; None = no way."""
        return self.distances(goal)[page]

    def best(self, page: int, goal: int) -> Element | None:
        """The first element of a page that begins a shortest path to ``goal``; None at the goal, or without a way."""
        far = self.distances(goal)
        here = far[page]
        if not here:
            return None
        return next(element for element, target in self.moves(page) if far[target] == here - 1)

    def path(self, start: int, goal: int) -> tuple[int, ...]:
        """The pages of the shortest path that :meth:`best` follows, both ends included; empty = no way."""
        pages = [start]
        while (element := self.best(pages[-1], goal)) is not None and element.target is not None:
            pages.append(element.target)
        return tuple(pages) if pages[-1] == goal else ()

    def branch(self, page: int) -> int | None:
        """The child of the root under which a page lies in the tree of ``parent``; None for the root and pop-ups."""
        if page in self.popups:
            return None
        above = self.pages[page].parent
        while above:
            page, above = above, self.pages[above].parent
        return page if above == 0 else None


@lru_cache(maxsize=256)
def make_app(spec: AppSpec) -> App:
    """The application of a spec. Numbers of pages are shuffled, so that they say nothing about the graph.

    Raises: BadInput for more elements on a page than there are places (40), or more icons than there are names.

    >>> app = make_app(AppSpec())
    >>> len(app.pages), len({e.name for p in app.pages for e in p.elements if e.kind == "icon"})
    (231, 230)
    """
    graph = draw_graph(spec.kind, spec.seed, spec.branching, random_children=spec.random_children)
    looks = spec.seed if spec.looks is None else spec.looks
    draws = generator("gui_lab looks", looks)
    edges = sum(map(len, graph.opens))
    numbers = draws.permutation(len(graph)).tolist()
    fresh = names(edges + spec.noise * len(graph))
    icons = iter([fresh[place] for place in draws.permutation(len(fresh)).tolist()])
    own = [_own(graph, page, icons, spec.noise, draws) for page in range(len(graph))]
    pages = [
        Page(page, f"page_{numbers[page]}", _covered(graph, page, own), graph.depth[page], graph.parent[page])
        for page in range(len(graph))
    ]
    return App(spec, tuple(pages), frozenset(graph.beneath))


def _own(
    graph: Graph, page: int, icons: Iterator[str], noise: int, draws: np.random.Generator
) -> tuple[Element, ...]:
    """A page's own elements, each in a place of the grid of its own; of a pop-up, the veil and the close icon."""
    if page in graph.beneath:
        veil = Element("", (0, 0, WIDTH, HEIGHT), None, "veil")
        return veil, Element("close", place_box(CLOSE), graph.beneath[page], "system")
    parent = graph.parent[page]
    wanted: list[tuple[str, int | None, Literal["icon", "system", "noise"]]] = []
    if parent is not None:
        wanted.append(("back", parent, "system"))
    if graph.depth[page] >= 2 and parent is not None:
        wanted.append(("home", 0, "system"))
    wanted += [(next(icons), target, "icon") for target in graph.opens[page]]
    wanted += [(next(icons), None, "noise") for _ in range(noise)]
    if len(wanted) > COLUMNS * ROWS:
        raise BadInput(f"a page needs {len(wanted)} elements; there is room for {COLUMNS * ROWS}")
    places = draws.permutation(COLUMNS * ROWS)[: len(wanted)].tolist()
    placed = zip(wanted, places, strict=True)
    return tuple(Element(name, place_box(place), target, kind) for (name, target, kind), place in placed)


def _covered(graph: Graph, page: int, own: Sequence[tuple[Element, ...]]) -> tuple[Element, ...]:
    """A page's elements, a pop-up's above those of the page beneath it."""
    return own[graph.beneath[page]] + own[page] if page in graph.beneath else own[page]


def place_box(place: int) -> Box:
    """The box of a place of the grid, 0 .. 39, row by row.

    >>> place_box(0), place_box(39)
    ((65, 150, 265, 350), (912, 2202, 1112, 2402))
    """
    row, column = divmod(place, COLUMNS)
    left = SIDE + (WIDTH - 2 * SIDE) * column // COLUMNS + ((WIDTH - 2 * SIDE) // COLUMNS - ICON) // 2
    top = TOP + (HEIGHT - TOP - BOTTOM) * row // ROWS
    return left, top, left + ICON, top + ICON
