"""A record of 200,000 episodes in Chromium: ``make long``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from polyturn.record.index import Index
from tests.dashboard.app_browser_test import TOKEN, browser, serving
from tests.dashboard.large import large_run

__all__ = ["browser"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_first_page_comes_within_a_second(tmp_path: Path, browser: Any) -> None:
    large_run(tmp_path / "large", 200_000)
    index = Index(tmp_path / "large")
    while not index.update(seconds=10).whole:
        pass
    with serving(tmp_path) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.monotonic()
        page.goto(f"{address}/enter?token={TOKEN}")
        expect(page.locator("tbody tr")).to_contain_text("200,000")
        first = time.monotonic() - started
        started = time.monotonic()
        page.goto(f"{address}/run/large/episode/learn.500.3.2")
        expect(page.locator(".seats")).to_contain_text("I say")
        episode = time.monotonic() - started
    print(f"first page {first:.2f} s, an episode {episode:.2f} s")
    assert first < 1 and episode < 1
