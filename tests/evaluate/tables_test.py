"""Output for programs and for people."""

from __future__ import annotations

import json
from dataclasses import replace

from polyturn.evaluate import benchmark, compare, stats, tables
from polyturn.evaluate.benchmark import Result, Row
from polyturn.evaluate.stats import Estimate


def chance(mean: float) -> Estimate:
    return Estimate(mean, mean - 0.125, mean + 0.125, 0.01, 3, 4)


def row(values: list[list[float]], errors: int = 0) -> Row:
    return Row(
        stats.bounded_mean(values), sum(map(len, values)), {1: chance(0.5), 2: chance(0.75)},
        {1: chance(0.5), 2: chance(0.25)}, {1: 4, 2: 2}, 0.125, errors, 0, 3.25, 41.4, 0.52,
        stops={"done": 4}, failures={"environment": errors} if errors else {},
        costs={"calls": 3.25, "usd": None, "success_per_1000_tokens": 12.5}, bounded=True,
        scores={str(i): tuple(task) for i, task in enumerate(values)},
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
    assert found["environments"]["guess"]["pass_at_interval"] == {"1": [0.375, 0.625], "2": [0.625, 0.875]}
    assert found["mixture"]["costs"] == {"calls": 3.25, "usd": None, "success_per_1000_tokens": 12.5}
    assert found["environments"]["guess"]["mean"] == 0.5


def test_json_of_unknown_numbers_is_null() -> None:
    found = tables.as_json(row([[0.5]]))
    assert found["low"] is None and found["high"] is None and found["mean"] == 0.5


def test_json_of_a_comparison() -> None:
    found = tables.as_json(compare.paired(TABLE, "stage 1", "base"))
    # Differences 1, 0, 0.5, 0: mean 0.375
    assert found["mixture"]["mean"] == 0.375
    assert found["environments"]["guess"]["better"] == 2
    assert set(found["mixture"]) == {
        "mean", "low", "high", "n_tasks", "better", "worse", "unpaired", "p_value", "p_holm",
    }
    assert found["mixture"]["p_holm"] == 0.5  # two tasks changed, both to the better: 2 / 2^2


def test_text_table_is_aligned_and_complete() -> None:
    text = tables.as_text(tables.cells(TABLE))
    assert text.splitlines() == [
        "                     guess            mixture  illegal  errors  abstained  turns  tokens  seconds",
        "base     0.50 [0.06, 0.94]  0.50 [0.06, 0.94]    0.125       0          0    3.2      41      0.5",
        "stage 1  0.88 [0.32, 0.99]  0.88 [0.32, 0.99]    0.125       2          0    3.2      41      0.5",
    ]


def test_missing_environment_and_unknown_interval_are_shown_as_such() -> None:
    alone = {"x": Result({"kuhn": row([[0.5]])}, row([[0.5]])), **TABLE}
    lines = tables.cells(alone)
    assert lines[0][1:4] == ["guess", "kuhn", "mixture"]
    assert lines[1][1:3] == ["-", "0.50 [?, ?]"]


def test_paired_cells_carry_signs() -> None:
    lines = tables.paired_cells({"stage 1 - base": compare.paired(TABLE, "stage 1", "base")})
    assert lines[0] == ["paired difference", "guess", "mixture", "better", "worse", "p (Holm)"]
    assert lines[1][3:] == ["2", "0", "0.5000"]
    assert lines[1][1].startswith("+0.38 [")


def test_pass_cells_say_how_many_tasks_have_the_trials() -> None:
    lines = tables.pass_cells(TABLE)
    assert lines[0] == ["", "pass@1", "pass^1", "tasks 1", "pass@2", "pass^2", "tasks 2"]
    assert lines[1][4:] == ["0.75 [0.62, 0.88]", "0.25 [0.12, 0.38]", "2"]
    one = benchmark.Result({}, replace(TABLE["base"].mixture, eligible={1: 4}))
    assert tables.pass_cells({"one": one}) == []


def test_unknown_costs_are_shown_as_such() -> None:
    shown = dict(zip(*tables.cost_cells(TABLE)[:2], strict=True))
    assert shown == {"a trial uses": "base", "calls": "3.2", "success per 1000 tokens": "12.50"}
    priced = benchmark.Result({}, replace(TABLE["base"].mixture, costs={"calls": 3.25, "usd": 0.125}))
    lines = tables.cost_cells({**TABLE, "priced": priced})
    assert [line[2] for line in lines] == ["usd", "?", "?", "0.1250"]
    free = benchmark.Result({}, replace(TABLE["base"].mixture, costs={"calls": 0.0, "usd": None}))
    assert tables.cost_cells({"free": free}) == []


def test_what_is_left_out_is_said() -> None:
    assert tables.left_out(TABLE) == [
        "stage 1: 2 errors (environment 2) and 0 abstentions are left out, 4 trials rated; none of them counts as a "
        "failure",
    ]


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
