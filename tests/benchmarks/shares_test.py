"""Where time goes: operations are counted once, to what they were called in, and Python is what is left."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import learner, rollout
from benchmarks.report import Report
from benchmarks.shares import ATTENTION, OUTSIDE, PRODUCTS, REST, VOCABULARY, Done, add, profiled, shared, telling


def test_shares_by_hand() -> None:
    done = [
        Done("aten::mm", ("aten::linear",), 4.0), Done("mkldnn::_linear_pointwise", (), 2.0),
        Done("aten::bmm", ("aten::matmul", f"share of {ATTENTION}", "share of else"), 1.0),
        Done("aten::addmm", (f"share of {VOCABULARY}",), 1.5), Done("aten::mul_", ("aten::linear",), 0.5),
    ]  # fmt: skip
    assert shared(done, 10.0) == {PRODUCTS: 6.0, ATTENTION: 1.0, VOCABULARY: 1.5, REST: 0.5, OUTSIDE: 1.0}
    report = Report("", "")
    add(report, "x", shared(done, 10.0), 8.0)
    rows = {row[0]: row[1:] for row in report.tables["x: where the time goes"][1:]}
    assert rows[PRODUCTS] == (6000.0, 0.6) and rows["without it"] == (8000.0, 0.8)


def test_what_was_called_in_a_told_function_counts_to_it_and_sleep_is_python() -> None:
    square = torch.randn(500, 500)
    owner = SimpleNamespace(attend=lambda: square @ square)

    def work() -> None:
        for _ in range(5):
            owner.attend()
            square @ square
        (square + 1).exp()
        time.sleep(0.3)

    before = owner.attend
    with telling(owner, "attend", ATTENTION):
        found, plain = profiled(work)
    assert owner.attend is before
    assert found[ATTENTION] > 0 and found[PRODUCTS] > 0 and found[REST] > 0
    assert found[OUTSIDE] >= 0.3 and plain >= 0.3
    found, _ = profiled(work)
    assert ATTENTION not in found, "nothing is told of afterwards"


class Owner:
    """A static method, as autograd's functions have."""

    @staticmethod
    def read(x: torch.Tensor) -> torch.Tensor:
        return x @ x


def test_a_static_method_stays_one() -> None:
    before = vars(Owner)["read"]
    with telling(Owner, "read", VOCABULARY):
        assert Owner().read(torch.ones(2, 2)).shape == (2, 2)
    assert vars(Owner)["read"] is before


@pytest.mark.model
@pytest.mark.timeout(600)
def test_profiles_of_learner_and_sampler(capsys: pytest.CaptureFixture[str]) -> None:
    cut = ["--json", "--profile", "--groups", "1", "--turns", "2", "--layers", "1", "--dtype", "float32"]
    learner.main([*cut, "--train", "full"])
    rollout.main(cut)
    for line, name in zip(
        [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")],
        ["float32 full, one group profile", "float32, one group profile"], strict=True,
    ):  # fmt: skip
        seconds = json.loads(line)["details"][name]["seconds"]
        assert {PRODUCTS, ATTENTION, VOCABULARY, REST, OUTSIDE} <= seconds.keys()
        assert all(value > 0 for value in seconds.values())
