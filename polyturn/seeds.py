"""Seeds that derive from names, so that no order of events can change a random draw."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def derive(*parts: str | int) -> int:
    """A seed in 0..2**63-1 that depends on every part and on their order.

    >>> derive(0, "agent", 1) == derive(0, "agent", 1), derive(0, "agent", 1) == derive(0, "agent", 2)
    (True, False)
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: str | int) -> np.random.Generator:
    """A numpy generator seeded with :func:`derive`."""
    return np.random.default_rng(derive(*parts))
