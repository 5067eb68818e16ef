"""Engine, drawing and Chromium agree: the same elements, and the same page after a click on any pixel that matters."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from polyturn.envs.gui_lab.app import HEIGHT, WIDTH, App, AppSpec, Page, Pixel, make_app
from polyturn.envs.gui_lab.browser import ADDRESS, Browser, document
from polyturn.envs.gui_lab.env import Look
from polyturn.envs.gui_lab.icons import picture
from polyturn.envs.gui_lab.suite import Drawn, GuiLab
from polyturn.errors import BadInput
from polyturn.media import Media
from polyturn.testing import check_env
from tests.envs.drive import drive


def centres(page: Page) -> Iterator[Pixel]:
    """The centre of every box, also of those that lie beneath something."""
    yield from (element.centre for element in page.elements)


def edges(page: Page) -> Iterator[Pixel]:
    """The last pixels inside and the first outside of every box, a label, and a place where nothing is."""
    for left, top, right, bottom in (e.box for e in page.elements if e.kind != "veil"):
        yield from ((left, top), (right - 1, bottom - 1))
        yield from ((left - 1, top), (right, top), (left, top - 1), (left, bottom))
        yield (left + right) // 2, bottom + 20
    yield WIDTH - 1, HEIGHT - 1


async def disagreements(app: App, points: Any, pages: Any = None) -> tuple[int, list[Any]]:
    """How many clicks were compared, and those after which the browser shows another page than the engine."""
    browser = Browser()
    compared, found = 0, []
    try:
        tab = await browser.tab(app)
        for page in app.pages if pages is None else pages:
            await tab.show(page.index)
            read = await tab.elements()
            if read != tuple((element.name, element.centre) for element in page.seen):
                found.append((page.name, read))
            for point in points(page):
                compared += 1
                after = await tab.click(point)
                if after != app.after(page.index, point):
                    found.append((page.name, point, app.pages[after].name))
                if after != page.index:
                    await tab.show(page.index)
    finally:
        await browser.close()
    return compared, found


@pytest.mark.parametrize("kind", ["cyclic", "small_world"])
async def test_engine_and_browser_agree_on_every_box(kind: Any) -> None:
    app = make_app(AppSpec(kind, 6, (2, 2, 1), noise=1))
    compared, found = await disagreements(app, centres)
    assert found == []
    assert compared == sum(len(page.elements) for page in app.pages) > 40


async def test_they_agree_on_the_edges_of_boxes() -> None:
    app = make_app(AppSpec("cyclic", 6, (2, 2), noise=1))
    some = [app.pages[0], app.pages[2], app.pages[min(app.popups)]]
    compared, found = await disagreements(app, edges, some)
    assert found == [] and compared > 60


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_they_agree_on_every_box_of_the_default_application() -> None:
    app = make_app(AppSpec())
    compared, found = await disagreements(app, centres)
    print(f"{compared} clicks compared")
    assert found == []
    # 230 icons, a "back" on every page but the root, a "home" on all of depth 2 or more: 230 + 230 + 225
    assert compared == 685


async def test_a_screenshot_shows_each_icon_in_its_box() -> None:
    app = make_app(AppSpec(branching=(4, 1)))
    browser = Browser()
    try:
        tab = await browser.tab(app)
        await tab.show(0)
        shot = Image.open(io.BytesIO(await tab.picture())).convert("RGB")
    finally:
        await browser.close()
    assert shot.size == (WIDTH, HEIGHT)
    pixels: Any = shot.load()
    for element in app.pages[0].seen:
        left, top, right, bottom = element.box
        inside = {pixels[x, y] for x in range(left, right, 4) for y in range(top, bottom, 4)}
        assert picture(element.name)[0] in inside


async def test_the_same_play_in_all_views(tmp_path: Path) -> None:
    """The solver's play over engine and browser, as text and as picture: the same words, clicks and end."""
    spec = AppSpec("cyclic", 1, (3, 2, 2))
    plays = []
    for driver in ("engine", "browser"):
        lab = GuiLab(Drawn(spec), Look("both", Media(tmp_path / driver)), driver=driver)  # type: ignore[arg-type]
        task = max(lab.tasks("test"), key=lambda task: task.payload["length"])
        plays.append(await drive(lab, task, 0, {"agent": lab.oracle(task)}))
        await lab.close()
    engine, browser = plays
    assert engine.final == browser.final and engine.final["completed"] and engine.final["reached"]
    assert engine.heard("agent") == browser.heard("agent")
    assert engine.said == browser.said and engine.kinds() == browser.kinds()


async def test_an_environment_in_the_browser_keeps_the_contract() -> None:
    lab = GuiLab(Drawn(AppSpec("cyclic", 1, (2, 2))), driver="browser", test_tasks=4)
    task = next(iter(lab.tasks("test")))
    await (await lab.make(task, 0)).close()
    await check_env(lambda: lab.make(task, 0), spec=lab.spec, answers=lambda seat: lab.random_answer(task, 0))
    await lab.close()


async def test_nothing_but_the_application_can_be_reached() -> None:
    app = make_app(AppSpec(branching=(2,)))
    browser = Browser()
    try:
        tab = await browser.tab(app)
        await tab.show(0)
        refused = "async url => { try { await fetch(url); return 'reached'; } catch (e) { return 'refused'; } }"
        assert await tab._tab.evaluate(refused, "http://127.0.0.1:1/") == "refused"
        assert await tab._tab.evaluate(refused, ADDRESS) == "reached"
    finally:
        await browser.close()
    assert "<script" not in document(app)


async def test_without_chromium_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="apt-get install chromium"):
        await Browser().tab(make_app(AppSpec(branching=(2,))))
