"""Who may ask the dashboard for what: token, host, origin, size and rate, checked before any route is reached.

Wrong host: 421, which keeps a foreign page from reaching us under its own name (DNS rebinding). Foreign origin: 403.
No token: 401, and after :data:`TRIES` wrong ones in a minute 429 for everybody who brings none. Too long: 413; too
slow: 408; too often: 429.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from polyturn.visitors import Pace, is_longer, why_not

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "polyturn_token"
MOST_BODY = 64 * 1024
MOST_QUERY = 8 * 1024
TRIES = 30
"""Wrong tokens in a minute."""
ASKED, ASKED_S = 1000, 10.0
"""Requests within so many seconds, of all browsers together; a page asks about twenty at once, then one a second."""
BODY_S = 20.0
"""How long a body may take to arrive."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "same-origin", "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
}
OPEN = ("/enter", "/static/")
"""What is shown without a token: the page that asks for it, and the files of the page."""


class Guard:
    """Around an ASGI app. ``hosts`` are the names, with port, under which it may be reached."""

    def __init__(
        self, app: ASGIApp, *, token: str, hosts: Iterable[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app = app
        self._token = token
        self.hosts = frozenset(hosts)
        self._wrong, self._asked = Pace(TRIES, 60.0, clock), Pace(ASKED, ASKED_S, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        from starlette.responses import JSONResponse, RedirectResponse

        async def marked(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = [(k, v) for k, v in message["headers"] if k.decode() not in HEADERS]
                message["headers"] = given + [(k.encode(), v.encode()) for k, v in HEADERS.items()]
            await send(message)

        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        reasons = self._refused(scope, headers)
        if reasons is not None:
            status, reason = reasons
            page = scope["method"] == "GET" and "text/html" in headers.get("accept", "") and status == 401
            answer = (RedirectResponse("/enter", 303) if page else JSONResponse({"error": reason}, status))
            await answer(scope, receive, marked)
            return
        await self.app(scope, _bounded(receive), marked)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        if scope["type"] != "http":
            return 403, "only HTTP is spoken here"
        why = why_not(headers, self.hosts, pages=True)
        if why is None and headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET":
            why = 403, "the request comes from another site"
        if why is not None:
            return why
        if is_longer(headers, MOST_BODY) or len(scope.get("query_string", b"")) > MOST_QUERY:
            return 413, f"at most {MOST_BODY} bytes of body and {MOST_QUERY} of query are read"
        if not scope.get("query_string", b"").isascii():
            return 400, "the address holds bytes that are no text; write them as %xx"
        if self._asked.is_full():
            return 429, f"more than {ASKED} requests in {ASKED_S:g} s; wait a moment"
        self._asked.note()
        if scope["path"].startswith(OPEN):
            return None
        return self._without_token(headers)

    def _without_token(self, headers: dict[str, str]) -> tuple[int, str] | None:
        brought = headers.get("authorization", "").removeprefix("Bearer ") or _cookie(headers.get("cookie", ""))
        if brought and self.is_token(brought):
            return None
        if brought and not self.may_try():
            return 429, "too many wrong tokens; wait a minute"
        return 401, "no token: open the address that polyturn view printed, or send it as a Bearer token"

    def is_token(self, brought: str) -> bool:
        """Whether it is the token; a wrong one is counted."""
        right = hmac.compare_digest(brought.encode(), self._token.encode())
        if not right:
            self._wrong.note()
        return right

    def may_try(self) -> bool:
        """False for a minute after too many wrong tokens."""
        return not self._wrong.is_full()


def _cookie(header: str) -> str:
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")


class TooLong(Exception):
    """More body than is read."""


class TooSlow(Exception):
    """A body that does not arrive."""


def _bounded(receive: Receive) -> Receive:
    read, whole = 0, False
    until = time.monotonic() + BODY_S

    async def bounded() -> Any:
        nonlocal read, whole
        try:
            async with asyncio.timeout(None if whole else max(0.0, until - time.monotonic())):
                message = await receive()
        except TimeoutError:
            raise TooSlow(f"the body did not arrive within {BODY_S:g} s") from None
        read += len(message.get("body", b""))
        whole = whole or not message.get("more_body", False)
        if read > MOST_BODY:
            raise TooLong(f"more than {MOST_BODY} bytes of body")
        return message

    return bounded
