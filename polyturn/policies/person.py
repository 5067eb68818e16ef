"""A person in a seat: shows what is new and reads one line, through functions that are passed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from polyturn.errors import PolicyFailed
from polyturn.policies.scripted import NO_LIMIT
from polyturn.protocols import Completion, Written
from polyturn.types import Message, PolicyInfo, Sampling, Tool, assistant

Read: TypeAlias = Callable[[], Awaitable[str]]
"""The next line of the person, without its newline. Raises EOFError when the person has left."""


class Person:
    """Implements :class:`polyturn.protocols.Policy` with a person. Its turns have no tokens: they cannot be trained on.

    ``read`` waits for a line (for a terminal: ``lambda: asyncio.to_thread(input, "> ")``), ``show`` prints a text.
    Where a mask allows only some replies, another one is refused and asked for again.
    """

    def __init__(self, read: Read, show: Callable[[str], object] = print, *, name: str = "person") -> None:
        self.name = name
        self.limit = NO_LIMIT
        self._read = read
        self._show = show
        self._shown = 0

    def info(self) -> PolicyInfo:
        """The kind ``human``."""
        return PolicyInfo(self.name, "human")

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Words of the messages: a person has no tokens."""
        return sum(len(message.text.split()) for message in messages)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """What the person types. Raises: PolicyFailed when there is no more input."""
        since = self._shown if self._shown < len(messages) else 0
        for message in messages[since:]:
            if message.role != "assistant" or message.origin != "policy":
                self._show(f"[{message.role}] {message.text}")
        self._shown = len(messages) + 1
        while True:
            try:
                text = (await self._read()).strip()
            except EOFError as error:
                raise PolicyFailed(f"{self.name!r} was asked for a reply and there is no more input") from error
            if sampling.choices is None or text in sampling.choices:
                return Completion(assistant(text), sampled=False)
            self._show(f"{text!r} is not allowed here; choose one of: {', '.join(sampling.choices)}")
