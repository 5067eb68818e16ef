"""Numbers of JSON that a record can hold, for whoever reads what others wrote: the hooks of :mod:`json`."""

from __future__ import annotations

from math import isfinite
from typing import NoReturn

LEAST, MOST = -(2**63), 2**64 - 1
"""Between which whole numbers can be written."""


def refuse(name: str) -> NoReturn:
    """Raises ValueError: for ``NaN`` and ``Infinity``, which are no JSON."""
    raise ValueError(f"{name[:40]} is no JSON number")


def finite(digits: str) -> float:
    """The number. Raises: ValueError for one that no float holds."""
    number = float(digits)
    return number if isfinite(number) else refuse(digits)


def whole(digits: str) -> int:
    """The whole number. Raises: ValueError for one beyond 64 bits, and for what is none.

    >>> whole("18446744073709551615")
    18446744073709551615
    """
    number = int(digits) if len(digits) <= len(str(LEAST)) else MOST + 1
    if not LEAST <= number <= MOST:
        raise ValueError(f"a whole number of {len(digits.lstrip('-'))} digits is beyond 64 bits")
    return number


def whole_or_none(text: str) -> int | None:
    """The whole number, not negative, that a text spells in the digits 0 to 9; None for any other text, and for a
    number that no table holds: more than ``2**63 - 1``.

    >>> whole_or_none("012"), whole_or_none("-1"), whole_or_none("²"), whole_or_none("9" * 5000)
    (12, None, None, None)
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(2**63))):
        return None
    number = int(text)
    return number if number < 2**63 else None
