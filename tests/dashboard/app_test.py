"""The routes over real records: what they tell, and how they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from polyturn.dashboard.app import STATIC, make_app
from polyturn.dashboard.watch import Watch
from tests.dashboard.made import PNG, made_run

HOST = "127.0.0.1:9999"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    made_run(tmp_path / "first", iterations=3)
    made_run(tmp_path / "second", iterations=2, seed=1)
    return tmp_path


def web(top: Path) -> httpx.AsyncClient:
    watch = Watch((top,))
    watch.look()
    watch.read_on(5)
    app = make_app(watch, token="t" * 40, hosts=(HOST,))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{HOST}",
                             headers={"authorization": "Bearer " + "t" * 40})


async def get(client: httpx.AsyncClient, path: str, status: int = 200, **parameters: Any) -> Any:
    answer = await client.get(path, params=parameters)
    assert answer.status_code == status, answer.text
    return orjson.loads(answer.content)


async def test_runs_and_one_run(top: Path) -> None:
    async with web(top) as client:
        rows = await get(client, "/api/runs")
        assert [(row["name"], row["iterations"], row["episodes"], row["status"]) for row in rows] == [
            ("second", 2, 4, "finished"), ("first", 3, 6, "finished")]
        assert rows[0]["scores"] == {"score/guessing": 0.5}
        view = await get(client, "/api/run/first")
        assert view["axis"] == [["learn", 0], ["learn", 1], ["learn", 2]]
        assert [(s["stage"], s["iterations"], s["episodes"]) for s in view["stages"]] == [("learn", 3, 6)]
        assert view["text"].startswith("async def main") and view["open"] == []


async def test_curves_have_intervals_by_group(top: Path) -> None:
    async with web(top) as client:
        curve, = await get(client, "/api/run/first/curves")
        points = curve["parts"][0]["points"]
        assert [p[:2] for p in points] == [[0, 0.5], [1, 0.5], [2, 0.5]]
        assert points[1][4:] == [3, 6]  # five iterations around it, of which there are three
        low, high = points[1][2:4]
        assert 0 <= low < 0.5 < high <= 1 and low == pytest.approx(1 - high)


async def test_metrics_by_iteration(top: Path) -> None:
    async with web(top) as client:
        found = await get(client, "/api/run/first/metrics")
        assert found["series"]["learner/loss"] == [1.0, 0.5, 1 / 3] and found["every"] == 1
        assert [row[:2] for row in found["at"]] == [["learn", 0], ["learn", 1], ["learn", 2]]


async def test_episodes_filtered_sorted_and_in_pages(top: Path) -> None:
    async with web(top) as client:
        page = await get(client, "/api/run/first/episodes", count=4)
        assert page["total"] == 6 and page["rows"][0]["id"] == "learn.2.0.1"
        assert [row["id"] for row in (await get(client, "/api/run/first/episodes", first=4, count=4))["rows"]] == [
            "learn.0.0.1", "learn.0.0.0"]
        low = await get(client, "/api/run/first/episodes", max_score="0.5", iteration="1")
        assert [row["id"] for row in low["rows"]] == ["learn.1.0.1"]
        sql = await get(client, "/api/run/first/episodes", where="score = 1 and iteration in (0, 2)", sort="iteration")
        assert [row["iteration"] for row in sql["rows"]] == [0, 2]
        words = await get(client, "/api/run/first/episodes", text="I SAY twelve")
        assert {row["id"] for row in words["rows"]} == {f"learn.{i}.0.0" for i in range(3)} and words["searched"] == 1.0
        assert (await get(client, "/api/run/first/episodes", text="nobody said this"))["total"] == 0


async def test_a_whole_select_asks_the_record(top: Path) -> None:
    async with web(top) as client:
        sql = "select attempt, play from turns where text like '%twelve%' and iteration > 0"
        found = await get(client, "/api/run/first/episodes", where=sql, sort="iteration")
        assert [row["id"] for row in found["rows"]] == ["learn.1.0.0", "learn.2.0.0"]
        both = await get(client, "/api/run/first/episodes", where=sql, text="twelve", iteration="1")
        assert both["total"] == 1
        for bad in ("select 1", "select attempt from turns", "select * from read_csv('/etc/passwd')", "from nothing"):
            assert (await get(client, "/api/run/first/episodes", 400, where=bad))["error"]


@pytest.mark.parametrize("where", [
    "1) union select * from turns --", "exists (select 1 from turns)", "load_extension('x')", "1; drop table episodes",
    "(with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c) > 0", "nothing = 1",
    "(select group_concat(sql) from sqlite_master) is not null",
])
async def test_sql_that_reaches_beyond_or_never_ends_is_refused(
    top: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyturn.dashboard.query.SECONDS", 0.2)
    async with web(top) as client:
        answer = await get(client, "/api/run/first/episodes", 400, where=where)
        assert "was refused" in answer["error"]
        assert (await get(client, "/api/run/first/episodes"))["total"] == 6


async def test_an_episode_with_its_tokens_and_credit(top: Path) -> None:
    async with web(top) as client:
        found = await get(client, "/api/run/first/episode/learn.1.0.0")
        assert found["key"] == "1.3" and [m["score"] for m in found["members"]] == [1.0, 0.0]
        assert "".join(found["spelled"][0][1]) == " I say eight<end>" or "".join(found["spelled"][0][1]).split() == [
            "I", "say", "eight<end>"]
        row = next(row for row in found["credit"] if row["span"] == 3)
        assert row["advantage"] == [1.0] * 4 and row["weight"][3] == 0.0 and row["iteration"] == 1


async def test_groups_of_an_iteration(top: Path) -> None:
    async with web(top) as client:
        group, = await get(client, "/api/run/first/groups", stage="learn", iteration="2")
        assert group["mean"] == 0.5 and not group["alike"] and [e["score"] for e in group["episodes"]] == [1.0, 0.0]


async def test_pictures_are_shown_and_other_kinds_offered_as_files(top: Path) -> None:
    async with web(top) as client:
        found = await get(client, "/api/run/first/episode/1.1")
        name = found["episode"]["trajectories"][0]["messages"][1]["parts"][1]["media"]
        shown = await client.get(f"/api/run/first/media/{name}", params={"mime": "image/png"})
        assert shown.content == PNG and shown.headers["content-type"] == "image/png"
        for mime in ("text/html", "image/svg+xml", "image/png\r\nx: y", ""):
            offered = await client.get(f"/api/run/first/media/{name}", params={"mime": mime})
            assert offered.headers["content-type"] == "application/octet-stream"
            assert offered.headers["content-disposition"] == "attachment"


async def test_compared_runs_tell_what_differs(top: Path) -> None:
    async with web(top) as client:
        found = await get(client, "/api/compare", runs="first,second")
        assert found["settings"] == {"seed": {"first": 0, "second": 1}}
        assert [row["name"] for row in found["runs"]] == ["first", "second"] and len(found["curves"]["second"]) == 1
        assert (await get(client, "/api/compare", 404, runs="first,third"))["error"].startswith("no run named 'third'")


async def test_control_takes_json_of_orders_and_nothing_else(top: Path) -> None:
    recorder = made_run(top / "going", iterations=1, close=False)
    async with web(top) as client:
        async def post(body: Any, run: str = "going", kind: str = "application/json") -> httpx.Response:
            content = body if isinstance(body, bytes) else orjson.dumps(body)
            return await client.post(f"/api/run/{run}/control", content=content, headers={"content-type": kind})

        assert (await post({"command": "set", "settings": {"tokens": 64}})).json() == {"id": 1, "command": "set"}
        assert (await post({"command": "pause"}, kind="text/plain")).status_code == 415
        bad: list[Any] = [b"{", [], {"settings": {}}, {"command": 3}, {"command": "set", "settings": {"tokens": "x"}},
                          {"command": "set", "settings": {"tokens": True}}, {"command": "set", "settings": [1]}]
        for body in bad:
            assert (await post(body)).status_code == 400, body
        assert (await post({"command": "puase"})).status_code == 404
        assert "not at work" in (await post({"command": "pause"}, "first")).json()["error"]
        assert (await client.get("/api/run/going/control")).status_code in (404, 405)
        view = await get(client, "/api/run/going")
        assert [o["settings"] for o in view["orders"]] == [{"tokens": 64.0}] and view["paused"] is False
    recorder.close()


async def test_what_is_not_there_is_said(top: Path) -> None:
    async with web(top) as client:
        assert "did you mean 'first'" in (await get(client, "/api/run/firsd", 404))["error"]
        assert "learn.2.0.1" in (await get(client, "/api/run/first/episode/learn.2.0.7", 404))["error"]
        assert "whole number" in (await get(client, "/api/run/first/episodes", 400, first="x"))["error"]
        assert "expected a number" in (await get(client, "/api/run/first/episodes", 400, min_score="high"))["error"]
        assert "column" in (await get(client, "/api/run/first/episodes", 404, sort="nothing"))["error"]


def test_the_page_needs_no_network() -> None:
    for path in STATIC.iterdir():
        text = path.read_text("utf-8")
        assert "https://" not in text, path
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), path
