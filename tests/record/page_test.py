"""The frame: a whole document with its own style and no way out."""

from __future__ import annotations

import re

from polyturn.record.page import CSS, card, page, section, tile
from tests.record.markup import Checked


def test_a_page_is_whole() -> None:
    found = Checked(page("a < b", "<p>x</p>"))
    assert {"html", "head", "body", "main", "style"} <= set(found.seen) and "a < b" in found.text


def test_every_colour_that_is_used_is_defined_for_light_and_dark() -> None:
    used = set(re.findall(r"var\(--([a-z0-9]+)", CSS)) - {"depth", "hue"}
    light, dark = CSS.split("prefers-color-scheme: dark", 1)
    for name in used:
        assert f"--{name}:" in light and f"--{name}:" in dark, name
    assert CSS.count("{") == CSS.count("}")


def test_pieces_without_content_are_nothing() -> None:
    assert card("a", "") == "" and section("a", "b", "") == ""
    assert "&lt;b&gt;" in tile("<b>", "x") and "<svg" in card("t", "<svg></svg>")
