"""``polyturn chat`` with a tiny model of random weights."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from polyturn.cli.main import main
from tests.policies.tiny import tiny_folder


def test_every_line_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_folder(tmp_path / "model"))
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nand now?\n"))
    assert main(["chat", model, "--max-tokens", "4", "--temperature", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [turn["asked"] for turn in found["turns"]] == ["hello", "and now?"]  # the empty line says nothing
    assert (found["policy"], found["final"], found["stop"]) == (model, {"lines": 2}, "done")


def test_no_line_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["chat", str(tiny_folder(tmp_path / "model")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["turns"] == []


def test_a_folder_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(tmp_path)]) == 2
    assert "holds no model" in capsys.readouterr().err
