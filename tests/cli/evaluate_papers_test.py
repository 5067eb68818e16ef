"""``polyturn eval`` of every paper's recipe: its held-out tasks, played by who says nothing."""

from __future__ import annotations

import json

import pytest

from polyturn.cli.listing import methods
from polyturn.cli.main import main


@pytest.mark.parametrize("name", [str(paper["name"]) for paper in methods()])
def test_a_papers_held_out_tasks_are_played(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", name, "--policy", "null", "--tasks", "1", "--trials", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["environments"] and found["mixture"]["n_tasks"] >= 1
    assert found["mixture"]["errors"] == 0
