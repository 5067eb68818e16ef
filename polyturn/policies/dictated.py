"""A policy that writes what its caller chose: how scripted players get turns, tokens and a record of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

from polyturn.calls import GRAMMARS
from polyturn.chat import Chat
from polyturn.errors import BadInput
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Completion, Written
from polyturn.types import Message, PolicyInfo, Sampling, Tool, assistant


class Dictated:
    """Implements :class:`polyturn.protocols.Policy`: replies with the only text in ``sampling.choices``.

    With a ``chat`` its turns are demonstrations: spelled in tokens, marked as not sampled. See
    :class:`polyturn.agents.chat.AnswerAgent`.
    """

    def __init__(self, *, name: str = "dictated", chat: Chat | None = None) -> None:
        self.name = name
        self._blank = Scripted([], name=name, chat=chat)
        self.limit = self._blank.limit

    def info(self) -> PolicyInfo:
        """The kind ``scripted``."""
        return self._blank.info()

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of the prompt; without a chat, words."""
        return self._blank.count(messages, tools)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """The dictated text; where tools are offered, its calls in the form of Hermes become calls, spelled in the
        format of the chat. Raises: BadInput unless ``choices`` holds exactly one."""
        if sampling.choices is None or len(sampling.choices) != 1:
            raise BadInput(f"policy {self.name!r} writes one given text; sampling.choices is {sampling.choices}")
        said = _with_calls(sampling.choices[0], len(messages)) if tools else assistant(sampling.choices[0])
        speaker = Scripted([said], name=self.name, chat=self._blank.chat)
        return await speaker.sample(messages, tools=tools, sampling=replace(sampling, choices=None), written=written)


def _with_calls(text: str, place: int) -> Message:
    """The text as a reply, its calls named after their words and the place of the reply in the dialogue."""
    rest, calls = GRAMMARS["hermes"].read(text, ())
    named = tuple(
        replace(call, id=blake2b(f"{place}.{index}.{call.raw}".encode(), digest_size=8).hexdigest()[:9])
        for index, call in enumerate(calls)
    )
    return assistant(rest, calls=named)
