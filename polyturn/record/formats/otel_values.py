"""OTLP/JSON: attributes, ids and times as the OpenTelemetry protocol writes them, and GenAI messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from polyturn.json_numbers import whole_or_none
from polyturn.record.formats.chat import ORIGINS, Store, call_from
from polyturn.record.formats.check import Field, parsed
from polyturn.types import Call, Message, Part, Role

_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool",
                              "developer": "system", "model": "assistant"}


def attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``[{"key", "value"}]``; None is left out.

    >>> attributes({"a": 1, "b": None})
    [{'key': 'a', 'value': {'intValue': '1'}}]
    """
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list | tuple):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": str(value)}


def read_attributes(given: Field | None) -> dict[str, Any]:
    """Key -> value of the attributes of a span, an event or a resource."""
    found = {}
    for item in [] if given is None else given.items():
        found[item["key"].text()] = _read(item["value"])
    return found


def _read(given: Field) -> Any:
    held = given.object()
    if "intValue" in held:
        text = str(held["intValue"])
        number = whole_or_none(text.removeprefix("-"))
        return -number if number is not None and text.startswith("-") else number
    if "arrayValue" in held:
        values = given["arrayValue"].get("values")
        return [_read(item) for item in ([] if values is None else values.items())]
    for name in ("stringValue", "boolValue", "doubleValue"):
        if name in held:
            return held[name]
    return None


def trace_id(episode: str) -> str:
    """32 digits that an episode always has."""
    return hashlib.sha256(f"trace {episode}".encode()).hexdigest()[:32]


def span_id(*place: object) -> str:
    """16 digits that a place in an episode always has."""
    return hashlib.sha256("\0".join(map(str, place)).encode()).hexdigest()[:16]


def nanoseconds(seconds: float) -> str:
    """Seconds since 1970 as the text of nanoseconds."""
    return str(max(0, round(seconds * 1e9)))


def seconds(given: Field | None) -> float:
    """The inverse; 0 where there is none."""
    return (0 if given is None else whole_or_none(str(given.value)) or 0) / 1e9


# ---------------------------------------------------------------- messages


def messages_text(messages: Sequence[Message], store: Store, finish: str | None = None) -> str:
    """Messages as the JSON text of ``gen_ai.input.messages`` (with ``finish``: of ``gen_ai.output.messages``)."""
    more = {} if finish is None else {"finish_reason": finish}
    return json.dumps([{"role": m.role, "parts": _parts(m, store), **more} for m in messages], ensure_ascii=False)


def _parts(message: Message, store: Store) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [{"type": "tool_call_response", "id": message.call_id, "response": message.text}]
    found: list[dict[str, Any]] = []
    for part in message.parts:
        if part.kind in ("text", "reasoning"):
            found.append({"type": part.kind, "content": part.text})
        elif part.kind in ("json", "array"):
            found.append({"type": "text", "content": json.dumps(part.data, ensure_ascii=False)})
        else:
            found.append({"type": "uri", "modality": part.kind, "uri": store.address(part)})
    return [*found, *({"type": "tool_call", "id": call.id, "name": call.name, "arguments": (
        call.raw if call.arguments is None else dict(call.arguments))} for call in message.calls)]


def read_messages(text: Any, where: str, store: Store) -> list[Message]:
    """The messages of such a text; none where content was not recorded."""
    if text is None:
        return []
    given = Field(parsed(Field(text, where).text(), where), where)
    return [_message(item, store) for item in given.items()]


def _message(given: Field, store: Store) -> Message:
    role: Role = given["role"].one_of(_ROLES)
    parts: list[Part] = []
    calls: list[Call] = []
    answers = None
    for part in given["parts"].items():
        kind = part["type"].text()
        if kind in ("text", "reasoning"):
            parts.append(Part(kind, part["content"].text()))  # type: ignore[arg-type]
        elif kind == "tool_call":
            id = part.get("id")
            calls.append(call_from("" if id is None else id.text(), part["name"].text(),
                                   part.value.get("arguments"), part.where))
        elif kind == "tool_call_response":
            id, said = part.get("id"), part.value.get("response", part.value.get("result"))
            answers = None if id is None else id.text()
            parts.append(Part("text", said) if isinstance(said, str) else Part("json", data=said))
        elif kind == "uri" and isinstance(part.value.get("uri"), str):
            parts.append(store.taken(part.value["uri"]))
        else:
            parts.append(Part("json", data=part.object()))
    return Message(role, tuple(parts), "", None, tuple(calls), answers, ORIGINS[role])
