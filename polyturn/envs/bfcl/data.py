"""What ``bfcl-eval`` (Apache-2.0) delivers for a multi-turn category: entries, gold calls and function documents."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson

from polyturn.envs.install import installed
from polyturn.errors import BadInput
from polyturn.types import Tool

NAME: Final = "bfcl"
CATEGORIES: Final = ("base", "miss_func", "miss_param", "long_context")
DOCUMENTS: Final = {
    "GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api", "MessageAPI": "message_api",
    "TwitterAPI": "posting_api", "TicketAPI": "ticket_api", "TradingBot": "trading_bot", "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
"""Class -> the file of its function documents."""
TYPES: Final = {"dict": "object", "float": "number", "tuple": "array", "list": "array", "bool": "boolean",
                "any": "string"}
"""The package's types that JSON schema calls otherwise."""
HINT: Final = " Note that the provided function is in Python 3 syntax."


@dataclass(frozen=True, slots=True)
class Category:
    """One category as it was delivered."""

    name: str
    entries: tuple[Mapping[str, Any], ...]
    """In the package's order: ``id``, ``question`` (messages by turn), ``initial_config``, ``involved_classes``, and in
    miss_func ``missed_function``."""
    gold: Mapping[str, Sequence[Sequence[str]]]
    """Entry id -> turn -> calls, written in Python."""
    tools: Mapping[str, tuple[Tool, ...]]
    """Class -> its functions."""


def load(category: str) -> Category:
    """A category, read once for each folder. Raises: MissingPackage, which names the command that fetches it."""
    return _read(category, installed(NAME) / "bfcl_eval" / "data")


@lru_cache(maxsize=8)
def _read(category: str, folder: Path) -> Category:
    file = f"BFCL_v4_multi_turn_{category}.json"
    entries = tuple(_lines(folder / file))
    gold = {row["id"]: row["ground_truth"] for row in _lines(folder / "possible_answer" / file)}
    for entry in entries:
        if len(gold[entry["id"]]) != len(entry["question"]):
            raise BadInput(f"{entry['id']} has {len(entry['question'])} turns and gold calls for "
                           f"{len(gold[entry['id']])}")
    documents = folder / "multi_turn_func_doc"
    tools = {name: tuple(_tool(row) for row in _lines(documents / f"{file}.json")) for name, file in DOCUMENTS.items()}
    return Category(category, entries, gold, tools)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]


def _tool(document: Mapping[str, Any]) -> Tool:
    """A function document as a tool; the package's own hint about syntax stays in the description."""
    parameters = {**document["parameters"], "type": "object",
                  "properties": {name: _schema(each) for name, each in document["parameters"]["properties"].items()}}
    return Tool(document["name"], document["description"] + HINT, parameters)


def _schema(value: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(value.get("type", "string"))
    found = {**value, "type": TYPES.get(kind, kind)}
    if kind == "float":
        found["description"] = f"{value.get('description', '')} This is a float type value."
    if "properties" in value:
        found["properties"] = {name: _schema(each) for name, each in value["properties"].items()}
    if "items" in value:
        found["items"] = _schema(value["items"])
    return found


def gold_call(text: str, tools: Sequence[Tool]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a gold call; those without a name take the parameters' in their order.

    >>> gold_call("cd('docs')", [Tool("cd", "", {"properties": {"folder": {"type": "string"}}})])
    ('cd', {'folder': 'docs'})
    """
    tree = ast.parse(text.strip(), mode="eval").body
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        raise BadInput(f"the gold call {text!r} is no call of a function")
    name = tree.func.id
    named = next((list(tool.parameters["properties"]) for tool in tools if tool.name == name), [])
    found = dict(zip(named[: len(tree.args)], [ast.literal_eval(value) for value in tree.args], strict=True))
    found.update({str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords})
    return name, found
