"""Chat messages as inspect writes them, in and out; texts that a log keeps as attachments are put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyturn.record.formats.chat import ORIGINS, Store, call_from
from polyturn.record.formats.check import Field
from polyturn.types import Call, Message, Part, Role

_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
ATTACHMENT = "attachment://"


def message_of(given: Field, number: int, store: Store, attached: Mapping[str, Any]) -> Message:
    """The message of one chat object, with the id ``m<number>``."""
    role: Role = given["role"].one_of(_ROLES)
    calls, answers, error = given.get("tool_calls"), given.get("tool_call_id"), given.get("error")
    found = () if calls is None else tuple(map(_call, calls.items()))
    return Message(
        role, _parts(given["content"], store, attached), f"m{number}", None, found,
        None if answers is None else answers.text(), ORIGINS[role], "ok" if error is None else "error",
    )


def _call(given: Field) -> Call:
    call = call_from(given["id"].text(), given["function"].text(), given["arguments"].object(), given.where)
    why = given.get("parse_error")
    return call if why is None else Call(call.id, call.name, None, call.raw, why.text())


def _parts(content: Field, store: Store, attached: Mapping[str, Any]) -> tuple[Part, ...]:
    if isinstance(content.value, str):
        text = _put_back(content.value, attached)
        return (Part("text", text),) if text else ()
    return tuple(_part(part, store, attached) for part in content.items())


def _put_back(text: str, attached: Mapping[str, Any]) -> str:
    """The text, or what an attachment holds."""
    held = attached.get(text.removeprefix(ATTACHMENT)) if text.startswith(ATTACHMENT) else None
    return held if isinstance(held, str) else text


def whole_text(value: Any, attached: Mapping[str, Any]) -> Any:
    """A JSON value with every text that is kept as an attachment put back."""
    if isinstance(value, dict):
        return {key: whole_text(item, attached) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_text(item, attached) for item in value]
    return _put_back(value, attached) if isinstance(value, str) else value


def _part(given: Field, store: Store, attached: Mapping[str, Any]) -> Part:
    kind = given["type"].text()
    if kind == "text":
        return Part("text", _put_back(given["text"].text(), attached))
    if kind == "reasoning":
        return Part("reasoning", _put_back(given["reasoning"].text(), attached))
    if kind in ("image", "audio", "video"):
        taken = store.taken(_put_back(given[kind].text(), attached))
        return Part(kind, media=taken.media, mime=taken.mime, data=taken.data)  # type: ignore[arg-type]
    return Part("json", data=given.object())


def message_dict(message: Message, store: Store, names: Mapping[str, str]) -> dict[str, Any]:
    """The chat object of a message; ``names``: the function that each call called."""
    out: dict[str, Any] = {"role": message.role, "content": _content(message.parts, store)}
    if message.calls:
        out["tool_calls"] = [_call_dict(call) for call in message.calls]
    if message.role == "tool":
        out["tool_call_id"] = message.call_id
        if message.call_id is not None and message.call_id in names:
            out["function"] = names[message.call_id]
        if message.status == "error":
            out["error"] = {"type": "unknown", "message": message.text}
    return out


def _call_dict(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = {"id": call.id, "function": call.name, "arguments": dict(call.arguments or {}),
                             "type": "function"}
    return found if call.error is None else {**found, "parse_error": call.error}


def _content(parts: Sequence[Part], store: Store) -> Any:
    if all(part.kind == "text" for part in parts):
        return "".join(part.text for part in parts)
    return [_typed(part, store) for part in parts]


def _typed(part: Part, store: Store) -> dict[str, Any]:
    if part.kind == "text":
        return {"type": "text", "text": part.text}
    if part.kind == "reasoning":
        return {"type": "reasoning", "reasoning": part.text}
    if part.kind == "image":
        return {"type": "image", "image": store.address(part)}
    if part.kind in ("audio", "video"):
        kind = (part.mime or f"{part.kind}/{'wav' if part.kind == 'audio' else 'mp4'}").split("/")[1]
        return {"type": part.kind, part.kind: store.address(part), "format": kind}
    whole = isinstance(part.data, dict) and isinstance(part.data.get("type"), str)
    return part.data if whole else {"type": "data", "data": {"value": part.data}}
