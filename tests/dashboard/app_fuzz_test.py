"""Any address, header and body to the dashboard: an answer, or a refusal; never an error of ours, nothing of files."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from polyturn.dashboard.app import make_app
from polyturn.dashboard.guard import Guard
from polyturn.dashboard.watch import Watch
from polyturn.record.run import read_info
from tests.dashboard.made import made_run
from tests.fuzz import mutated, seeds

HOST, TOKEN = "127.0.0.1:9999", "t" * 40
PATHS = (
    "/", "/enter", "/api/runs", "/api/compare", "/api/run/run", "/api/run/run/curves", "/api/run/run/metrics",
    "/api/run/run/episodes", "/api/run/run/groups", "/api/run/run/episode/1.1", "/api/run/run/media/" + "0" * 64,
    "/api/run/run/control", "/static/app.js", "/api/", "/run/run",
)
PIECES = ("..", "%2e%2e", "%00", "\0", "/", "\\", "\u202e", "\ud7ff", "a" * 300, "-1", "9" * 15, "9" * 18, "1.1", "x~y",
          "'", '"', ";", "select 1", "select * from read_text('/etc/passwd')", "attach 'x'", "reward > ", "nan", "*",
          "9" * 31, "\u00b2")
PARAMETERS = ("first", "count", "sort", "where", "text", "stage", "iteration", "runs", "mime", "token", "to", "task",
              "stop", "x")
VALUES = (b"", b"\xff\xb2", b"http://[", b"application/json", b"bytes=0-", b"bytes=9-1,x", b"polyturn_token=\xe9",
          b"text/html", b"5")
SECRET = "nobody may read this"


def asked(plain: random.Random) -> tuple[dict[str, Any], bytes]:
    """A request as the server's own parser would hand it on."""
    path = plain.choice(PATHS)
    for _ in range(plain.choice((0, 0, 1, 2))):
        at = plain.randrange(len(path) + 1)
        path = path[:at] + plain.choice(PIECES) + path[at:]
    pairs = [f"{plain.choice(PARAMETERS)}={plain.choice(PIECES)}" for _ in range(plain.randint(0, 3))]
    query = "&".join(pairs).encode("utf-8", "surrogatepass").replace(b"\0", b"%00").replace(b" ", b"+")
    headers = [(b"host", HOST.encode()), (b"authorization", f"Bearer {TOKEN}".encode())]
    for name in ("origin", "cookie", "content-type", "content-length", "sec-fetch-site", "accept", "range",
                 "if-none-match", "if-modified-since"):
        if plain.random() < 0.15:
            headers.append((name.encode(), plain.choice(VALUES)))
    body = plain.choice((b"", b'{"command": "pause"}', b'{"command": 3}', b"token=x", plain.randbytes(20)))
    method = plain.choice(("GET", "GET", "GET", "POST", "HEAD", "PUT", "OPTIONS", "\u00d6"))
    raw = path.encode("utf-8", "surrogatepass")
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
             "raw_path": raw, "query_string": mutated(query, plain) if plain.random() < 0.2 else query,
             "headers": headers, "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("x", 1)}
    return scope, body


async def answer(app: Guard, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
    """The status and body that an app sends; what it raises goes through."""
    sent: list[dict[str, Any]] = []
    brought = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return brought.pop() if brought else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def fuzzed(top: Path, count: int) -> set[int]:
    made_run(top / "run", iterations=1)
    (top / "secret").write_text(SECRET)
    watch = Watch((top,))
    watch.look()
    watch.read_on(5)
    app = make_app(watch, token=TOKEN, hosts=(HOST,))
    app._asked.most = count + 1
    statuses = set()
    for plain in seeds(count):
        scope, body = asked(plain)
        status, said = await answer(app, scope, body)
        assert status < 500, (status, scope["path"], scope["query_string"], said)
        assert SECRET.encode() not in said and b"root:x:0" not in said
        statuses.add(status)
    assert read_info(top / "run").status == "finished" and (top / "secret").read_text() == SECRET
    return statuses


async def test_any_request_is_answered_or_refused(tmp_path: Path) -> None:
    assert {200, 206, 400, 403, 404} <= await fuzzed(tmp_path, 250)


@pytest.mark.parametrize(("path", "wanted"), [
    ("/api/run/run/episode/" + "9" * 31 + ".1", 404), ("/api/run/run/episode/1." + "9" * 5000, 404),
    ("/api/run/nowhere/media/" + "0" * 64, 404), ("/api/run/run/media/\0", 404), ("/api/run/nowhere/control", 404),
])
async def test_requests_that_once_were_errors(tmp_path: Path, path: str, wanted: int) -> None:
    """Found with 4,000 requests."""
    made_run(tmp_path / "run", iterations=1)
    watch = Watch((tmp_path,))
    watch.look()
    app = make_app(watch, token=TOKEN, hosts=(HOST,))
    scope, _ = asked(random.Random(0))
    headers = [(b"host", HOST.encode()), (b"authorization", f"Bearer {TOKEN}".encode()),
               (b"content-type", b"application/json")]
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
              "method": "POST" if path.endswith("control") else "GET"}
    assert (await answer(app, scope, b'{"command": "pause"}'))[0] == wanted


@pytest.mark.long
async def test_any_request_many_times(tmp_path: Path) -> None:
    await fuzzed(tmp_path, 30_000)


async def test_runs_of_others_that_are_broken_are_said(tmp_path: Path) -> None:
    """Every file of a run folder with broken bytes: the page of the run tells of it, and the others are shown."""
    for name in ("good", "bad"):
        made_run(tmp_path / name, iterations=1)
    whole = {path: path.read_bytes() for path in (tmp_path / "bad").iterdir() if path.is_file()}
    addresses = ("/api/runs", "/api/run/bad", "/api/run/bad/episodes", "/api/run/bad/curves", "/api/run/good")
    for number, plain in enumerate(seeds(40)):
        path = plain.choice(sorted(whole))
        path.write_bytes(mutated(whole[path], plain))
        (tmp_path / "bad" / "index.sqlite").unlink(missing_ok=True)
        watch = Watch((tmp_path,))
        watch.look()
        watch.read_on(5)
        app = make_app(watch, token=TOKEN, hosts=(HOST,))
        for address in addresses:
            scope, _ = asked(random.Random(0))
            scope |= {"path": address, "raw_path": address.encode(), "query_string": b"", "method": "GET",
                      "headers": [(b"host", HOST.encode()), (b"authorization", f"Bearer {TOKEN}".encode())]}
            status, said = await answer(app, scope, b"")
            assert status in (200, 400, 404), (number, path.name, address, said)
            assert status == 200 or not address.endswith(("good", "runs")), (number, path.name, said)
        path.write_bytes(whole[path])
