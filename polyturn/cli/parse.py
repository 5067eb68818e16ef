"""Command-line arguments: a parser whose errors are ours, and JSON as the last line."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from polyturn.errors import BadInput, UnknownName


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`polyturn.errors.BadInput` and knows the nearest flag."""

    def __init__(self, command: str, about: str, examples: Sequence[str]) -> None:
        epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples)
        super().__init__(
            f"polyturn {command}", description=about, epilog=epilog, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raises BadInput with the usage line in one sentence."""
        raise BadInput(f"{message}; {self.prog} --help says what is possible")

    def flags(self) -> list[str]:
        """All flags that the parser knows."""
        return [flag for action in self._actions for flag in action.option_strings]

    def all_known(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments. Raises: UnknownName for an unknown flag, BadInput for anything else that is wrong."""
        found, rest = self.parse_known_args(list(arguments))
        check_flags(rest, self.flags())
        if rest:
            self.error(f"unexpected {' '.join(rest)!r}")
        return found


def check_flags(arguments: Iterable[str], known: Iterable[str]) -> None:
    """Raises UnknownName for the first flag that is not known, with the nearest that is.

    >>> check_flags(["--itertions", "3"], ["--iterations"])
    Traceback (most recent call last):
    polyturn.errors.UnknownName: no flag named '--itertions'; did you mean '--iterations'? known: --iterations
    """
    names = set(known)
    for word in arguments:
        flag = word.split("=", 1)[0]
        if flag.startswith("--") and len(flag) > 2 and flag not in names:
            raise UnknownName("flag", flag, names)


def finite(value: Any) -> Any:
    """The same JSON value with None for every number that is not finite, and text for keys.

    >>> finite({"a": [1.0, float("nan")], 2: float("inf")})
    {'a': [1.0, None], '2': None}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object as the last line of stdout."""
    sys.stdout.write(json.dumps(finite(value), ensure_ascii=False, sort_keys=True) + "\n")
    sys.stdout.flush()


def positive(text: str) -> int:
    """A whole number from 1 on, for ``type=``."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0 on, for ``type=``."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def not_negative(text: str) -> float:
    """A finite number from 0 on, for ``type=``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0, for ``type=``."""
    if not (value := not_negative(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns, the first row a heading.

    >>> print(table_text([["name", "seats"], ["guess", "1"]]))
    name   seats
    guess  1
    """
    width = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(wide) for cell, wide in zip(row, width, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
