"""``polyturn query``: tables for the eye, JSON, files, and refusals with exit code 2."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from polyturn.cli.main import main
from tests.record.sample_run import Plan, sample_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return sample_run(tmp_path / "run", Plan(1, 1, 1, 2))


BY_FAMILY = "select family, count(*) as n from scores group by all order by family"


def test_a_table_and_json_say_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 stages x 1 iteration x 1 task x 2 rollouts; kuhn_poker has two seats."""
    assert main(["query", str(run), BY_FAMILY]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "family            n", "guess_the_number  4", "kuhn_poker        8", "tic_tac_toe       4"]
    assert main(["query", str(run), BY_FAMILY, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"columns": ["family", "n"], "cut": False,
                     "rows": [["guess_the_number", 4], ["kuhn_poker", 8], ["tic_tac_toe", 4]]}


def test_rows_in_files(run: Path, tmp_path: Path) -> None:
    sql = "select id, train, task.family from episodes order by id limit 1"
    assert main(["query", str(run), sql, "--out", str(tmp_path / "a.jsonl")]) == 0
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert row == {"id": "stage1.0.0.0", "train": ["agent"], "family": "guess_the_number"}
    assert main(["query", str(run), sql, "--out", str(tmp_path / "a.csv")]) == 0
    with (tmp_path / "a.csv").open() as file:
        assert list(csv.DictReader(file)) == [{**row, "train": '["agent"]'}]


def test_without_sql_the_tables_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(run)]) == 0
    out = capsys.readouterr().out
    assert "turns: one row a call of a policy" in out and "scores map" in out
    assert main(["query", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tables"]
    assert found["tokens"]["columns"]["logprob"] == "DOUBLE"


def test_a_limit_says_that_there_is_more(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(run), "select * from turns", "--limit", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["rows"]), found["cut"]) == (2, True)


@pytest.mark.parametrize(("words", "said"), [
    (["RUN", "delete from turns"], "expected one SELECT, got DELETE"),
    (["RUN", "select nonsense from turns"], "nonsense"),
    (["NONE", "select 1"], "is no run folder"),
    (["RUN", "select 1", "--out", "rows.xlsx"], "ends in .csv or .jsonl"),
])
def test_refusals(run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [{"RUN": str(run), "NONE": str(run / "none")}.get(word, word) for word in words]
    assert main(["query", *given]) == 2
    assert said in capsys.readouterr().err
