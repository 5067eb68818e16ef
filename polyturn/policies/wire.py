"""The chat-completions format that most servers and clients speak, to and from our nouns. Pure; used on both sides.

Reading what another program wrote raises BadInput that names the place: ``messages[2].content[0].type``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from polyturn.errors import BadInput
from polyturn.json_numbers import finite, refuse, whole
from polyturn.types import Call, Finish, Message, Origin, Part, Role, Tool, Usage

_ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
}
_ORIGINS: Mapping[Role, Origin] = {"system": "injected", "user": "user", "assistant": "injected", "tool": "tool"}
_FINISHES: Mapping[str, Finish] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop",
    "length": "length", "max_tokens": "length",
    "tool_calls": "tool", "function_call": "tool", "tool_use": "tool",
}
_SPOKEN: Mapping[Finish, str] = {
    "stop": "stop", "length": "length", "budget": "length", "tool": "tool_calls", "abort": "stop",
}

# ---------------------------------------------------------------- ours to theirs


def spoken_message(message: Message, *, reasoning: bool = False) -> dict[str, Any]:
    """A message as chat-completions JSON; ``reasoning`` adds the reasoning parts as ``reasoning_content``.

    Raises: BadInput for media and for a tool message that answers no call.

    >>> spoken_message(Message("user", "hello"))
    {'role': 'user', 'content': 'hello'}
    """
    spoken: dict[str, Any] = {"role": message.role, "content": _spoken_text(message)}
    if message.name:
        spoken["name"] = message.name
    if message.role == "tool":
        if not message.call_id:
            raise BadInput("a tool message has no call_id: nothing says which call it answers")
        spoken["tool_call_id"] = message.call_id
    if message.calls:
        spoken["tool_calls"] = [_spoken_call(call, index) for index, call in enumerate(message.calls)]
        spoken["content"] = spoken["content"] or None
    if reasoning and message.reasoning:
        spoken["reasoning_content"] = message.reasoning
    return spoken


def _spoken_text(message: Message) -> str:
    found = []
    for part in message.parts:
        if part.kind == "text":
            found.append(part.text)
        elif part.kind == "json":
            found.append(json.dumps(part.data, ensure_ascii=False, sort_keys=True))
        elif part.kind != "reasoning":
            raise BadInput(f"a {message.role} message holds {part.kind}; only text can be sent in this format")
    return "".join(found)


def _spoken_call(call: Call, index: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments_text(call)}
    return {"id": call.id or f"call_{index}", "type": "function", "function": function}


def arguments_text(call: Call) -> str:
    """The arguments object as JSON text: as it was written where that is known, else written anew.

    >>> arguments_text(Call("", "f", {"a": 1}, raw='{"a":1}')), arguments_text(Call("", "f", {"a": 1}))
    ('{"a":1}', '{"a": 1}')
    """
    if call.arguments is None:
        return call.raw
    try:
        same = json.loads(call.raw) == dict(call.arguments)
    except ValueError:
        same = False
    return call.raw if same else json.dumps(dict(call.arguments), ensure_ascii=False)


def spoken_tool(tool: Tool) -> dict[str, Any]:
    """A tool as chat-completions JSON."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def spoken_finish(finish: Finish, calls: Sequence[Call] = ()) -> str:
    """The finish reason in their words; a reply with calls that was not cut is ``tool_calls``."""
    return "tool_calls" if calls and finish == "stop" else _SPOKEN[finish]


def spoken_usage(usage: Usage) -> dict[str, Any]:
    """Token counts as chat-completions JSON."""
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


# ---------------------------------------------------------------- theirs to ours


def read_message(spoken: Any, where: str, *, origin: Origin | None = None) -> Message:
    """A message from chat-completions JSON; arguments that are no JSON object stay raw, with the reason.

    ``origin``: who wrote it; None = a harness, so by role. Raises: BadInput.
    """
    given = expect(spoken, Mapping, where)
    role = given.get("role", "assistant" if origin == "policy" else None)
    if not isinstance(role, str) or role not in _ROLES:
        wrong(f"{where}.role", repr(role), f"one of {', '.join(_ROLES)}")
    ours = _ROLES[role]
    reasoning = given.get("reasoning_content") or given.get("reasoning") or ""
    parts = [Part("reasoning", reasoning)] if isinstance(reasoning, str) and reasoning else []
    parts += read_content(given.get("content"), f"{where}.content")
    calls = tuple(
        _read_call(call, f"{where}.tool_calls[{index}]")
        for index, call in enumerate(expect(given.get("tool_calls") or [], list, f"{where}.tool_calls"))
    )
    call_id = given.get("tool_call_id")
    if ours == "tool" and not isinstance(call_id, str):
        wrong(f"{where}.tool_call_id", repr(call_id), "the id of the call that this answers")
    name = given.get("name")
    return Message(
        ours, tuple(parts), name=name if isinstance(name, str) else None, calls=calls,
        call_id=call_id if ours == "tool" else None, origin=origin or _ORIGINS[ours],
    )


def read_content(content: Any, where: str) -> list[Part]:
    """The text parts of a content field: a text, nothing, or a list of text parts. Raises: BadInput."""
    if content is None or isinstance(content, str):
        return [Part("text", content)] if content else []
    texts = []
    for index, part in enumerate(expect(content, list, where)):
        place = f"{where}[{index}]"
        if expect(part, Mapping, place).get("type") != "text":
            wrong(f"{place}.type", repr(part.get("type")), "'text' (media is not supported here)")
        texts.append(Part("text", expect(part.get("text"), str, f"{place}.text")))
    return texts


def _read_call(spoken: Any, where: str) -> Call:
    given = expect(spoken, Mapping, where)
    function = expect(given.get("function"), Mapping, f"{where}.function")
    name = expect(function.get("name"), str, f"{where}.function.name")
    raw = function.get("arguments")
    if isinstance(raw, Mapping):
        raw = json.dumps(raw, ensure_ascii=False)
    raw = "" if raw is None else expect(raw, str, f"{where}.function.arguments")
    arguments, error = read_arguments(raw)
    return Call(str(given.get("id") or ""), name, arguments, raw, error)


def read_arguments(raw: str) -> tuple[Mapping[str, Any] | None, str | None]:
    """(arguments, None), or (None, why they cannot be read). An empty text is a call without arguments.

    >>> read_arguments('{"q": 1}'), read_arguments("[1]")
    (({'q': 1}, None), (None, 'its arguments are list, expected an object'))
    """
    if not raw.strip():
        return {}, None
    try:
        found = json.loads(raw, parse_constant=refuse, parse_float=finite, parse_int=whole)
        check_text(raw.encode(), found)
    except (ValueError, RecursionError) as error:
        return None, f"its arguments are a text that is not JSON: {error}"
    if not isinstance(found, dict):
        return None, f"its arguments are {type(found).__name__}, expected an object"
    return found, None


def read_tool(spoken: Any, where: str) -> Tool:
    """A tool from chat-completions JSON. Raises: BadInput."""
    given = expect(spoken, Mapping, where)
    if given.get("type", "function") != "function":
        wrong(f"{where}.type", repr(given.get("type")), "'function'")
    function = expect(given.get("function"), Mapping, f"{where}.function")
    name = expect(function.get("name"), str, f"{where}.function.name")
    at = f"{where}.function.parameters"
    parameters = expect(function.get("parameters") or {"type": "object", "properties": {}}, Mapping, at)
    try:
        json.loads(json.dumps(parameters), parse_int=whole, parse_float=finite, parse_constant=refuse)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{at} cannot be recorded: {error}") from None
    return Tool(name, str(function.get("description") or ""), parameters)


def read_finish(reason: Any) -> Finish:
    """Our finish reason for theirs; what is not known (a content filter, an abort) is ``abort``.

    >>> read_finish("stop"), read_finish("tool_calls"), read_finish("content_filter")
    ('stop', 'tool', 'abort')
    """
    return _FINISHES.get(reason, "abort") if isinstance(reason, str) else "abort"


def read_usage(spoken: Any) -> Usage:
    """Token counts, zero where they are missing, and the cost where the server tells it."""
    given = spoken if isinstance(spoken, Mapping) else {}
    details = given.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    cost = given.get("cost")
    known = isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < float("inf")
    return Usage(
        _count(given.get("prompt_tokens")), _count(cached), _count(given.get("completion_tokens")),
        float(cost) if known and cost is not None else None,
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def check_text(written: bytes, value: Any) -> None:
    """Raises: ValueError where the JSON ``value`` of ``written`` holds half of a surrogate pair, which is no text. An
    escape can write one, and bytes that no UTF-8 has but :func:`json.loads` takes; other encodings have zero bytes."""
    if b"\\ud" in written.lower() or b"\xed" in written or b"\0" in written:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair, which is no text") from None


def wrong(where: str, came: str, expected: str) -> NoReturn:
    """Raises BadInput that says where, what came and what was expected."""
    raise BadInput(f"{where} is {came}; expected {expected}")


def expect(value: Any, kind: Any, where: str) -> Any:
    """``value``, if it is of ``kind``. Raises: BadInput with the place otherwise."""
    names = {Mapping: "an object", list: "a list", str: "a text"}
    if not isinstance(value, kind):
        wrong(where, f"{type(value).__name__} {value!r}"[:80] if value is not None else "missing", names[kind])
    return value
