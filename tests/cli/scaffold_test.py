"""What ``polyturn new`` writes passes its own tests, the linter and the types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from polyturn.cli.main import main

CONFIG = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("kind", ["env", "recipe"])
def test_a_scaffold_passes_its_checks(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", kind, "word_chain", "--into", str(tmp_path / "new"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [Path(file).name for file in files] == ["word_chain.py", "word_chain_test.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", files[1]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    style = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(CONFIG), "--ignore", "E402", *files]
    done = subprocess.run(style, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_scaffolded_environment_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "env", "sums", "--into", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"polyturn play {tmp_path / 'sums.py'} --policy oracle" in said
    assert main(["eval", str(tmp_path / "sums.py"), "--policy", "oracle", "--tasks", "4", "--json", "--runs",
                 str(tmp_path / "runs")]) == 0
    row = json.loads(capsys.readouterr().out)["environments"]["sums"]
    assert (row["mean"], row["illegal"]) == (1.0, 0.0)


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sums_test.py").write_text("mine")
    assert main(["new", "env", "sums", "--into", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not (tmp_path / "sums.py").exists()
    assert (tmp_path / "sums_test.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["two words", "class", "9lives", "Upper", ""])
def test_names_that_are_none(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "env", name, "--into", str(tmp_path)]) == 2
    assert "small letters" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
