"""The comparison itself, on the first layers of the embedded model: both sides have the same loss and gradients."""

from __future__ import annotations

import argparse
import json
import subprocess

import pytest
import torch

from benchmarks import learner
from benchmarks.learner import Case, Ours, Theirs, apart, compare_peaks, gradient, main
from benchmarks.models import Train
from benchmarks.reference import Shape, Work
from benchmarks.report import Report


def test_apart_by_hand() -> None:
    # |(3, 4) - (0, 4)| / |(0, 4)| = 3 / 4
    assert apart({"a": torch.tensor([3.0, 4.0])}, {"a": torch.tensor([0.0, 4.0])}) == pytest.approx(0.75)
    with pytest.raises(AssertionError):
        apart({"a": torch.zeros(1)}, {"b": torch.zeros(1)})


def test_a_peak_that_the_machine_cannot_hold_is_said_and_other_faults_are_not_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = {"ours": (0, "2048.0 512.0\n"), "trl": (-9, "")}

    def ended(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
        code, said = ends[command[command.index("--peak") + 1]]
        return subprocess.CompletedProcess(command, code, said, "out of paper")

    monkeypatch.setattr(learner.subprocess, "run", ended)
    report = Report("learner", "learner", (), details={"float32 full": {}})
    asked = argparse.Namespace(turns=24, shape="full", threads=1, layers=None)
    compare_peaks(Case(), asked, report)
    assert report.tables["peak memory, one group a pass, MiB"][1] == (
        "float32 full", "2048", "1536", "more than there is", "", "")
    assert report.details["float32 full"] == {
        "peak_mib": {"ours": {"peak": 2048.0, "loaded": 512.0}, "trl": None}, "peak_share": None}
    ends["trl"] = (0, "8192 512\n")
    compare_peaks(Case(), asked, report)
    assert report.details["float32 full"]["peak_share"] == 0.25
    ends["trl"] = (1, "")
    with pytest.raises(RuntimeError, match="ended with 1:\nout of paper"):
        compare_peaks(Case(), asked, report)


@pytest.mark.model
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "train, shape, turns",
    [("full", "full", 24), ("full", "window", 5), ("lora", "window", 5), ("full", "summary", 14),
     ("lora", "summary", 14)],
)
def test_gradients_of_long_and_branching_work_equal_those_of_trl(train: Train, shape: Shape, turns: int) -> None:
    case, work = Case("float32", train, 2), Work(groups=1, rollouts=2, turns=turns, shape=shape)
    ours, theirs = Ours(case, work), Theirs(case, work)
    ours.run(10**9)
    theirs.run(2)
    assert (len(theirs.rows) > 2) == (shape != "full"), "each branch is a row of its own"
    assert apart(gradient(ours.learner.model), gradient(theirs.trl.model)) < 1e-5


@pytest.mark.model
@pytest.mark.timeout(600)
@pytest.mark.parametrize("train", ["full", "lora"])
def test_gradients_equal_those_of_trl(
    train: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "MICRO_BATCHES", (4,))  # the sweep is for speed, and this is not
    monkeypatch.setattr(learner, "PASSES", (2304,))
    main(["--json", "--groups", "1", "--turns", "2", "--layers", "2", "--repeats", "1", "--dtype", "float32",
          "--train", train])  # fmt: skip
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["details"][f"float32 {train}"]["gradients_apart"] < 1e-5
    assert told["ratios"].keys() == {f"trl float32 {train}"}
    assert told["limits"][f"matrix products float32 {train}"] > 0
