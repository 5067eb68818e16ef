"""The plain form of each kind of value, by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from polyturn.errors import BadInput, NotFinite
from polyturn.record.shape import column_name, columns, dumped, shape_of, written
from polyturn.types import Call, FloatArray, IntArray, Message, Score, SpanId, Stop, assistant


def test_an_object_by_hand() -> None:
    message = assistant("hé", id="m1", spans=(("a/b", "main", 3),), calls=(Call("c", "f", {"q": [1, None]}, "{}"),))
    assert written(shape_of(Message), message, "message") == {
        "role": "assistant", "id": "m1", "name": None, "call_id": None, "origin": "policy", "status": "ok",
        "observed": "executed", "spans": [{"seat": "a/b", "policy": "main", "index": 3}],
        "parts": [{"kind": "text", "text": "hé", "media": None, "mime": None, "data_json": None}],
        "calls": [{"id": "c", "name": "f", "arguments_json": '{"q":[1,null]}', "raw": "{}", "error": None}],
    }


@pytest.mark.parametrize(("kind", "value", "plain"), [
    (int, 2**62, 2**62), (float, 0.1, 0.1), (bool, np.True_, True), (str, "", ""), (int | None, None, None),
    (tuple[int, ...], (), []), (frozenset[str], frozenset({"b", "a"}), ["a", "b"]), (Any, {"a": None}, '{"a":null}'),
    (Any, None, None), (float | str | bool | None, "no", '"no"'), (Mapping[str, float], {"a": 1}, {"a": 1.0}),
    (Mapping[int, Mapping[str, float]], {4: {"win": 1.0}}, {"4": {"win": 1.0}}),
    (tuple[tuple[int, ...], ...] | None, ((1, 2), ()), [[1, 2], []]),
    (SpanId, ("a", "main", 0), {"seat": "a", "policy": "main", "index": 0}),
    (tuple[str, str] | None, ("a", "main"), {"seat": "a", "policy": "main"}),
])
def test_plain_forms(kind: Any, value: Any, plain: Any) -> None:
    shape = shape_of(kind)
    assert written(shape, value, "x") == plain
    assert shape.decode(plain) == value


def test_arrays_keep_every_bit_and_unknown_is_null() -> None:
    """Subnormals, the smallest step above one, negative zero; NaN is null on disk and NaN again."""
    numbers = np.array([5e-324, 1 + 2**-52, -0.0, np.nan, -1.7976931348623157e308])
    shape = shape_of(FloatArray)
    text = dumped({"x": written(shape, numbers, "x")}, "x")
    assert text == b'{"x":[5e-324,1.0000000000000002,-0.0,null,-1.7976931348623157e+308]}'
    back = shape.decode([5e-324, 1.0000000000000002, -0.0, None, -1.7976931348623157e308])
    assert back.tobytes() == numbers.tobytes()
    singles = np.array([0.1, 1e-45, 3.4e38], np.float32)
    assert (shape.decode(written(shape, singles, "x").tolist()).astype(np.float32) == singles).all()
    assert dumped({"x": written(shape_of(IntArray), [1, 2], "x")}, "x") == b'{"x":[1,2]}'
    empty = shape.decode([])
    assert empty.dtype == np.float64 and empty.shape == (0,)


def test_column_names() -> None:
    assert [column_name(name, shape) for name, shape in columns(Call).items()] == [
        "id", "name", "arguments_json", "raw", "error"]


@pytest.mark.parametrize(("kind", "value", "error", "message"), [
    (Stop, Stop("done", 3), BadInput, r"^x\.reason: is 3; expected text"),  # type: ignore[arg-type]
    (Stop, None, BadInput, r"^x: is None; expected a Stop"),
    (int, True, BadInput, "^x: is True; expected an integer"),
    (float, "1", BadInput, "^x: is '1'; expected a number"),
    (float, float("-inf"), NotFinite, "^x: is -inf"),
    (bool, 1, BadInput, "^x: is 1; expected True or False"),
    (tuple[int, ...], (1, "a"), BadInput, r"^x\.1: is 'a'"),
    (tuple[str, ...], "ab", BadInput, "^x: is 'ab'; expected a sequence"),
    (Mapping[str, float], {"a": float("nan")}, NotFinite, r"^x\.a: is nan"),
    (Mapping[str, float], [1], BadInput, r"^x: is \[1\]; expected a mapping"),
    (Score, Score(1.0, turns={1: {"a": float("inf")}}), NotFinite, r"^x\.turns\.1\.a: is inf"),
    (Any, [0, {"a": float("nan")}], NotFinite, r"^x\.\[1\]\.a: is a number that is not finite"),
    (Any, {"a": b"bytes"}, BadInput, r"^x\.a: is bytes"),
])
def test_refused_with_its_place(kind: Any, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        written(shape_of(kind), value, "x")


def test_text_that_says_null_is_no_unknown_number() -> None:
    assert written(shape_of(Any), {"a": "null", "b": None}, "x") == '{"a":"null","b":null}'


def test_a_type_without_a_form_is_refused() -> None:
    @dataclass(frozen=True)
    class Odd:
        when: complex

    with pytest.raises(BadInput, match="no form on disk for the type <class 'complex'>"):
        columns(Odd)


def test_a_lone_surrogate_in_a_key_is_named() -> None:
    with pytest.raises(BadInput, match=r"^row\.a\.'\\ud800': is str '\\ud800'"):
        dumped({"a": {"\ud800": 1}}, "row")
