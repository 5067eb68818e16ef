"""A run that is killed in the middle of stage 2 and resumed, against one that was left alone; the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from polyturn.audit.report import audit_run
from polyturn.record.read import read_credit, read_episodes, read_metrics
from tests.policies.tiny import tiny_folder

COMMAND = [sys.executable, "-m", "polyturn", "run"]
SMALL = [
    "--warm-updates", "2", "--warm-episodes", "2", "--iterations", "6", "--groups", "1", "--rollouts", "4",
    "--test-tasks", "3", "--trials", "1", "--save-every", "2", "--warm-lr", "1e-3", "--lr", "1e-3", "--deterministic",
]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def begun(folder: Path, model: Path) -> subprocess.Popen[bytes]:
    command = [*COMMAND, "quickstart", "--model", str(model), "--folder", str(folder), *SMALL]
    return subprocess.Popen(command, env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def numbers(folder: Path) -> list[tuple[str, int, dict[str, float]]]:
    timed = ("seconds", "per_s")
    return [
        (row["stage"], row["iteration"], {k: v for k, v in row["values"].items() if not k.endswith(timed)})
        for row in read_metrics(folder)
    ]


def rows(folder: Path) -> dict[str, Any]:
    table = json.loads((folder / "results.json").read_text())["table"]
    return {
        row: {name: value for name, value in found["mixture"].items() if not name.endswith("seconds")}
        for row, found in table.items()
    }


def killed_at(folder: Path, process: subprocess.Popen[bytes], iterations: int) -> None:
    """Kills the run without warning when stage 2 has that many iterations on record."""
    ends = time.monotonic() + 240
    while time.monotonic() < ends and process.poll() is None:
        done = numbers(folder) if (folder / "run.json").exists() and (folder / "metrics.jsonl").exists() else []
        if sum(stage == "stage2" for stage, _, _ in done) >= iterations:
            break
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


@pytest.mark.model
@pytest.mark.timeout(900)
def test_a_killed_run_resumes_to_the_numbers_of_one_left_alone(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    left_alone = begun(whole, model)
    _, said = left_alone.communicate(timeout=300)
    assert left_alone.returncode == 0, said.decode()
    killed_at(broken, begun(broken, model), 3)  # the newest checkpoint is of two iterations
    again = [*COMMAND, "--resume", str(broken)]
    resumed = subprocess.run(again, env=ALONE, capture_output=True, timeout=300, check=False)
    assert resumed.returncode == 0, resumed.stderr.decode()

    assert numbers(broken) == numbers(whole)
    assert rows(broken) == rows(whole)
    one, other = (sorted(read_episodes(folder), key=lambda e: e.id) for folder in (whole, broken))
    assert [(e.id, e.final_sha256) for e in one] == [(e.id, e.final_sha256) for e in other]
    name = ("stage", "iteration", "episode", "seat", "span")
    trained = [tuple(row[column] for column in name) for row in read_credit(broken)]
    assert len(trained) == len(set(trained)) and len(trained) == len(list(read_credit(whole)))
    assert list(audit_run(broken).faults) == []
    weights = [(folder / "checkpoints" / "stage2" / "model.safetensors").read_bytes() for folder in (whole, broken)]
    assert weights[0] == weights[1]
