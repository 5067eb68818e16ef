"""What is said: replies read into clicks and back, coordinates in thousandths, the words of an observation.

A reply is ``Explain: click teal-star icon on page_3.<TAB>Action: click(start_box='(512,98)')`` or
``Explain: this is target page.<TAB>Action: complete``. Coordinates are thousandths of width and height; this is the
only module that turns them into pixels. There is a brief form of both for tiny models: the places of the grid are named
``a1`` to ``e8``, and a reply is ``teal-star c4`` or ``complete``. Replies are read in either form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from polyturn.envs.gui_lab.app import COLUMNS, HEIGHT, ROWS, WIDTH, Element, Page, Pixel, place_box

COMPLETE = "Explain: this is target page.\tAction: complete"
BRIEF_COMPLETE = "complete"
_PLACES = {f"{'abcde'[place % COLUMNS]}{place // COLUMNS + 1}": place_box(place) for place in range(COLUMNS * ROWS)}
"""Name of a place of the grid -> its box."""
_BRIEF = re.compile(r"([a-z]+(?:-[a-z0-9]+)*) ([a-e][1-8])")
_COORDINATES = r"\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)"
_CLICK = re.compile(rf"Action:\s*click\(\s*(?:start_box\s*=\s*)?['\"]?{_COORDINATES}['\"]?\s*\)")
_COMPLETE = re.compile(r"Action:\s*complete\b")
_CLAIM = re.compile(r"Explain:\s*click (.+?) icon on (page_\d+)\b")
_FORMAT = re.compile(
    r"Explain: (?:click \S+ icon on page_\d+\.\tAction: click\(start_box='\(\d{1,4},\d{1,4}\)'\)"
    r"|this is target page\.\tAction: complete)"
)


@dataclass(frozen=True, slots=True)
class Action:
    """A reply as read. ``icon`` and ``page`` are what it claims to click, which no transition ever trusts.

    ``Action("click", (512, 98), "teal-star", "page_3")``
    """

    kind: Literal["click", "complete"]
    point: tuple[int, int] | None = None
    """Thousandths of width and height, 0..1000."""
    icon: str | None = None
    page: str | None = None


def read_action(text: str) -> Action | None:
    """The action of a reply; None where it names none, two different ones, or a point outside 0..1000.

    >>> read_action("Explain: click teal-star icon on page_3.\\tAction: click(start_box='(512,98)')")
    Action(kind='click', point=(512, 98), icon='teal-star', page='page_3')
    >>> read_action("Action: complete").kind, read_action("(512,98)")
    ('complete', None)
    >>> read_action("teal-star c4")
    Action(kind='click', point=(499, 442), icon='teal-star', page=None)
    """
    brief = _BRIEF.fullmatch(text.strip())
    if brief:
        return Action("click", thousandths(_centre(brief.group(2))), brief.group(1))
    if text.strip() == BRIEF_COMPLETE:
        return Action("complete")
    clicks = set(_CLICK.findall(text))
    done = _COMPLETE.search(text) is not None
    if len(clicks) + done != 1:
        return None
    claim = _CLAIM.search(text)
    icon, page = (claim.group(1), claim.group(2)) if claim else (None, None)
    if done:
        return Action("complete", None, icon, page)
    point = tuple(map(int, clicks.pop()))
    if max(point) > 1000:
        return None
    return Action("click", (point[0], point[1]), icon, page)


def well_formed(text: str) -> bool:
    """Whether a reply is exactly in the form that is asked for, or in the brief one (the optional format term).

    >>> well_formed("Action: complete"), well_formed(COMPLETE), well_formed("teal-star c4")
    (False, True, True)
    """
    said = text.strip()
    return said == BRIEF_COMPLETE or any(form.fullmatch(said) for form in (_FORMAT, _BRIEF))


def _centre(place: str) -> Pixel:
    left, top, right, bottom = _PLACES[place]
    return (left + right) // 2, (top + bottom) // 2


def place_name(at: Pixel) -> str:
    """The name of the place of the grid whose centre a pixel is. Raises: StopIteration for another pixel.

    >>> place_name(_centre("c4"))
    'c4'
    """
    return next(name for name in _PLACES if _centre(name) == at)


def pixel(point: tuple[int, int]) -> Pixel:
    """The pixel at thousandths of the canvas.

    >>> pixel((0, 0)), pixel((1000, 1000)), pixel((500, 500))
    ((0, 0), (1178, 2555), (589, 1278))
    """
    return min(point[0] * WIDTH // 1000, WIDTH - 1), min(point[1] * HEIGHT // 1000, HEIGHT - 1)


def thousandths(at: Pixel) -> tuple[int, int]:
    """The thousandths that are nearest to a pixel.

    >>> pixel(thousandths((589, 1278)))
    (589, 1278)
    """
    return round(1000 * at[0] / WIDTH), round(1000 * at[1] / HEIGHT)


def click_text(page: str, element: Element, *, brief: bool = False) -> str:
    """The reply that clicks the centre of an element."""
    if brief:
        return f"{element.name} {place_name(element.centre)}"
    x, y = thousandths(element.centre)
    return f"Explain: click {element.name} icon on {page}.\tAction: click(start_box='({x},{y})')"


def legal_texts(page: Page, *, brief: bool = False) -> tuple[str, ...]:
    """The replies that a player without ideas of its own chooses from: each element's centre, and ``complete``."""
    clicks = (click_text(page.name, element, brief=brief) for element in page.seen)
    return (*clicks, BRIEF_COMPLETE if brief else COMPLETE)


def listed(seen: tuple[tuple[str, Pixel], ...], *, brief: bool = False) -> str:
    """The element list of a text observation: one line for each element, its name and centre in thousandths."""
    if brief:
        return "\n".join(f"{name} {place_name(centre)}" for name, centre in seen)
    rows = [(name, thousandths(centre)) for name, centre in seen]
    return "\n".join(f"{name} icon ({x},{y})" for name, (x, y) in rows)
