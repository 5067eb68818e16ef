"""Who is let in: each rule on its own, over the real app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyturn.dashboard import guard as module
from polyturn.dashboard.app import make_app
from polyturn.dashboard.guard import ASKED, COOKIE, MOST_BODY, TRIES, Guard
from polyturn.dashboard.watch import Watch
from tests.dashboard.made import made_run

TOKEN = "t" * 40
HOST = "127.0.0.1:9999"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def app(tmp_path: Path) -> Guard:
    made_run(tmp_path / "run", iterations=1)
    watch = Watch((tmp_path,))
    watch.look()
    watch.read_on(5)
    return make_app(watch, token=TOKEN, hosts=(HOST, "localhost:9999"))


def client(app: Any, host: str = HOST, **more: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}", **more)


async def test_without_a_token_nothing_is_told(app: Guard) -> None:
    async with client(app) as web:
        for path in ("/api/runs", "/api/run/run", "/api/live", "/", "/run/run", "/api/run/run/media/" + "0" * 64):
            answer = await web.get(path)
            assert answer.status_code == 401 and "guess" not in answer.text
        page = await web.get("/run/run", headers={"accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/enter")


async def test_token_by_header_cookie_and_address(app: Guard) -> None:
    async with client(app) as web:
        assert (await web.get("/api/runs", headers=BEARER)).json()[0]["name"] == "run"
        entered = await web.get("/enter", params={"token": TOKEN, "to": "/run/run"})
        assert (entered.status_code, entered.headers["location"]) == (303, "/run/run")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and COOKIE in cookie
        assert (await web.get("/api/runs")).status_code == 200  # by the cookie
        for elsewhere in ("//evil.example/", "https://evil.example", "/\\evil.example", "run"):
            sent = await web.get("/enter", params={"token": TOKEN, "to": elsewhere})
            assert sent.headers["location"] == "/"


async def test_the_form_takes_the_token(app: Guard) -> None:
    async with client(app) as web:
        assert (await web.post("/enter", data={"token": TOKEN})).status_code == 303
        assert (await web.post("/enter", data={"token": "wrong"})).status_code == 401


async def test_wrong_tokens_are_counted(app: Guard) -> None:
    now = [0.0]
    app._wrong.clock = lambda: now[0]
    async with client(app) as web:
        wrong = {"authorization": "Bearer wrong"}
        answers = [(await web.get("/api/runs", headers=wrong)).status_code for _ in range(TRIES + 2)]
        assert answers == [401] * (TRIES - 1) + [429] * 3
        assert (await web.get("/enter", params={"token": TOKEN})).status_code == 429
        assert (await web.get("/api/runs", headers=BEARER)).status_code == 200  # who knows it is let in
        now[0] = 61.0
        assert (await web.get("/enter", params={"token": TOKEN})).status_code == 303


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9999", "127.0.0.1:1", "127.0.0.1"])
async def test_a_foreign_host_is_refused(app: Guard, host: str) -> None:
    async with client(app, host) as web:
        answer = await web.get("/api/runs", headers=BEARER)
        assert answer.status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", f"http://{HOST}.evil.example",
                                    "http://[", f"http://{HOST}/", f"http://evil@{HOST}", f"ftp://{HOST}", ""])
async def test_a_foreign_origin_is_refused(app: Guard, origin: str) -> None:
    async with client(app) as web:
        assert (await web.get("/api/runs", headers={**BEARER, "origin": origin})).status_code == 403
        assert (await web.get("/api/runs", headers={**BEARER, "origin": f"http://{HOST}"})).status_code == 200


async def test_a_long_body_and_a_long_query_are_not_read(app: Guard) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 8192

    async with client(app) as web:
        assert (await web.post("/enter", content=b"x" * (MOST_BODY + 1))).status_code == 413
        assert (await web.post("/enter", content=endless())).status_code == 413  # no length is told
        assert (await web.get("/api/runs?x=" + "y" * 9000, headers=BEARER)).status_code == 413


async def test_a_length_that_is_none_is_refused(app: Guard) -> None:
    """Digits of other alphabets are digits to Python and no length to HTTP."""
    async with client(app) as web:
        for told in (b"\xb2", b"-1", b"1e9", b"9" * 30, b""):
            answer = await web.post("/enter", headers=[(b"content-length", told)], content=b"")
            assert answer.status_code == 413, told


async def test_a_body_that_does_not_arrive_is_given_up(app: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_S", 0.1)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(30)
        return {}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/enter", "raw_path": b"/enter", "query_string": b"",
             "headers": [(b"host", HOST.encode())], "root_path": "", "scheme": "http"}
    await asyncio.wait_for(app(scope, receive, send), 10)
    assert sent[0]["status"] == 408


async def test_too_many_requests_wait_a_moment(app: Guard) -> None:
    now = [0.0]
    app._asked.clock = lambda: now[0]
    async with client(app) as web:
        for _ in range(ASKED):
            app._asked.note()
        assert (await web.get("/api/runs", headers=BEARER)).status_code == 429
        now[0] = 11.0
        assert (await web.get("/api/runs", headers=BEARER)).status_code == 200


async def test_every_answer_carries_the_rules_for_browsers(app: Guard) -> None:
    async with client(app) as web:
        for path in ("/", "/api/runs", "/static/app.js", "/enter"):
            headers = (await web.get(path, headers=BEARER)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"


async def test_files_outside_the_page_stay_outside(app: Guard, tmp_path: Path) -> None:
    async with client(app) as web:
        for path in ("../app.py", "%2e%2e/app.py", "..%2f..%2fcli/main.py", "/etc/passwd"):
            answer = await web.get(f"/static/{path}", headers=BEARER)
            assert "import" not in answer.text and "root:" not in answer.text
        for name in ("..%2frun.json", "%2e%2e", "0" * 64, "run.json"):
            assert (await web.get(f"/api/run/run/media/{name}", headers=BEARER)).status_code == 404
