"""Who a request says it is from, and how often: each rule by itself."""

from __future__ import annotations

from typing import Any

import pytest

from polyturn.visitors import Pace, is_longer, why_not

HOSTS = {"127.0.0.1:80", "localhost:80"}


@pytest.mark.parametrize(("headers", "status"), [
    ({"host": "127.0.0.1:80"}, None), ({"host": "localhost:80", "origin": "http://localhost:80"}, None),
    ({"host": "localhost:80", "origin": "https://127.0.0.1:80"}, None),
    ({}, 421), ({"host": ""}, 421), ({"host": "127.0.0.1"}, 421), ({"host": "127.0.0.1:80.evil.example"}, 421),
    ({"host": "LOCALHOST:80"}, 421), ({"host": "localhost:80", "origin": "null"}, 403),
    ({"host": "localhost:80", "origin": "http://localhost:81"}, 403), ({"host": "localhost:80", "origin": ""}, 403),
    ({"host": "localhost:80", "origin": "http://["}, 403), ({"host": "localhost:80", "origin": "file://"}, 403),
    ({"host": "localhost:80", "origin": "http://evil@localhost:80"}, 403),
])
def test_hosts_and_origins(headers: dict[str, str], status: int | None) -> None:
    why = why_not(headers, HOSTS, pages=True)
    assert (why[0] if why else None) == status


def test_where_no_page_asks_every_origin_is_foreign() -> None:
    own = {"host": "localhost:80", "origin": "http://localhost:80"}
    found = why_not(own, HOSTS, pages=False)
    assert found is not None and found[0] == 403
    assert why_not({"host": "any.example"}, None, pages=False) is None
    anywhere = why_not({"host": "any.example", "origin": "http://any.example"}, None, pages=False)
    assert anywhere is not None and anywhere[0] == 403


@pytest.mark.parametrize(("told", "longer"), [
    ("0", False), ("10", False), ("11", True), ("-1", True), ("1e1", True), ("\u00b2", True), ("\u0665", True),
    ("", True), ("9" * 5000, True), (" 5", True),
])
def test_lengths(told: str, longer: bool) -> None:
    assert is_longer({"content-length": told}, 10) is longer and not is_longer({}, 10)


def test_a_pace_forgets() -> None:
    now = [0.0]
    pace = Pace(3, 10.0, lambda: now[0])
    full: list[Any] = []
    for at in (0.0, 1.0, 2.0, 3.0, 10.5, 11.5):
        now[0] = at
        full.append(pace.is_full())
        if not full[-1]:
            pace.note()
    assert full == [False, False, False, True, False, False]  # the first is forgotten after 10, the second after 11
    for _ in range(1000):
        pace.note()
    assert len(pace._times) == 3
