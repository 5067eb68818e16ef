"""Functions under one registry: what a tool is called, what it takes and what it does stand in one place.

The text that a prompt shows, the JSON schema that a chat template takes and the names in a code's namespace are all
read from it, so that no two of them can differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from polyturn.errors import UnknownName
from polyturn.types import Tool

TYPES: Final[Mapping[str, tuple[str, tuple[type, ...]]]] = {
    "string": ("str", (str,)), "integer": ("int", (int,)), "number": ("float", (int, float)),
    "boolean": ("bool", (bool,)), "array": ("list", (list, tuple)), "object": ("dict", (dict,)),
}
"""JSON type -> its name in Python, what may stand for it."""


class ToolFailed(Exception):
    """A tool could not do what it was called for; its text is for the caller to read, and to do better."""


@dataclass(frozen=True, slots=True)
class Functions:
    """Tools and the functions behind them, in order.

    >>> double = Tool("double", "Twice a number.", {"type": "object", "properties": {"x": {"type": "integer"}},
    ...               "required": ["x"]})
    >>> Functions(((double, lambda x: 2 * x),)).call("double", {"x": 21})
    42
    """

    entries: tuple[tuple[Tool, Callable[..., Any]], ...]

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What can be called."""
        return tuple(tool for tool, _ in self.entries)

    def call(self, name: str, arguments: Mapping[str, Any] | None) -> Any:
        """What the function gives. Raises: ToolFailed for an unknown name and for arguments that do not fit."""
        known = {tool.name: (tool, function) for tool, function in self.entries}
        if name not in known:
            raise ToolFailed(str(UnknownName("tool", name, known)))
        tool, function = known[name]
        return function(**fitting(tool, arguments))


def signature(tool: Tool) -> str:
    """The tool as the head of a Python function.

    >>> signature(Tool("price", "", {"properties": {"city": {"type": "string"}, "vendor": {"type": "string"}}}))
    'price(city: str, vendor: str)'
    """
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", list(properties))
    shown = [f"{name}: {TYPES.get(schema.get('type', ''), ('Any', ()))[0]}" + ("" if name in required else " = None")
             for name, schema in properties.items()]
    return f"{tool.name}({', '.join(shown)})"


def named(tool: Tool, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name: positional ones in the order of the schema's properties.

    Raises: ToolFailed for too many, and for one given twice.
    """
    names = list(tool.parameters.get("properties", {}))
    if len(args) > len(names):
        raise ToolFailed(f"{signature(tool)} takes {len(names)} argument(s); {len(args)} were given")
    found = dict(zip(names[: len(args)], args, strict=True))
    twice = sorted(set(found) & set(kwargs))
    if twice:
        raise ToolFailed(f"{signature(tool)} got {', '.join(twice)} twice")
    return found | dict(kwargs)


def fitting(tool: Tool, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments, if they fit the schema's names, types and choices. Raises: ToolFailed that says what does not."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    given = dict(arguments or {})
    missing = [name for name in tool.parameters.get("required", ()) if name not in given]
    strange = [name for name in given if name not in properties]
    if missing or strange:
        raise ToolFailed(f"{signature(tool)} was called with {_shown(given)}: "
                         + ", ".join([f"{name} is missing" for name in missing]
                                     + [f"{name} is no argument of it" for name in strange]))
    for name, value in given.items():
        schema = properties[name]
        word, kinds = TYPES.get(schema.get("type", ""), ("", ()))
        wrong = kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and word != "bool"))
        if wrong:
            raise ToolFailed(f"{signature(tool)}: {name} is {_shown(value)}; expected {word}")
        if "enum" in schema and value not in schema["enum"]:
            raise ToolFailed(f"{signature(tool)}: {name} is {_shown(value)}; expected one of {_shown(schema['enum'])}")
    return given


def read(tool: Tool, texts: Sequence[str]) -> dict[str, Any]:
    """Arguments that were written as bare texts, read as the types that the schema names.

    Raises: ToolFailed for too many, or for a text that cannot be read as its type.

    >>> read(Tool("f", "", {"properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}), ["07", "07"])
    {'n': 7, 's': '07'}
    """
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    found = named(tool, texts, {})
    for name, text in found.items():
        word, kinds = TYPES.get(properties[name].get("type", ""), ("", ()))
        if word in ("int", "float"):
            try:
                found[name] = int(text) if word == "int" else float(text)
            except ValueError as error:
                raise ToolFailed(f"{signature(tool)}: {name} is {text!r}; expected {word}") from error
        elif word != "str" and kinds:
            try:
                found[name] = json.loads(text)
            except ValueError as error:
                raise ToolFailed(f"{signature(tool)}: {name} is {text!r}; expected a JSON {word}") from error
    return found


def shortened(text: str, most: int) -> str:
    """The first ``most`` characters, with a mark where there were more.

    >>> shortened("abcdef", 3)
    'abc\\n[3 more characters were cut]'
    """
    return text if len(text) <= most else f"{text[:most]}\n[{len(text) - most} more characters were cut]"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
