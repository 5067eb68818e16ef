"""One server of models behind HTTP: retries within a deadline; a key is read when it is sent and kept nowhere."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from polyturn.errors import BadInput, PolicyFailed
from polyturn.policies.wire import check_text
from polyturn.seeds import generator
from polyturn.waits import Waiting

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that may pass by themselves."""
LONGEST_PAUSE_S = 30.0
MOST_BYTES = 64 * 2**20
"""The longest answer that is read, unpacked."""


class _Again(Exception):
    """One attempt failed in a way that may pass."""

    def __init__(self, kind: str, text: str, *, wait_s: float | None = None, lost: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.wait_s = wait_s
        self.lost = lost
        """True: the server may have done (and billed) the work; its answer was lost."""


class Connection:
    """Requests to one server. ``counts`` says how often each kind of trouble was met.

    An attempt may take ``timeout_s``; all attempts of one request and the pauses between them ``deadline_s``.
    ``pause_s`` doubles with each retry; a server's Retry-After goes before it. Of an answer at most ``most_bytes`` are
    read, and a redirection is not followed. The key is the value of the environment
    variable ``key_env`` at the time of each request (unset or ``""`` = none is sent).
    """

    def __init__(
        self, url: str, *, key_env: str, timeout_s: float = 120.0, deadline_s: float = 600.0, retries: int = 4,
        pause_s: float = 1.0, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = plain_url(url)
        self.server = urlsplit(self.url).netloc
        self.key_env = key_env
        self.timeout_s, self.deadline_s = timeout_s, deadline_s
        self.retries, self.pause_s, self.most_bytes = retries, pause_s, most_bytes
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._jitter = generator("connection", self.url)
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"Connection({self.url!r}, key_env={self.key_env!r})"

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, lost: Callable[[], None] = lambda: None
    ) -> Any:
        """The JSON that the server answers. ``lost`` is called for each attempt whose answer was lost on the way.

        Raises: PolicyFailed, in one line that names the server, when it refuses, when attempts or time are spent, or
        when the key must not be sent.
        """
        ends = self._clock() + self.deadline_s
        attempt = 0
        while True:
            left = ends - self._clock()
            try:
                return await self._once(method, path, body, min(self.timeout_s, left))
            except _Again as trouble:
                self.counts[trouble.kind] += 1
                if trouble.lost:
                    lost()
                attempt += 1
                pause, said = self._pause(trouble, attempt), str(trouble)
                self._give_up(trouble, attempt, pause, ends - self._clock())
            self.counts["retries"] += 1
            with Waiting(f"a call of {self.server}", "the next attempt", f"attempt {attempt} failed: {said}", pause):
                await asyncio.sleep(pause)

    def _pause(self, trouble: _Again, attempt: int) -> float:
        if trouble.wait_s is not None:
            return trouble.wait_s
        longest = min(self.pause_s * 2.0 ** (attempt - 1), LONGEST_PAUSE_S)
        return longest * (0.5 + 0.5 * float(self._jitter.random()))

    def _give_up(self, trouble: _Again, attempt: int, pause: float, left: float) -> None:
        tries = f"{attempt} attempt{'s' if attempt > 1 else ''}"
        if attempt > self.retries:
            raise PolicyFailed(f"{self.server} did not answer in {tries}; the last: {trouble}") from None
        if pause >= left:
            raise PolicyFailed(
                f"{self.server} did not answer in {tries}; the last: {trouble}; the next would begin in {pause:.1f} s, "
                f"after the deadline of {self.deadline_s:g} s"
            ) from None

    async def _once(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> Any:
        import httpx

        key = self._key()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            with Waiting("a call", f"server {self.server}", f"{method} {path}", max(seconds, 0)):
                async with asyncio.timeout(max(seconds, 0)):
                    response, content = await self._answer(method, path, body, headers)
        except TimeoutError:
            raise _Again("timeouts", f"no whole answer within {seconds:.1f} s", lost=True) from None
        except httpx.ConnectError as error:
            raise _Again("no_connection", f"cannot connect: {_told(str(error), key)}") from None
        except httpx.HTTPError as error:
            text = f"the connection broke: {type(error).__name__} {_told(str(error), key)}".rstrip()
            raise _Again("broken", text, lost=True) from None
        said = _told(content[:4000].decode("utf-8", "replace"), key)
        if response.status_code in RETRIED:
            text = f"HTTP {response.status_code} {said}".rstrip()
            raise _Again(f"http_{response.status_code}", text, wait_s=retry_after(response.headers.get("retry-after")))
        if response.status_code != 200:
            raise PolicyFailed(self._refusal(response.status_code, said))
        try:
            value = json.loads(content)
            check_text(content, value)
            return value
        except (ValueError, RecursionError) as error:
            text = f"an answer of {len(content)} bytes that is no JSON: {_told(str(error), key)}"
            raise _Again("cut", text, lost=True) from None

    async def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> tuple[httpx.Response, bytes]:
        """The response and its unpacked body. Raises: PolicyFailed for a body longer than is read, whatever length it
        told."""
        content = bytearray()
        async with self._open().stream(method, self.url + path, json=body, headers=headers) as response:
            async for piece in response.aiter_bytes(65536):
                content += piece
                if len(content) > self.most_bytes:
                    raise PolicyFailed(f"{self.server} sent more than {self.most_bytes} bytes in one answer; "
                                       "most_bytes is the most that is read")
        return response, bytes(content)

    def _refusal(self, status: int, text: str) -> str:
        if status in {401, 403}:
            there = "is set" if os.environ.get(self.key_env, "").strip() else "is not set"
            return f"{self.server} refused the key (HTTP {status}; environment variable {self.key_env} {there}): {text}"
        return f"{self.server} refused the request: HTTP {status} {text}".rstrip()

    def _key(self) -> str:
        """The key, read now. Raises: PolicyFailed where it cannot or must not be sent; no message holds it."""
        key = os.environ.get(self.key_env, "").strip() if self.key_env else ""
        if key and not (key.isascii() and key.isprintable()):
            raise PolicyFailed(f"{self.server}: the value of {self.key_env} is no key: it holds control characters")
        if key and self.url.startswith("http:") and not is_loopback(self.url):
            raise PolicyFailed(
                f"{self.server}: the key in {self.key_env} is not sent over plain http; use https, or key_env='' "
                "to send none"
            )
        return key

    def _open(self) -> httpx.AsyncClient:
        """The client of the running event loop."""
        import httpx

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
            self._client = httpx.AsyncClient(timeout=None, limits=limits, trust_env=not is_loopback(self.url))
            self._loop = loop
        return self._client

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.aclose()
        self._client = None


def _told(text: str, key: str) -> str:
    """What a server said, in one short line without the key."""
    clean = text.replace(key, "[key]") if key else text
    return " ".join(clean.split())[:300]


def plain_url(url: str) -> str:
    """The address that paths are added to: ``http://host:8000`` becomes ``http://host:8000/v1``.

    Raises: BadInput for another scheme, and for an address that carries a user, a password or a query: keys belong
    into the environment.

    >>> plain_url("http://localhost:8000/v1/chat/completions")
    'http://localhost:8000/v1'
    """
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise BadInput(f"the address of {parts.hostname} carries more than a path; keys belong into the environment")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadInput(f"{url!r} is no address of a server; expected http://host:port/v1 or https://host/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def is_loopback(url: str) -> bool:
    """Whether the address is on this machine.

    >>> is_loopback("http://127.0.0.1:80/v1"), is_loopback("http://localhost/v1"), is_loopback("https://a.example/v1")
    (True, True, False)
    """
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a Retry-After header (seconds or a date); None where it says nothing.

    >>> retry_after("2.5"), retry_after("soon"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (2.5, None, 0.0)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None
