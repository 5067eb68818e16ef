"""The threads behind torch's products, of which every thread that calls torch keeps a team of its own.

libgomp, by which torch computes on Linux, lets a team wait awake for its next product only while all teams of a process
together have no more threads than there are processors. One more team, even one that does nothing, and every product of
every team begins with waking threads up: with two cores and the embedded model a rollout took half as long again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

MAPS = Path("/proc/self/maps")
SOFT = 1
"""``omp_pause_soft`` of OpenMP 5.0: threads end, settings stay."""


def let_go() -> bool:
    """Ends the team of the calling thread; its next product makes a new one, in about a tenth of a millisecond.

    Returns whether that was done: not with another library than libgomp, and not within a product.
    """
    pause = _pause()
    return pause is not None and pause(SOFT) == 0


@cache
def _pause() -> Callable[[int], int] | None:
    """``omp_pause_resource_all`` of the one libgomp that this process has loaded."""
    lines = MAPS.read_text().splitlines() if MAPS.is_file() else []
    loaded = {line.split()[-1] for line in lines if "libgomp" in line.rpartition("/")[2]}
    if len(loaded) != 1:
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(loaded.pop()), "omp_pause_resource_all", None)
    return found
