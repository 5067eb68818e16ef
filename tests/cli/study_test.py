"""The study command through real processes of a small recipe."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from polyturn.cli.main import main
from polyturn.cli.study import curve_of, effective, ended, study_of, words
from polyturn.evaluate.study import Study, to_report

ROOT = Path(__file__).parents[2]
RECIPE = '''
from dataclasses import dataclass

from polyturn.evaluate.study import Study

STUDY = Study(outcome="score", arms={"good": {"gain": 1.0}, "plain": {"gain": 0.0}}, baseline="plain",
              fixed={"lr": 0.2}, curve="score/x", report=(0, 1))


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    gain: float = 0.0
    lr: float = 0.1
    fail: bool = False


async def main(settings, run):
    if settings.fail:
        raise ValueError("broke")
    for i in range(5):
        run.recorder.metrics(i, {"score/x": 1.0, "y": 1.0}, stage="warm")
    for i in range(2):
        run.recorder.metrics(i, {"score/x": settings.gain * i}, stage="learn")
    run.keep(outcome={"score": settings.gain + settings.lr + settings.seed})
'''


def test_a_study_runs_writes_and_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RECIPE)
    assert main(["study", "mine.py", "--jobs", "2", "--write", "out", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["arms"]["good"]["settings"] == {"gain": 1.0}
    assert found["differences"]["good"]["mean"] == pytest.approx(1.0)
    assert found["arms"]["good"]["curves"] == {"0": [[0, 0.0], [1, 1.0]], "1": [[0, 0.0], [1, 1.0]]}
    kept = json.loads(Path("out/mine.json").read_text())
    assert kept["figure"] == found["figure"] and Path("out/mine.svg").read_text().startswith("<svg")
    stamps = {path: path.stat().st_mtime_ns for path in Path("runs/study-mine").rglob("run.json")}
    assert len(stamps) == 4
    assert main(["study", "mine.py", "--write", "out"]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path("runs/study-mine").rglob("run.json")} == stamps


def test_the_command_that_is_kept_runs_the_study_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    Path("own/mine.py").write_text(RECIPE)
    assert main(["study", "own/mine.py", "--write", "out", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out.splitlines()[-1])["command"]
    assert kept == "polyturn study own/mine.py" and main([*kept.split()[1:], "--write", "again"]) == 0


def test_a_curve_is_of_the_last_stage_or_of_those_named_one_after_another() -> None:
    rows = [{"stage": stage, "iteration": i, "values": {"y": float(len(stage) + i)} if i != 1 else {"z": 0.0}}
            for stage in ("warm", "st", "learn") for i in range(3)]
    study = Study(outcome="score", arms={"a": {}}, baseline="a", curve="y")
    assert curve_of(rows, study) == ((0, 5.0), (2, 7.0))
    assert curve_of(rows, replace(study, stages=("st", "learn"))) == ((0, 2.0), (2, 4.0), (3, 5.0), (5, 7.0))
    assert curve_of(rows, replace(study, curve="x")) == ()


def test_what_does_nothing_for_an_arm_is_left_out_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RECIPE.replace('"lr": 0.2', '"lr": 0.2, "fail": False').replace(
        "@dataclass(frozen=True)", 'NEEDS = ((("lr",), {"gain": (1.0,)}),)\n\n\n@dataclass(frozen=True)', 1))
    _, study = study_of("mine.py")
    told = {(t.arm, t.seed): t.settings for t in effective("mine.py", to_report(study, {"good": 0, "plain": 0}))}
    assert told["good", 0] == {"lr": 0.2, "fail": False, "gain": 1.0, "seed": 0}
    assert told["plain", 1] == {"fail": False, "gain": 0.0, "seed": 1}


def test_a_failed_run_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text(RECIPE.replace('"gain": 1.0}', '"gain": 1.0, "fail": True}'))
    assert main(["study", "bad.py", "--jobs", "1"]) == 4
    assert "run good-0-seed0 ended with 4: polyturn: error in your file" in capsys.readouterr().err


@pytest.mark.parametrize(("sent", "code", "told"), [
    (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_ends_the_runs_at_work_and_says_how_to_go_on(
    sent: signal.Signals, code: int, told: str, tmp_path: Path
) -> None:
    waits = "    import asyncio\n    await asyncio.sleep(300)\n"
    slow = RECIPE.replace("    for i in range(5):", f"{waits}    for i in range(5):")
    (tmp_path / "mine.py").write_text(slow)
    study = subprocess.Popen([sys.executable, "-m", "polyturn", "study", "mine.py", "--jobs", "2"], cwd=tmp_path,
                             text=True, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("runs/study-mine/*/run.json"))) < 2:
            assert time.monotonic() < until and study.poll() is None, "no run began"
            time.sleep(0.05)
        runs = psutil.Process(study.pid).children()
    finally:
        study.send_signal(sent)
        _, said = study.communicate(timeout=60)
    assert said.splitlines()[-1] == (f"polyturn: {told}; what was finished is kept; "
                                     "the same command goes on with the runs that are missing")
    assert study.returncode == code
    assert len(runs) == 2 and not any(run.is_running() for run in runs)


async def test_a_run_that_is_ended_is_gone_though_the_wait_for_it_is_cancelled_twice() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "300")
    ending = asyncio.create_task(ended(process))
    for _ in range(2):
        await asyncio.sleep(0)
        ending.cancel()
    await ending
    assert process.returncode == -signal.SIGKILL and not psutil.pid_exists(process.pid)


@pytest.mark.parametrize(("text", "says"), [
    (RECIPE.replace("STUDY =", "OTHER ="), "has no STUDY"),
    (RECIPE.replace('"gain": 1.0}', '"gian": 1.0}'), "did you mean 'gain'"),
])
def test_recipes_that_cannot_be_studied_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    file = tmp_path / f"recipe{len(text)}.py"
    file.write_text(text)
    assert main(["study", str(file)]) == 2
    assert says in capsys.readouterr().err


def test_a_dry_run_lists_the_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dry.py").write_text(RECIPE)
    assert main(["study", str(tmp_path / "dry.py"), "--dry-run", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert len(runs) == 4 and runs[0].endswith("dry.py --lr 0.2 --gain 1.0 --seed 0")


def test_settings_become_flags() -> None:
    assert words("r", {"a_b": 1, "on": True, "off": False, "many": (1, 2), "s": "x"}) == [
        "r", "--a-b", "1", "--on", "--no-off", "--many", "1", "2", "--s", "x",
    ]
