"""The work on a GPU: what needs none, since tests run without one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.device import compared, main, sampler_gap
from benchmarks.reference import Work
from benchmarks.report import Report
from benchmarks.rollout import Ours
from benchmarks.timing import Timing
from polyturn.errors import BadInput
from polyturn.policies.device import VARIABLE


def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(BadInput, match="cuda:99"):
        main(["--device", "cuda:99"])


def test_ratios_are_ours_over_theirs_in_speed() -> None:
    report = Report("x", "x")
    compared(report, "learner", Timing((1.0, 2.0, 3.0), (1.0, 1.0, 1.0)), Timing((6.0,), (6.0,)), 5.0, 7.0)
    assert report.ratios == {"learner": 3.0} and report.tables["result"][1][-2:] == (5.0, 7.0)


@pytest.mark.model
def test_the_samplers_logprobs_are_the_learners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cpu")
    ours = Ours("float32", Work(groups=1, rollouts=2, turns=2), 2)
    try:
        ours.run(2)
        assert sampler_gap(ours) < 1e-4
        shifted = [SimpleNamespace(trajectories=[SimpleNamespace(spans=[
            SimpleNamespace(ids=s.ids, logprobs=None if s.logprobs is None else s.logprobs - 0.5)
            for s in e.trajectories[0].spans])]) for e in ours.groups[0]]
        other = SimpleNamespace(groups=[shifted], policy=ours.policy)
        assert sampler_gap(other) == pytest.approx(0.5, abs=1e-3)  # type: ignore[arg-type]
    finally:
        ours.policy.close()
