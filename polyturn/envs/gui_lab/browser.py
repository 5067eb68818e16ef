"""The same application as an HTML document in a real Chromium: what a click opens is decided by the browser alone.

Pages are sections, of which the address's fragment shows one (``section:target``), icons are links to other fragments.
There is no script in the document: hit testing, stacking and navigation are the browser's own.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from polyturn.envs.browser import Chromium
from polyturn.envs.gui_lab.app import HEIGHT, WIDTH, App, Element, Page, Pixel
from polyturn.envs.gui_lab.icons import picture
from polyturn.envs.gui_lab.screens import Seen
from polyturn.errors import EnvironmentFailed

if TYPE_CHECKING:
    from playwright.async_api import Page as BrowserPage

ADDRESS = "http://app.invalid/"
STYLE = f"""
html, body {{ margin: 0; overflow: hidden; background: #fafaf8; font: 34px sans-serif; }}
section {{ display: none; position: absolute; left: 0; top: 0; width: {WIDTH}px; height: {HEIGHT}px; }}
section {{ overflow: hidden; }}
section:target {{ display: block; }}
h1 {{ margin: 0; font-size: 64px; font-weight: normal; text-align: center; line-height: 140px; }}
h1, i, svg {{ pointer-events: none; }}
a, b, div {{ position: absolute; display: block; overflow: hidden; line-height: 0; }}
svg {{ display: block; }}
div {{ left: 0; top: 0; width: 100%; height: 100%; background: #3c3c46; }}
i {{ position: absolute; font-style: normal; white-space: nowrap; text-align: center; transform: translateX(-50%); }}
div ~ i {{ color: #fafaf8; }}
"""
LIST = """() => {
  const open = document.querySelector("section:target");
  return [...open.querySelectorAll("a, b")].map(e => [e, e.getBoundingClientRect()]).filter(([e, box]) =>
    document.elementFromPoint(Math.floor(box.x + box.width / 2), Math.floor(box.y + box.height / 2)) === e
  ).map(([e, box]) => [e.title, Math.floor(box.x + box.width / 2), Math.floor(box.y + box.height / 2)]);
}"""


def document(app: App) -> str:
    """The HTML document of a whole application."""
    pages = "\n".join(_section(page, app) for page in app.pages)
    head = f"<meta charset='utf-8'><style>{STYLE}</style>"
    return f"<!doctype html><html><head>{head}</head><body>\n{pages}\n</body></html>"


def _section(page: Page, app: App) -> str:
    inside = "".join(_element(element, app) for element in page.elements)
    return f"<section id='{page.name}'><h1>{page.name}</h1>{inside}</section>"


def _element(element: Element, app: App) -> str:
    """A link where something opens, else a ``b`` that looks the same; a veil is a ``div``; the label stands below."""
    if element.kind == "veil":
        return "<div></div>"
    left, top, right, bottom = element.box
    place = f"style='left:{left}px;top:{top}px;width:{right - left}px;height:{bottom - top}px'"
    name = escape(element.name, quote=True)
    label = f"<i style='left:{(left + right) // 2}px;top:{bottom}px'>{name.replace('-', '<br>', 1)}</i>"
    if element.target is None:
        return f"<b title='{name}' {place}>{_svg(element.name)}</b>{label}"
    return f"<a title='{name}' href='#{app.pages[element.target].name}' {place}>{_svg(element.name)}</a>{label}"


def _svg(name: str) -> str:
    colour, polygons = picture(name)
    drawn = "".join(
        f"<polygon points='{' '.join(f'{x},{y}' for x, y in polygon)}'/>" for polygon in polygons
    )
    return f"<svg viewBox='0 0 1 1' width='100%' height='100%' fill='rgb{colour}'>{drawn}</svg>"


class Tab:
    """A tab of Chromium with one application; a :class:`polyturn.envs.gui_lab.screens.Screen`."""

    def __init__(self, tab: BrowserPage, app: App) -> None:
        self._tab = tab
        self._app = app

    async def show(self, page: int) -> None:
        """Opens a page by its address."""
        name = self._app.pages[page].name
        if self._tab.url.startswith(ADDRESS):
            await self._tab.evaluate("name => { location.hash = name; }", name)
        else:
            await self._tab.goto(f"{ADDRESS}#{name}")

    async def click(self, point: Pixel) -> int:
        """Clicks with the mouse and reads the address. Raises: EnvironmentFailed for an address of no page."""
        await self._tab.mouse.click(*point)
        name = str(await self._tab.evaluate("location.hash"))[1:]
        if name not in self._app.by_name:
            raise EnvironmentFailed(f"the browser went to {self._tab.url!r}, which is no page of the application")
        return self._app.by_name[name].index

    async def elements(self) -> Seen:
        """Read from the document: those that the browser finds at their own centre."""
        found = await self._tab.evaluate(LIST)
        return tuple((str(name), (int(x), int(y))) for name, x, y in found)

    async def picture(self) -> bytes:
        """A screenshot."""
        shot: bytes = await self._tab.screenshot(animations="disabled")
        return shot

    async def close(self) -> None:
        """Closes the tab and all that it kept."""
        await self._tab.context.close()


class Browser:
    """One Chromium for all plays of a suite, started with the first tab; it can reach nothing but the application."""

    def __init__(self, program: str = "") -> None:
        self._chromium = Chromium(program)

    async def tab(self, app: App) -> Tab:
        """A fresh tab. Raises: MissingPackage without Playwright; BadInput without Chromium."""
        html = document(app)

        async def answer(route: Any) -> None:
            if route.request.url.split("#")[0] == ADDRESS:
                await route.fulfill(body=html, content_type="text/html; charset=utf-8")
            else:
                await route.abort()

        return Tab(await self._chromium.page(WIDTH, HEIGHT, answer), app)

    async def close(self) -> None:
        """Ends Chromium, where it was started."""
        await self._chromium.close()
