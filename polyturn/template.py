"""What a chat template shows: messages to marked text, and the template's own habits found by probing it.

A **mark** is one private-use character in the place of a field; a **guard** is one in the place of a control token that
stands inside content, so that no user can write one. Both live in the supplementary private-use planes; such characters
in content are guarded too, so nothing can be mistaken for either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from polyturn.calls import Grammar, grammar_named, grammar_of, wrap_reasoning
from polyturn.errors import BadInput
from polyturn.types import Call, Message, Tool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FALLBACK = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}Assistant: {{ message.content }}"
    "{{ eos_token }}\n\n{% else %}{{ message.role | capitalize }}: {{ message.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For tokenizers without a chat template: ``User: hello``, a blank line, ``Assistant:`` and the reply, ended by the
end-of-sequence token."""
TODAY = datetime(2024, 7, 26)
"""The date told to templates that ask for one (Llama 3 falls back to it itself): a clock would change prompts."""
FIRST_MARK, FIRST_GUARD, LAST = 0xF0000, 0x100000, 0x10FFFD
_CACHED_TEXTS = 8192
_USER, _REPLY, _NAME, _TOOL, _SYSTEM = (chr(FIRST_MARK + n) for n in range(5))
MARKS = re.compile(f"[{chr(FIRST_MARK)}-{chr(FIRST_GUARD - 1)}]")
GUARDS = re.compile(f"[{chr(FIRST_GUARD)}-{chr(LAST)}]")


class Guard:
    """Control tokens and private-use characters inside content, one guard character for each, there and back."""

    def __init__(self, control: Collection[str]) -> None:
        self._hidden = sorted((text for text in control if text), key=len, reverse=True)
        self.controls = len(self._hidden)
        self._index = {text: n for n, text in enumerate(self._hidden)}
        self._pattern = re.compile("|".join([*_grouped(self._hidden), f"[{chr(FIRST_MARK)}-\U0010ffff]"]))
        self._hide_text = lru_cache(_CACHED_TEXTS)(lambda text: self._pattern.sub(self._guard, text))

    def hide(self, content: Any) -> Any:
        """The content (a text, or lists and mappings of texts) with guards in place of what must stay text."""
        if isinstance(content, str):
            return self._hide_text(content)
        if isinstance(content, Mapping):
            return {self.hide(key): self.hide(value) for key, value in content.items()}
        if isinstance(content, (list, tuple)):
            return [self.hide(value) for value in content]
        return content

    def of(self, guard: str) -> str:
        """The text behind one guard character."""
        return self._hidden[ord(guard) - FIRST_GUARD]

    def is_control(self, guard: str) -> bool:
        """Whether a control token stands behind a guard, or only a private-use character."""
        return ord(guard) - FIRST_GUARD < self.controls

    def show(self, text: str) -> str:
        """The text with every guard replaced by what it hides."""
        return GUARDS.sub(lambda found: self.of(found[0]), text)

    def _guard(self, found: re.Match[str]) -> str:
        number = self._index.setdefault(found[0], len(self._hidden))
        if number == len(self._hidden):
            if FIRST_GUARD + number > LAST:
                raise BadInput("content has more than 65,000 different private-use characters; remove some")
            self._hidden.append(found[0])
        return chr(FIRST_GUARD + number)


def _grouped(texts: Sequence[str]) -> list[str]:
    """Patterns of texts (longest first) by their first two letters: a search through hundreds of tokens stays fast."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(text[:2], []).append(re.escape(text[2:]))
    return [f"{re.escape(start)}(?:{'|'.join(groups[start])})" for start in sorted(groups, key=len, reverse=True)]


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered conversation: its text, and per marked message the marks that its fields were given."""

    text: str
    marks: Mapping[int, tuple[str, ...]]


class Template:
    """One chat template with its habits: the headers and endings of replies, and what it leaves out.

    Attributes: ``ending`` the control token that ends a reply ("" if there is none), ``tail`` what follows a reply that
    has no such token, ``lead`` what is written between a header and the reply's text, ``opened``
    the part of the header that opens a reply's reasoning, ``reads_calls`` whether the grammar reads the calls that the
    template writes.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, grammar: str | None, options: Mapping[str, Any],
    ) -> None:
        self._tokenizer = tokenizer
        self.fallback = not tokenizer.chat_template
        self._sources = _sources(tokenizer)
        self.source = "\n".join(dict.fromkeys(self._sources))
        self.control = _control(tokenizer)
        self.guard = Guard(self.control)
        self.grammar: Grammar = (
            grammar_of(self.source, tokenizer.get_added_vocab()) if grammar is None else grammar_named(grammar)
        )
        bos, eos = tokenizer.bos_token, tokenizer.eos_token
        self._options = {"bos_token": bos or "", "eos_token": eos or "", **options}
        self._reasoning_key = next(
            (key for key in ("reasoning_content", "thinking") if re.search(rf"""[.'"]{key}\b""", self.source)), None
        )
        self._as_text = False
        self._shows_system = self._shows([{"role": "system", "content": _SYSTEM}, _asked()], _SYSTEM)
        self._as_text = not self._shows([_asked(), self._called()], _NAME)
        called = [_asked(), self._called()]
        self._shows_calls = self._shows(called, _NAME)
        self.reads_calls = not self._shows_calls or any(
            call.name == _NAME for call in self.grammar.read(self._fill(called, (), False).rpartition(_USER)[2], ())[1]
        )
        self._shows_results = self._shows([*called, _answered()], _TOOL)
        self._shows_tools = self._shows([_asked()], _NAME, [_as_schema(Tool(_NAME))])
        self._find_habits(called)

    def _find_habits(self, called: list[dict[str, Any]]) -> None:
        self._header = self._opening([_asked()], _USER)
        self._header_after_tool = (
            self._opening([*called, _answered()], _TOOL) if self._shows_calls and self._shows_results else self._header
        )
        text = self._fill([_asked(), {"role": "assistant", "content": _REPLY}], (), False)
        before, found, after = text.partition(_REPLY)
        if not found:
            raise BadInput("the chat template does not show what an assistant said; give the tokenizer another one")
        self.opened = self._header[self._header.rfind("<think>"):] if self._header.rstrip().endswith("<think>") else ""
        opening = before.rfind(self._header)
        self.lead = before[opening + len(self._header):] if opening >= 0 else ""
        if self.opened:
            self.lead = wrap_reasoning("", "").removeprefix(self.opened)
        controls = [token for token in self.control if token in after]
        self.ending = min(controls, key=lambda token: (after.index(token), -len(token)), default="")
        self.tail = after

    def _opening(self, messages: list[dict[str, Any]], mark: str) -> str:
        """What the template writes before a reply: its generation header, or the end of the message before."""
        shut, open_ = self._fill(messages, (), False), self._fill(messages, (), True)
        if open_.startswith(shut) and len(open_) > len(shut):
            return open_[len(shut):]
        after = open_.rpartition(mark)[2]
        starts = [after.rfind(token) for token in self.control]
        return after[max([0, *starts]):]

    def header(self, after: Message | None) -> str:
        """The text that stands before a reply to ``after``."""
        return self._header_after_tool if after is not None and after.role == "tool" else self._header

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, marked: Collection[int] = (), open_: bool = True,
        continued: int | None = None,
    ) -> Page:
        """The conversation as text: guards hide control tokens, marks stand for the fields of ``marked`` messages.

        ``open_``: with the header of the next reply. ``continued``: a message whose content ends in a mark.
        Raises: BadInput with the template's own complaint, or for parts that are no text.
        """
        marks: dict[int, tuple[str, ...]] = {}
        free = FIRST_MARK
        rendered = []
        names = {call.id: call.name for message in messages for call in message.calls}
        for index, message in enumerate(messages):
            fields = self._fields(message, names)
            if index in marked:
                fields, mine = self._marked(message, fields, free)
            elif index == continued:
                mine = (chr(free),)
                fields["content"] += mine[0]
            else:
                mine = ()
            free += len(mine)
            if mine:
                marks[index] = mine
            rendered.append(fields)
        self._settle(rendered, tools)
        schemas = [self.guard.hide(_as_schema(tool)) for tool in tools] if self._shows_tools else []
        return Page(self._fill(rendered, schemas, open_), marks)

    def reply(self, message: Message, tools: Sequence[Tool]) -> str:
        """The text of a reply as the template writes it between its header and its end of turn (guarded).

        Raises: BadInput where the template leaves out a part of the reply, or writes it elsewhere.
        """
        schemas = [self.guard.hide(_as_schema(tool)) for tool in tools] if self._shows_tools else []
        marked, marks = self._marked(message, self._fields(message, {}), FIRST_MARK + 8)
        shown = self._fill([_asked(), marked], schemas, False)
        lost = [mark for mark in marks if mark not in shown]
        text = self._fill([_asked(), self._fields(message, {})], schemas, False).rpartition(_USER)[2]
        header = self._header.removesuffix(self.opened)
        if header not in text or self.ending not in text or (lost and not self.opened):
            raise BadInput(
                f"the chat template does not write this reply whole after its header (reasoning, text and "
                f"{len(message.calls)} calls together), so no ids spell it; drop the part that it leaves out"
            )
        text = text[text.index(header) + len(header):]
        text = text[: text.index(self.ending)] if self.ending else text.removesuffix(self.tail)
        if self.opened and not text.startswith(self.opened):
            text = wrap_reasoning(self.guard.hide(message.reasoning), text.lstrip("\n"))
        return text.removeprefix(self.opened)

    # ------------------------------------------------------------ fields of one message

    def _fields(self, message: Message, names: Mapping[str, str]) -> dict[str, Any]:
        hide = self.guard.hide
        content = hide(_content(message))
        if message.role == "assistant":
            return self._reply_fields(message, content)
        fields: dict[str, Any] = {"role": message.role, "content": content}
        if message.role == "tool":
            fields["tool_call_id"] = self._call_id(message.call_id or "")
            fields["name"] = hide(message.name or names.get(message.call_id or "", ""))
            if not self._shows_results:
                return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
        elif message.name:
            fields["name"] = hide(message.name)
        return fields

    def _reply_fields(self, message: Message, content: str) -> dict[str, Any]:
        good = [call for call in message.calls if call.arguments is not None and self._shows_calls]
        inline = [call for call in message.calls if call.arguments is None or not self._shows_calls]
        if inline:
            written = self.grammar.write([self._guarded(call) for call in inline])
            content = f"{content}\n{written}" if content else written
        fields: dict[str, Any] = {"role": "assistant", "content": content}
        if any(part.kind == "reasoning" for part in message.parts):
            reasoning = self.guard.hide(message.reasoning)
            if self._reasoning_key:
                fields[self._reasoning_key] = reasoning
            else:
                fields["content"] = wrap_reasoning(reasoning, content)
        if good:
            fields["tool_calls"] = [self._as_tool_call(self._guarded(call)) for call in good]
        return fields

    def _guarded(self, call: Call) -> Call:
        hide = self.guard.hide
        arguments = None if call.arguments is None else hide(call.arguments)
        return Call(self._call_id(call.id), hide(call.name), arguments, hide(call.raw), call.error)

    def _call_id(self, id: str) -> str:
        """Mistral's templates take nothing but nine letters and digits."""
        if self.grammar.name != "mistral" or re.fullmatch("[A-Za-z0-9]{9}", id):
            return str(self.guard.hide(id))
        return blake2b(id.encode("utf-8", "replace"), digest_size=8).hexdigest()[:9]

    def _marked(
        self, message: Message, fields: dict[str, Any], free: int,
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The fields of a reply with one mark in each that is not empty, and at least one."""
        marks: list[str] = []

        def mark() -> str:
            marks.append(chr(free + len(marks)))
            return marks[-1]

        reasons = any(part.kind == "reasoning" for part in message.parts)
        key = self._reasoning_key
        if reasons and key:
            fields[key] = mark()
        if reasons and not key:
            fields["content"] = wrap_reasoning(mark(), mark())
        elif fields["content"] or "tool_calls" not in fields:
            fields["content"] = mark()
        for call in fields.get("tool_calls", ()):
            call["function"]["name"] = mark()
        return fields, tuple(marks)

    def _settle(self, rendered: list[dict[str, Any]], tools: Sequence[Tool]) -> None:
        """Moves what the template would leave out to where it shows it: tools, and a system message."""
        if tools and not self._shows_tools:
            shown = self.guard.hide(_describe(tools)) + self.grammar.write([_EXAMPLE])
            if rendered and rendered[0]["role"] == "system":
                rendered[0]["content"] = f"{rendered[0]['content']}\n\n{shown}"
            else:
                rendered.insert(0, {"role": "system", "content": shown})
        if not self._shows_system and rendered and rendered[0]["role"] == "system":
            first = rendered.pop(0)
            if rendered and rendered[0]["role"] == "user":
                rendered[0]["content"] = f"{first['content']}\n\n{rendered[0]['content']}"
            else:
                rendered.insert(0, {"role": "user", "content": first["content"]})

    # ------------------------------------------------------------ the template itself

    def _called(self) -> dict[str, Any]:
        call = self._as_tool_call(Call("a1B2c3D4e", _NAME, {}))
        return {"role": "assistant", "content": "", "tool_calls": [call]}

    def _as_tool_call(self, call: Call) -> dict[str, Any]:
        """A call as templates expect it: most want its arguments as an object, some as JSON text."""
        arguments: Any = dict(call.arguments or {})
        if self._as_text:
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}

    def _fill(self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]], open_: bool) -> str:
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=list(tools) or None, chat_template=self._sources[bool(tools)],
                add_generation_prompt=open_, tokenize=False, **self._options,
            )
        except (
            TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError
        ) as error:
            raise BadInput(
                f"the model's chat template refuses this conversation of roles "
                f"{[message['role'] for message in messages][:12]}: {error}"
            ) from error
        return str(text)

    def _shows(self, messages: list[dict[str, Any]], mark: str, tools: Sequence[dict[str, Any]] = ()) -> bool:
        try:
            return mark in self._fill(messages, tools, False)
        except BadInput:
            return False


_EXAMPLE = Call("", "name", {"argument": "value"})


def _sources(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The template without and with tools; where it asks for the date it is told :data:`TODAY`."""
    if not tokenizer.chat_template:
        return FALLBACK, FALLBACK
    without, with_tools = tokenizer.get_chat_template(None, None), tokenizer.get_chat_template(None, [{}])
    return _dated(str(without)), _dated(str(with_tools))


def _dated(source: str) -> str:
    layouts = set(re.findall(r"""strftime_now\(\s*["'](.*?)["']\s*\)""", source))
    if not layouts:
        return source
    dates = json.dumps({layout: TODAY.strftime(layout) for layout in sorted(layouts)})
    return f"{{%- macro strftime_now(layout) -%}}{{{{- {dates}[layout] -}}}}{{%- endmacro -%}}{source}"


def _control(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The tokens that only a template may write."""
    added = tokenizer.added_tokens_decoder.values()
    return tuple({*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)})


def _asked() -> dict[str, Any]:
    return {"role": "user", "content": _USER}


def _answered() -> dict[str, Any]:
    return {"role": "tool", "content": _TOOL, "name": _NAME, "tool_call_id": "a1B2c3D4e"}


def _as_schema(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _describe(tools: Sequence[Tool]) -> str:
    listed = "\n".join(json.dumps(_as_schema(tool)["function"], ensure_ascii=False) for tool in tools)
    return f"You may call these tools:\n<tools>\n{listed}\n</tools>\nTo call one, answer with\n"


def _content(message: Message) -> str:
    """The text that a text-only model is shown: text and JSON parts in order."""
    shown = []
    for part in message.parts:
        if part.kind == "text":
            shown.append(part.text)
        elif part.kind == "json":
            shown.append(json.dumps(part.data, ensure_ascii=False))
        elif part.kind != "reasoning":
            raise BadInput(
                f"a {message.role} message has a part of kind {part.kind!r}, and this chat is text only; expected "
                f"text, reasoning or json; describe it in text or use a model that takes {part.kind}"
            )
    return "".join(shown)
