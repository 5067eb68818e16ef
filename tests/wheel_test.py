"""The wheel, installed into a fresh environment outside the checkout, runs the quickstart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = ["--warm-updates", "1", "--warm-episodes", "2", "--iterations", "1", "--groups", "1", "--rollouts", "2",
         "--test-tasks", "2", "--trials", "1"]


def done(command: list[str], folder: Path) -> str:
    """What a command printed; its whole output in the failure otherwise."""
    alone = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=alone)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_wheel_runs_the_quickstart_outside_the_checkout(tmp_path: Path) -> None:
    done([sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)], tmp_path)
    wheel = next(tmp_path.glob("polyturn-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {"polyturn/recipes/quickstart.py", "polyturn/cli/templates/env.txt"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    done([sys.executable, "-m", "venv", "fresh"], tmp_path)
    python = str(tmp_path / "fresh" / "bin" / "python")
    done([python, "-m", "pip", "install", "-q", "torch==2.13.0"], tmp_path)
    done([python, "-m", "pip", "install", "-q", str(wheel)], tmp_path)
    command = str(tmp_path / "fresh" / "bin" / "polyturn")
    assert json.loads(done([command, "envs", "--json"], tmp_path))["envs"]
    found = json.loads(done([command, "run", "quickstart", *SMALL, "--json"], tmp_path).splitlines()[-1])
    assert found["table"].keys() >= {"null", "random", "base", "stage1", "stage2", "oracle"}
    assert (tmp_path / found["run"] / "report.html").exists()
    assert json.loads(done([command, "audit", found["run"], "--json"], tmp_path))["faults"] == []
