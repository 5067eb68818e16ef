"""What an outside program asks a served desk for, and what it is answered, in the chat-completions format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from hashlib import blake2b
from math import isfinite, nan
from typing import Any

from polyturn.errors import BadInput
from polyturn.json_numbers import finite, refuse
from polyturn.policies import wire
from polyturn.types import IntArray, Message, Sampling, Span, Tool, Turn

_HARMLESS = frozenset({
    "model", "messages", "tools", "stream", "stream_options", "n", "user", "metadata", "store", "service_tier",
    "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "functions", "logprobs", "return_token_ids",
    "tool_choice", "response_format", "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "stop",
    "seed", "structured_outputs", "guided_choice", "continue_final_message", "add_generation_prompt",
})
"""Fields that are served, or that change nothing in a reply."""
_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "n": (None, 1), "frequency_penalty": (None, 0, 0.0), "presence_penalty": (None, 0, 0.0), "logit_bias": (None, {}),
    "top_logprobs": (None, 0), "functions": (None, []), "tool_choice": (None, "auto", "none"),
    "response_format": (None, {"type": "text"}), "min_p": (None, 0, 0.0), "repetition_penalty": (None, 1, 1.0),
    "best_of": (None, 1), "modalities": (None, ["text"]), "audio": (None,), "prediction": (None,),
}
"""Fields that are served with these values only."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of an outside program."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    sampling: Sampling = Sampling()
    stream: bool = False
    usage_in_stream: bool = False
    tell_ids: bool = False
    tell_logprobs: bool = False


def read_json(body: bytes) -> Any:
    """The JSON value of a body. Raises: BadInput with line and column, also for half of a surrogate pair and for
    numbers that no float holds: neither can be kept."""
    try:
        value = json.loads(body, parse_constant=refuse, parse_float=finite)
        wire.check_text(body, value)
        return value
    except json.JSONDecodeError as error:
        raise BadInput(f"the body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is no JSON: {error}") from None


def read_request(body: Any, usual: Sampling = Sampling(), fixed: Sampling | None = None) -> Request:
    """The request in our nouns; what it does not say about sampling is ``usual``.

    ``fixed`` goes before temperature, top_p, top_k and seed of the request, and its ``max_tokens`` is the most: the
    trainer, not the harness, decides how is explored.
    Raises: BadInput that names the place, also for a field that would change the reply and is not served.
    """
    given = wire.expect(body, Mapping, "the body")
    _refuse_fields(given)
    messages = tuple(
        wire.read_message(message, f"messages[{i}]")
        for i, message in enumerate(wire.expect(given.get("messages"), list, "messages"))
    )
    if not messages:
        raise BadInput("messages is empty; send at least one")
    if messages[-1].role == "assistant" and given.get("continue_final_message") is not True:
        raise BadInput("the last message is the assistant's own; to have it continued, set continue_final_message")
    tools = wire.expect(given.get("tools") or [], list, "tools") if given.get("tool_choice") != "none" else []
    options = wire.expect(given.get("stream_options") or {}, Mapping, "stream_options")
    return Request(
        messages, tuple(wire.read_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)),
        _read_sampling(given, usual, fixed), stream=given.get("stream") is True,
        usage_in_stream=options.get("include_usage") is True,
        tell_ids=given.get("return_token_ids") is True, tell_logprobs=given.get("logprobs") is True,
    )


def _refuse_fields(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise BadInput(f"{name} is {str(value)[:80]!r}; this server knows only {name} {_NEUTRAL[name][-1]!r}")
        elif name not in _HARMLESS and value is not None:
            near = get_close_matches(name, [*_HARMLESS, *_NEUTRAL], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadInput(f"this server does not know the field {name!r}{hint} (it would be ignored, so leave it out)")


def _read_sampling(given: Mapping[str, Any], usual: Sampling, fixed: Sampling | None) -> Sampling:
    most = "max_completion_tokens" if given.get("max_completion_tokens") is not None else "max_tokens"
    stop = given.get("stop")
    structured = wire.expect(given.get("structured_outputs") or {}, Mapping, "structured_outputs")
    choices = structured.get("choice", given.get("guided_choice"))
    asked: dict[str, Any] = {
        "temperature": _number(given, "temperature"), "top_p": _number(given, "top_p"),
        "top_k": _whole(given, "top_k"), "seed": _whole(given, "seed"), "max_tokens": _whole(given, most),
        "stop": None if stop is None else _texts([stop] if isinstance(stop, str) else stop, "stop"),
        "choices": None if choices is None else _texts(choices, "choices"),
    }
    try:
        found = replace(usual, **{name: value for name, value in asked.items() if value is not None})
    except ValueError as error:
        raise BadInput(str(error)) from None
    if fixed is None:
        return found
    return replace(
        fixed, max_tokens=min(found.max_tokens, fixed.max_tokens), stop=found.stop or fixed.stop,
        choices=found.choices or fixed.choices,
    )


def _number(given: Mapping[str, Any], name: str) -> float | None:
    value = given.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)):
        wire.wrong(name, repr(value)[:80], "a number")
    return value


def _whole(given: Mapping[str, Any], name: str) -> int | None:
    value = given.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        wire.wrong(name, repr(value)[:80], "a whole number")
    if value is not None and name != "seed" and abs(value) >= 2**31:
        wire.wrong(name, str(value)[:80], "a whole number below 2^31")
    return value % 2**63 if name == "seed" and value is not None else value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    return tuple(wire.expect(text, str, f"{name}[{i}]") for i, text in enumerate(wire.expect(value, list, name)))


# ---------------------------------------------------------------- own replies, found again


class Memory:
    """The replies of one desk, so that a harness's copy of one is known as the turn that it was sampled in.

    A harness sends back what it was told, without our ids. A copy is known by its text and calls; of several equal
    replies the one that was given to the same messages before it goes first, so that the path extends. A changed copy
    is not known: it is rendered as text, and the path branches.
    """

    def __init__(self) -> None:
        self._by_place: dict[bytes, Message] = {}
        self._by_content: dict[str, Message] = {}

    def remember(self, asked: Sequence[Message], reply: Message) -> None:
        """Keeps a reply with the messages that it answered."""
        self._by_place[_places([*asked, reply])[-1]] = reply
        self._by_content[content_key(reply)] = reply

    def recall(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages, each copy of an own reply replaced by that reply."""

        def own(message: Message, place: bytes) -> Message:
            return self._by_place.get(place) or self._by_content.get(content_key(message)) or message

        pairs = zip(messages, _places(messages), strict=True)
        return tuple(own(message, place) if message.role == "assistant" else message for message, place in pairs)


def _places(messages: Sequence[Message]) -> list[bytes]:
    """For each message a digest of it and of all before it."""
    digests, last = [], b""
    for message in messages:
        last = blake2b(last + content_key(message).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        digests.append(last)
    return digests


def content_key(message: Message) -> str:
    """Equal for messages of equal role, text and calls, whatever their ids and the spelling of arguments."""
    calls = [[call.name, _canonical(wire.arguments_text(call))] for call in message.calls]
    text = wire.spoken_message(replace(message, calls=(), call_id=message.call_id or "-"))["content"]
    return json.dumps([message.role, text or "", calls])


def _canonical(arguments: str) -> str:
    found, error = wire.read_arguments(arguments)
    return arguments if error else json.dumps(found, sort_keys=True)


# ---------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class Reply:
    """A turn on its way out."""

    id: str
    model: str
    turn: Turn
    message: Message
    prompt_ids: IntArray | None = None
    """With ``spans``, only where the request asked for ids and the policy knows them."""
    spans: tuple[Span, ...] = ()


def whole(reply: Reply, request: Request) -> dict[str, Any]:
    """The reply as one JSON object."""
    message = wire.spoken_message(reply.message, reasoning=True)
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply), "logprobs": None}
    answer = {**_head(reply, "chat.completion"), "choices": [choice], "usage": wire.spoken_usage(reply.turn.usage)}
    if request.tell_logprobs:
        choice["logprobs"] = _logprobs(reply.spans)
    if request.tell_ids and reply.prompt_ids is not None:
        choice["token_ids"] = [int(i) for span in reply.spans for i in span.ids]
        answer["prompt_token_ids"] = reply.prompt_ids.tolist()
    return answer


def chunks(reply: Reply, request: Request) -> Iterator[dict[str, Any]]:
    """The reply as the JSON objects of a stream: role, reasoning, text word by word, calls, finish, usage if asked."""
    message = wire.spoken_message(reply.message, reasoning=True)
    yield _chunk(reply, {"role": "assistant", "content": ""})
    for name in ("reasoning_content", "content"):
        for piece in re.findall(r"\s*\S+|\s+", message.get(name) or ""):
            yield _chunk(reply, {name: piece})
    for index, call in enumerate(message.get("tool_calls", ())):
        yield _chunk(reply, {"tool_calls": [{"index": index, **call}]})
    yield _chunk(reply, {}, _finish(reply))
    if request.usage_in_stream:
        head = _head(reply, "chat.completion.chunk")
        yield {**head, "choices": [], "usage": wire.spoken_usage(reply.turn.usage)}


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": reply.id, "object": kind, "created": int(reply.turn.ended), "model": reply.model}


def _chunk(reply: Reply, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish, "logprobs": None}
    return {**_head(reply, "chat.completion.chunk"), "choices": [choice]}


def _finish(reply: Reply) -> str:
    return wire.spoken_finish(reply.turn.finish, reply.message.calls)


def _logprobs(spans: Sequence[Span]) -> dict[str, Any] | None:
    """Log-probabilities by id (as ``token_id:7``); None where any is unknown."""
    pairs = [
        (int(i), float(p)) for span in spans
        for i, p in zip(span.ids, [nan] * len(span.ids) if span.logprobs is None else span.logprobs, strict=True)
    ]
    if not pairs or not all(isfinite(p) for _, p in pairs):
        return None
    return {"content": [{"token": f"token_id:{i}", "logprob": p, "bytes": None, "top_logprobs": []} for i, p in pairs]}


def refusal(code: str, text: str) -> dict[str, Any]:
    """An error in the format that clients of this kind show."""
    return {"error": {"message": text, "type": "polyturn", "code": code, "param": None}}

