"""Which levels of isolation this machine offers."""

from __future__ import annotations

import asyncio

from polyturn.errors import NotIsolated
from polyturn.tools.sandbox.interpreter import Sandbox
from polyturn.tools.sandbox.isolation import LEVELS, Level


def offered() -> dict[Level, str]:
    """Level -> why it does not work here; empty = it works."""
    found: dict[Level, str] = {}

    async def probe(level: Level) -> str:
        async with Sandbox(only=level) as sandbox:
            try:
                await sandbox.open()
            except NotIsolated as error:
                return str(error)
        return ""

    for level in LEVELS:
        found[level] = asyncio.run(probe(level))
    return found


OFFERED = offered()
HERE = [level for level, reason in OFFERED.items() if not reason]
ISOLATED = [level for level in HERE if level != "limits"]
