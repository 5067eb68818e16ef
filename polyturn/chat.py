"""Messages to token ids and back: one tokenizer, one chat template.

:meth:`Chat.encode` never tokenizes again what was sampled. It renders the conversation once, with a private-use mark in
every field of each own reply. Where all marks of a reply survive, the template shows the whole reply, and the region
from its header to its end of turn is replaced by the sampled ids. Where one is missing (a template that drops earlier
reasoning), that reply is rendered as the template wants it: another path, never a wrong one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from polyturn.calls import GRAMMARS, Grammar, split_reasoning
from polyturn.errors import BadInput
from polyturn.protocols import Piece, Written
from polyturn.template import GUARDS, Page, Template
from polyturn.types import EMPTY, Call, IntArray, Message, Part, Tool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CACHED_PIECES = 16384


class Chat:
    """The chat of one tokenizer: prompts, replies, demonstrations and legal replies as ids.

    ``grammar`` names a tool-call format (:data:`polyturn.calls.GRAMMARS`), chosen from the template if None;
    ``options`` are variables of the template, such as ``{"enable_thinking": False}``.
    ``stop_ids`` are the ids that end a turn; ``fallback`` is True, and ``warning`` says so, where the tokenizer has no
    template and a plain one is used.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, grammar: str | None = None, options: Mapping[str, Any] = EMPTY,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = Template(tokenizer, grammar=grammar, options=options)
        self._ending = self._template.ending
        self._ending_id = int(tokenizer.convert_tokens_to_ids(self._ending)) if self._ending else None
        self.stop_ids = self._find_stops()
        self._before = self._find_before()
        self.template_sha256 = sha256(self._template.source.encode()).hexdigest()
        self._piece = lru_cache(_CACHED_PIECES)(self._make_piece)
        self._choice = lru_cache(_CACHED_PIECES)(self._make_choice)

    @property
    def grammar(self) -> Grammar:
        """The format of tool calls."""
        return self._template.grammar

    @property
    def fallback(self) -> bool:
        """Whether a plain template stands in for one that the tokenizer lacks."""
        return self._template.fallback

    @property
    def warning(self) -> str:
        """What callers must show; empty if nothing is unusual."""
        found = []
        if self.fallback:
            found.append(
                "this tokenizer has no chat template: messages are written as 'User: ...' and 'Assistant: ...', which "
                "the model was not taught; set tokenizer.chat_template to the template it was trained with"
            )
        if not self._template.reads_calls:
            found.append(
                f"the chat template writes tool calls in a format that grammar {self.grammar.name!r} does not read: "
                f"calls of the model will stand in its text; known grammars: {', '.join(sorted(GRAMMARS))}"
            )
        return "; ".join(found)

    @cached_property
    def tokenizer_sha256(self) -> str:
        """A hash of everything that decides the ids of a text."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            known: Any = [sorted(self._tokenizer.get_vocab().items()), type(self._tokenizer).__name__]
        else:
            known = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
        return sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @property
    def tokenizer_json(self) -> str | None:
        """The whole tokenizer as the text that the library ``tokenizers`` reads; None for one that it did not make."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return None if backend is None else str(backend.to_str())

    # ------------------------------------------------------------ messages to ids

    def encode(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), written: Written = lambda message: None,
    ) -> tuple[Piece, ...]:
        """The prompt: what the model is fed so that its next ids are the reply to ``messages``.

        Replies that ``written`` knows are spliced as the ids they were sampled as. A last assistant message is
        continued: no header follows it and no end of turn. Rendered pieces are cut after each end of turn, so that
        paths share whole messages.
        Raises: BadInput for an empty conversation, media, or roles that the template refuses.
        """
        if not messages:
            raise BadInput("a prompt needs at least one message; got none")
        own = {
            index: tuple(pieces) for index, message in enumerate(messages)
            if message.role == "assistant" and (pieces := written(message)) is not None
        }
        last = len(messages) - 1 if messages[-1].role == "assistant" else None
        page, regions = self._pages(messages, tools, own, last)
        return self._assemble(page, regions, own, last)

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of the prompt that these messages make, their replies counted as tokenized from text."""
        return sum(len(piece.ids) for piece in self.encode(messages, tools=tools))

    def _pages(
        self, messages: Sequence[Message], tools: Sequence[Tool], own: Mapping[int, object], last: int | None,
    ) -> tuple[Page, dict[int, tuple[int, int]]]:
        """The rendered text and the region of each reply that can be spliced in it (usually one rendering)."""
        spliced = set(own)
        while True:
            plain_last = None if last is None or last in spliced else last
            if plain_last is not None and any(call.arguments is not None for call in messages[plain_last].calls):
                raise BadInput("the last message is a reply with tool calls: answer them with role 'tool' first")
            page = self._template.render(
                messages, tools, marked=spliced, open_=last is None, continued=plain_last,
            )
            regions = self._regions(page, messages, spliced)
            if len(regions) == len(spliced):
                return page, regions
            spliced = set(regions)

    def _regions(
        self, page: Page, messages: Sequence[Message], spliced: set[int],
    ) -> dict[int, tuple[int, int]]:
        """Per reply whose marks all survive: from after its header to before its end of turn."""
        regions = {}
        at = 0
        for index in sorted(spliced):
            region = self._region(page, index, messages[index - 1] if index else None, at)
            if region is not None:
                regions[index] = region
                at = region[1]
        return regions

    def _region(self, page: Page, index: int, before: Message | None, at: int) -> tuple[int, int] | None:
        text, places = page.text, [page.text.find(mark, at) for mark in page.marks[index]]
        if min(places) < 0:
            return None
        header = self._template.header(before)
        start = text.rfind(header, at, min(places))
        if start < 0:
            return None
        start += len(header)
        if not self._ending:
            end = max(places) + 1
            return (start, end) if text.startswith(self._template.tail, end) else None
        end = text.find(self._ending, max(places))
        if self._ending in text[start: min(places)] or end < 0:
            return None
        return start, end

    def _assemble(
        self, page: Page, regions: Mapping[int, tuple[int, int]], own: Mapping[int, tuple[Piece, ...]],
        last: int | None,
    ) -> tuple[Piece, ...]:
        prompt: list[Piece] = []
        at = 0
        for index, (start, end) in regions.items():
            prompt += self._cut(page.text[at:start], first=not prompt)
            pieces = own[index]
            if index == last:
                return (*prompt, *self._unfinished(pieces))
            prompt += pieces
            at = end + len(self._ending) if self._finished(pieces) else end
        text = page.text[at:]
        if last is not None:
            text = self._upto_mark(text, page.marks[last][-1])
        return (*prompt, *self._cut(text, first=not prompt))

    def _upto_mark(self, text: str, mark: str) -> str:
        shown, found, _rest = text.partition(mark)
        if not found:
            raise BadInput("the template does not show the last assistant message, so it cannot be continued")
        return shown

    def _finished(self, pieces: Sequence[Piece]) -> bool:
        return bool(pieces) and len(pieces[-1].ids) > 0 and int(pieces[-1].ids[-1]) in self.stop_ids

    def _unfinished(self, pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
        """The pieces of a reply that is to be continued: without its end of turn, which makes the last one a copy."""
        if not self._finished(pieces):
            return pieces
        rest = pieces[-1].ids[:-1]
        return (*pieces[:-1], Piece(rest)) if len(rest) else pieces[:-1]

    # ------------------------------------------------------------ text to ids

    def _cut(self, text: str, first: bool) -> list[Piece]:
        """Rendered text in pieces that end with an end of turn each."""
        if not self._ending:
            return [self._piece(text, first)] if text else []
        *ended, rest = text.split(self._ending)
        texts = [part + self._ending for part in ended] + ([rest] if rest else [])
        return [self._piece(part, first and not number) for number, part in enumerate(texts)]

    def _make_piece(self, text: str, first: bool) -> Piece:
        ids = np.array(self._ids(text, first), np.int32)
        ids.flags.writeable = False
        return Piece(ids)

    def _ids(self, text: str, first: bool) -> list[int]:
        """The ids of rendered text; a guarded control token is broken after its first letter, so it stays text."""
        guard = self._template.guard
        runs: list[str] = []
        carried, start = "", 0
        for found in GUARDS.finditer(text):
            if guard.is_control(found[0]):
                hidden = guard.of(found[0])
                runs.append(carried + text[start: found.start()] + hidden[0])
                carried, start = hidden[1:], found.end()
        runs.append(carried + text[start:])
        return [id for number, run in enumerate(runs) for id in self._plain_ids(guard.show(run), first and not number)]

    def _plain_ids(self, text: str, first: bool) -> list[int]:
        """Ids of a text as if it stood after an end of turn (some tokenizers treat the start of a text specially)."""
        if not text:
            return []
        if first or not self._ending:
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        ids = list(self._tokenizer.encode(self._ending + text, add_special_tokens=False))
        return ids[1:]

    def _find_stops(self) -> tuple[int, ...]:
        found = {self._tokenizer.eos_token_id, self._ending_id}
        if self.grammar.name == "llama3":
            found.add(self._tokenizer.get_vocab().get("<|eom_id|>"))
        return tuple(sorted(int(id) for id in found if isinstance(id, int)))

    # ------------------------------------------------------------ ids to messages

    def parse(self, ids: Sequence[int] | IntArray, *, tools: Sequence[Tool] = ()) -> Message:
        """The reply that these ids spell: its text, reasoning and calls. Never raises: a call that cannot be read has
        no arguments and says why; a character cut in two becomes U+FFFD."""
        kept = [int(id) for id in ids]
        while kept and kept[-1] in self.stop_ids:
            kept.pop()
        text = self._decode(kept)
        reasoning, text = split_reasoning(text, bool(self._template.opened))
        if reasoning is None:
            text = text.removeprefix(self._template.lead)
        calls: tuple[Call, ...] = ()
        if tools or not self.grammar.bare:
            text, calls = self.grammar.read(text, tools)
        parts = [] if reasoning is None else [Part("reasoning", reasoning)]
        parts += [Part("text", text)] if text else []
        return Message("assistant", tuple(parts), calls=_numbered(calls, kept), origin="policy")

    def _decode(self, ids: list[int]) -> str:
        return self._raw([*self._before, *ids]).removeprefix(self._ending if self._before else "")

    def _find_before(self) -> tuple[int, ...]:
        """The ids put before a reply to decode it: some tokenizers drop a space at the start of a text, others add one
        after an end of turn; what they do with "a" tells which."""
        if self._ending_id is None:
            return ()
        letter = self._raw([self._ending_id, *self._plain_ids("a", False)])
        return (self._ending_id,) if letter == self._ending + "a" else ()

    def _raw(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # ------------------------------------------------------------ replies that were not sampled

    def spell(self, message: Message, *, tools: Sequence[Tool] = ()) -> IntArray:
        """The ids of a demonstrated reply, as the template writes it after the header; the last one ends the turn."""
        if message.role != "assistant":
            raise BadInput(f"only an assistant message can be spelled as a reply; got role {message.role!r}")
        return self._ended(self._template.reply(message, tools))

    def forced(self, parts: Sequence[str]) -> tuple[IntArray, ...]:
        """The ids of a reply that was given part by part, each tokenized by itself, so that no id spans two parts; no
        end of turn follows. Put the space between two words at the beginning of the second part."""
        first = self._template.lead
        texts = [(first if place == 0 else "") + self._template.guard.hide(text) for place, text in enumerate(parts)]
        return tuple(self._piece(text, False).ids if text else np.array([], np.int32) for text in texts)

    def choices(self, texts: Sequence[str]) -> tuple[IntArray, ...]:
        """The ids of each allowed reply, ending with the end of turn; ``parse`` reads each back as its text."""
        if not texts:
            raise BadInput("choices is empty: no reply is allowed; pass None for no mask")
        return tuple(self._choice(text) for text in texts)

    def _make_choice(self, text: str) -> IntArray:
        ids = self._ended(self._template.lead + self._template.guard.hide(text))
        ids.flags.writeable = False
        return ids

    def _ended(self, text: str) -> IntArray:
        body = self._piece(text, False).ids if text else np.array([], np.int32)
        stop = self._tokenizer.eos_token_id if self._ending_id is None else self._ending_id
        if not isinstance(stop, int):
            raise BadInput("neither the chat template nor the tokenizer has a token that ends a reply")
        return np.append(body, np.int32(stop)).astype(np.int32)


def _numbered(calls: Sequence[Call], ids: Sequence[int]) -> tuple[Call, ...]:
    """Calls with ids where the model gave none: nine letters and digits from the reply's tokens and the position."""
    tokens = np.asarray(ids, np.int64).tobytes()
    numbered = []
    for index, call in enumerate(calls):
        id = call.id or blake2b(tokens + bytes([index % 256, index // 256 % 256]), digest_size=8).hexdigest()[:9]
        numbered.append(Call(id, call.name, call.arguments, call.raw, call.error))
    return tuple(numbered)
