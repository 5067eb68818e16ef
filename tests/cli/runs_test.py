"""Listing, measuring and removing run folders."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from polyturn.cli.main import main
from polyturn.cli.runs import size
from polyturn.record.write import open_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs: finished, failed, and one that a kill ended."""
    times = map(float, itertools.count(100))
    for name, status in (("b", "finished"), ("a", "failed"), ("c", None)):
        recorder = open_run(tmp_path / name, recipe="quickstart", clock=lambda: next(times))
        recorder.metrics(0, {"x/y": 1.0})
        if status is None:
            recorder._lock.free()
        else:
            recorder.close(status)  # type: ignore[arg-type]
    return tmp_path


def listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    assert main(["runs", *arguments, "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["runs"]
    return found


def test_list_is_in_order_of_time_and_names_the_dead(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(["list", "--runs", str(runs)], capsys)
    assert [(Path(str(row["run"])).name, row["status"]) for row in rows] == [
        ("b", "finished"), ("a", "failed"), ("c", "killed")]


def test_size_counts_every_file(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = size(runs / "b")
    (runs / "b" / "checkpoints").mkdir()
    (runs / "b" / "checkpoints" / "weights").write_bytes(b"x" * 5000)
    assert size(runs / "b") == before + 5000
    assert listed(["size", "--runs", str(runs)], capsys)[0]["bytes"] == before + 5000


def test_a_table_for_a_reader(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "size", "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["begun", "run", "recipe", "status", "attempts", "bytes"]
    assert len(lines) == 4
    assert main(["runs", "list", "--runs", str(runs / "none")]) == 0
    assert "no runs in" in capsys.readouterr().out


def test_remove(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "remove", str(runs / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == str(runs / "b")
    assert not (runs / "b").exists() and (runs / "a").exists()


def test_only_a_run_that_nobody_writes_is_removed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "other").mkdir()
    (runs / "other" / "thesis.txt").write_text("all of it")
    recorder = open_run(runs / "busy")
    for arguments, said in (([str(runs / "other")], "is no run folder"), ([str(runs / "busy")], "is being written"),
                            ([], "needs the folder")):
        assert main(["runs", "remove", *arguments]) == 2
        assert said in capsys.readouterr().err
    recorder.close()
    assert (runs / "other" / "thesis.txt").exists() and (runs / "busy").exists()


def test_actions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "delete"]) == 2
    assert "invalid choice: 'delete'" in capsys.readouterr().err
    assert main(["runs", "list", "somewhere"]) == 2
    assert "--runs somewhere" in capsys.readouterr().err
