"""Chat messages as OpenAI writes them, in and out: the shape that most formats share.

Arguments of calls are a text here and an object there; both are kept (:class:`polyturn.types.Call`). Pictures and
sounds inside a message (``data:`` addresses) go into the media store by their sha256 and come back from it; an address
on the network is never opened and stays what it is, and no file is ever read because a record names it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polyturn.errors import BadInput
from polyturn.media import Media
from polyturn.record.formats.check import Field, parsed
from polyturn.types import Call, Message, Origin, Part, Role, Tool

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
    "function": "tool",
}
ORIGINS: Mapping[Role, Origin] = {"system": "env", "user": "user", "assistant": "policy", "tool": "tool"}
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Under which keys formats keep what was thought; the first is written."""
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,([A-Za-z0-9+/=]*)")


@dataclass(frozen=True, slots=True)
class Store:
    """Where the media of a run are. None: there is no run, and media are kept as the addresses they came in."""

    media: Media | None = None

    def taken(self, url: str) -> Part:
        """The image or sound part of an address."""
        match = _DATA.fullmatch(url)
        if match is None or self.media is None:
            return Part("image", data={"url": url})
        mime = match[1]
        try:
            data = base64.b64decode(match[2], validate=True)
        except binascii.Error:
            return Part("image", data={"url": url})
        kind: Literal["image", "audio", "video"] = "audio" if mime.startswith("audio/") else (
            "video" if mime.startswith("video/") else "image")
        return Part(kind, media=self.media.put(data), mime=mime)

    def address(self, part: Part) -> str:
        """The address that a part's media are written as.

        Raises: BadInput for media that the store does not hold.
        """
        if isinstance(part.data, Mapping) and isinstance(part.data.get("url"), str):
            return str(part.data["url"])
        if part.media is None:
            raise BadInput(f"an {part.kind} part names no media")
        if self.media is None:
            raise BadInput(f"the media {part.media} are named, and there is no store to take them from")
        return f"data:{part.mime or 'image/png'};base64,{base64.b64encode(self.media.get(part.media)).decode()}"


def message_of(given: Field, number: int, store: Store, *, roles: Mapping[str, Role] = ROLES) -> Message:
    """The message of one chat object, with the id ``m<number>``.

    Raises: BadInput for what is no chat message, with the place.
    """
    role: Role = given["role"].one_of(roles)
    thought = [Part("reasoning", value.text()) for key in REASONING if (value := given.get(key)) is not None][:1]
    content = given.get("content")
    parts = [] if content is None else parts_of(content, store)
    calls = given.get("tool_calls")
    found = [] if calls is None else [call_of(call) for call in calls.items()]
    old = given.get("function_call")
    if old is not None:
        found.append(_call("", old))
    name, answers = given.get("name"), given.get("tool_call_id")
    return Message(
        role, (*thought, *parts), f"m{number}", None if name is None else name.text(), tuple(found),
        None if answers is None else answers.text(), ORIGINS[role],
    )


def dict_of(
    message: Message, store: Store, *, arguments: Literal["text", "object"] = "text", role: str | None = None,
) -> dict[str, Any]:
    """The chat object of a message; ``arguments`` as JSON text or as an object."""
    out: dict[str, Any] = {"role": role or message.role}
    content = content_of(message.parts, store)
    out["content"] = content if content or not message.calls else None
    if message.reasoning:
        out[REASONING[0]] = message.reasoning
    if message.name is not None:
        out["name"] = message.name
    if message.calls:
        out["tool_calls"] = [call_dict(call, arguments) for call in message.calls]
    if message.call_id is not None:
        out["tool_call_id"] = message.call_id
    return out


def parts_of(content: Field, store: Store) -> tuple[Part, ...]:
    """The parts of a content: a text, or a list of typed parts; a part of an unknown type is kept as it is."""
    if isinstance(content.value, str):
        return (Part("text", content.value),) if content.value else ()
    return tuple(_part(part, store) for part in content.items())


def _part(given: Field, store: Store) -> Part:
    kind = given["type"].text()
    if kind == "text":
        return Part("text", given["text"].text())
    if kind == "image_url":
        return store.taken(given["image_url"]["url"].text())
    if kind == "input_audio":
        audio = given["input_audio"]
        return store.taken(f"data:audio/{audio['format'].text()};base64,{audio['data'].text()}")
    return Part("json", data=given.object())


def content_of(parts: Sequence[Part], store: Store) -> Any:
    """The content of a chat object: a text where all parts are text, else a list; reasoning stands elsewhere."""
    shown = [part for part in parts if part.kind != "reasoning"]
    if all(part.kind == "text" for part in shown):
        return "".join(part.text for part in shown)
    return [_typed(part, store) for part in shown]


def _typed(part: Part, store: Store) -> dict[str, Any]:
    if part.kind == "text":
        return {"type": "text", "text": part.text}
    if part.kind in ("json", "array"):
        whole = isinstance(part.data, dict) and isinstance(part.data.get("type"), str)
        return part.data if whole else {"type": "text", "text": json.dumps(part.data, ensure_ascii=False)}
    url = store.address(part)
    match = _DATA.fullmatch(url)
    if part.kind == "audio" and match is not None:
        return {"type": "input_audio", "input_audio": {"data": match[2], "format": match[1].split("/")[1]}}
    return {"type": "image_url", "image_url": {"url": url}}


# ---------------------------------------------------------------- calls and tools


def call_of(given: Field) -> Call:
    """A call from ``{"id", "type", "function": {"name", "arguments"}}``."""
    id = given.get("id")
    return _call("" if id is None else id.text(), given["function"])


def _call(id: str, function: Field) -> Call:
    arguments = function.value.get("arguments") if isinstance(function.value, dict) else None
    return call_from(id, function["name"].text(), arguments, f"{function.where}.arguments")


def call_from(id: str, name: str, arguments: Any, where: str) -> Call:
    """A call whose arguments came as JSON text or as an object; unreadable text is kept, with the reason.

    >>> call_from("c1", "f", '{"a": 1}', "here")
    Call(id='c1', name='f', arguments={'a': 1}, raw='{"a": 1}', error=None)
    """
    if arguments is None:
        return Call(id, name, None, "", "no arguments were given")
    if isinstance(arguments, dict):
        return Call(id, name, arguments, json.dumps(arguments, ensure_ascii=False))
    raw = Field(arguments, where).text()
    try:
        read = parsed(raw, "the arguments")
    except BadInput as error:
        return Call(id, name, None, raw, str(error))
    if not isinstance(read, dict):
        return Call(id, name, None, raw, "the arguments are no JSON object")
    return Call(id, name, read, raw)


def arguments_text(call: Call) -> str:
    """The arguments as JSON text: the very text the model wrote where that says the same."""
    if call.arguments is None:
        return call.raw
    try:
        same = parsed(call.raw, "") == dict(call.arguments)
    except BadInput:
        same = False
    return call.raw if same else json.dumps(dict(call.arguments), ensure_ascii=False)


def call_dict(call: Call, arguments: Literal["text", "object"]) -> dict[str, Any]:
    """``{"id", "type", "function"}`` of a call; arguments that could not be read stay the text that they were."""
    value: Any = arguments_text(call)
    if arguments == "object" and call.arguments is not None:
        value = dict(call.arguments)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": value}}


def tools_of(given: Field | None) -> tuple[Tool, ...]:
    """The tools of ``[{"type": "function", "function": {"name", "description", "parameters"}}]``, or of such text."""
    if given is not None and isinstance(given.value, str):  # as tables hold them
        given = Field(parsed(given.value, given.where), given.where)
    return () if given is None else tuple(map(_tool, given.items()))


def _tool(given: Field) -> Tool:
    function = given["function"]
    description, parameters = function.get("description"), function.get("parameters")
    return Tool(
        function["name"].text(), "" if description is None else description.text(),
        {"type": "object", "properties": {}} if parameters is None else parameters.object(),
    )


def tool_dicts(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The same tools as OpenAI writes them."""
    return [{"type": "function", "function": {
        "name": tool.name, "description": tool.description, "parameters": dict(tool.parameters),
    }} for tool in tools]


def each(given: Field, store: Store, read: Callable[..., Message] = message_of, first: int = 0) -> list[Message]:
    """The messages of a list, numbered from ``first``. Raises: BadInput for an empty one."""
    found = [read(item, number, store) for number, item in enumerate(given.items(), first)]
    if not found:
        raise BadInput(f"{given.where}: is empty; expected messages")
    return found
