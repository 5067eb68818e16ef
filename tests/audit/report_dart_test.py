"""DART's stage sets two rules aside, and faults that are planted in a run of it are found all the same.

Its updates mix what the model sampled with stored successes that a script wrote, and its baseline is a mean over steps.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from polyturn.audit.report import AuditReport, audit_run
from polyturn.errors import NotTrainable
from polyturn.learn.loop import Rule
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.methods.learning.dart import step_standardised
from polyturn.record.credit import waived
from polyturn.record.table import as_line, read_lines
from tests.audit.build import CLEAN, trained
from tests.audit.clean_runs import clean_run
from tests.audit.detectors_test import PLANTED, over_turn_rows

Made = tuple[Path, AuditReport]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("dart")
    return folder / "run", clean_run("dart-dart", folder)


def rows_of(folder: Path, table: str) -> list[dict[str, Any]]:
    return [line.row() for line in read_lines(folder / f"{table}.jsonl")]


def written(folder: Path, table: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{table}.jsonl").write_bytes(b"".join(map(as_line, rows)))


def test_the_waivers_stand_on_the_rows_they_are_for(clean: Made) -> None:
    folder, report = clean
    assert report.faults == [] and report.unchecked == ()
    rows = [row for row in rows_of(folder, "credit") if row.get("stage") == "learn"]
    assert {frozenset(waived(row)) for row in rows} == {frozenset({"steps"}), frozenset({"demonstrations", "steps"})}
    shown = {row["episode"] for row in rows if "demonstrations" in waived(row)}
    assert shown and all(name.startswith("stored.") for name in shown)
    beside = {(row["update"], row["batch_group"]) for row in rows if row["episode"] in shown}
    played = {(row["update"], row["batch_group"]) for row in rows if row["episode"] not in shown}
    assert beside <= played, "a stored success stands in the group that it was put into"
    equal, groups = report.signal["learn"]
    assert equal < groups


def sampled_row(folder: Path) -> dict[str, Any]:
    """The first row of credit whose tokens the model sampled and that has weight."""
    return next(row for row in rows_of(folder, "credit")
                if row.get("stage") == "learn" and row["waiver"] == "steps" and any(row["weight"]))


@pytest.mark.parametrize("claimed", [False, True])
def test_what_others_said_in_the_models_play_is_no_demonstration(clean: Made, tmp_path: Path, claimed: bool) -> None:
    """A span of the model's own play that it did not sample; also where every row claims the waiver."""
    folder = tmp_path / "run"
    copytree(clean[0], folder)
    credit = sampled_row(folder)
    turns = rows_of(folder, "turns")
    for row in turns:
        if row.get("episode") == credit["episode"]:
            for span in row["spans"]:
                span["sampled"] = span["sampled"] and span["index"] != credit["span"]
    written(folder, "turns", turns)
    if claimed:
        written(folder, "credit", [{**row, "waiver": "demonstrations+steps"} if "waiver" in row else row
                                   for row in rows_of(folder, "credit")])
    found = [fault for fault in audit_run(folder).faults if fault.name == "not_sampled"]
    assert {(fault.target["episode"], fault.target["span"]) for fault in found} == {
        (credit["episode"], credit["span"])}


DART_STAGE = {"demonstrations": True, "by_step": True}
"""What DART's rule sets aside."""


@pytest.mark.parametrize("fault", [
    "credit_reset", "reward_on_a_masked_token", "normalised_twice", "noise", "all_equal", "zeros",
    "tool_output_as_tokens", "end_outside_the_mask",
])
async def test_its_waivers_hide_no_planted_fault(tmp_path: Path, fault: str) -> None:
    name, parts = PLANTED[fault]
    rule = replace(parts.get("rule", CLEAN), **DART_STAGE)  # type: ignore[arg-type]
    report = await trained(tmp_path / "run", **{**parts, "rule": rule})
    assert name in {found.name for found in report.faults}
    assert report.waivers.keys() == {"steps"}, "nothing here was a script's"


async def test_its_own_advantage_is_silent_and_one_over_steps_is_its_right(tmp_path: Path) -> None:
    for number, advantage in enumerate((partial(step_standardised, form="official"), over_turn_rows)):
        rule = replace(Rule(advantage, token_mean, policy_gradient), **DART_STAGE)  # type: ignore[arg-type]
        assert (await trained(tmp_path / str(number), rule)).faults == []
    plain = replace(Rule(over_turn_rows, token_mean, policy_gradient), demonstrations=True)
    assert {found.name for found in (await trained(tmp_path / "plain", plain)).faults} == {"rows_for_rollouts"}


async def test_a_loop_refuses_what_a_model_wrote_and_did_not_sample(tmp_path: Path) -> None:
    rule = replace(CLEAN, **DART_STAGE)  # type: ignore[arg-type]
    with pytest.raises(NotTrainable, match="a token of what a model wrote was not sampled by it"):
        await trained(tmp_path / "run", rule, change=lambda completion: replace(completion, sampled=False))
