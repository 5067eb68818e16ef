"""A policy of 258 ids for tests: bytes, an end of turn (256), a header (257). Its replies are drawn from the seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from polyturn.protocols import Completion, Piece, Written
from polyturn.types import IntArray, Message, PolicyInfo, Sampling, Tool, Usage, assistant

END, HEADER = 256, 257


@dataclass
class BytePolicy:
    """``reply`` fixes what is said (None: random bytes); ``fed`` keeps every prompt and reply as the model saw it."""

    reply: Callable[[Sequence[Message]], str] | None = None
    name: str = "main"
    limit: int = 100_000
    version: int = 0
    fed: list[list[int]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    def info(self) -> PolicyInfo:
        return PolicyInfo(self.name, "model", self.version)

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return sum(len(piece.ids) for piece in self.pieces(messages, lambda message: None))

    def pieces(self, messages: Sequence[Message], written: Written) -> tuple[Piece, ...]:
        found: list[Piece] = []
        for message in messages:
            own = written(message) if message.role == "assistant" else None
            if own is None:
                text = [HEADER, *f"{message.role}:{message.text}".encode("utf-8", "replace"), END]
                found.append(Piece(np.array(text, np.int32)))
                continue
            found += [Piece(np.array([HEADER, *b"assistant:"], np.int32)), *own]
            if own[-1].ids[-1:].tolist() != [END]:
                found.append(Piece(np.array([END], np.int32)))
        return (*found, Piece(np.array([HEADER, *b"assistant:"], np.int32)))

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        prompt = self.pieces(messages, written)
        draws = np.random.default_rng(sampling.seed)
        if self.reply is None:
            body = draws.integers(0, 256, size=int(draws.integers(0, 9))).tolist()
        else:
            body = list(self.reply(messages).encode())
        cut = len(body) + 1 > sampling.max_tokens
        ids: IntArray = np.array([*body, END][: sampling.max_tokens], np.int32)
        self.fed.append([int(i) for piece in prompt for i in piece.ids] + ids.tolist())
        text = bytes(int(i) for i in ids if i < 256).decode("utf-8", "replace")
        return Completion(
            assistant(text), prompt, ids, np.full(len(ids), -0.5), finish="length" if cut else "stop",
            version=self.version, usage=Usage(sum(len(p.ids) for p in prompt), 0, len(ids)),
        )
