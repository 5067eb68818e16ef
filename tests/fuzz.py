"""What fuzz tests draw, and how long: a short fixed run in the quick suite, a long random one behind ``-m long``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EACH = timedelta(seconds=20)
"""What takes longer for one small input hangs."""


def quick(examples: int) -> settings:
    """The same examples at every run."""
    return settings(max_examples=examples, deadline=EACH, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))


def long(examples: int) -> settings:
    """Other examples at every run."""
    return settings(max_examples=examples, deadline=EACH, database=None, suppress_health_check=list(HealthCheck))


def json_values(keys: st.SearchStrategy[str], texts: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Any]:
    """JSON values with the keys that a reader looks for, and numbers and texts that are hard to keep."""
    written = st.text(max_size=6) if texts is None else texts
    scalars = (st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([2**31, 2**53, 2**64, 10**30, -1])
               | st.floats(width=32, allow_nan=False, allow_infinity=False) | written)
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        keys, inner, max_size=5), max_leaves=14)


def mutated(data: bytes, plain: random.Random) -> bytes:
    """The bytes with one to four of them changed, cut out, put in or doubled."""
    out = bytearray(data)
    for _ in range(plain.randint(1, 4)):
        at = plain.randrange(len(out) + 1)
        kind = plain.randrange(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << plain.randrange(8)
        elif kind == 1:
            del out[at: at + plain.choice((1, 1, 8, 200))]
        elif kind == 2:
            out[at:at] = plain.choice(PIECES)
        elif kind == 3:
            end = min(len(out), at + plain.randint(1, 60))
            out[at:at] = out[at:end]
        elif kind == 4 and at < len(out):
            out[at] = plain.randrange(256)
    return bytes(out)


PIECES = (b"\0", b"\xff", b"\n", b'"', b"{", b"]", b"null", b"1e999", b"NaN", b"-0", b"\\ud800", b"\xed\xa0\x80",
          b"9" * 400, b"[" * 40, b"\xef\xbb\xbf", b"\\u0000")


def seeds(count: int) -> Iterator[random.Random]:
    """Generators, the same at every run."""
    return (random.Random(seed) for seed in range(count))
