from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyturn.envs.tau.data import _task, load
from polyturn.errors import MissingPackage

COUNTS = {
    "airline": {"tables": {"flights": 300, "users": 500, "reservations": 2000},
                "splits": {"train": 30, "test": 20, "base": 50}, "outputs": 6, "calls": 148},
    "retail": {"tables": {"products": 50, "users": 500, "orders": 1000},
               "splits": {"train": 74, "test": 40, "base": 114}, "outputs": 38, "calls": 553},
}


@pytest.mark.parametrize("name", ["airline", "retail"])
def test_what_is_delivered(name: str) -> None:
    domain, known = load(name), COUNTS[name]
    assert {table: len(rows) for table, rows in domain.database.tables.items()} == known["tables"]
    assert {split: len(ids) for split, ids in domain.splits.items()} == known["splits"]
    assert not set(domain.splits["train"]) & set(domain.splits["test"])
    assert set(domain.splits["base"]) == set(domain.tasks)
    assert sum(bool(task["outputs"]) for task in domain.tasks.values()) == known["outputs"]
    assert sum(len(task["actions"]) for task in domain.tasks.values()) == known["calls"]
    assert domain.policy.startswith(f"# {name.capitalize()}") and "###STOP###" in domain.guidelines
    assert load(name) is domain  # read once


def test_empty_fields_are_there_as_the_tools_show_them() -> None:
    assert next(iter(load("airline").database.tables["reservations"].values()))["status"] is None
    order = next(iter(load("retail").database.tables["orders"].values()))
    assert order["exchange_items"] is None and order["cancel_reason"] is None


def test_without_the_data_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POLYTURN_CACHE", str(tmp_path))
    with pytest.raises(MissingPackage, match="polyturn envs --install tau"):
        load("airline")


def raw(**more: Any) -> dict[str, Any]:
    return {"id": "1", "user_scenario": {"persona": "Polite.", "instructions": {
        "domain": "retail", "reason_for_call": "Cancel.\nNow.", "known_info": "You are Ann.", "unknown_info": None,
        "task_instructions": "Be brief."}},
        "evaluation_criteria": {"actions": [{"name": "f", "arguments": {"a": 1}, "info": None}],
                                "communicate_info": ["7"]}, "initial_state": None, **more}


def test_a_task_keeps_what_is_needed() -> None:
    task = _task(raw())
    assert (task["opening"], task["outputs"]) == ("Cancel.\nNow.", ["7"])
    assert task["actions"] == [{"name": "f", "arguments": {"a": 1}}]
    assert task["scenario"] == (
        "Persona:\n\tPolite.\nInstructions:\n\tDomain: retail\n\tReason for call:\n\t\tCancel.\n\t\tNow.\n\tKnown info:"
        "\n\t\tYou are Ann.\n\tTask instructions:\n\t\tBe brief.")


@pytest.mark.parametrize("more", [
    {"evaluation_criteria": {"actions": [], "communicate_info": [], "reward_basis": ["DB", "NL_ASSERTION"]}},
    {"initial_state": {"initialization_actions": []}},
])
def test_a_task_of_another_kind_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        _task(raw(**more))
