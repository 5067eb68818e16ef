"""Where a page is shown and clicked: :class:`Engine` looks it up; :class:`polyturn.envs.gui_lab.browser.Tab` asks
Chromium."""

from __future__ import annotations

from typing import Protocol

from polyturn.envs.gui_lab.app import App, Pixel
from polyturn.envs.gui_lab.drawing import drawn, png

Seen = tuple[tuple[str, Pixel], ...]
"""The elements that can be clicked, lowest first: name and centre."""


class Screen(Protocol):
    """One screen of one play. It alone knows which page a click opens."""

    async def show(self, page: int) -> None:
        """Opens a page of the application, whatever was open."""
        ...

    async def click(self, point: Pixel) -> int:
        """Clicks a pixel; the index of the page that is open afterwards."""
        ...

    async def elements(self) -> Seen:
        """Names and centres of what can be clicked on the open page."""
        ...

    async def picture(self) -> bytes:
        """The bytes of a PNG file."""
        ...

    async def close(self) -> None:
        """The play is over."""
        ...


class Engine:
    """The application computed: transitions from the graph, pictures drawn with Pillow and kept for each page."""

    def __init__(self, app: App, pictures: dict[str, bytes], max_pixels: int | None) -> None:
        self.app = app
        self._pictures = pictures
        """Page name -> PNG, shared by the plays of a suite."""
        self._max_pixels = max_pixels
        self._page = 0

    async def show(self, page: int) -> None:
        self._page = page

    async def click(self, point: Pixel) -> int:
        self._page = self.app.after(self._page, point)
        return self._page

    async def elements(self) -> Seen:
        return tuple((element.name, element.centre) for element in self.app.pages[self._page].seen)

    async def picture(self) -> bytes:
        page = self.app.pages[self._page]
        if page.name not in self._pictures:
            self._pictures[page.name] = png(drawn(page, max_pixels=self._max_pixels))
        return self._pictures[page.name]

    async def close(self) -> None:
        """Nothing is open."""
