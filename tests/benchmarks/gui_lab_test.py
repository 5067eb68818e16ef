"""What is counted for a rate are the steps that were played and the pictures that were stored."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.gui_lab import drawn_steps, text_steps


async def test_steps_are_those_that_were_played() -> None:
    few, seconds = await text_steps(2)
    more, _ = await text_steps(4)
    assert 0 < few < more and seconds > 0


def test_pictures_are_stored(tmp_path: Path) -> None:
    assert asyncio.run(drawn_steps(tmp_path, 3))[0] == 3
    assert len(list(tmp_path.glob("??/*"))) == 3
