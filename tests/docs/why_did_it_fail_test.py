"""The page tells the truth: its recipe stays flat, the audit names the token, the mended rule learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import polyturn
from polyturn.audit.detectors import LOOKS_FOR
from polyturn.audit.report import audit_run
from polyturn.cli.main import main
from polyturn.record.read import read_credit, read_episodes, read_metrics

DOCS = Path(__file__).parents[2] / "docs"
RECIPE, PAGE = DOCS / "why_did_it_fail.py", (DOCS / "why-did-it-fail.md").read_text()


def scores(folder: Path) -> list[float]:
    return [row["values"]["score/doors"] for row in read_metrics(folder)]


def test_from_the_curve_to_the_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    polyturn.run(str(RECIPE), folder=tmp_path / "flat", deterministic=True, quiet=True, iterations=10)
    assert np.mean(scores(tmp_path / "flat")[-5:]) < 0.3
    capsys.readouterr()
    assert main(["audit", str(tmp_path / "flat"), "--checks"]) == 1
    said = capsys.readouterr().out
    assert "! credit_reset (episode doors." in said and "turn 0, span 2" in said
    assert "!  credit_reset           credit that ends at an observation: " in said and "ok untrained_end" in said
    won = {e.id for e in read_episodes(tmp_path / "flat") if e.scores["score"]["agent"].value}
    pushed = {(row["at"], row["advantage"][0] > 0.5) for row in read_credit(tmp_path / "flat") if row["episode"] in won}
    assert pushed == {(0, False), (1, True)}


def test_the_mended_rule_learns(tmp_path: Path) -> None:
    folder = tmp_path / "mended"
    polyturn.run(str(RECIPE), folder=folder, deterministic=True, quiet=True, credit="library", iterations=10)
    assert np.mean(scores(folder)[-5:]) > 0.9 and audit_run(folder).faults == []


def test_the_page_quotes_the_recipe_and_names_real_findings() -> None:
    quoted = PAGE.split("```python\n")[1].split("```")[0].rstrip()
    assert quoted in RECIPE.read_text()
    sources = "".join(path.read_text() for path in (DOCS.parent / "polyturn" / "audit").glob("*.py"))
    table = PAGE.split("## What a curve may mean")[1]
    words = [word for line in table.splitlines() if line.startswith("| ") for word in line.split("`")[1::2]]
    named = {word for word in words if "_" in word and " " not in word}
    assert len(named) >= 12 and all(f'"{name}"' in sources for name in named), named
    assert set(LOOKS_FOR) >= {"credit_reset", "lost_reward", "untrained_end"}
