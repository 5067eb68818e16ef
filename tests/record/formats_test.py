"""The page on formats says what the code does."""

from __future__ import annotations

from pathlib import Path

from polyturn.record.formats.catalogue import FORMATS, format_named

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_page_lists_every_format() -> None:
    rows = [f"| `{row['name']}` | {row['about']} | {row['files'].replace('/', 'folder')} |" for row in FORMATS]
    page = PAGE.read_text(encoding="utf-8")
    assert "\n".join(rows) in page


def test_every_format_has_its_module() -> None:
    for row in FORMATS:
        module = format_named(row["name"])
        assert callable(module.episodes) and callable(module.records), row["name"]
