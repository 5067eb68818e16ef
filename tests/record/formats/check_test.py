"""What is read is checked where it is taken, and an error says file, line and field."""

from __future__ import annotations

from typing import Any

import pytest

from polyturn.errors import BadInput
from polyturn.record.formats.check import Field, parsed

GIVEN = Field({"a": [{"b": 1, "c": "x", "d": True, "e": None, "f": 0.5}]}, "in.jsonl, line 3")


def test_values_come_with_their_place() -> None:
    inner = GIVEN["a"][0]
    assert (inner["b"].whole(), inner["c"].text(), inner["d"].flag(), inner["f"].number()) == (1, "x", True, 0.5)
    assert inner["b"].where == "in.jsonl, line 3.a[0].b"
    assert inner.get("e") is None and inner.get("missing") is None


@pytest.mark.parametrize(("wrong", "said"), [
    (lambda f: f["z"], "line 3: lacks 'z'; it has 'a'"), (lambda f: f["a"][4], r"line 3\.a: lacks 4; it is a list"),
    (lambda f: f["a"].text(), r"line 3\.a: is a list; expected a text"),
    (lambda f: f["a"][0]["d"].whole(), r"a\[0\]\.d: is True; expected a whole number"),
    (lambda f: f["a"][0]["d"].number(), r"a\[0\]\.d: is True; expected a number"),
    (lambda f: f["a"][0]["b"].flag(), r"a\[0\]\.b: is 1; expected true or false"),
    (lambda f: f["a"][0]["c"].one_of({"y": 1}), r"is 'x'; expected one of y"),
    (lambda f: f["a"].object(), "expected an object"), (lambda f: f["a"][0].items(), "expected a list"),
    (lambda f: Field(-1, "w").token(), "w: is -1; expected the id of a token"),
    (lambda f: Field(2**31, "w").token(), "expected the id of a token"),
])
def test_what_is_wrong_is_named(wrong: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        wrong(GIVEN)


@pytest.mark.parametrize(("text", "said"), [
    ("{", "here: not JSON"), ('{"a": 1, "a": 2}', "the key 'a' stands twice"), ("[" * 100_000, "here: nested too deep"),
    (b'"\\ud800"', "half of a surrogate pair"), (b'"\xed\xa0\x80"', "half of a surrogate pair"),
    (b"\xff", "not JSON"), ("1" * 5000, "here: "),
])
def test_what_is_no_json(text: str | bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parsed(text, "here")


def test_numbers_beyond_json_are_texts() -> None:
    assert parsed(b'[NaN, Infinity, -Infinity, 1e999, 1.5, "\\ud83d\\ude42"]', "") == [
        "NaN", "Infinity", "-Infinity", "1e999", 1.5, "🙂"]
