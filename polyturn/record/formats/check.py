"""Reading what others wrote: every value is checked where it is taken, and an error names the file, line and field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyturn.errors import BadInput
from polyturn.json_numbers import whole

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false",
          float: "a number"}


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a record, and where it stands: ``Field({"a": 1}, "x.jsonl, line 3")["a"].where`` ends in ``.a``."""

    value: Any
    where: str

    def __getitem__(self, key: str | int) -> Field:
        """The value under a key. Raises: BadInput where there is none."""
        held = self.value
        if isinstance(held, dict) and key in held:
            return Field(held[key], f"{self.where}.{key}")
        if isinstance(held, list) and isinstance(key, int) and key < len(held):
            return Field(held[key], f"{self.where}[{key}]")
        has = f"has {', '.join(map(repr, list(held)[:8]))}" if isinstance(held, dict) else f"is {shown(held)}"
        raise BadInput(f"{self.where}: lacks {key!r}; it {has}")

    def get(self, key: str) -> Field | None:
        """The value under a key; None where there is none, or null."""
        self.object()
        return None if self.value.get(key) is None else Field(self.value[key], f"{self.where}.{key}")

    def object(self) -> dict[str, Any]:
        """The value, an object."""
        return self._taken(dict)  # type: ignore[no-any-return]

    def items(self) -> list[Field]:
        """The values of a list."""
        return [Field(item, f"{self.where}[{i}]") for i, item in enumerate(self._taken(list))]

    def text(self) -> str:
        """The value, a text."""
        return self._taken(str)  # type: ignore[no-any-return]

    def whole(self) -> int:
        """The value, a whole number."""
        return self._taken(int)  # type: ignore[no-any-return]

    def token(self) -> int:
        """The value, the id of a token."""
        number = self.whole()
        if not 0 <= number < 2**31:
            raise BadInput(f"{self.where}: is {number}; expected the id of a token, 0 to {2**31 - 1}")
        return number

    def flag(self) -> bool:
        """The value, true or false."""
        return self._taken(bool)  # type: ignore[no-any-return]

    def number(self) -> float:
        """The value, a finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise BadInput(f"{self.where}: is {shown(self.value)}; expected a number")
        return float(self.value)

    def one_of(self, known: Mapping[str, Any]) -> Any:
        """What a text stands for in a table. Raises: BadInput for one that is not in it."""
        text = self.text()
        if text not in known:
            raise BadInput(f"{self.where}: is {text[:80]!r}; expected one of {', '.join(known)}")
        return known[text]

    def _taken(self, kind: type) -> Any:
        if type(self.value) is not kind:
            raise BadInput(f"{self.where}: is {shown(self.value)}; expected {_NAMES[kind]}")
        return self.value


def shown(value: Any) -> str:
    """A value in an error: short, and of one line.

    >>> shown({"a": 1}), shown("x" * 90)[-4:]
    ('an object', "xx…'")
    """
    if isinstance(value, dict | list):
        return _NAMES[type(value)]
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:58]}…{text[-1]}"


def parsed(text: str | bytes, where: str) -> Any:
    """A JSON value. ``NaN``, ``Infinity`` and numbers too large for a float become the texts they are written as.

    Raises: BadInput for what is no JSON, for a key that an object has twice (one of both would be lost), for half of a
    surrogate pair, which no UTF-8 can hold, for whole numbers beyond 64 bits, and for nesting too deep to read.
    """
    try:
        value = json.loads(text, parse_constant=str, parse_float=_real, parse_int=whole, object_pairs_hook=_object)
        odd = b"\\ud" in text.lower() or b"\xed" in text or b"\0" in text if isinstance(text, bytes) else (
            "\\ud" in text.lower() or not text.isascii())
        if odd:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise BadInput(f"{where}: holds half of a surrogate pair, which is no text") from None
    except (json.JSONDecodeError, UnicodeDecodeError, _Twice) as error:
        raise BadInput(f"{where}: not JSON ({error})") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deep") from None
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from None


class _Twice(Exception):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return found


def _real(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text
