"""``polyturn compare`` on evaluations that the test makes and on a run that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polyturn.cli.main import main
from tests.evaluate.recorded_test import episode, write


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same ten games played by three players."""
    top = tmp_path_factory.mktemp("runs")
    for policy in ("random", "oracle", "null"):
        command = ["eval", "tic_tac_toe", "--policy", policy, "--tasks", "10", "-n", "2", "--folder", str(top / policy)]
        assert main(command) == 0
    return {path.name: path for path in top.iterdir()}


def compared(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["compare", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_three_players_are_told_apart(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = compared([str(runs[name]) for name in ("random", "oracle", "null")], capsys)
    assert found["baseline"] == "random" and list(found["differences"]) == ["null", "oracle"]
    better, worse = (found["differences"][name]["mixture"] for name in ("oracle", "null"))
    assert better["low"] > 0 > worse["high"]
    assert better["p_value"] <= better["p_holm"] <= 2 * better["p_value"] < 0.05
    assert found["notes"] == []
    assert {one["facts"]["tasks_sha256"] for one in found["results"].values()} == {
        found["results"]["null"]["facts"]["tasks_sha256"]}


def test_the_tables_and_the_picture_are_rebuilt_from_files_byte_for_byte(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", str(runs["random"]), str(runs["oracle"]), "--picture"]
    said = []
    for name in ("a.svg", "b.svg"):
        assert main([*arguments, str(tmp_path / name)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "oracle - random" in said[0] and "●" in said[0]
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    # What the evaluation itself wrote while it was live is what its files say.
    live = json.loads((runs["random"] / "results.json").read_bytes())
    rebuilt = compared([str(runs["random"])], capsys)["results"]["random"]
    for part in ("environments", "mixture"):
        assert json.dumps(rebuilt[part], sort_keys=True) == json.dumps(live[part], sort_keys=True)


def test_parquet_shards_say_the_same_as_the_tables(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = compared([str(runs["oracle"])], capsys)
    from polyturn.record.closed import read_closed
    from polyturn.record.shards import close_shards

    closed = close_shards(runs["oracle"])
    episodes = [e for path in sorted(closed.glob("episodes-*.parquet")) for e in read_closed(path)]
    assert len(episodes) == 20
    from polyturn.evaluate.benchmark import as_groups, result
    from polyturn.evaluate.tables import as_json
    from polyturn.evaluate.trials import seats_of

    whole = as_json(result(as_groups(episodes), seats_of("main")))
    rebuilt = {name: before["results"]["oracle"][name] for name in ("environments", "mixture")}
    assert json.dumps(whole, sort_keys=True) == json.dumps(rebuilt, sort_keys=True)


def test_stages_of_one_run_are_compared_by_their_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run", [
        *(episode("before", task, 0, 0.0) for task in range(6)), *(episode("after", task, 0, 1.0) for task in range(6)),
        episode("after", 6, 0, 1.0), episode("after", 7, 0, 1.0, broke=True),
    ])
    found = compared([str(run)], capsys)
    assert found["baseline"] == "run:before"
    difference = found["differences"]["run:after"]["mixture"]
    assert (difference["mean"], difference["n_tasks"], difference["unpaired"]) == (1.0, 6, 1)
    assert difference["p_holm"] == 2 / 2**6
    assert len(found["notes"]) == 2 and "1 errors (environment 1)" in found["notes"][0]
    assert list(compared([f"{run}:after"], capsys)["results"]) == ["run:after"]
    assert compared([str(run), "--baseline", "run:after"], capsys)["differences"]["run:before"]["mixture"]["mean"] == -1


def test_judges_are_measured_against_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episodes = [episode("evaluate", task, 0, float(task < 5)) for task in range(10)]
    run = write(tmp_path / "run", episodes, {e.id: float(task < 6) for task, e in enumerate(episodes)})
    assert main(["compare", str(run), "--verifier", "judge", "--truth", "won"]) == 0
    said = capsys.readouterr().out
    assert "judge / won" in said and "sensitivity 1.00, specificity 0.80; rate 0.60, corrected 0.50" in said


@pytest.mark.parametrize(("arguments", "words"), [
    (["nowhere"], "is no run folder"), (["{random}", "{random}"], "given twice"),
    (["{random}:evaluat"], "did you mean 'evaluate'"), (["{random}", "--baseline", "randm"], "did you mean 'random'"),
    (["{random}", "--truth", "won"], "--truth needs --verifier"),
    (["{random}", "--policy", "nobody"], "no seat to be rated"),
    (["{random}", "--verifier", "jugde"], "is none of them"),
])
def test_bad_input(
    arguments: list[str], words: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *(word.format(**runs) for word in arguments)]) == 2
    assert words in capsys.readouterr().err
