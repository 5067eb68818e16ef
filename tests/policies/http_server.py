"""A real little HTTP server for tests: it answers, cuts, stalls or hangs up as a script says, on a free port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """One scripted answer. ``cut``: bytes of the body that are sent before the connection ends; ``stall``: they are
    sent and nothing follows."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: bool = False
    hang_up: bool = False
    delay_s: float = 0.0


@dataclass
class Server:
    """Answers the requests in turn; the last answer is repeated. ``asked`` keeps what came."""

    answers: Sequence[Answer | Callable[[Mapping[str, Any]], Answer]]
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            asked = {"line": first, "headers": headers, "body": json.loads(body) if body else None}
            self.asked.append(asked)
            answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
            await self._answer(writer, answer if isinstance(answer, Answer) else answer(asked["body"]))
        except asyncio.IncompleteReadError:
            return  # a client that only connected
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, answer: Answer) -> None:
        await asyncio.sleep(answer.delay_s)
        if answer.hang_up:
            return
        body = answer.body if isinstance(answer.body, bytes) else answer.body.encode() if isinstance(
            answer.body, str) else json.dumps(answer.body).encode()
        head = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        lines = [f"HTTP/1.1 {answer.status} said", *(f"{k}: {v}" for k, v in {**head, **answer.headers}.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body[: answer.cut])
        await writer.drain()
        if answer.stall:
            await asyncio.sleep(30)


def said(text: str, **more: Any) -> Answer:
    """An ordinary reply of a chat-completions server; ``more`` goes into the choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    return Answer({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}})
