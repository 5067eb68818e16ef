"""How the nouns look on disk, read off the dataclasses themselves, so that no field can be forgotten.

:func:`shape_of` turns a type into a :class:`Shape`: value -> plain JSON value, and back, and the Arrow type of the same
column. A dataclass becomes an object with one key per field. Three rules:

- An open value (``Any``, ``Mapping[str, Any]``, a union) stands as JSON text under the field's name + ``_json``; None
  is null. Such a value keeps what JSON keeps: a tuple or an array comes back as a list.
- An array of numbers is a list. NaN means unknown and is null. Every other number has to be finite.
- A mapping is an object with text keys; a set is a sorted list; ``(seat, policy, index)`` is an object of three.
"""

from __future__ import annotations

import math
import types as builtin_types
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import orjson
from numpy.typing import NDArray

from polyturn.errors import BadInput, NotFinite, PolyturnError

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_TUPLES = {2: ("seat", "policy"), 3: ("seat", "policy", "index")}


@dataclass(frozen=True, slots=True)
class Shape:
    """One column: how a value is written, read and typed in Arrow."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    arrow: Callable[[], Any]
    """Makes the ``pyarrow`` type; imports pyarrow."""
    open: bool = False
    """True for JSON text, whose column name ends in ``_json``."""


class _Refused(Exception):
    """A value that cannot be written, on its way up; each level adds where it stood."""

    def __init__(self, error: type[PolyturnError], why: str) -> None:
        super().__init__(why)
        self.error = error
        self.place: list[str] = []


def written(shape: Shape, value: Any, what: str) -> Any:
    """The plain JSON value of ``value``.

    Raises: NotFinite for a number that is not finite, BadInput for any other value that has no exact form on disk;
    both name the place, which begins with ``what``.
    """
    try:
        return shape.encode(value)
    except _Refused as refused:
        raise refused.error(f"{'.'.join([what, *reversed(refused.place)])}: {refused}") from None


def dumped(row: Mapping[str, Any], what: str) -> bytes:
    """The row as UTF-8 JSON.

    Raises: BadInput for text that is not valid Unicode (a lone surrogate) and integers beyond 64 bits, with the place.
    """
    try:
        return orjson.dumps(row, option=_OPTIONS)
    except TypeError as error:
        place, why = _culprit(row, what) or (what, str(error))
        raise BadInput(f"{place}: {why}") from None


def column_name(name: str, shape: Shape) -> str:
    """``"payload_json"`` for an open column, else the field's own name."""
    return f"{name}_json" if shape.open else name


def columns(cls: type) -> dict[str, Shape]:
    """Field name -> shape, for each field of a dataclass."""
    hints = get_type_hints(cls)
    return {f.name: shape_of(hints[f.name]) for f in fields(cls)}


@cache
def shape_of(kind: Any) -> Shape:
    """The shape of a type: a dataclass, a scalar, an array, or a container of these.

    Raises: BadInput for a type that has no form on disk.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _record(kind)
    if kind in _SCALARS:
        return _SCALARS[kind]
    if origin is Literal:
        return _SCALARS[str]
    if origin is Union or origin is builtin_types.UnionType:
        rest = [t for t in inner if t is not type(None)]
        return _optional(shape_of(rest[0])) if len(rest) == 1 else _OPEN
    if kind is Any:
        return _OPEN
    if origin is np.ndarray:
        return _array(get_args(inner[1])[0])
    if origin is NDArray:  # from numpy 2.5 on an alias that keeps its name
        return _array(inner[0])
    return _container(kind, origin, inner)


def _container(kind: Any, origin: Any, inner: tuple[Any, ...]) -> Shape:
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return _list(shape_of(inner[0]), tuple)
    if origin is tuple:
        return _named(_TUPLES[len(inner)], [shape_of(t) for t in inner])
    if origin is frozenset:
        return _list(shape_of(inner[0]), frozenset)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _OPEN if inner[1] is Any else _mapping(inner[0], shape_of(inner[1]))
    raise BadInput(f"no form on disk for the type {kind}; use dataclasses, str, int, float, bool, arrays, tuples, "
                   "frozensets, mappings or Any (JSON)")


# ---------------------------------------------------------------- scalars


def _text(value: Any) -> str:
    if type(value) is not str and not isinstance(value, str):
        raise _Refused(BadInput, f"is {value!r}; expected text")
    return value


def _int(value: Any) -> int:
    if type(value) is not int and not isinstance(value, np.integer):
        raise _Refused(BadInput, f"is {value!r}; expected an integer")
    if not -(2**63) <= value < 2**63:
        raise _Refused(BadInput, f"is an integer of {int(value).bit_length()} bits; expected one of 63")
    return int(value)


def _float(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if not isinstance(value, (float, int, np.floating, np.integer)) or isinstance(value, bool):
        raise _Refused(BadInput, f"is {value!r}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        raise _Refused(NotFinite, "is an integer that no float holds") from None
    if not math.isfinite(number):
        raise _Refused(NotFinite, f"is {number}; an unknown number is None, and none may be infinite")
    return number


def _bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _Refused(BadInput, f"is {value!r}; expected True or False")
    return bool(value)


def _arrow(name: str, *inner: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        import pyarrow

        return getattr(pyarrow, name)(*(arrow() for arrow in inner))

    return make


def _same(value: Any) -> Any:
    return value


_SCALARS = {
    str: Shape(_text, _same, _arrow("string")), int: Shape(_int, _same, _arrow("int64")),
    float: Shape(_float, float, _arrow("float64")), bool: Shape(_bool, _same, _arrow("bool_")),
}

# ---------------------------------------------------------------- open values


def _open_text(value: Any) -> str | None:
    if value is None:
        return None
    try:
        text = orjson.dumps(value, default=_as_dict, option=_OPTIONS)
    except TypeError as error:
        place, why = _culprit(value, "") or ("", str(error))
        raise _at(_Refused(BadInput, why), place) from None
    if b"null" in text:
        unknown = _not_finite(value, "")
        if unknown is not None:
            raise _at(_Refused(NotFinite, "is a number that is not finite; write None for unknown"), unknown)
    return text.decode()


def _at(refused: _Refused, place: str) -> _Refused:
    if place:
        refused.place.append(place.removeprefix("."))
    return refused


def _as_dict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _culprit(value: Any, place: str) -> tuple[str, str] | None:
    """Where in a JSON value the part stands that cannot be written, and why; None if all of it can."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                return place, f"has the key {key!r}; keys of a JSON object are text"
            found = _culprit(key, f"{place}.{key!r}") or _culprit(item, f"{place}.{key}")
            if found:
                return found
        return None
    if isinstance(value, (list, tuple)):
        return next(filter(None, (_culprit(item, f"{place}[{i}]") for i, item in enumerate(value))), None)
    try:
        orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:
        said = f"of {value.bit_length()} bits" if isinstance(value, int) else ascii(value)[:80]
        return place, f"is {type(value).__name__} {said}; expected a JSON value ({error})"
    return None


def _not_finite(value: Any, place: str) -> str | None:
    """Where in a JSON value a number stands that is not finite; None if there is none."""
    if isinstance(value, Mapping):
        parts = [(f"{place}.{key}", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f"{place}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, (float, np.floating, np.ndarray)):
        numbers = np.asarray(value)
        return place if numbers.dtype.kind == "f" and not np.isfinite(numbers).all() else None
    else:
        return None
    return next(filter(None, (_not_finite(item, where) for where, item in parts)), None)


def _parsed(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


_OPEN = Shape(_open_text, _parsed, _arrow("string"), open=True)

# ---------------------------------------------------------------- containers


def _optional(inner: Shape) -> Shape:
    if inner.open:
        return inner
    encode, decode = inner.encode, inner.decode
    return Shape(
        lambda value: None if value is None else encode(value),
        lambda data: None if data is None else decode(data), inner.arrow,
    )


def _list(inner: Shape, make: Callable[[list[Any]], Any]) -> Shape:
    item, back = inner.encode, inner.decode

    def encode(values: Any) -> list[Any]:
        plain = type(values) is tuple or type(values) is list
        if plain and not values:
            return []
        if not plain and (isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, Set))):
            raise _Refused(BadInput, f"is {values!r}; expected a sequence")
        out: list[Any] = []
        try:
            for value in sorted(values) if make is frozenset else values:
                out.append(item(value))
        except _Refused as refused:
            raise _at(refused, str(len(out))) from None
        return out

    def decode(data: Any) -> Any:
        return make([back(value) for value in data])

    return Shape(encode, decode, _arrow("list_", inner.arrow))


def _mapping(key_kind: type, inner: Shape) -> Shape:
    item, back = inner.encode, inner.decode
    numbered = key_kind is int

    def encode(values: Any) -> dict[str, Any]:
        if type(values) is not dict and not isinstance(values, Mapping):
            raise _Refused(BadInput, f"is {values!r}; expected a mapping")
        out: dict[str, Any] = {}
        for key, value in values.items():
            try:
                out[str(_int(key)) if numbered else _text(key)] = item(value)
            except _Refused as refused:
                raise _at(refused, str(key)) from None
        return out

    def decode(data: Any) -> dict[Any, Any]:
        pairs = data.items() if isinstance(data, Mapping) else data
        return {int(key) if numbered else key: back(value) for key, value in pairs}

    return Shape(encode, decode, _arrow("map_", _SCALARS[str].arrow, inner.arrow))


def _array(dtype: Any) -> Shape:
    floating = np.dtype(dtype).kind == "f"

    def encode(value: Any) -> Any:
        given = np.asarray(value)
        if given.ndim != 1 or (given.size and given.dtype.kind not in ("fiu" if floating else "iu")):
            raise _Refused(BadInput, f"is an array of {given.dtype} with shape {given.shape}; expected one axis of "
                                     f"{np.dtype(dtype).name}")
        array = np.ascontiguousarray(given, dtype)
        if floating and np.isinf(array).any():
            raise _Refused(NotFinite, f"[{int(np.isinf(array).argmax())}] is infinite; unknown is NaN")
        if not floating and array is not given and (array != given).any():
            raise _Refused(BadInput, f"holds numbers beyond {np.dtype(dtype).name}")
        return array

    def decode(data: Any) -> Any:
        return np.array(data, dtype)

    return Shape(encode, decode, _arrow("list_", _arrow("float64" if floating else "int32")))


def _named(names: tuple[str, ...], inner: Sequence[Shape]) -> Shape:
    def encode(value: Any) -> dict[str, Any]:
        return {name: shape.encode(item) for name, shape, item in zip(names, inner, value, strict=True)}

    def decode(data: Any) -> tuple[Any, ...]:
        return tuple(shape.decode(data[name]) for name, shape in zip(names, inner, strict=True))

    return Shape(encode, decode, _struct(dict(zip(names, inner, strict=True))))


def _struct(inner: Mapping[str, Shape]) -> Callable[[], Any]:
    def make() -> Any:
        import pyarrow

        return pyarrow.struct([(column_name(name, shape), shape.arrow()) for name, shape in inner.items()])

    return make


def _all_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """All named attributes of a value at once."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _record(cls: Any) -> Shape:
    shapes = columns(cls)
    plan = [(name, column_name(name, shape), shape.encode, shape.decode) for name, shape in shapes.items()]
    keys, encoders = tuple(key for _, key, _, _ in plan), tuple(item for _, _, item, _ in plan)
    parts_of = _all_of(tuple(shapes))
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}

    def encode(value: Any) -> dict[str, Any]:
        if not isinstance(value, cls):
            raise _Refused(BadInput, f"is {value!r}; expected a {cls.__name__}")
        out: dict[str, Any] = {}
        try:
            for key, item, part in zip(keys, encoders, parts_of(value), strict=True):
                out[key] = item(part)
        except _Refused as refused:
            raise _at(refused, plan[len(out)][0]) from None
        return out

    def decode(data: Any) -> Any:
        missing = [key for name, key, _, _ in plan if key not in data and name in needed]
        if missing:
            article = "an" if cls.__name__[0] in "AEIOU" else "a"
            raise BadInput(f"{article} {cls.__name__} on disk lacks the column {', '.join(missing)}; it holds "
                           f"{', '.join(data)}")
        return cls(**{name: back(data[key]) for name, key, _, back in plan if key in data})

    return Shape(encode, decode, _struct(shapes))
