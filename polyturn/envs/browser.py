"""A Chromium that environments share: started with the first page, offline, each play in a context of its own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from polyturn.errors import BadInput, MissingPackage

if TYPE_CHECKING:
    from playwright.async_api import Page as BrowserPage

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--font-render-hinting=none")


class Chromium:
    """One browser process for all plays of a suite."""

    def __init__(self, program: str = "") -> None:
        self._program = program
        self._running: Any = None
        self._browser: Any = None
        self._starting = asyncio.Lock()

    async def page(self, width: int, height: int, answer: Callable[[Any], Awaitable[None]]) -> BrowserPage:
        """A page in a context of its own, whose every request goes to ``answer`` and never to a network.

        Raises: MissingPackage without Playwright; BadInput without Chromium.
        """
        async with self._starting:
            if self._browser is None:
                await self._start()
        context = await self._browser.new_context(viewport={"width": width, "height": height})
        page: BrowserPage = await context.new_page()
        await page.route("**/*", answer)
        return page

    async def _start(self) -> None:
        try:
            from playwright.async_api import async_playwright
        except ImportError as error:
            raise MissingPackage("playwright", "gui") from error
        program = self._program or next(filter(None, map(shutil.which, PROGRAMS)), "")
        if not program:
            raise BadInput(f"no Chromium found under the names {', '.join(PROGRAMS)}; install one "
                           "(Debian: apt-get install chromium), or pass program= its path")
        self._running = await async_playwright().start()
        try:
            self._browser = await self._running.chromium.launch(executable_path=program, args=list(FLAGS))
        except BaseException:
            await self._running.stop()
            raise

    async def close(self) -> None:
        """Ends Chromium, where it was started."""
        if self._browser is not None:
            browser, running, self._browser, self._running = self._browser, self._running, None, None
            await browser.close()
            await running.stop()
