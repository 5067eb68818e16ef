"""ShareGPT: ``{"conversations": [{"from", "value"}], "system", "tools"}``, where a call is a turn of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polyturn.calls import wrap_reasoning
from polyturn.errors import BadInput
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, call_from, tool_dicts, tools_of
from polyturn.record.formats.check import Field, parsed
from polyturn.record.formats.dialogue import episode_of, identity, rows, trajectory_of
from polyturn.types import Episode, Message, Part, Role, Tool

SPEAKERS: Mapping[str, Role] = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "function_call": "assistant", "observation": "tool", "tool": "tool",
}
NAMES: Mapping[Role, str] = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a record. Calls are numbered ``c0, c1, ...``; observations answer them in order."""
    messages: list[Message] = []
    system = record.get("system")
    if system is not None:
        messages.append(Message("system", system.text(), "m0"))  # type: ignore[arg-type]
    waiting: list[str] = []
    calls = 0
    for item in record["conversations"].items():
        role: Role = item["from"].one_of(SPEAKERS)
        value = item["value"].text()
        number = f"m{len(messages)}"
        if item["from"].value == "function_call":
            call = _call(value, f"c{calls}", item["value"].where)
            calls, waiting = calls + 1, [*waiting, f"c{calls}"]
            messages.append(Message("assistant", (), number, calls=(call,), origin="policy"))
        elif role == "tool":
            answers = waiting.pop(0) if waiting else None
            messages.append(Message("tool", value, number, call_id=answers, origin="tool"))  # type: ignore[arg-type]
        else:
            origin: Any = {"system": "env", "user": "user", "assistant": "policy"}[role]
            messages.append(Message(role, value, number, origin=origin))  # type: ignore[arg-type]
    if not messages:
        raise BadInput(f"{record.where}.conversations: is empty; expected turns")
    trajectory = trajectory_of(messages, policy="sharegpt", tools=_tools(record.get("tools")))
    return [episode_of(trajectory, id=identity(record.value), format="sharegpt")]


def _call(value: str, id: str, where: str) -> Any:
    """The call of ``{"name", "arguments"}``, written as text; other text is a call that says why it cannot be read."""
    try:
        read = Field(parsed(value, where), where)
        return call_from(id, read["name"].text(), read["arguments"].value, where)
    except BadInput:
        return call_from(id, "", value, where)


def _tools(given: Field | None) -> tuple[Tool, ...]:
    """Tools are JSON text; text that is none is left to the residual."""
    if given is None:
        return ()
    try:
        read = Field(parsed(given.text(), given.where), given.where)
        items = [item.value if "function" in item.object() else {"function": item.value} for item in read.items()]
        return tools_of(Field(items, given.where))
    except BadInput:
        return ()


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One record a dialogue. Of several calls in one message each becomes a turn; reasoning stands in ``<think>``."""
    for episode in group:
        for dialogue in rows(episode, give.seats):
            messages = list(dialogue.messages)
            record: dict[str, Any] = {}
            if messages and messages[0].role == "system":
                record["system"] = messages.pop(0).text
            record["conversations"] = [turn for message in messages for turn in _turns(message)]
            if dialogue.trajectory.tools:
                record["tools"] = json.dumps(tool_dicts(dialogue.trajectory.tools), ensure_ascii=False)
            yield record


def _turns(message: Message) -> Iterator[dict[str, str]]:
    text = "".join(map(_text, message.parts))
    if message.reasoning:
        text = wrap_reasoning(message.reasoning, text)
    if text or not message.calls:
        yield {"from": NAMES[message.role], "value": text}
    for call in message.calls:
        unread = call.arguments is None and not call.name
        value = call.raw if unread else json.dumps({"name": call.name, "arguments": (
            call.raw if call.arguments is None else dict(call.arguments))}, ensure_ascii=False)
        yield {"from": "function_call", "value": value}


def _text(part: Part) -> str:
    """What of a part can stand in a text; media cannot."""
    if part.kind == "reasoning":
        return ""
    return part.text if part.kind == "text" else f"<{part.kind}>" if part.data is None else json.dumps(
        part.data, ensure_ascii=False)
