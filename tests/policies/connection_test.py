"""The connection by itself: addresses, waits, and what a request is answered."""

from __future__ import annotations

import gzip
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from polyturn.errors import PolicyFailed
from polyturn.policies.connection import Connection, is_loopback, plain_url, retry_after
from tests.policies.http_server import Answer, Server


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://api.example/v1/", "https://api.example/v1"),
        ("https://api.example/v1/chat/completions", "https://api.example/v1"),
        ("https://api.example/e/run.0.1/v1", "https://api.example/e/run.0.1/v1"),
    ],
)
def test_addresses_are_made_plain(given: str, plain: str) -> None:
    assert plain_url(given) == plain


@pytest.mark.parametrize(
    ("url", "here"),
    [("http://127.3.2.1/v1", True), ("http://[::1]:80/v1", True), ("http://localhost:1/v1", True),
     ("http://10.0.0.1/v1", False), ("http://127.0.0.1.example/v1", False), ("http://localhost.example/v1", False)],
)
def test_loopback_is_told_from_names_that_look_like_it(url: str, here: bool) -> None:
    assert is_loopback(url) is here


def test_retry_after_reads_seconds_and_dates() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert retry_after(later) == pytest.approx(90, abs=3)
    assert [retry_after(value) for value in ("7", "-3", "inf", "nonsense", None)] == [7.0, 0.0, None, None, None]


async def test_retry_after_is_waited_for() -> None:
    async with Server([Answer("busy", 429, {"retry-after": "0.3"}), Answer({"ok": 1})]) as server:
        connection = Connection(server.url, key_env="", pause_s=0.0)
        began = time.monotonic()
        assert await connection.ask("GET", "/models") == {"ok": 1}
        await connection.close()
    assert 0.3 <= time.monotonic() - began < 3
    assert connection.counts == {"http_429": 1, "retries": 1}


async def test_pauses_double_and_are_spread() -> None:
    async with Server([Answer("busy", 503)]) as server:
        connection = Connection(server.url, key_env="", pause_s=0.04, retries=3)
        began = time.monotonic()
        with pytest.raises(PolicyFailed, match="in 4 attempts"):
            await connection.ask("POST", "/x", {})
        await connection.close()
    # Between half and all of 0.04 + 0.08 + 0.16 = 0.28 s
    assert 0.14 <= time.monotonic() - began < 3


async def test_lost_answers_are_told_and_refusals_are_not() -> None:
    lost: list[int] = []
    troubles = [Answer({}, hang_up=True), Answer("busy", 503), Answer("{", 200), Answer({"ok": 1})]
    async with Server(troubles) as server:
        connection = Connection(server.url, key_env="", pause_s=0.0)
        await connection.ask("POST", "/x", {}, lost=lambda: lost.append(1))
        await connection.close()
    assert len(lost) == 2
    assert connection.counts == {"broken": 1, "http_503": 1, "cut": 1, "retries": 3}


async def test_an_empty_key_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTURN_TEST_KEY", "  ")
    async with Server([Answer("who?", 401)]) as server:
        connection = Connection(server.url, key_env="POLYTURN_TEST_KEY")
        with pytest.raises(PolicyFailed, match="environment variable POLYTURN_TEST_KEY is not set"):
            await connection.ask("GET", "/models")
        await connection.close()
    assert "authorization" not in server.asked[0]["headers"]


# ---------------------------------------------------------------- servers that mean harm


async def refused(answer: Answer, **settings: Any) -> tuple[str, Server, Connection]:
    """What is said of a server that answers so."""
    async with Server([answer]) as server:
        connection = Connection(server.url, key_env="", pause_s=0.0, retries=1, **settings)
        with pytest.raises(PolicyFailed) as caught:
            await connection.ask("POST", "/x", {})
        await connection.close()
    return str(caught.value), server, connection


async def test_more_than_is_read_ends_the_answer_at_once() -> None:
    text, server, _ = await refused(Answer(b"1" * 300_000), most_bytes=100_000)
    assert "more than 100000 bytes" in text and len(server.asked) == 1


async def test_an_answer_that_unpacks_to_more_than_is_read() -> None:
    bomb = gzip.compress(b"1" * 20_000_000)
    assert len(bomb) < 30_000
    text, _, _ = await refused(Answer(bomb, headers={"content-encoding": "gzip"}), most_bytes=100_000)
    assert "more than 100000 bytes" in text
    text, _, connection = await refused(Answer(b"no gzip", headers={"content-encoding": "gzip"}))
    assert "the connection broke: DecodingError" in text and connection.counts["broken"] == 2


@pytest.mark.parametrize("body", [b"[" * 200_000, b"1" * 5000, b'{"a": "\xff"}', b""])
async def test_json_that_cannot_be_read_is_a_cut_answer(body: bytes) -> None:
    text, _, connection = await refused(Answer(body))
    assert f"an answer of {len(body)} bytes that is no JSON" in text and "\n" not in text
    assert connection.counts["cut"] == 2


async def test_a_redirection_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key goes to the server that it is for."""
    monkeypatch.setenv("POLYTURN_TEST_KEY", "secret")
    async with Server([Answer({})]) as other, Server([Answer({}, 307, {"location": f"{other.url}/x"})]) as server:
        connection = Connection(server.url, key_env="POLYTURN_TEST_KEY")
        with pytest.raises(PolicyFailed, match="HTTP 307"):
            await connection.ask("POST", "/x", {})
        await connection.close()
    assert server.asked[0]["headers"]["authorization"] == "Bearer secret" and not other.asked
