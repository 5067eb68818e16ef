"""The shared Chromium: pages of one browser, each offline and with a context of its own."""

from __future__ import annotations

from typing import Any

import pytest

from polyturn.envs.browser import Chromium
from polyturn.errors import BadInput


async def test_pages_are_offline_and_share_nothing_but_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def answer(route: Any) -> None:
        asked.append(route.request.url)
        await route.fulfill(body="<title>hello</title>", content_type="text/html")

    chromium = Chromium()
    one, two = await chromium.page(300, 200, answer), await chromium.page(300, 200, answer)
    await one.goto("http://anywhere.example/x")
    await two.goto("http://anywhere.example/y")
    assert asked == ["http://anywhere.example/x", "http://anywhere.example/y"]
    assert await one.title() == "hello" and one.viewport_size == {"width": 300, "height": 200}
    await one.evaluate("document.cookie = 'a=1'")
    assert await two.evaluate("document.cookie") == ""
    await chromium.close()
    await chromium.close()
    monkeypatch.setattr("polyturn.envs.browser.PROGRAMS", ("no-such-browser",))
    with pytest.raises(BadInput, match="no Chromium found under the names no-such-browser"):
        await Chromium().page(300, 200, answer)
