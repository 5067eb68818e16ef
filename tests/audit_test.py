"""The audit finds every fault that is planted in a record, each by its name, and nothing in a clean one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from polyturn.audit.paths import leaves
from polyturn.audit.report import AuditReport, audit_run
from polyturn.errors import BadInput
from polyturn.record.read import read_credit, read_episodes
from polyturn.record.table import as_line, read_lines
from polyturn.record.write import RunRecorder
from polyturn.types import Episode, Finding, Span, Task, Trajectory, Turn, assistant, user
from tests.record.sample_run import Plan, sample_run

Row = dict[str, Any]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_run(tmp_path_factory.mktemp("runs") / "run", Plan(stage1=1, stage2=1, tasks=1, rollouts=4))


def changed(folder: Path, table: str, edit: Callable[[list[Row]], None]) -> None:
    """Rewrites a table after ``edit`` changed its rows, each with a right checksum."""
    path = folder / f"{table}.jsonl"
    rows = [line.row() for line in read_lines(path)]
    edit(rows)
    path.write_bytes(b"".join(as_line(row) for row in rows))


def trained(rows: list[Row]) -> Row:
    """The first row of credit of the stage that samples."""
    return next(row for row in rows if row["stage"] == "stage2")


def turn_of(rows: list[Row], folder: Path) -> Row:
    """The line of the turns table that wrote the tokens of :func:`trained`."""
    credit = trained([line.row() for line in read_lines(folder / "credit.jsonl")])
    return next(row for row in rows if row["episode"] == credit["episode"] and row["turn"]["at"] == credit["at"])


def span_of(rows: list[Row], folder: Path) -> Row:
    span: Row = next(span for span in turn_of(rows, folder)["spans"] if span["sampled"])
    return span


def in_credit(**values: Any) -> Callable[[Path], None]:
    return lambda folder: changed(folder, "credit", lambda rows: trained(rows).update(values))


def in_span(**values: Any) -> Callable[[Path], None]:
    return lambda folder: changed(folder, "turns", lambda rows: span_of(rows, folder).update(values))


def in_turn(**values: Any) -> Callable[[Path], None]:
    return lambda folder: changed(folder, "turns", lambda rows: turn_of(rows, folder)["turn"].update(values))


def in_episode(**values: Any) -> Callable[[Path], None]:
    def edit(rows: list[Row]) -> None:
        next(row for row in rows if row["episode"]["id"].startswith("stage2"))["episode"].update(values)

    return lambda folder: changed(folder, "episodes", edit)


def first_element(table: str, column: str, value: Any) -> Callable[[Path], None]:
    def edit(rows: list[Row], folder: Path) -> None:
        (trained(rows) if table == "credit" else span_of(rows, folder))[column][0] = value

    return lambda folder: changed(folder, table, lambda rows: edit(rows, folder))


def both(*plants: Callable[[Path], None]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        for one in plants:
            one(folder)

    return plant


def credit_to_template(folder: Path) -> None:
    """Credit for the prompt's own tokens: span 0, with arrays of its length."""
    episode_id = trained([line.row() for line in read_lines(folder / "credit.jsonl")])["episode"]
    episode = next(e for e in read_episodes(folder) if e.id == episode_id)
    length = len(episode.trajectories[0].spans[0].ids)
    arrays = {"weight": [0.1] * length, "advantage": [1.0] * length, "old": [-0.5] * length,
              "behavior": [None] * length, "clipped": None, "entropy": None}
    in_credit(span=0, **arrays)(folder)


def repeated(table: str) -> Callable[[Path], None]:
    return lambda folder: changed(folder, table, lambda rows: rows.append(dict(trained(rows))))


def one_more_turn(folder: Path) -> None:
    def edit(rows: list[Row]) -> None:
        row = turn_of(rows, folder)
        rows.append({**row, "turn": {**row["turn"], "at": 500}})

    changed(folder, "turns", edit)


def without_waiver(folder: Path) -> None:
    changed(folder, "credit", lambda rows: [row.update(waiver="") for row in rows] and None)


def support_without(folder: Path) -> None:
    def edit(rows: list[Row]) -> None:
        span = next(s for row in rows for s in row["spans"] if s["support"] and row["episode"].startswith("stage2"))
        span["support"][0] = [i for i in span["support"][0] if i != span["ids"][0]]

    changed(folder, "turns", edit)


PLANTED: list[tuple[str, Callable[[Path], None]]] = [
    ("not_sampled", in_span(sampled=False)),
    ("not_sampled", credit_to_template),
    ("not_sampled", without_waiver),
    ("owner", in_turn(spans=[])),
    ("wrong_turn", in_credit(at=77)),
    ("dropped_turn", in_turn(dropped="the context took it back")),
    ("fork", in_turn(branch="agent#0")),
    ("failed_episode", in_episode(stop={"kind": "error", "reason": "the environment raised", "seat": None})),
    ("not_training", in_episode(train=[])),
    ("trained_twice", repeated("credit")),
    ("unknown_episode", in_credit(play=9999)),
    ("unknown_span", in_credit(span=99)),
    ("unknown_span", in_credit(seat="nobody")),
    ("unknown_token", in_credit(weight=[0.1] * 99)),
    ("newer_version", in_span(version=9)),
    ("weight", first_element("credit", "weight", None)),
    ("advantage", first_element("credit", "advantage", None)),
    ("unknown_old", first_element("credit", "old", None)),
    ("positive_old", first_element("credit", "old", 0.5)),
    ("behavior", first_element("credit", "behavior", -9.0)),
    ("unknown_logprob", both(first_element("turns", "logprobs", None), first_element("credit", "behavior", None))),
    ("positive_logprob", both(first_element("turns", "logprobs", 0.5), first_element("credit", "behavior", 0.5))),
    ("outside_support", support_without),
    ("parent_order", in_span(parent=7)),
    ("length", in_span(logprobs=[-0.5])),
    ("sampled_by_script", in_episode(cast={"agent": {"name": "main", "kind": "human"}})),
    ("lost_turn", one_more_turn),
]


def names(report: AuditReport) -> set[str]:
    return {fault.name for fault in report.faults}


def test_a_clean_run_is_silent(clean: Path) -> None:
    report = audit_run(clean)
    assert report.faults == [] and report.updates == 2 and set(report.checks.values()) == {0}
    assert {line.split(":")[0] for line in report.unchecked} == {
        "untrained_end, beyond_end", "audit/split", "audit/accumulated", "audit/borrowed"}
    weights = [row["weight"] for row in read_credit(clean)]
    assert report.tokens == sum(int((weight != 0).sum()) for weight in weights) > 100
    assert report.paths == sum(len(e.trajectories) for e in read_episodes(clean)) == 2 * (4 + 4 + 8)
    assert 0 < report.waivers["demonstrations"] < report.tokens
    said = json.loads(json.dumps(report.as_json()))
    assert (said["tokens"], said["paths"], said["faults"]) == (report.tokens, report.paths, [])


def test_updates_that_held_observations_are_named(clean: Path, tmp_path: Path) -> None:
    """The waiver lets nothing more pass in the rows: it says what the update held beside them."""
    folder = tmp_path / "run"
    copytree(clean, folder)
    in_credit(waiver="observations")(folder)
    report = audit_run(folder)
    row = next(row for row in read_credit(folder) if row["waiver"] == "observations")
    assert report.faults == [] and report.waivers["observations"] == int((row["weight"] != 0).sum()) > 0
    in_span(sampled=False)(folder)
    assert names(audit_run(folder)) >= {"not_sampled"}


@pytest.mark.parametrize(("name", "plant"), PLANTED, ids=[f"{i}-{name}" for i, (name, _) in enumerate(PLANTED)])
def test_a_planted_fault_is_found(clean: Path, tmp_path: Path, name: str, plant: Callable[[Path], None]) -> None:
    folder = tmp_path / "run"
    copytree(clean, folder)
    plant(folder)
    report = audit_run(folder)
    assert name in names(report), report.faults[:3]
    fault = next(fault for fault in report.faults if fault.name == name)
    assert fault.target["episode"].startswith("stage") and fault.reason and fault.source == "audit"
    assert json.loads(json.dumps(report.as_json()))["faults"]


def test_weight_zero_is_not_trained(clean: Path, tmp_path: Path) -> None:
    """A turn that was taken back keeps its rows, with weight zero."""
    folder = tmp_path / "run"
    copytree(clean, folder)
    in_turn(dropped="the context took it back")(folder)
    before = audit_run(folder)

    def edit(rows: list[Row]) -> None:
        row = trained(rows)
        row["weight"] = [0.0] * len(row["weight"])

    changed(folder, "credit", edit)
    after = audit_run(folder)
    assert names(before) == {"dropped_turn"} and names(after) == set() and after.tokens < before.tokens


def test_rows_without_a_version_are_said_to_be_unchecked(clean: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    copytree(clean, folder)
    in_credit(version=None)(folder)
    assert "versions: credit rows name no weights version" in audit_run(folder).unchecked


SPANS = (Span(-1, np.array([5], np.int32)), Span(0, np.array([6], np.int32), True, np.array([-0.5])),
         Span(1, np.array([7], np.int32)), Span(2, np.array([8], np.int32), True, np.array([-0.5])))
TURNS = (Turn(0, "agent", "main", (0,), 1, (1,)), Turn(1, "agent", "main", (0, 1, 2), 3, (3,)))
MESSAGES = (user("a"), assistant("b"), user("c"), assistant("d"))
WHOLE = Trajectory("agent", "main", None, MESSAGES, TURNS, SPANS)
BROKEN = [
    ("turn_order", replace(WHOLE, turns=(TURNS[0], replace(TURNS[1], at=0)))),
    ("foreign_turn", replace(WHOLE, turns=(TURNS[0], replace(TURNS[1], seat="other")))),
    ("unknown_message", replace(WHOLE, turns=(TURNS[0], replace(TURNS[1], prompt=(0, 9))))),
    ("unknown_span", replace(WHOLE, turns=(TURNS[0], replace(TURNS[1], spans=(9,))))),
    ("broken_chain", replace(WHOLE, turns=(TURNS[0], replace(TURNS[1], spans=(0, 3))))),
    ("owner", replace(WHOLE, turns=(TURNS[0], replace(TURNS[1], spans=(1,))))),
    ("parent_order", replace(WHOLE, spans=(*SPANS[:3], replace(SPANS[3], parent=3)))),
]


@pytest.mark.parametrize(("name", "trajectory"), [("", WHOLE), *BROKEN])
def test_broken_paths_are_found_without_any_credit(tmp_path: Path, name: str, trajectory: Trajectory) -> None:
    with RunRecorder(tmp_path) as recorder:
        recorder.episode(Episode("stage.e", Task("t", "f"), 0, trajectories=(trajectory,)))
    report = audit_run(tmp_path)
    assert names(report) >= ({name} if name else set()) and bool(report.faults) == bool(name)
    assert all(isinstance(fault, Finding) for fault in report.faults) and report.tokens == 0


def test_paths_are_leaves() -> None:
    """0 - 1 and 0 - 2 - 3: two leaves."""
    spans = tuple(replace(SPANS[0], parent=parent) for parent in (-1, 0, 0, 2))
    assert leaves(replace(WHOLE, spans=spans)) == [1, 3]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it is empty; expected a run"):
        audit_run(tmp_path)
