"""Who may ask a server of ours over HTTP, by what a request says of itself: host, origin, length, and how often.

Both servers (the dashboard and served desks) ask here first, then for their token. A wrong host is refused because a
foreign page can give its own name our address (DNS rebinding); a foreign origin because a browser sends requests that
its user never meant.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Pace:
    """At most ``most`` of something within ``seconds``: ``Pace(30, 60.0)``. It remembers no more than that many."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.seconds = most, seconds
        self.clock = clock
        self._times: deque[float] = deque(maxlen=most)

    def note(self) -> None:
        """One more."""
        self._times.append(self.clock())

    def is_full(self) -> bool:
        """Whether another one would be too many.

        >>> pace = Pace(2, 60.0, clock=lambda: 0.0)
        >>> [(pace.is_full(), pace.note())[0] for _ in range(3)]
        [False, False, True]
        """
        return len(self._times) == self.most and self.clock() - self._times[0] <= self.seconds


def why_not(headers: Mapping[str, str], hosts: Collection[str] | None, *, pages: bool) -> tuple[int, str] | None:
    """Why a request is not for us, with the HTTP status; None where it is. Names of headers are in small letters.

    ``hosts``: the names, with port, under which we may be reached; None = any. ``pages``: whether pages of ours ask;
    where none does, a request with an origin comes from a page of somebody else.

    >>> why_not({"host": "evil.example"}, {"127.0.0.1:80"}, pages=True)[0]
    421
    >>> why_not({"host": "a:80", "origin": "http://a:80"}, {"a:80"}, pages=True)
    """
    if hosts is not None and headers.get("host") not in hosts:
        return 421, f"unknown host {headers.get('host', '')[:80]!r}; expected one of {', '.join(sorted(hosts))}"
    origin = headers.get("origin")
    own = {f"{scheme}://{host}" for host in hosts or () for scheme in ("http", "https")} if pages else set()
    if origin is not None and origin not in own:
        return 403, f"origin {origin[:80]!r} is another site"
    return None


def is_longer(headers: Mapping[str, str], most: int) -> bool:
    """Whether a request says that its body is longer than ``most`` bytes, or says what is no length.

    >>> is_longer({"content-length": "5"}, 5), is_longer({"content-length": "²"}, 5), is_longer({}, 5)
    (False, True, False)
    """
    told = headers.get("content-length", "0")
    return not (told.isascii() and told.isdecimal() and len(told) < 19) or int(told) > most
