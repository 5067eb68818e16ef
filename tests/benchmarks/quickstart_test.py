"""Runs of two checkouts: the right one is imported, and what is compared is read off their records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quickstart import ROOT, Took, checkout, main, metrics, run, scored, tell
from benchmarks.report import Report
from polyturn.errors import BadInput
from tests.policies.tiny import tiny_folder

CUT = ["--warm-updates", "1", "--warm-episodes", "1", "--iterations", "1", "--groups", "1", "--rollouts", "2",
       "--test-tasks", "1", "--trials", "1"]  # fmt: skip


def took(seconds: float, score: float) -> Took:
    return Took(seconds, 2 * seconds, seconds / 10, seconds / 5, 2**30, score, {"stage1": 1.0, "stage2": seconds - 1})


def test_ratios_by_hand() -> None:
    report = Report("", "")
    tell(report, {"this checkout": [took(10, 0.4), took(30, 0.5)], "old": [took(50, 0.4), took(70, 0.4)]})
    assert report.ratios == {"old": 3.0, "old, processor": 3.0, "old, first score": 3.0}
    row = dict(zip(report.tables["quickstart"][0], report.tables["quickstart"][1], strict=True))
    assert (row["median s"], row["worst"], row["score"], row["peak MiB"], row["of"]) == (20, 30, 0.45, 1024, 2)
    assert report.tables["seconds of stages"][2] == ("old", 1.0, 59.0)


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    assert checkout(str(ROOT), tmp_path / "x") == ROOT
    with pytest.raises(BadInput, match="nowhere is no folder with Polyturn in it and no commit"):
        checkout("nowhere", tmp_path / "x")


def test_metrics_of_any_version_are_read_and_none_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"mark":"stage1:1"}\n{"stage":"stage1","time":5.0,"values":{"loop/seconds":1.0}}\n')
    assert [row["time"] for row in metrics(path)] == [5.0]
    path.write_text('{"mark":"stage1:1"}\n')
    with pytest.raises(BadInput, match="holds no metrics"):
        metrics(path)


def test_the_first_score_is_the_models_own(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    assert not scored(path, "rate-base.")
    path.write_text('{"episode":"rate-null.0.0"}\n')
    assert not scored(path, "rate-base.")
    path.write_text('{"episode":"rate-null.0.0"}\n{"episode":"rate-base.0.0"}\n')
    assert scored(path, "rate-base.")


def test_a_run_with_a_tiny_model_is_measured(tmp_path: Path) -> None:
    found = run(ROOT, tmp_path / "run", ["--model", str(tiny_folder(tmp_path / "model")), *CUT])
    assert found.seconds > found.first_update_s > 0 and found.cpu_seconds > 0.5
    assert 0 < found.first_score_s < found.seconds and found.peak > 50 * 2**20
    assert 0 <= found.score <= 1 and found.stages.keys() == {"stage1", "stage2"}
    with pytest.raises(RuntimeError, match="ended with"):
        run(ROOT, tmp_path / "again", ["--no-such-setting", "1"])


@pytest.mark.model
@pytest.mark.timeout(900)
def test_two_checkouts_run_in_turns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = str(tiny_folder(tmp_path / "model"))
    main(["--json", "--against", str(ROOT), "--repeats", "1", "--", "--model", model, *CUT])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ratios"].keys() == {str(ROOT), f"{ROOT}, processor", f"{ROOT}, first score"}
