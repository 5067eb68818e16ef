"""Texts of scripted play hold every word that the environment and its oracle say."""

from __future__ import annotations

from polyturn.envs.grid import grid
from polyturn.envs.openspiel import kuhn_poker
from polyturn.rollout.spoken import spoken


async def test_what_is_asked_and_answered_is_there() -> None:
    texts = await spoken(grid(), tasks=8)
    words = set(" ".join(texts).split())
    assert {"north", "south", "west", "east", "Goal:", "Walk"} <= words
    assert texts == await spoken(grid(), tasks=8)
    # needs are 1 2 3 4 6 8 10 12: as many replies, and as many asks
    assert len(texts) == 2 * sum((1, 2, 3, 4, 6, 8, 10, 12))
    assert len(await spoken(grid(), tasks=8, steps=3)) == 2 * (1 + 2 + 6 * 3)


async def test_every_seat_speaks() -> None:
    texts = await spoken(kuhn_poker(), tasks=20)
    assert {"pass", "bet"} <= set(texts)
