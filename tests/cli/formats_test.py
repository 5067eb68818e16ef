"""``polyturn import`` and ``polyturn export``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyturn.cli.main import main
from tests.record.formats.foreign import drawn
from tests.record.sample_run import Plan, sample_run


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = drawn("chatml", 5)
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    run, out = str(tmp_path / "run"), str(tmp_path / "out.jsonl")
    assert main(["import", str(tmp_path / "in.jsonl"), "--from", "chatml", "--run", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": run, "records": 5, "episodes": 5, "bad": []}
    assert main(["export", run, "--to", "chatml", "--out", out]) == 0
    assert capsys.readouterr().out == f"{out}: 5 records from 5 episodes\n"
    assert [json.loads(line) for line in Path(out).read_text().splitlines()] == records
    for command in (["audit", run], ["query", run, "select count(*) from turns"]):
        assert main(command) == 0


def test_a_run_of_our_own_by_condition_and_seat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = sample_run(tmp_path / "run", Plan(1, 1, 1, 2))
    out = tmp_path / "out.jsonl"
    assert main(["export", str(run), "--to", "openai", "--out", str(out), "--seat", "player_1",
                 "--where", "task.family = 'kuhn_poker' and iteration = 0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "records": 4, "episodes": 4}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["messages"][0]["content"].startswith("You are player_1.") for row in rows)


def test_what_was_passed_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(drawn("chatml", 1)[0]) + "\n{\n")
    assert main(["import", str(path), "--from", "chatml", "--run", str(tmp_path / "a")]) == 2
    assert "in.jsonl, line 2: not JSON" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert main(["import", str(path), "--from", "chatml", "--run", str(tmp_path / "a"), "--skip-bad"]) == 1
    said = capsys.readouterr()
    assert "passed over" in said.err and "1 episodes from 1 records; 1 passed over" in said.out


def test_help_lists_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    assert "openai " in capsys.readouterr().out
    assert main(["export", "runs/none", "--to", "opnai"]) == 2
    assert "did you mean 'openai'" in capsys.readouterr().err
