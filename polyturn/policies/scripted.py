"""A policy that says what it is told to: demonstrations, fixed opponents, and tests without a model or a mock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeAlias

from polyturn.errors import BadInput, PolicyFailed
from polyturn.protocols import Completion, Written
from polyturn.types import Finish, Message, Part, PolicyInfo, Sampling, Tool, Usage, assistant

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from polyturn.chat import Chat

Reply: TypeAlias = "Callable[[Sequence[Message]], Message | str | Awaitable[Message | str]]"
"""The messages in, the reply out; may be a coroutine function."""
NO_LIMIT = 2**31 - 1


class Scripted:
    """Implements :class:`polyturn.protocols.Policy` with replies from a function of the messages, or in fixed order.

    With a ``chat`` each turn carries its prompt and its reply spelled in tokens, marked as not sampled: a
    demonstration, which the likelihood loss can learn from; a reply longer than ``sampling.max_tokens`` is cut there,
    and where the template writes an empty reasoning block the message has an empty reasoning part, as a sampled one.
    Without one a turn has no tokens, and ``count`` counts words.

    >>> import asyncio
    >>> from polyturn.types import user
    >>> policy = Scripted(["8", "12"])
    >>> [asyncio.run(policy.sample([user("Guess.")])).message.text for _ in range(2)]
    ['8', '12']
    """

    def __init__(
        self, reply: Reply | Sequence[str | Message], *, name: str = "scripted", chat: Chat | None = None,
        limit: int = NO_LIMIT,
    ) -> None:
        if isinstance(reply, str):
            raise BadInput(f"the replies are the text {reply[:40]!r}; expected a list of replies, or a function")
        self.name = name
        self.limit = limit
        self.chat = chat
        self._reply = reply if callable(reply) else None
        self._replies = () if callable(reply) else tuple(reply)
        self._said = 0

    def info(self) -> PolicyInfo:
        """The kind ``scripted``, with the hashes of the chat that spells it."""
        info = PolicyInfo(self.name, "scripted")
        if self.chat is None:
            return info
        return replace(
            info, tokenizer_sha256=self.chat.tokenizer_sha256, template_sha256=self.chat.template_sha256,
        )

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of the prompt; without a chat, words."""
        if self.chat is None:
            return sum(len(message.text.split()) for message in messages)
        return self.chat.count(messages, tools)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """The next reply. Raises: PolicyFailed when a fixed sequence has run out, when the function gives no reply, or
        when the reply is not among ``sampling.choices``."""
        message = await self._next(messages)
        if sampling.choices is not None and message.text not in sampling.choices:
            raise PolicyFailed(
                f"policy {self.name!r} replied {message.text[:60]!r}; expected one of {list(sampling.choices[:12])}"
            )
        if self.chat is None:
            return Completion(message, sampled=False, finish="tool" if message.calls else "stop")
        return self._spelled(self.chat, message, messages, tools, sampling, written)

    async def _next(self, messages: Sequence[Message]) -> Message:
        if self._reply is None:
            if self._said >= len(self._replies):
                raise PolicyFailed(
                    f"policy {self.name!r} has said all its {len(self._replies)} replies and was asked once more; "
                    "give it more, or a function of the messages"
                )
            said: object = self._replies[self._said]
        else:
            said = self._reply(messages)
            if isawaitable(said):
                said = await said
        self._said += 1
        if isinstance(said, str):
            return assistant(said)
        if not isinstance(said, Message) or said.role != "assistant":
            raise PolicyFailed(f"policy {self.name!r} replied {said!r}; expected a text or an assistant message")
        return replace(said, spans=(), origin="policy")

    def _spelled(
        self, chat: Chat, message: Message, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling,
        written: Written,
    ) -> Completion:
        prompt = chat.encode(messages, tools=tools, written=written)
        ids = chat.spell(message, tools=tools)
        cut = len(ids) > sampling.max_tokens
        ids = ids[: sampling.max_tokens]
        read = chat.parse(ids, tools=tools)
        if cut:
            message = read
        elif any(part.kind == "reasoning" for part in read.parts) and not message.reasoning:
            message = message.edited(parts=(Part("reasoning"), *message.parts))
        usage = Usage(sum(len(piece.ids) for piece in prompt), 0, len(ids))
        finish: Finish = "length" if cut else "tool" if message.calls else "stop"
        return Completion(message, prompt, ids, sampled=False, finish=finish, usage=usage)
