"""Who may ask the dashboard for what: token, host, origin, size and rate, checked before any route is reached.

Wrong host: 421, which keeps a foreign page from reaching us under its own name (DNS rebinding). Foreign origin: 403.
No token: 401, and after :data:`TRIES` wrong ones in a minute 429 for everybody who brings none. Too long: 413.
"""

from __future__ import annotations

import hmac
import time
from collections import deque
from collections.abc import Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "polyturn_token"
MOST_BODY = 64 * 1024
MOST_QUERY = 8 * 1024
TRIES = 30
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
        self._clock = clock
        self._wrong: deque[float] = deque(maxlen=TRIES)

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
        refused = self._refused(scope, headers)
        if refused is not None:
            status, reason = refused
            page = scope["method"] == "GET" and "text/html" in headers.get("accept", "") and status == 401
            answer = (RedirectResponse("/enter", 303) if page else JSONResponse({"error": reason}, status))
            await answer(scope, receive, marked)
            return
        await self.app(scope, _bounded(receive), marked)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        if scope["type"] != "http":
            return 403, "only HTTP is spoken here"
        if headers.get("host") not in self.hosts:
            return 421, f"unknown host {headers.get('host')!r}; expected one of {', '.join(sorted(self.hosts))}"
        origin = headers.get("origin")
        if origin is not None and (origin == "null" or urlsplit(origin).netloc not in self.hosts):
            return 403, f"origin {origin!r} is another site"
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET":
            return 403, "the request comes from another site"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BODY or len(scope.get("query_string", b"")) > MOST_QUERY:
            return 413, f"at most {MOST_BODY} bytes of body and {MOST_QUERY} of query are read"
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
            self._wrong.append(self._clock())
        return right

    def may_try(self) -> bool:
        """False for a minute after too many wrong tokens."""
        return len(self._wrong) < TRIES or self._clock() - self._wrong[0] > 60


def _cookie(header: str) -> str:
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")


class TooLong(Exception):
    """More body than is read."""


def _bounded(receive: Receive) -> Receive:
    read = 0

    async def bounded() -> Any:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MOST_BODY:
            raise TooLong(f"more than {MOST_BODY} bytes of body")
        return message

    return bounded
