"""The comparison itself, on the first layers of the embedded model: both sides have the same loss and gradients."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import learner
from benchmarks.learner import Case, Ours, Theirs, apart, gradient, main
from benchmarks.models import Train
from benchmarks.reference import Shape, Work


def test_apart_by_hand() -> None:
    # |(3, 4) - (0, 4)| / |(0, 4)| = 3 / 4
    assert apart({"a": torch.tensor([3.0, 4.0])}, {"a": torch.tensor([0.0, 4.0])}) == pytest.approx(0.75)
    with pytest.raises(AssertionError):
        apart({"a": torch.zeros(1)}, {"b": torch.zeros(1)})


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
