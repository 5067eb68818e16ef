"""``polyturn ctl`` as it is typed, on a run that trains in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyturn.cli.main import main
from polyturn.record.control import orders
from polyturn.record.read import read_metrics
from polyturn.record.run import read_info
from polyturn.record.write import open_run

ROOT = Path(__file__).parents[2]
RECIPE = """from dataclasses import dataclass

@dataclass(frozen=True)
class Settings:
    seed: int = 0

async def main(settings, run):
    from polyturn.learn.loop import train
    from tests.learn.loop_test import stage
    from tests.policies.tiny import tiny_local

    model = tiny_local()
    try:
        await train(run, stage(model, iterations=5000), save_every=1000)
    finally:
        model.close()
"""


def test_a_run_is_paused_changed_and_stopped_and_goes_on_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    (tmp_path / "long.py").write_text(RECIPE)
    run = [sys.executable, "-m", "polyturn", "run", str(tmp_path / "long.py"), "--folder", str(folder)]
    process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        for _ in range(1200):
            if (folder / "metrics.jsonl").exists() and read_metrics(folder):
                break
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
        assert main(["ctl", str(folder), "pause", "--wait", "60"]) == 0
        assert "paused before iteration" in capsys.readouterr().out
        count = len(read_metrics(folder))
        time.sleep(0.6)
        assert len(read_metrics(folder)) == count
        assert main(["ctl", str(folder), "set", "concurrency=1", "tokens=8", "--wait", "60"]) == 0
        assert main(["ctl", str(folder), "resume", "--wait", "60"]) == 0
        assert main(["ctl", str(folder), "stop", "--wait", "60", "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["said"].startswith("saved and stopped before iteration")
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "goes on" in errors.splitlines()[-1]
    assert read_info(folder).status == "stopped" and "saved and stopped" in read_info(folder).attempts[-1].reason
    assert json.loads((folder / "checkpoints" / "state" / "manifest.json").read_text())
    assert [o.command for o in orders(folder)] == ["pause", "set", "resume", "stop"]
    assert main(["ctl", str(folder)]) == 0
    assert "set concurrency=1.0 tokens=8.0" in capsys.readouterr().out


def test_what_cannot_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_run(tmp_path / "run", recipe="test"):
        assert main(["ctl", str(tmp_path / "run")]) == 0
        assert "nothing was asked" in capsys.readouterr().out
        assert main(["ctl", str(tmp_path / "run"), "set", "tokens"]) == 2
        assert "expected NAME=NUMBER" in capsys.readouterr().err
        assert main(["ctl", str(tmp_path / "run"), "pause"]) == 0
        assert "obeyed before the next iteration" in capsys.readouterr().out
        assert main(["ctl", str(tmp_path / "run"), "resume", "--wait", "0.2"]) == 3
        assert "has not obeyed resume within 0.2 s" in capsys.readouterr().err
    assert main(["ctl", str(tmp_path / "run"), "pause"]) == 2
    assert "not at work" in capsys.readouterr().err
