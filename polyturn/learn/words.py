"""A rule in words: the names of its parts, with the numbers that they were given or have by themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

CLIPS = ("clip_low", "clip_high", "dual_clip", "truncate")


def in_words(part: Any) -> str:
    """One part as it would be written, with the settings that it has by itself.

    >>> in_words(partial(sorted, reverse=True))
    'sorted(key=None, reverse=True)'
    """
    if isinstance(part, Mapping):
        return "{" + ", ".join(f"{in_words(key)}: {in_words(value)}" for key, value in part.items()) + "}"
    if isinstance(part, str) or part is None or isinstance(part, bool | int | float):
        return repr(part)
    if isinstance(part, Sequence):
        return "(" + ", ".join(in_words(item) for item in part) + ")"
    if is_dataclass(part) and not isinstance(part, type):
        shown = [f.name for f in fields(part) if f.init and f.repr and not _remembered(part, f.name)]
        return f"{type(part).__name__}({_pairs({name: getattr(part, name) for name in shown})})"
    name, given = _bound(part)
    return f"{name}({_pairs(given)})" if given else name


def clipping(loss: Any) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """The part of a loss that clips, and its numbers (:data:`CLIPS`): the loss itself, or one that it is made of as a
    ``partial`` or a dataclass. None where there is none, or where it is hidden in a closure."""
    _, given = _bound(loss)
    if "clip_high" in given:
        return loss, {name: _finite(given[name]) for name in CLIPS if given.get(name) is not None}
    inner = [getattr(loss, f.name) for f in fields(loss)] if is_dataclass(loss) else list(given.values())
    return next((found for part in _flat(inner) if callable(part) and (found := clipping(part)) is not None), None)


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _finite(value: Any) -> Any:
    """JSON has no infinity: an open clip is None."""
    return None if value == float("inf") else value


def _bound(part: Any) -> tuple[str, dict[str, Any]]:
    """The name of a function, and its keyword-only arguments as they are bound."""
    given: dict[str, Any] = {}
    while isinstance(part, partial):
        given = {**part.keywords, **{str(i): value for i, value in enumerate(part.args)}, **given}
        part = part.func
    name = getattr(part, "__name__", type(part).__name__)
    try:
        parameters = inspect.signature(part).parameters.values()
    except (TypeError, ValueError):
        return name, given
    default = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    return name, {**default, **given}


def _remembered(part: Any, name: str) -> bool:
    """Whether a field is what the part remembers and no setting of it: it changes with the batches."""
    state = getattr(part, "state", None)
    return callable(state) and isinstance(getattr(part, name), dict | list) and name in state()


def _pairs(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={in_words(value)}" for name, value in given.items())
