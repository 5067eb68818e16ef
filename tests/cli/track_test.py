"""``polyturn track`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyturn.cli.main import main
from tests.dashboard.made import made_run


def test_a_run_is_handed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(tmp_path / "run", iterations=2)
    assert main(["track", str(tmp_path / "run"), "--to", "tensorboard"]) == 0
    assert "2 rows of metrics to tensorboard" in capsys.readouterr().out
    assert main(["track", str(tmp_path / "run"), "--to", "tensorboard", "--out", str(tmp_path / "tb"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2
    assert list((tmp_path / "tb" / "run").glob("events.*"))
    assert main(["track", str(tmp_path / "run"), "--to", "nothing"]) == 2
    assert "tensorboard" in capsys.readouterr().err
