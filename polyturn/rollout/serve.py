"""A desk as an OpenAI-compatible server: any outside program that calls a model becomes an agent whose calls are turns.

Each desk gets an address and a token of its own. A call to the address is :meth:`polyturn.desk.Desk.say`: it is
recorded, charged to the seat's budget, and spliced into the seat's paths like any turn.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from polyturn.desk import Desk
from polyturn.errors import BadInput, BudgetSpent, DeadlinePassed, PolicyFailed
from polyturn.policies.connection import is_loopback
from polyturn.protocols import Ask
from polyturn.rollout import requests
from polyturn.rollout.requests import Memory, Reply, Request
from polyturn.types import IntArray, Message, Sampling, Turn, assistant
from polyturn.visitors import LOOPBACK, Pace, is_longer, why_not
from polyturn.waits import Waiting

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request as HttpRequest
    from starlette.responses import Response

TRIES = 30
"""Wrong tokens in a minute."""
Harness: TypeAlias = Callable[[str, str, Ask], Awaitable[str]]
"""An outside agent program: (address, token, ask) -> the reply to the environment."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a desk is served: ``openai.AsyncOpenAI(base_url=address.url, api_key=address.token)``."""

    url: str
    token: str = field(repr=False)


@dataclass
class Door:
    """One served desk."""

    desk: Desk
    address: Address
    usual: Sampling
    fixed: Sampling | None
    memory: Memory = field(default_factory=Memory)
    is_open: bool = True
    trouble: Exception | None = None
    """Why the last call was refused by our side; None after a call that was answered."""
    calls: set[asyncio.Task[Turn]] = field(default_factory=set)

    async def shut(self) -> None:
        """Refuses further calls and ends those under way, so that no turn comes after its time."""
        self.is_open = False
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)


class Server:
    """Serves desks: ``await server.start()``, ``server.address(desk)``, ``await server.close()``.

    It listens on this machine only, unless ``public``; the port is free unless given. Bodies over ``max_body_bytes``
    are refused, and those that take longer than ``body_timeout_s`` to arrive; a call is given up after
    ``request_timeout_s``, and a desk answers at most ``most_calls`` at once. Requests of web pages are refused, and
    those under another name than this machine's, unless ``public``.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, public: bool = False, max_body_bytes: int = 8_000_000,
        request_timeout_s: float = 600.0, body_timeout_s: float = 30.0, most_calls: int = 256,
    ) -> None:
        if not public and not is_loopback(f"http://{f'[{host}]' if ':' in host else host}"):
            raise BadInput(f"host {host!r} can be reached from other machines; pass public=True if that is meant")
        self.host, self.port = host, port
        self.max_body_bytes = max_body_bytes
        self.request_timeout_s, self.body_timeout_s = request_timeout_s, body_timeout_s
        self.public, self.most_calls = public, most_calls
        self._wrong = Pace(TRIES, 60.0)
        self._doors: dict[str, Door] = {}
        self._served = 0
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to listen. Signals (ctrl-C) stay with the program."""
        import uvicorn

        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((self.host, self.port))
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            _application(self), log_config=None, log_level="warning", access_log=False, lifespan="off", ws="none",
            http="h11", timeout_graceful_shutdown=5,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._socket])
        self._loop = asyncio.create_task(self._server.main_loop())

    def address(self, desk: Desk, *, sampling: Sampling = Sampling(), fixed: bool = False) -> Address:
        """The desk's address, the same at each call until it is forgotten.

        ``sampling`` is used where a request does not say; with ``fixed`` also where it does (but for ``stop``,
        ``choices`` and a smaller ``max_tokens``), so that the trainer decides how is explored.
        """
        for door in self._doors.values():
            if door.desk is desk:
                return door.address
        if self._server is None:
            raise BadInput("the server does not listen yet; await server.start() first")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{desk.log.episode_id}-{desk.seat}") + f"-{self._served}"
        self._served += 1
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = Address(f"http://{host}:{self.port}/e/{name}/v1", secrets.token_urlsafe(24))
        self._doors[name] = Door(desk, address, sampling, sampling if fixed else None)
        return address

    def door(self, desk: Desk) -> Door:
        """The door of a served desk. Raises: BadInput for one without address."""
        for door in self._doors.values():
            if door.desk is desk:
                return door
        raise BadInput(f"seat {desk.seat!r} of episode {desk.log.episode_id!r} is not served; call address(desk) first")

    async def forget(self, desk: Desk) -> None:
        """Ends the desk's calls under way and takes its address back: later calls find nothing."""
        for name, door in list(self._doors.items()):
            if door.desk is desk:
                del self._doors[name]
                await door.shut()

    async def close(self) -> None:
        """Ends all calls and stops listening."""
        for door in list(self._doors.values()):
            await self.forget(door.desk)
        if self._server is not None and self._loop is not None and self._socket is not None:
            self._server.should_exit = True
            await self._loop
            await self._server.shutdown(sockets=[self._socket])
            self._socket.close()
        self._server = self._loop = self._socket = None

    # ------------------------------------------------------------ one call

    async def models(self, http: HttpRequest) -> Response:
        """The one model of the address: the seat's policy."""
        from starlette.responses import JSONResponse

        door = self._admitted(http)
        if isinstance(door, Refusal):
            return door.response()
        model = {"id": door.desk.policy, "object": "model", "owned_by": "polyturn", "max_model_len": door.desk.limit}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(self, http: HttpRequest) -> Response:
        """One call of the policy, as a turn of the desk."""
        from starlette.responses import JSONResponse, StreamingResponse

        try:
            door = self._admitted(http)
            if isinstance(door, Refusal):
                return door.response()
            body = await self._body(http)
            if isinstance(body, Refusal):
                return body.response()
            request = requests.read_request(requests.read_json(body), door.usual, door.fixed)
        except BadInput as error:
            return Refusal(400, "bad_request", str(error)).response()
        reply = await self._reply(door, request)
        if isinstance(reply, Refusal):
            return reply.response()
        if await http.is_disconnected():
            door.desk.drop(reply.turn, "the harness hung up before it heard the reply")
        if request.stream:
            return StreamingResponse(_stream(reply, request), media_type="text/event-stream")
        return JSONResponse(requests.whole(reply, request))

    @property
    def _hosts(self) -> set[str] | None:
        """The names under which programs of this machine reach us; None = any."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        return None if self.public else {f"{name}:{self.port}" for name in (*LOOPBACK, own)}

    def _admitted(self, http: HttpRequest) -> Door | Refusal:
        why = why_not(http.headers, self._hosts, pages=False)
        if why is not None:
            return Refusal(why[0], "not_for_you", f"{why[1]}; programs ask here, not pages")
        door = self._doors.get(http.path_params["episode"])
        if door is None:
            return Refusal(404, "unknown_episode", f"no episode is served at {http.url.path}")
        given = http.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, door.address.token.encode()):
            if self._wrong.is_full():
                return Refusal(429, "wrong_token", "too many wrong tokens; wait a minute")
            self._wrong.note()
            return Refusal(401, "wrong_token", "this address needs its own token: authorization: Bearer <token>")
        if not door.is_open:
            return Refusal(409, "not_asked", "the environment does not ask this seat now: its act is over")
        if len(door.calls) >= self.most_calls:
            return Refusal(429, "too_many_calls", f"{self.most_calls} calls of this seat are under way; wait for them")
        return door

    async def _body(self, http: HttpRequest) -> bytes | Refusal:
        from starlette.requests import ClientDisconnect

        large = Refusal(413, "body_too_large", f"the body has more than {self.max_body_bytes} bytes")
        if is_longer(http.headers, self.max_body_bytes):
            return large
        body = bytearray()
        try:
            async with asyncio.timeout(self.body_timeout_s):
                async for piece in http.stream():
                    body += piece
                    if len(body) > self.max_body_bytes:
                        return large
        except TimeoutError:
            return Refusal(408, "too_slow", f"the body did not arrive within {self.body_timeout_s:g} s")
        except ClientDisconnect:
            return Refusal(400, "hung_up", f"the harness hung up after {len(body)} bytes of its request")
        return bytes(body)

    async def _reply(self, door: Door, request: Request) -> Reply | Refusal:
        call = asyncio.create_task(self._say(door, request))
        door.calls.add(call)
        try:
            done, _ = await asyncio.wait({call}, timeout=self.request_timeout_s)
        finally:
            door.calls.discard(call)
            call.cancel()
        if not done:
            await asyncio.gather(call, return_exceptions=True)
            door.trouble = DeadlinePassed(f"a call of the harness took longer than {self.request_timeout_s:g} s")
            return Refusal(504, "deadline", str(door.trouble))
        if call.cancelled():
            return Refusal(409, "not_asked", "the act ended before the reply was drawn")
        error = call.exception()
        door.trouble = error if isinstance(error, Exception) else None
        if door.trouble is not None:
            return refused(door.trouble)
        return _reply(door.desk, call.result(), request)

    async def _say(self, door: Door, request: Request) -> Turn:
        messages = door.memory.recall(request.messages)
        turn = await door.desk.say(messages, tools=request.tools, sampling=request.sampling)
        door.memory.remember(request.messages, door.desk.message(turn))
        return turn


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is an error; clients are told not to try again by themselves."""

    status: int
    code: str
    text: str

    def response(self) -> Response:
        """The HTTP response."""
        from starlette.responses import JSONResponse

        body = requests.refusal(self.code, self.text)
        return JSONResponse(body, status_code=self.status, headers={"x-should-retry": "false"})


def refused(error: Exception) -> Refusal:
    """The refusal that tells a harness why its call made no turn."""
    if isinstance(error, BudgetSpent):
        return Refusal(429, "budget_spent", f"the budget of this episode is spent: {error}")
    if isinstance(error, BadInput):
        return Refusal(400, "bad_request", str(error))
    if isinstance(error, DeadlinePassed):
        return Refusal(504, "deadline", str(error))
    if isinstance(error, PolicyFailed):
        return Refusal(502, "policy_failed", str(error))
    return Refusal(500, "internal", f"{type(error).__name__} in the policy; the episode's error tells more")


def _reply(desk: Desk, turn: Turn, request: Request) -> Reply:
    message = desk.message(turn)
    calls = tuple(replace(call, id=call.id or f"call_{turn.at}_{i}") for i, call in enumerate(message.calls))
    message = replace(message, calls=calls)
    name = f"chatcmpl-{desk.log.episode_id}-{turn.at}"
    if not (request.tell_ids or request.tell_logprobs) or not turn.spans:
        return Reply(name, turn.policy, turn, message)
    spans = desk.log.grown(turn.seat, turn.policy, desk.parent).ledger.spans
    return Reply(
        name, turn.policy, turn, message, _path_ids(desk, turn), tuple(spans[index] for index in turn.spans)
    )


def _path_ids(desk: Desk, turn: Turn) -> IntArray:
    """The ids of the prompt that a turn answered."""
    import numpy as np

    spans = desk.log.grown(turn.seat, turn.policy, desk.parent).ledger.spans
    found: list[IntArray] = []
    above = spans[turn.spans[0]].parent
    while above >= 0:
        found.append(spans[above].ids)
        above = spans[above].parent
    return np.concatenate(found[::-1]) if found else np.array([], np.int32)


async def _stream(reply: Reply, request: Request) -> AsyncIterator[str]:
    for chunk in requests.chunks(reply, request):
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def _application(server: Server) -> Starlette:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    async def elsewhere(http: HttpRequest, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = f"{http.method} {http.url.path}: only /e/<episode>/v1/chat/completions and /v1/models are served"
        return Refusal(status, "unknown_address", text).response()

    routes = [
        Route("/e/{episode}/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/e/{episode}/v1/models", server.models, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={404: elsewhere, 405: elsewhere})


# ---------------------------------------------------------------- the agent


@dataclass
class Served:
    """An agent that is an outside program: each ask runs ``harness(address, token, ask)``, whose calls become turns.

    What the harness returns is the reply to the environment; if it is the text of the policy's last reply, it is that
    reply, with its tokens. A harness that fails after a call was refused ends the episode for the reason of the
    refusal (a spent budget is a budget, not an error).
    """

    harness: Harness
    server: Server
    sampling: Sampling = Sampling()
    fixed: bool = False
    timeout_s: float = 600.0
    _desk: Desk | None = None

    async def act(self, ask: Ask, desk: Desk) -> Message:
        """The harness's reply. Raises: DeadlinePassed, the trouble that the harness met, and what it raises."""
        address = self.server.address(desk, sampling=self.sampling, fixed=self.fixed)
        door = self.server.door(desk)
        self._desk = desk
        door.is_open, door.trouble = True, None
        first = len(self._turns(desk))
        left = desk.left.seconds
        wait = self.timeout_s if left is None else min(left, self.timeout_s)
        try:
            with Waiting(f"seat {desk.seat} of episode {desk.log.episode_id}", "its harness", "an act", wait):
                async with asyncio.timeout(wait) as deadline:
                    said = await self.harness(address.url, address.token, ask)
        except Exception as error:
            if deadline.expired():
                raise _late(desk, wait, spent=wait == left) from error
            if door.trouble is not None:
                raise door.trouble from error
            raise
        finally:
            await door.shut()
        if not isinstance(said, str):
            raise BadInput(f"the harness of seat {desk.seat!r} returned {type(said).__name__}; expected a text")
        heard = [desk.message(turn) for turn in self._turns(desk)[first:]]
        return heard[-1] if heard and heard[-1].text == said and not heard[-1].calls else assistant(said)

    def _turns(self, desk: Desk) -> list[Turn]:
        return desk.log.grown(desk.seat, desk.policy, desk.parent).turns

    async def close(self) -> None:
        """Takes the address back."""
        if self._desk is not None:
            await self.server.forget(self._desk)


def _late(desk: Desk, waited_s: float, *, spent: bool) -> Exception:
    if spent:
        return BudgetSpent(f"seconds: {desk.budget.limits.seconds} spent")
    return DeadlinePassed(f"seat {desk.seat!r} waited {waited_s:g} s for its harness")
