"""Learning rates over a stage: how they rise and fall, as shares of the highest.

Pure functions of the update (from 0), for :attr:`polyturn.learn.loop.Stage.lr`:
``Stage(..., lr=lambda i: 3e-5 * linear(i, updates, warm=10))``.
"""

from __future__ import annotations

import math


def constant(update: int, *, warm: float = 0) -> float:
    """``min(1, (update + 1) / warm)``: rises over ``warm`` updates, then stays at 1.

    >>> [constant(i, warm=2) for i in (0, 1, 2, 39)]
    [0.5, 1.0, 1.0, 1.0]
    """
    return min(1.0, (update + 1) / max(1.0, warm))


def linear(update: int, updates: int, *, warm: float = 0) -> float:
    """``min(1, (update + 1) / warm) (1 - update / updates)``: rises over ``warm`` updates and falls, from the first on,
    to nothing after the last.

    >>> [round(linear(i, 20, warm=10), 3) for i in (0, 9, 19)]
    [0.1, 0.55, 0.05]
    """
    return constant(update, warm=warm) * (1 - update / updates)


def cosine(update: int, updates: int, *, warm: int = 0) -> float:
    """Rises over ``warm`` updates (1 at least), then ``(1 + cos(pi (update - warm) / (updates - warm))) / 2``: half a
    cosine down to nothing.

    >>> [round(cosine(i, 11, warm=2), 3) for i in (0, 1, 6, 10)]
    [0.5, 1.0, 0.587, 0.03]
    """
    warm = max(1, warm)
    if update < warm:
        return constant(update, warm=warm)
    return 0.5 * (1 + math.cos(math.pi * (update - warm) / max(1, updates - warm)))
