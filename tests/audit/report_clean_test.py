"""Every detector is silent on clean runs: a handful here, all of them under ``make long``."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyturn.cli.recipe import shipped
from tests.audit.clean_runs import RUNS, clean_run

QUICK = ("group_rl-noughts", "agentgym_rl-gae", "igpo-joint", "multi_turn_preference-m_dpo", "spiral-spiral")


def test_the_runs_are_many_and_of_every_recipe() -> None:
    assert len(RUNS) >= 50 and {recipe for recipe, _ in RUNS.values()} == set(shipped())


@pytest.mark.parametrize("name", QUICK)
def test_a_clean_run_is_silent(tmp_path: Path, name: str) -> None:
    report = clean_run(name, tmp_path)
    assert report.faults == [] and report.updates >= 3 and report.tokens > 0
    assert not any("laid out" in line for line in report.unchecked)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(RUNS) - set(QUICK)))
def test_every_clean_run_is_silent(tmp_path: Path, name: str) -> None:
    report = clean_run(name, tmp_path)
    assert report.faults == [] and report.updates > 0 and report.tokens > 0
    assert not any("laid out" in line for line in report.unchecked)
