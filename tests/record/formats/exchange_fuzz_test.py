"""Records broken at random: an importer gives them back as they were, or says in one line where they are wrong."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyturn.errors import BadInput
from polyturn.media import Media
from polyturn.record.formats.catalogue import FORMATS
from polyturn.record.formats.exchange import read_foreign, write_foreign
from tests.record.formats.foreign import drawn

NAMES = [row["name"] for row in FORMATS]
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 10**30, 0.5, "", "x", "assistant", "tool", [], {}, [[]], [None], {"": {}}, "\ud800",
    "data:image/png;base64,AAAA", "attachment://x", "2026-13-99", {"type": "text"},
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but the root."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def broken(record: Any, plain: random.Random) -> Any:
    """The record with one to three values changed, taken out, doubled or exchanged."""
    out = copy.deepcopy(record)
    for _ in range(plain.randint(1, 3)):
        found = list(places(out))
        if not found:
            return out
        at = plain.choice(found)
        holder = out
        for key in at[:-1]:
            holder = holder[key]
        kind = plain.randrange(4)
        if kind == 0:
            holder[at[-1]] = copy.deepcopy(plain.choice(STRANGE))
        elif kind == 1:
            del holder[at[-1]]
        elif kind == 2 and isinstance(holder, list):
            holder.insert(plain.randrange(len(holder) + 1), copy.deepcopy(holder[at[-1]]))
        else:
            other: Any = out
            for key in plain.choice(found):
                other = other[key] if isinstance(other, list | dict) and (
                    key in other if isinstance(other, dict) else key < len(other)) else other
            holder[at[-1]] = copy.deepcopy(other) if other is not holder else "self"
    return out


@pytest.mark.parametrize("format", NAMES)
def test_broken_records_are_exact_or_named(format: str, tmp_path: Path) -> None:
    """150 broken records a format; neither outcome may be rare."""
    plain, media = random.Random(0), Media(tmp_path / "media")
    read = named = 0
    records = drawn(format, 40)
    path = tmp_path / "in.json"
    for number in range(150):
        record = broken(records[number % len(records)], plain)
        path.write_text(json.dumps(record if isinstance(record, dict) else [record]))
        try:
            episodes = list(read_foreign(path, format, media=media))
            again = list(write_foreign(episodes, format, media=media))
        except BadInput as error:
            named += 1
            assert "in.json" in str(error) and "\n" not in str(error), str(error)
            continue
        read += 1
        if format not in ("otel", "polyturn"):  # lines of a trace are gathered; unknown columns are passed over
            assert again == [json.loads(path.read_text())]
    assert min(read, named) > 10, (read, named)
