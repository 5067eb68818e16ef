"""A policy behind any OpenAI-compatible chat-completions server.

Where the server tells the ids of prompt and reply (vLLM), they are kept and can be trained on; elsewhere
``Completion.ids`` is None and the trajectory says that it cannot be.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from polyturn.errors import BadInput, BudgetSpent, PolicyFailed, UnknownName
from polyturn.policies import wire
from polyturn.policies.connection import Connection
from polyturn.protocols import Completion, Piece, Written
from polyturn.types import EMPTY, FloatArray, IntArray, Message, PolicyInfo, Sampling, Tool, Usage

if TYPE_CHECKING:
    from polyturn.chat import Chat

Dialect: TypeAlias = Literal["openai", "vllm", "vllm_guided"]
"""What a server understands beyond the common format. ``vllm``: token ids, legal choices (``structured_outputs``),
top_k, continued replies; ``vllm_guided``: the same with the older ``guided_choice``."""
DIALECTS: tuple[Dialect, ...] = ("openai", "vllm", "vllm_guided")
Logprobs: TypeAlias = Literal["raw", "processed"]
"""Which log-probabilities a server gives: ``raw`` = before temperature and cuts (vLLM's default)."""


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens: ``Prices(prompt=0.15, completion=0.6)``."""

    prompt: float
    completion: float
    cached: float | None = None
    """For prompt tokens from the server's cache; None = as ``prompt``."""

    def cost(self, usage: Usage) -> float:
        """What a call costs.

        >>> Prices(1.0, 2.0, cached=0.5).cost(Usage(3_000_000, 1_000_000, 2_000_000))      # 2 + 0.5 + 4
        6.5
        """
        cached = self.prompt if self.cached is None else self.cached
        fresh = usage.prompt_tokens - usage.cached_tokens
        return (fresh * self.prompt + usage.cached_tokens * cached + usage.completion_tokens * self.completion) / 1e6


@dataclass
class Purse:
    """Money: what was spent, and what calls under way may cost at most.

    A call begins only if the limit holds even at its worst. An answer lost on the way counts at its worst cost.
    """

    limit_usd: float | None
    prices: Prices | None
    spent_usd: float = 0.0
    held_usd: float = 0.0

    def __post_init__(self) -> None:
        if self.limit_usd is not None and self.prices is None:
            raise BadInput(f"a spending limit of {self.limit_usd} USD needs prices; pass prices=Prices(...)")

    def worst(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The most that a call can cost."""
        return self.prices.cost(Usage(prompt_tokens, 0, completion_tokens)) if self.prices else 0.0

    def hold(self, worst_usd: float, server: str) -> None:
        """Sets money aside for a call. Raises: BudgetSpent."""
        if self.limit_usd is not None and self.spent_usd + self.held_usd + worst_usd > self.limit_usd:
            raise BudgetSpent(
                f"money: {self.spent_usd:.4f} of {self.limit_usd:g} USD spent on {server} and {self.held_usd:.4f} in "
                f"calls under way; another call may cost {worst_usd:.4f}; raise spend_limit_usd to go on"
            )
        self.held_usd += worst_usd

    def lose(self, worst_usd: float) -> None:
        """Counts a lost answer at its worst. Raises: BudgetSpent if the calls under way could then pass the limit."""
        self.spent_usd += worst_usd
        if self.limit_usd is not None and self.spent_usd + self.held_usd > self.limit_usd:
            raise BudgetSpent(
                f"money: {self.spent_usd:.4f} of {self.limit_usd:g} USD spent, answers lost on the way at their worst"
            )


class Endpoint:
    """A policy on a server: ``Endpoint("http://localhost:8000/v1", "Qwen/Qwen3-8B", dialect="vllm")``.

    ``key_env`` names the environment variable that holds the key; the key itself is read when it is sent and kept
    nowhere. ``chat`` (that of the server's model) counts tokens exactly; without it :meth:`count` is an estimate.
    ``spend_limit_usd`` needs ``prices``. Replies drawn from ``Sampling.choices`` keep no ids: the server does not tell
    which ids it allowed. One attempt takes at most ``timeout_s``, a call with its retries
    ``deadline_s``. ``limit`` is the server's longest prompt and reply together. ``extras`` are further fields of each
    request, such as ``{"chat_template_kwargs": {"enable_thinking": False}}``.
    """

    def __init__(
        self, url: str, model: str, *, name: str = "endpoint", key_env: str = "OPENAI_API_KEY",
        chat: Chat | None = None, dialect: Dialect = "openai", logprobs: Logprobs = "raw", limit: int = 32_768,
        spend_limit_usd: float | None = None, prices: Prices | None = None, timeout_s: float = 120.0,
        deadline_s: float = 600.0, retries: int = 4, pause_s: float = 1.0,
        max_tokens_field: str = "max_tokens", extras: Mapping[str, Any] = EMPTY,
    ) -> None:
        if dialect not in DIALECTS:
            raise UnknownName("dialect", dialect, DIALECTS)
        self.connection = Connection(
            url, key_env=key_env, timeout_s=timeout_s, deadline_s=deadline_s, retries=retries, pause_s=pause_s
        )
        self.model, self.name, self.limit = model, name, limit
        self.chat, self.dialect, self.logprobs = chat, dialect, logprobs
        self.purse = Purse(spend_limit_usd, prices)
        self.max_tokens_field = max_tokens_field
        self.extras = dict(extras)

    def __repr__(self) -> str:
        return f"Endpoint({self.connection.url!r}, {self.model!r}, name={self.name!r}, dialect={self.dialect!r})"

    @property
    def stats(self) -> Mapping[str, float]:
        """Calls, retries, troubles by kind, and the money spent."""
        return {**self.connection.counts, "spent_usd": self.purse.spent_usd}

    def info(self) -> PolicyInfo:
        """Who answers: server, model and dialect; weights are unknown."""
        chat = self.chat
        told = {"server": self.connection.url, "model": self.model, "dialect": self.dialect, **self.extras}
        return PolicyInfo(
            self.name, "endpoint", sampling=told, tokenizer_sha256=chat.tokenizer_sha256 if chat else "",
            template_sha256=chat.template_sha256 if chat else "", ends=tuple(sorted(chat.stop_ids)) if chat else (),
        )

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of the prompt: exact with a chat, else estimated as one for each three bytes and eight a message."""
        if self.chat is not None:
            return self.chat.count(messages, tools)
        texts = [str(wire.spoken_message(m)) for m in messages] + [str(wire.spoken_tool(t)) for t in tools]
        return sum(8 + len(text.encode("utf-8", "replace")) // 3 for text in texts)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        """One reply from the server, with its ids where the server tells them.

        Raises: BudgetSpent when the money is spent; PolicyFailed, in one line that names the server, when it does not
        answer or answers what cannot be used; BadInput for what this server cannot be asked.
        """
        body = self._body(messages, tools, sampling)
        worst = self.purse.worst(self.count(messages, tools), sampling.max_tokens)
        self.purse.hold(worst, self.connection.server)
        self.connection.counts["calls"] += 1
        try:
            answer = await self.connection.ask("POST", "/chat/completions", body, lost=lambda: self.purse.lose(worst))
            cost = self._cost(answer, worst)
            self.purse.spent_usd += cost or 0.0
            completion = self._completion(answer, messages, sampling, written)
        except CancelledError:
            self.purse.spent_usd += worst
            raise
        finally:
            self.purse.held_usd -= worst
        return replace(completion, usage=replace(completion.usage, cost_usd=cost))

    def _cost(self, answer: Any, worst: float) -> float | None:
        """What the call cost: as the server says, else by the prices; None where neither is known."""
        usage = wire.read_usage(answer.get("usage") if isinstance(answer, Mapping) else None)
        if usage.cost_usd is not None or self.purse.prices is None:
            return usage.cost_usd
        return self.purse.prices.cost(usage) if usage.prompt_tokens else worst

    # ------------------------------------------------------------ the request

    def _body(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> dict[str, Any]:
        if not messages:
            raise BadInput(f"nothing to send to {self.connection.server}: messages is empty")
        body: dict[str, Any] = {
            "model": self.model, "messages": [wire.spoken_message(message) for message in messages],
            "temperature": sampling.temperature, "top_p": sampling.top_p, self.max_tokens_field: sampling.max_tokens,
        }
        if tools:
            body["tools"] = [wire.spoken_tool(tool) for tool in tools]
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.seed is not None:
            body["seed"] = sampling.seed % 2**31
        if self.dialect != "openai":
            body |= self._vllm(messages, sampling)
        elif (asked := _beyond_openai(messages, sampling)):
            raise BadInput(
                f"{self.connection.server} speaks the dialect 'openai', which has no {asked}; "
                "pass dialect='vllm' if the server is vLLM, else do without"
            )
        return body | self.extras

    def _vllm(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        more: dict[str, Any] = {"return_token_ids": True, "logprobs": True}
        if sampling.top_k:
            more["top_k"] = sampling.top_k
        if sampling.choices is not None:
            choices = list(sampling.choices)
            guided = self.dialect == "vllm_guided"
            more |= {"guided_choice": choices} if guided else {"structured_outputs": {"choice": choices}}
        if messages[-1].role == "assistant":
            more |= {"continue_final_message": True, "add_generation_prompt": False}
        return more

    # ------------------------------------------------------------ the answer

    def _completion(
        self, answer: Any, messages: Sequence[Message], sampling: Sampling, written: Written
    ) -> Completion:
        try:
            given = wire.expect(answer, Mapping, "answer")
            choices = wire.expect(given.get("choices"), list, "choices")
            choice = wire.expect(choices[0] if choices else None, Mapping, "choices[0]")
            message = _reply(choice)
        except BadInput as error:
            raise PolicyFailed(f"{self.connection.server} gave an answer that cannot be read: {error}") from None
        if sampling.choices is not None and message.text not in sampling.choices:
            raise PolicyFailed(
                f"{self.connection.server} answered {message.text[:40]!r}, none of the {len(sampling.choices)} allowed "
                "choices: it does not know this dialect's way to restrict replies"
            )
        prompt, ids = _ids(given.get("prompt_token_ids")), _ids(choice.get("token_ids"))
        finish, usage = wire.read_finish(choice.get("finish_reason")), wire.read_usage(given.get("usage"))
        if prompt is None or ids is None or sampling.choices is not None:
            return Completion(message, finish=finish, usage=usage)
        pieces = aligned(prompt, messages, written)
        return Completion(message, pieces, ids, self._logprobs(choice, ids, sampling), finish=finish, usage=usage)

    def _logprobs(self, choice: Mapping[str, Any], ids: IntArray, sampling: Sampling) -> FloatArray:
        """Log-probabilities under the distribution drawn from; NaN where the server gives them for another one."""
        unknown = np.full(len(ids), nan)
        plain = sampling.temperature in {0.0, 1.0} and sampling.top_p == 1.0 and sampling.top_k == 0
        told = choice.get("logprobs")
        content = told.get("content") if isinstance(told, Mapping) else None
        if not isinstance(content, list) or len(content) != len(ids) or not (plain or self.logprobs == "processed"):
            return unknown
        values = [entry.get("logprob") if isinstance(entry, Mapping) else None for entry in content]
        known = all(isinstance(value, int | float) and np.isfinite(value) for value in values)
        return np.array(values, np.float64) if known else unknown

    async def close(self) -> None:
        """Closes the connections."""
        await self.connection.close()


def _beyond_openai(messages: Sequence[Message], sampling: Sampling) -> str:
    if sampling.choices is not None:
        return "restriction to choices"
    if sampling.top_k:
        return f"top_k (asked for {sampling.top_k})"
    return "continuation of a last assistant message" if messages[-1].role == "assistant" else ""


def _reply(choice: Mapping[str, Any]) -> Message:
    spoken = wire.expect(choice.get("message"), Mapping, "choices[0].message")
    if not spoken.get("content") and isinstance(spoken.get("refusal"), str):
        spoken = {**spoken, "content": spoken["refusal"]}
    return wire.read_message({**spoken, "role": "assistant"}, "choices[0].message", origin="policy")


def _ids(value: Any) -> IntArray | None:
    """Token ids, or None where the field does not hold any."""
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31 for i in value):
        return None
    return np.array(value, np.int32)


def aligned(prompt: IntArray, messages: Sequence[Message], written: Written) -> tuple[Piece, ...]:
    """The prompt's ids in pieces, own replies marked as the spans they were sampled as.

    The server rendered and tokenized the prompt by itself. Where it shows a reply as exactly the ids it was sampled
    as, the path extends; where it tokenized it otherwise, the path branches. Either way the pieces joined are the
    prompt that the model saw.

    >>> own = Piece(np.array([7, 8], np.int32), ("agent", "main", 1))
    >>> pieces = aligned(np.array([1, 7, 8, 2]), [Message("assistant", "x")], lambda message: (own,))
    >>> [(piece.ids.tolist(), piece.span) for piece in pieces]
    [([1], None), ([7, 8], ('agent', 'main', 1)), ([2], None)]
    """
    pieces: list[Piece] = []
    text = np.asarray(prompt, np.int32).tobytes()
    at = 0
    for message in messages:
        for own in (written(message) or ()) if message.role == "assistant" else ():
            sought = np.asarray(own.ids, np.int32).tobytes()
            found = _find(text, sought, at)
            if found >= 0:
                if found > at:
                    pieces.append(Piece(np.frombuffer(text[at:found], np.int32)))
                pieces.append(own)
                at = found + len(sought)
    if at < len(text):
        pieces.append(Piece(np.frombuffer(text[at:], np.int32)))
    return tuple(pieces)


def _find(text: bytes, sought: bytes, at: int) -> int:
    """The first place of ``sought`` from ``at`` on that begins at an id; -1 if there is none."""
    if not sought:
        return -1
    while (at := text.find(sought, at)) >= 0 and at % 4:
        at += 1
    return at


async def connect(url: str, model: str | None = None, **settings: Any) -> Endpoint:
    """An endpoint for a server that is asked what it is: its model (if it has one only), its limit and its dialect.

    ``settings`` are those of :class:`Endpoint` and go before what the server says. Raises: BadInput when the server
    has several models and none was named, UnknownName for a model it does not have, PolicyFailed.
    """
    endpoint = Endpoint(url, model or "", **settings)
    try:
        answer = await endpoint.connection.ask("GET", "/models")
    finally:
        await endpoint.connection.close()
    listed = answer.get("data") if isinstance(answer, Mapping) else None
    models = {str(m.get("id")): m for m in listed if isinstance(m, Mapping)} if isinstance(listed, list) else {}
    if model is None and len(models) != 1:
        raise BadInput(f"{endpoint.connection.server} has the models {sorted(models)}; name one of them")
    if model is not None and model not in models:
        raise UnknownName(f"model on {endpoint.connection.server}", model, models)
    chosen = model or next(iter(models))
    told = models[chosen]
    longest = told.get("max_model_len")
    if isinstance(longest, int) and longest > 0:
        settings.setdefault("limit", longest)
    if told.get("owned_by") in {"vllm", "polyturn"}:
        settings.setdefault("dialect", "vllm")
    return Endpoint(url, chosen, **settings)
