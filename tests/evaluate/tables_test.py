"""Output for programs and for people."""

from __future__ import annotations

import json

from polyturn.evaluate import benchmark, stats, tables
from polyturn.evaluate.benchmark import Result, Row


def row(values: list[list[float]], errors: int = 0) -> Row:
    return Row(
        stats.clustered_mean(values), sum(map(len, values)), {1: 0.5, 2: 0.75}, {1: 0.5, 2: 0.25}, {1: 4, 2: 2}, 0.125,
        errors, 0, 3.25, 41.4, 0.52, {str(i): tuple(task) for i, task in enumerate(values)},
    )


def result(values: list[list[float]], **more: int) -> Result:
    rows = {"guess": row(values, **more)}
    return Result(rows, benchmark.mixture_row(list(rows.values())))


TABLE = {"base": result([[0.0], [1.0], [0.0], [1.0]]), "stage 1": result([[1.0], [1.0], [0.5], [1.0]], errors=2)}


def test_json_has_the_promised_keys_and_survives_json() -> None:
    found = tables.as_json(TABLE["base"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {"environments", "mixture"}
    for entry in (found["environments"]["guess"], found["mixture"]):
        assert set(entry) >= {
            "mean", "low", "high", "n_tasks", "n_trials", "pass_at", "pass_hat", "illegal", "errors", "abstained",
            "turns", "tokens", "seconds",
        }
    assert found["environments"]["guess"]["pass_at"] == {"1": 0.5, "2": 0.75}
    assert found["environments"]["guess"]["mean"] == 0.5


def test_json_of_unknown_numbers_is_null() -> None:
    found = tables.as_json(row([[0.5]]))
    assert found["low"] is None and found["high"] is None and found["mean"] == 0.5


def test_json_of_a_comparison() -> None:
    found = tables.as_json(benchmark.paired(TABLE, "stage 1", "base"))
    # Differences 1, 0, 0.5, 0: mean 0.375
    assert found["mixture"]["mean"] == 0.375
    assert found["environments"]["guess"]["better"] == 2
    assert set(found["mixture"]) == {"mean", "low", "high", "n_tasks", "better", "worse"}


def test_text_table_is_aligned_and_complete() -> None:
    text = tables.as_text(tables.cells(TABLE))
    assert text.splitlines() == [
        "                      guess             mixture  illegal  errors  abstained  turns  tokens  seconds",
        "base     0.50 [-0.42, 1.42]  0.50 [-0.42, 1.42]    0.125       0          0    3.2      41      0.5",
        "stage 1   0.88 [0.48, 1.27]   0.88 [0.48, 1.27]    0.125       2          0    3.2      41      0.5",
    ]


def test_missing_environment_and_unknown_interval_are_shown_as_such() -> None:
    alone = {"x": Result({"kuhn": row([[0.5]])}, row([[0.5]])), **TABLE}
    lines = tables.cells(alone)
    assert lines[0][1:4] == ["guess", "kuhn", "mixture"]
    assert lines[1][1:3] == ["-", "0.50 [?, ?]"]


def test_paired_cells_carry_signs() -> None:
    lines = tables.paired_cells({"stage 1 - base": benchmark.paired(TABLE, "stage 1", "base")})
    assert lines[0] == ["paired difference", "guess", "mixture"]
    assert lines[1][1].startswith("+0.38 [-0.39, +1.14]")  # sd 0.4787 / 2 * 3.1824 = 0.7617


def test_rich_table_shows_every_cell() -> None:
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    Console(file=out, width=200).print(tables.as_rich(tables.cells(TABLE), "held out"))
    shown = out.getvalue()
    assert "held out" in shown
    for line in tables.cells(TABLE):
        for cell in line:
            assert cell in shown
