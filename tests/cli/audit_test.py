"""``polyturn audit``: its exit code and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyturn.cli.main import main
from polyturn.record.write import open_run


def test_an_empty_run_has_no_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_run(tmp_path / "run").close()
    assert main(["audit", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tokens"], found["paths"], found["faults"]) == (0, 0, [])


def test_credit_without_an_episode_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = open_run(tmp_path / "run")
    place = {"episode": "gone", "seat": "agent", "policy": "main", "span": 0, "at": 0, "stage": ""}
    recorder.credit(0, [{**place, "advantage": [1.0], "weight": [1.0]}])
    recorder.close()
    assert main(["audit", str(tmp_path / "run")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "1 faults" in lines[0]
    assert "gone" in lines[1]
    assert main(["audit", str(tmp_path / "run"), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 1


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
