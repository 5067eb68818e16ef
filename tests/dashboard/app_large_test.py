"""A record of 200,000 episodes in Chromium: ``make long``. How fast: ``python -m benchmarks.dashboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from benchmarks.dashboard import indexed, large_run
from tests.dashboard.app_browser_test import TOKEN, browser, serving

__all__ = ["browser"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_episodes_of_a_large_record_are_counted_and_each_can_be_seen(tmp_path: Path, browser: Any) -> None:
    indexed(large_run(tmp_path / "large", 200_000))
    with serving(tmp_path) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/enter?token={TOKEN}")
        expect(page.locator("tbody tr")).to_contain_text("200,000")
        page.goto(f"{address}/run/large/episode/learn.500.3.2")
        expect(page.locator(".seats")).to_contain_text("I say")
        expect(page.locator(".seats")).to_contain_text("game 500.3")
