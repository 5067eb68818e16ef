"""The file of waits: there while a run is at work, bounded, checked when it is read, and never in the run's way."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from polyturn.errors import BadInput
from polyturn.record import waits as module
from polyturn.record.waits import FILE, MOST_WAITS, as_told, standing
from polyturn.record.write import RunRecorder, open_run
from polyturn.waits import Waiting


def within(seconds: float, told: Any) -> None:
    until = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


def test_a_run_at_work_tells_and_a_closed_one_has_nothing_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.05)
    others = set(threading.enumerate())  # of recorders that tests of kills left open
    run = open_run(tmp_path / "run")
    assert [thread.name for thread in set(threading.enumerate()) - others] == ["polyturn-waits"]
    with Waiting("a seat", "its policy", "a reply", 60.0), Waiting("the loop", "somebody", lambda: "2 of 3"):
        within(10, lambda: len([w for w in standing(tmp_path / "run").waits if w.who in ("a seat", "the loop")]) == 2)
        found = standing(tmp_path / "run")
    first, second = (wait for wait in found.waits if wait.who in ("a seat", "the loop"))
    assert (found.status, found.turns, found.pid) == ("running", True, os.getpid())
    assert (first.whom, first.what, first.deadline_s, second.what) == ("its policy", "a reply", 60.0, "2 of 3")
    assert 0 <= first.seconds < 10 and first.left == 60.0 - first.seconds and second.left is None
    run.close()
    assert not list((tmp_path / "run").glob("*waits*"))
    assert not set(threading.enumerate()) - others
    over = standing(tmp_path / "run")
    assert (over.status, over.waits, over.turns, over.told) == ("finished", (), False, None)


def test_the_oldest_are_told_and_the_others_counted() -> None:
    found = [Waiting("crowd", str(number), "x" * 1000, 1.0) for number in range(MOST_WAITS + 50)]
    for wait in found:
        wait.__enter__()
    told = as_told(1)
    for wait in found:
        wait.__exit__()
    assert len(told["waits"]) == MOST_WAITS and told["count"] >= MOST_WAITS + 50
    assert len(orjson.dumps(told)) < 200_000
    crowd = [row["whom"] for row in told["waits"] if row["who"] == "crowd"]
    assert crowd[:3] == ["0", "1", "2"]


def test_what_cannot_be_said_at_the_moment_stops_nothing() -> None:
    def count() -> str:
        raise RuntimeError("dictionary changed size during iteration")

    with Waiting("changing", "b", count):
        row = next(row for row in as_told(1)["waits"] if row["who"] == "changing")
    assert row["what"] == "cannot be said at the moment (RuntimeError)"


def test_a_disk_that_takes_nothing_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    (tmp_path / "run" / FILE).mkdir(parents=True)  # whatever is written cannot take this place
    (tmp_path / "run" / FILE / "in the way").write_text("")
    run = RunRecorder(tmp_path / "run")
    time.sleep(0.2)
    run.metrics(0, {"a": 1.0})
    run.close()
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size > 0


def test_a_killed_run_stands_as_it_was_heard_of_last(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", clock=lambda: 1000.0)
    run._lock.free()  # the process is gone
    row = {"who": "a", "whom": "b", "what": "c", "since": 990.0, "deadline_s": 60.0}
    told = {"attempt": 1, "pid": 7, "host": "there", "time": 1000.0, "count": 1, "waits": [row], "threads": {}}
    (tmp_path / "run" / FILE).write_bytes(orjson.dumps(told))
    found = standing(tmp_path / "run", now=5000.0)
    assert (found.status, found.waits[0].seconds, found.waits[0].left, found.turns) == ("killed", 10.0, 50.0, False)
    run.close()


@pytest.mark.parametrize("data", [
    b"", b"\xff", b"[]", b"{}", b'{"time": 1}', b'{"time": "x", "waits": []}',
    b'{"time": 1, "count": 0, "pid": 1, "host": "", "threads": {}, "waits": [{"who": 1}]}',
    b'{"time": 1, "count": 0, "pid": 1, "host": "", "threads": 5, "waits": []}',
])
def test_a_file_that_no_run_wrote_is_named(tmp_path: Path, data: bytes) -> None:
    open_run(tmp_path / "run").close()
    (tmp_path / "run" / FILE).write_bytes(data)
    with pytest.raises(BadInput, match=r"waits\.json"):
        standing(tmp_path / "run")
