"""What is printed: a table, or one object with ratios and limits."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import Report, parser, show


def made() -> Report:
    report = Report("title", "python -m benchmarks.x", ("numpy", "no-such-package"), {"them": 2.0}, {"floor": 0.5})
    report.row("table", "who", "s")
    report.row("table", "ours", 1.234)
    return report


def test_json_is_one_object_with_ratios_limits_machine_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    show(made(), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["ratios"], told["limits"]) == ({"them": 2.0}, {"floor": 0.5})
    assert "cores" in told["machine"] and told["versions"].keys() >= {"torch", "numpy"}
    assert "no-such-package" not in told["versions"]


def test_people_read_the_table_the_ratios_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    show(made(), as_json=False)
    text = capsys.readouterr().out
    assert "  ours  1.23" in text and "them  2.00" in text and "floor  0.50" in text
    assert text.rstrip().endswith("python -m benchmarks.x")


def test_all_benchmarks_take_json_and_repeats() -> None:
    found = parser("about").parse_args(["--json", "--repeats", "2"])
    assert (found.json, found.repeats) == (True, 2)
