"""What a record holds and an episode has no place for: kept as a difference, so that a record goes back as it came.

The residual of an imported record is the difference between the record and what an export of the episode would write:
``{"set": {JSON pointer: value}, "drop": [JSON pointer]}``. Exporting patches it back in. A field that an episode holds
is never in it, so what was changed in the episode is changed in the export.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyturn.errors import BadInput
from polyturn.json_numbers import whole_or_none


def difference(source: Any, made: Any) -> dict[str, Any]:
    """The residual that turns ``made`` into ``source``.

    >>> difference({"a": [1, 2], "b": None}, {"a": [1], "c": 0})
    {'set': {'/a/1': 2, '/b': None}, 'drop': ['/c']}
    """
    residual: dict[str, Any] = {"set": {}, "drop": []}
    _compare(source, made, "", residual)
    pointers = sorted(residual["set"], key=_in_order)
    return {"set": {pointer: residual["set"][pointer] for pointer in pointers},
            "drop": sorted(residual["drop"], key=_in_order)}


def _in_order(pointer: str) -> list[tuple[int, str]]:
    """The order of pointers, whatever order the keys of an object stand in; places of a list by number."""
    places = [(whole_or_none(step), step) for step in pointer.split("/")]
    return [(-1, step) if place is None else (place, "") for place, step in places]


def patched(made: Any, residual: Mapping[str, Any]) -> Any:
    """``made`` with the residual put in: what was imported.

    Raises: BadInput for a residual that does not fit, for what it belongs to has been changed too much.

    >>> patched({"a": [1], "c": 0}, {"set": {"/a/1": 2, "/b": None}, "drop": ["/c"]})
    {'a': [1, 2], 'b': None}
    """
    out = _copied(made)
    for pointer, value in residual.get("set", {}).items():
        if not pointer:
            return _copied(value)
        _put(out, pointer, _copied(value))
    for pointer in reversed(residual.get("drop", [])):
        holder, key = _holder(out, pointer)
        if isinstance(holder, dict):
            holder.pop(key, None)
        elif isinstance(holder, list) and key < len(holder):
            del holder[key]
    return out


def _copied(value: Any) -> Any:
    """A copy of a JSON value, no part of which stands in two places: what is put in one stays out of the other."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _compare(source: Any, made: Any, at: str, residual: dict[str, Any]) -> None:
    if isinstance(source, dict) and isinstance(made, dict):
        for key, value in source.items():
            if key in made:
                _compare(value, made[key], f"{at}/{_escaped(key)}", residual)
            else:
                residual["set"][f"{at}/{_escaped(key)}"] = value
        residual["drop"] += [f"{at}/{_escaped(key)}" for key in made if key not in source]
    elif isinstance(source, list) and isinstance(made, list):
        for index, value in enumerate(source):
            if index < len(made):
                _compare(value, made[index], f"{at}/{index}", residual)
            else:
                residual["set"][f"{at}/{index}"] = value
        residual["drop"] += [f"{at}/{index}" for index in range(len(source), len(made))]
    elif type(source) is not type(made) or source != made:
        residual["set"][at] = source


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _put(out: Any, pointer: str, value: Any) -> None:
    holder, key = _holder(out, pointer)
    if isinstance(holder, dict):
        holder[key] = value
    elif isinstance(holder, list) and key == len(holder):
        holder.append(value)
    elif isinstance(holder, list) and key < len(holder):
        holder[key] = value
    # Anything else: the message that it belonged to was taken out of the episode.


def _holder(out: Any, pointer: str) -> tuple[Any, Any]:
    """The object or list that a pointer's last step is in (None where it is gone), and that step."""
    if not pointer.startswith("/"):
        raise BadInput(f"{pointer[:80]!r} in a residual is no JSON pointer")
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]
    for step in steps[:-1]:
        if isinstance(out, dict):
            out = out.get(step)
        elif isinstance(out, list):
            place = whole_or_none(step)
            out = out[place] if place is not None and place < len(out) else None
    if isinstance(out, list):
        place = whole_or_none(steps[-1])
        return (None, None) if place is None else (out, place)
    return (out, steps[-1]) if isinstance(out, dict) else (None, None)
