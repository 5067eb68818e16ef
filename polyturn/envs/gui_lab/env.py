"""One play: from a page to another by clicks, eight turns at most, seen as text, as a picture, or as both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from polyturn.envs.answers import check_seats
from polyturn.envs.gui_lab.actions import Action, legal_texts, listed, pixel, read_action
from polyturn.envs.gui_lab.app import App, Page
from polyturn.envs.gui_lab.screens import Screen
from polyturn.errors import BadInput
from polyturn.media import Media
from polyturn.protocols import Ask, Step
from polyturn.types import Event, Message, Part, Seat, Stop

RULES = (
    "You operate a phone application. Each turn, say what you click and click its centre in thousandths of the width "
    "and height, in one line:\n"
    "Explain: click NAME icon on PAGE.\tAction: click(start_box='(X,Y)')\n"
    "When you are on the target page, say:\n"
    "Explain: this is target page.\tAction: complete\n"
)
View = Literal["text", "image", "both"]


@dataclass(frozen=True, slots=True)
class Look:
    """How plays are shown: ``Look("both", media=store)``."""

    view: View = "text"
    media: Media | None = None
    """Where pictures go; needed for every view but ``text``."""
    rules: bool = True
    """Whether every observation begins with :data:`RULES`."""
    turns: int = 8
    """Replies in a play."""
    brief: bool = False
    """True: the short form for tiny models, without rules: pages passed as history, places of the grid for points, goal
    and page last, so that they stand right before the reply."""

    def __post_init__(self) -> None:
        if self.brief and self.view == "image":
            raise BadInput("the brief form is one of words; choose the view 'text' or 'both'")


@dataclass(frozen=True, slots=True)
class Click:
    """One turn as it went: what was said, and what the engine did. A reply that could not be read has no point."""

    page: str
    point: tuple[int, int] | None
    icon: str | None
    """What the reply claimed to click, and on which page."""
    claimed: str | None
    hit: str | None
    """What lay there."""
    after: str


class GuiEnv:
    """A play of a task with ``start`` and ``goal`` (indices of pages); its whole state is the page and what was said.

    Every observation is complete and replaces the ones before: the task, what was truly clicked so far, the page. An
    unreadable reply and a click on nothing leave the page as it is and cost their turn; the first is an event of kind
    ``invalid``. ``complete`` ends the play. Whether the goal was reached is read from the screen's page, never from
    what a reply says.
    """

    def __init__(self, app: App, task: Mapping[str, Any], screen: Screen, look: Look) -> None:
        self._app, self._screen, self._look = app, screen, look
        self._start, self._goal = int(task["start"]), int(task["goal"])
        if look.view != "text" and look.media is None:
            raise BadInput(f"the view {look.view!r} needs a store for its pictures; pass media=Media(folder), in a "
                           "recipe run.recorder.media")
        self._page = self._start
        self._clicks: list[Click] = []
        self._history: list[str] = []
        self._reached = False
        self._completed = False
        self._asked = False

    async def start(self, state: bytes | None = None) -> Step:
        """The first observation; or, from a saved state, the one that was open when it was saved."""
        if state is not None:
            self._restore(json.loads(state))
        await self._screen.show(self._page)
        return await self._ask()

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The page after a click, or the end. Raises: BadInput for a wrong seat."""
        check_seats(("agent",) if self._asked else (), replies)
        text = replies["agent"].text
        action = read_action(text)
        if action is not None and action.kind == "complete":
            self._completed = True
            return self._over(Stop("done", "complete"))
        events = (await self._click(action),) if action else (self._unreadable(text),)
        self._reached = self._reached or self._page == self._goal
        if len(self._clicks) >= self._look.turns:
            return self._over(Stop("truncated", f"{self._look.turns} turns"), events)
        return await self._ask(events)

    async def final(self) -> Mapping[str, Any]:
        """Where the play ended and how it got there; ``distance`` is that from the last page to the goal."""
        names = self._app.pages
        return {
            "start": names[self._start].name, "goal": names[self._goal].name, "page": names[self._page].name,
            "completed": self._completed, "reached": self._reached,
            "clicks": [asdict(click) for click in self._clicks],
            "distance": self._app.distance(self._page, self._goal),
            "shortest": self._app.distance(self._start, self._goal),
        }

    async def save(self) -> bytes:
        """The state as JSON. Raises: BadInput when nobody is asked."""
        if not self._asked:
            raise BadInput("only a play that has started and is not over can be saved")
        kept = {"page": self._page, "reached": self._reached, "clicks": [asdict(click) for click in self._clicks],
                "history": self._history}
        return json.dumps(kept).encode()

    async def close(self) -> None:
        """Closes the screen."""
        self._asked = False
        await self._screen.close()

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self._page, self._reached = int(saved["page"]), bool(saved["reached"])
        self._clicks = [Click(**{**row, "point": row["point"] and tuple(row["point"])}) for row in saved["clicks"]]
        self._history = list(saved["history"])

    async def _click(self, action: Action) -> Event:
        assert action.point is not None
        at = pixel(action.point)
        before: Page = self._app.pages[self._page]
        hit = before.hit(at)
        self._page = await self._screen.click(at)
        after = self._app.pages[self._page].name
        name = None if hit is None else hit.name
        self._clicks.append(Click(before.name, action.point, action.icon, action.page, name, after))
        said = f"{name} icon" if name else f"({action.point[0]},{action.point[1]})"
        self._history.append(f"step{len(self._clicks)}: click {said} on {before.name}.")
        return Event(0, "click", "agent", {"page": before.name, "hit": name, "after": after})

    def _unreadable(self, text: str) -> Event:
        page = self._app.pages[self._page].name
        self._clicks.append(Click(page, None, None, None, None, page))
        self._history.append(f"step{len(self._clicks)}: unreadable reply on {page}.")
        return Event(0, "invalid", "agent", {"reply": text[:500]})

    def _over(self, stop: Stop, events: tuple[Event, ...] = ()) -> Step:
        self._asked = False
        return Step((), {}, events, stop)

    async def _ask(self, events: tuple[Event, ...] = ()) -> Step:
        self._asked = True
        page = self._app.pages[self._page]
        parts = [Part("text", await self._words(page))]
        if self._look.view != "text":
            assert self._look.media is not None
            parts.append(Part("image", media=self._look.media.put(await self._screen.picture()), mime="image/png"))
        legal = legal_texts(page, brief=self._look.brief)
        return Step((Ask("agent", (Message("user", tuple(parts)),), fresh=True, legal=legal),), {}, events)

    async def _words(self, page: Page) -> str:
        """The text of an observation. Only the text views tell the page's name and elements."""
        pages = self._app.pages
        if self._look.brief:
            passed = " ".join(click.page for click in self._clicks) or "Null"
            rows = listed(await self._screen.elements(), brief=True)
            return f"From {pages[self._start].name} by {passed}\n{rows}\nTo {pages[self._goal].name} on {page.name}"
        words = RULES if self._look.rules else ""
        words += f"From {pages[self._start].name} to {pages[self._goal].name}.\n"
        words += f"History: {' '.join(self._history) or 'Null'}\n"
        if self._look.view == "image":
            return words
        return f"{words}Page: {page.name}\n{listed(await self._screen.elements())}"
