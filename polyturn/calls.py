"""How models write reasoning and tool calls: text in, calls out, and back. One :class:`Grammar` per published format.

The formats were read off the published chat templates: Qwen 2.5, Qwen 3 and Hermes (``<tool_call>{...}</tool_call>``),
Qwen 3 Coder and 3.5 (``<function=name><parameter=key>`` inside it), SmolLM2 (a list inside it), Llama 3 (bare JSON with
``parameters``, or ``<|python_tag|>``), Mistral (``[TOOL_CALLS] [{...}]``, newer ``[TOOL_CALLS]name[ARGS]{...}``).
Reading never raises: what cannot be read becomes a :class:`polyturn.types.Call` without arguments that says why.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from polyturn.errors import UnknownName
from polyturn.json_numbers import finite, refuse, whole
from polyturn.types import Call, Message, Tool

Reading: TypeAlias = tuple[str, tuple[Call, ...]]
"""The text without its calls, and the calls in order (their ids empty where the format has none)."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """One way to write calls.

    >>> GRAMMARS["hermes"].read('<tool_call>{"name": "f", "arguments": {}}</tool_call>', ())[1][0].name
    'f'
    """

    name: str
    read: Callable[[str, Sequence[Tool]], Reading]
    """The reading of a reply; the tools that were offered say which arguments are texts where the format does not."""
    write: Callable[[Sequence[Call]], str]
    """The calls as text, for templates that do not write them; a call without arguments is written as its ``raw``."""
    bare: bool = False
    """Calls carry no marker, so they are looked for only where tools were offered."""


def split_reasoning(text: str, opened: bool = False) -> tuple[str | None, str]:
    """The reasoning (None = none was written) and the rest of a reply.

    ``opened``: the prompt already ended in ``<think>``. An unclosed block is all reasoning.

    >>> split_reasoning("<think>\\nThree corners.\\n</think>\\n\\nNorth")
    ('Three corners.', 'North')
    >>> split_reasoning("North")
    (None, 'North')
    """
    if not opened:
        if not text.lstrip().startswith("<think>"):
            return None, text
        text = text.lstrip()[len("<think>"):]
    reasoning, _closed, rest = text.partition("</think>")
    return reasoning.strip("\n"), rest.lstrip("\n")


def wrap_reasoning(reasoning: str, text: str) -> str:
    """The inverse of :func:`split_reasoning`, for templates without a field of their own for reasoning."""
    return f"<think>\n{reasoning}\n</think>\n\n{text}"


# ---------------------------------------------------------------- JSON of a call


_DECODER = json.JSONDecoder(strict=False, parse_constant=refuse, parse_float=finite, parse_int=whole)


def _decode(raw: str) -> tuple[Any, str]:
    """One JSON value at the start of ``raw``, and what follows it. ValueError if there is none that can be stored."""
    start = len(raw) - len(raw.lstrip())
    try:
        value, end = _DECODER.raw_decode(raw, start)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value, raw[end:]


def read_json(raw: str) -> Any:
    """The one JSON value that a text consists of; numbers and whole characters only that can be stored.

    >>> read_json(' {"a": 1} ')
    {'a': 1}

    Raises: ValueError for anything else.
    """
    value, rest = _decode(raw)
    if rest.strip():
        raise ValueError(f"{rest.strip()[:40]!r} follows the JSON value")
    return value


def _failed(raw: str, why: object, name: str = "") -> Call:
    return Call("", name, None, raw, f"cannot read the call {raw[:80]!r}: {why}")


def _as_call(value: Any, raw: str) -> Call:
    """A call from its JSON object; ``arguments`` (or Llama's ``parameters``) may be an object or its JSON as text."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return _failed(raw, "expected an object with a text under 'name' and an object under 'arguments'")
    name, arguments = value["name"], value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments, rest = _decode(arguments)
        except ValueError as error:
            return _failed(raw, f"its arguments are a text that is not JSON: {error}", name)
        if rest.strip():
            return _failed(raw, f"{rest.strip()[:40]!r} follows its arguments", name)
    if not isinstance(arguments, Mapping):
        return _failed(raw, f"its arguments are {type(arguments).__name__}, expected an object", name)
    id = value.get("id")
    return Call(id if isinstance(id, str) else "", name, arguments, raw)


def _as_calls(raw: str) -> tuple[tuple[Call, ...], str]:
    """The calls of one JSON object or array, and the text after it."""
    try:
        value, rest = _decode(raw)
    except ValueError as error:
        return (_failed(raw.strip(), error),), ""
    written = raw[: len(raw) - len(rest)].strip()
    if not isinstance(value, list):
        return (_as_call(value, written),), rest
    return tuple(_as_call(one, json.dumps(one, ensure_ascii=False)) for one in value), rest


def _json(call: Call, key: str = "arguments") -> str:
    if call.arguments is None:
        return call.raw
    return json.dumps({"name": call.name, key: dict(call.arguments)}, ensure_ascii=False)


# ---------------------------------------------------------------- the formats

_TAGGED = re.compile(r"<tool_call>(.*?)(</tool_call>|\Z)", re.DOTALL)


def _read_tagged(text: str, tools: Sequence[Tool]) -> Reading:
    blocks, rest = _blocks(text)
    calls: list[Call] = []
    for raw, closed in blocks:
        if not closed:
            calls.append(_failed(raw, "the reply ends before </tool_call>"))
            continue
        found, after = _as_calls(raw)
        calls += [_failed(raw, f"{after.strip()[:40]!r} follows the call")] if after.strip() else found
    return rest, tuple(calls)


def _blocks(text: str) -> tuple[list[tuple[str, bool]], str]:
    """The insides of the ``<tool_call>`` blocks, each with whether it is closed, and the text without them."""
    found, kept, end = [], [], 0
    for block in _TAGGED.finditer(text):
        kept.append(text[end: block.start()])
        end = block.end()
        found.append((block[1].strip(), bool(block[2])))
    return found, _joined([*kept, text[end:]]) if found else text


def _joined(kept: Sequence[str]) -> str:
    return "\n".join(part for part in (part.strip("\n") for part in kept) if part.strip())


def _write_hermes(calls: Sequence[Call]) -> str:
    return "\n".join(f"<tool_call>\n{_json(call)}\n</tool_call>" for call in calls)


def _write_smollm2(calls: Sequence[Call]) -> str:
    good = [_json(call) for call in calls if call.arguments is not None]
    lists = ["[" + ",\n".join(good) + "]"] if good else []
    return "\n".join(f"<tool_call>{raw}</tool_call>" for raw in lists + [c.raw for c in calls if c.arguments is None])


_FUNCTION = re.compile(r"<function=([^>\n]+)>")
_PARAMETER = re.compile(r"<parameter=([^>\n]{1,1000})>")
_FUNCTION_END, _PARAMETER_END = "</function>", "</parameter>"


def _read_functions(text: str, tools: Sequence[Tool]) -> Reading:
    blocks, rest = _blocks(text)
    return rest, tuple(_function(raw, tools) for raw, _closed in blocks)


def _function(raw: str, tools: Sequence[Tool]) -> Call:
    function = _FUNCTION.match(raw)
    if function is None or not raw.endswith(_FUNCTION_END) or function.end() > len(raw) - len(_FUNCTION_END):
        return _failed(raw, "expected <function=name>, parameters and </function>")
    name = function[1].strip()
    written, left = _parameters(raw[function.end(): -len(_FUNCTION_END)])
    if left:
        return _failed(raw, f"{left[:40]!r} is no <parameter=name>value</parameter>", name)
    schema = next((tool.parameters for tool in tools if tool.name == name), {})
    known: Mapping[str, Any] = schema.get("properties", {})
    arguments = {key.strip(): _typed(value, known.get(key.strip(), {})) for key, value in written}
    return Call("", name, arguments, raw)


def _parameters(body: str) -> tuple[list[tuple[str, str]], str]:
    """The names and written values, and the text that is none of them. One pass: a model may write anything, and a
    pattern that tries every way to split it takes minutes over a few thousand spaces."""
    found, left, at = [], [], 0
    while (head := _PARAMETER.search(body, at)) is not None:
        end = body.find(_PARAMETER_END, head.end())
        if end < 0:
            break
        found.append((head[1], body[head.end(): end].removeprefix("\n").removesuffix("\n")))
        left.append(body[at: head.start()])
        at = end + len(_PARAMETER_END)
    return found, "".join([*left, body[at:]]).strip()


def _typed(value: str, schema: Mapping[str, Any]) -> Any:
    """A written value as JSON, or as the text that it is where the schema says so or nothing else fits."""
    if schema.get("type") == "string":
        return value
    try:
        decoded, rest = _decode(value)
    except ValueError:
        return value
    return value if rest.strip() or isinstance(decoded, str) else decoded


def _write_functions(calls: Sequence[Call]) -> str:
    return "\n".join(f"<tool_call>\n{_as_function(call)}\n</tool_call>" for call in calls)


def _as_function(call: Call) -> str:
    if call.arguments is None:
        return call.raw
    values = {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
              for key, value in call.arguments.items()}
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<function={call.name}>\n{written}</function>"


_PYTHON_TAG = "<|python_tag|>"
_BARE = re.compile(r"""\{\s*"(?:name|type|parameters|arguments)\"""")


def _read_llama3(text: str, tools: Sequence[Tool]) -> Reading:
    before, tag, body = text.partition(_PYTHON_TAG)
    if not tag:
        start = _bare(text)
        if start is None:
            return text, ()
        before, body = text[: start[0]], text[start[1]:]
    calls: list[Call] = []
    while body.strip():
        found, rest = _as_calls(body)
        if found and found[0].arguments is None and tag and (built_in := _read_python(body.strip())):
            found, rest = (built_in,), ""
        calls += found
        body = rest.strip()
        if body.startswith(";"):
            body = body[1:]
        elif body:
            return before + body, tuple(calls)
    return before, tuple(calls)


def _bare(text: str) -> tuple[int, int] | None:
    """Where the space before the first bare call begins, and the call; None for a text without one. A call begins its
    line."""
    for brace in _BARE.finditer(text):
        at = brace.start()
        while at > 0 and text[at - 1].isspace():
            at -= 1
        if at == 0:
            return 0, brace.start()
        line = text.find("\n", at, brace.start())
        if line >= 0:
            return line, brace.start()
    return None


def _read_python(code: str) -> Call | None:
    """Llama's built-in form ``brave_search.call(query="cats")``; None if it is other code."""
    try:
        tree = ast.parse(code, mode="eval").body
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute) and not tree.args:
            owner = tree.func.value
            if tree.func.attr == "call" and isinstance(owner, ast.Name):
                arguments = {k.arg: ast.literal_eval(k.value) for k in tree.keywords if k.arg}
                return Call("", owner.id, read_json(json.dumps(arguments, allow_nan=False)), code)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return None


def _write_llama3(calls: Sequence[Call]) -> str:
    return "; ".join(_json(call, "parameters") for call in calls)


_NAMED = re.compile(r"\s*([^\s\[{]+)(?:\[CALL_ID\]([^\[]*))?(?:\[ARGS\])?\s*(?=\{|\Z)")


def _read_mistral(text: str, tools: Sequence[Tool]) -> Reading:
    before, *blocks = text.split("[TOOL_CALLS]")
    calls: list[Call] = []
    kept = [before]
    for block in blocks:
        named = _NAMED.match(block)
        if named is None:
            found, rest = _as_calls(block)
        else:
            found, rest = _named(named[1], named[2] or "", block[named.end():], block.strip())
        calls += found
        kept.append(rest)
    return _joined(kept) if blocks else text, tuple(calls)


def _named(name: str, id: str, body: str, raw: str) -> tuple[tuple[Call, ...], str]:
    try:
        arguments, rest = _decode(body)
    except ValueError as error:
        return (_failed(raw, error, name),), ""
    return (_as_call({"name": name, "arguments": arguments, "id": id}, raw),), rest


def _write_mistral(calls: Sequence[Call]) -> str:
    good = [call for call in calls if call.arguments is not None]
    one = ["[" + ", ".join(_json(call)[:-1] + f', "id": "{call.id}"}}' for call in good) + "]"] if good else []
    return "".join(f"[TOOL_CALLS] {raw}" for raw in one + [call.raw for call in calls if call.arguments is None])


GRAMMARS: Mapping[str, Grammar] = {
    grammar.name: grammar
    for grammar in (
        Grammar("hermes", _read_tagged, _write_hermes),
        Grammar("qwen_xml", _read_functions, _write_functions),
        Grammar("smollm2", _read_tagged, _write_smollm2),
        Grammar("llama3", _read_llama3, _write_llama3, bare=True),
        Grammar("mistral", _read_mistral, _write_mistral),
    )
}
"""By name; ``hermes`` is also that of Qwen 2.5 and 3, ``qwen_xml`` that of Qwen 3 Coder and 3.5."""


def grammar_named(name: str) -> Grammar:
    """The grammar of that name; :class:`polyturn.errors.UnknownName` offers the nearest.

    >>> grammar_named("hermes").name
    'hermes'
    """
    if name not in GRAMMARS:
        raise UnknownName("tool-call grammar", name, GRAMMARS)
    return GRAMMARS[name]


def grammar_of(template: str, control: Collection[str]) -> Grammar:
    """The grammar that a model was taught, from its chat template and its tokenizer's added tokens.

    What the template says wins over what the vocabulary has; where neither tells, ``hermes``.

    >>> grammar_of("{{ '[TOOL_CALLS]' }}", ()).name, grammar_of("", {"<|python_tag|>"}).name
    ('mistral', 'llama3')
    """
    signs = {"[TOOL_CALLS]": "mistral", "named SmolLM": "smollm2", "<tool_call>[": "smollm2",
             "<function=": "qwen_xml", "<tool_call>": "hermes",
             "<|python_tag|>": "llama3", "<|start_header_id|>": "llama3"}
    for sign, name in signs.items():
        if sign in template:
            return GRAMMARS[name]
    for sign, name in signs.items():
        if sign in control:
            return GRAMMARS[name]
    return GRAMMARS["hermes"]


# ---------------------------------------------------------------- for people


def in_words(message: Message) -> str:
    """The text of a message and its calls, a line each, as people read them.

    >>> in_words(Message("assistant", "Wait.", calls=(Call("c1", "find", {"id": 7}),)))
    'Wait.\\nfind({"id": 7})'
    """
    lines = [message.text]
    for call in message.calls:
        arguments = call.raw if call.arguments is None else json.dumps(dict(call.arguments), ensure_ascii=False)
        lines.append(f"{call.name}({arguments})")
    return "\n".join(line for line in lines if line)
