"""Two questions about one page, answered in one turn: which icon is at a point (caption), where is an icon (ground)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from polyturn.envs.answers import check_seats
from polyturn.envs.gui_lab.actions import listed, pixel, read_action, thousandths
from polyturn.envs.gui_lab.app import Element, Page
from polyturn.envs.gui_lab.env import Look
from polyturn.envs.gui_lab.screens import Screen
from polyturn.errors import BadInput
from polyturn.protocols import Ask, Step
from polyturn.types import Event, Message, Part, Seat, Stop

KINDS = ("caption", "ground")


class QuestionEnv:
    """One question; ``final`` says whether the answer was ``right``.

    ``caption``: the reply is the icon's name, alone or as ``Explain: this is NAME icon.`` ``ground``: the reply is a
    click, ``Action: click(start_box='(X,Y)')``, which must lie in the icon's box.
    """

    def __init__(self, kind: str, page: Page, icon: str, screen: Screen, look: Look) -> None:
        element = page.element(icon)
        if kind not in KINDS or element is None:
            raise BadInput(f"no question {kind!r} about {icon!r} on {page.name}; expected one of {', '.join(KINDS)} "
                           f"about one of {[one.name for one in page.seen]}")
        if look.view != "text" and look.media is None:
            raise BadInput(f"the view {look.view!r} needs a store for its pictures; pass media=Media(folder)")
        self._kind, self._page, self._element = kind, page, element
        self._screen, self._look = screen, look
        self._reply: str | None = None
        self._asked = False

    async def start(self, state: bytes | None = None) -> Step:
        """The question; a saved state holds nothing more."""
        await self._screen.show(self._page.index)
        self._asked = True
        parts = [Part("text", await self._words())]
        if self._look.view != "text":
            assert self._look.media is not None
            parts.append(Part("image", media=self._look.media.put(await self._screen.picture()), mime="image/png"))
        legal = tuple(answer_text(self._kind, element) for element in self._page.seen)
        return Step((Ask("agent", (Message("user", tuple(parts)),), fresh=True, legal=legal),))

    async def _words(self) -> str:
        x, y = thousandths(self._element.centre)
        words = (
            f"Which icon is at ({x},{y})? Reply: Explain: this is NAME icon.\n" if self._kind == "caption" else
            f"Where is the {self._element.name} icon? Reply: Action: click(start_box='(X,Y)')\n"
        )
        if self._look.view == "image":
            return words
        return f"{words}Page: {self._page.name}\n{listed(await self._screen.elements())}"

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The end. Raises: BadInput for a wrong seat."""
        check_seats(("agent",) if self._asked else (), replies)
        self._asked = False
        self._reply = replies["agent"].text
        readable = named(self._reply) if self._kind == "caption" else read_action(self._reply)
        events = () if readable else (Event(0, "invalid", "agent", {"reply": self._reply[:500]}),)
        return Step((), {}, events, Stop("done", "answered"))

    async def final(self) -> Mapping[str, Any]:
        """The question, the reply and whether it was right (None before)."""
        right = None if self._reply is None else is_right(self._kind, self._reply, self._page, self._element)
        return {"ask": self._kind, "page": self._page.name, "icon": self._element.name, "reply": self._reply,
                "right": right}

    async def save(self) -> bytes:
        """Nothing but the open question. Raises: BadInput when nobody is asked."""
        if not self._asked:
            raise BadInput("only a play that has started and is not over can be saved")
        return json.dumps({}).encode()

    async def close(self) -> None:
        """Closes the screen."""
        self._asked = False
        await self._screen.close()


def answer_text(kind: str, element: Element) -> str:
    """The right answer about an element."""
    x, y = thousandths(element.centre)
    return f"Explain: this is {element.name} icon." if kind == "caption" else f"Action: click(start_box='({x},{y})')"


def named(reply: str) -> str | None:
    """The icon that a reply names; None where it names none.

    >>> named("Explain: this is teal-star icon."), named(" teal-star "), named("a star, I think")
    ('teal-star', 'teal-star', None)
    """
    found = re.fullmatch(r"(?:Explain: this is )?([a-z]+(?:-[a-z0-9]+)*)(?: icon)?\.?", reply.strip())
    return found.group(1) if found else None


def is_right(kind: str, reply: str, page: Page, element: Element) -> bool:
    """Whether the reply names the element (caption), or its click hits it (ground)."""
    if kind == "caption":
        return named(reply) == element.name
    action = read_action(reply)
    return action is not None and action.point is not None and page.hit(pixel(action.point)) is element
