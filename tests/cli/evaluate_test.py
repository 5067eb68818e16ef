"""``polyturn eval`` with scripted players and with a server that the test runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyturn.cli.main import main
from polyturn.record.read import read_episodes
from polyturn.record.run import read_info
from polyturn.record.write import open_run
from tests.cli.model_server import serving


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations are recorded below the folder that one stands in."""
    monkeypatch.chdir(tmp_path)


TOP = Path(__file__).parents[2]
ROW = {"mean", "low", "high", "n_tasks", "n_trials", "pass_at", "pass_hat", "illegal", "errors", "abstained", "turns",
       "tokens", "seconds"}


def outcome(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["eval", *arguments, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_the_oracle_and_the_null_player(capsys: pytest.CaptureFixture[str]) -> None:
    best = outcome(["guess_the_number", "--policy", "oracle", "--tasks", "32"], capsys)
    worst = outcome(["guess_the_number", "--policy", "null", "--tasks", "32"], capsys)
    assert best.keys() == {"subject", "policy", "environments", "mixture", "run"}
    assert (best["subject"], best["policy"]) == ("guess_the_number", "oracle")
    row = best["environments"]["guess_the_number"]  # type: ignore[index]
    assert row.keys() >= ROW
    assert (row["n_tasks"], row["n_trials"], row["errors"]) == (32, 32, 0)
    assert row["mean"] >= 0.75  # fifteen of sixteen numbers are within four halvings: 0.94 expected
    assert worst["mixture"]["mean"] == 0.0  # type: ignore[index]


def test_the_same_command_gives_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tic_tac_toe", "--policy", "random", "--tasks", "6", "-n", "3"]
    rows = [outcome(arguments, capsys)["mixture"] for _ in range(2)]
    first, second = ({name: value for name, value in row.items() if not name.endswith("seconds")}  # type: ignore[attr-defined]
                     for row in rows)
    assert first == second and "costs" in first


def test_a_table_for_a_reader(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "kuhn_poker_vs_random", "--policy", "oracle", "--tasks", "4"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1].startswith("oracle")
    assert "4/4" in said.err
    folder = said.out.splitlines()[-1].removeprefix("run folder: ")
    assert folder.startswith("runs/eval-kuhn_poker_vs_random-") and len(list(read_episodes(folder))) == 4


def test_an_evaluation_is_recorded_and_goes_on_where_it_broke_off(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["guess_the_number", "--policy", "random", "--tasks", "6", "-n", "2"]
    whole = outcome([*arguments, "--folder", "whole"], capsys)
    assert whole["run"] == "whole" and read_info(Path("whole")).settings["tasks"] == 6
    written = json.loads(Path("whole/results.json").read_bytes())
    assert written["environments"] == whole["environments"]
    # The same, killed after five episodes: neither scores nor the rest were written.
    assert main(["eval", *arguments, "--folder", "cut"]) == 0
    for table, lines in (("episodes", 5), ("scores", 0)):
        path = Path(f"cut/{table}.jsonl")
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    assert main(["compare", "cut"]) == 2
    capsys.readouterr()
    assert main(["eval", "--resume", "cut", "--json"]) == 0
    said = capsys.readouterr()
    assert "7/7" in said.err and "12/12" not in said.err
    found = json.loads(said.out.splitlines()[-1])
    for name in ("mean", "pass_hat", "illegal", "turns", "costs"):
        assert found["mixture"][name] == whole["mixture"][name]  # type: ignore[index]
    assert len(list(read_episodes("cut"))) == 12


SUITE = '''
from pathlib import Path

from polyturn.envs.textarena import guess_the_number
from polyturn.types import Score


class Rule:
    name = "score"

    async def __call__(self, groups):
        if any(e.task.id.endswith(Path("of.txt").read_text()) for group in groups for e in group):
            raise KeyError("secret")
        return {e.id: {"agent": Score(0.5)} for group in groups for e in group}


def suite():
    found = guess_the_number()
    found.verifier = Rule()
    return found
'''


def test_what_could_not_be_scored_is_scored_later_and_not_played_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, of = tmp_path / "mine.py", tmp_path / "of.txt"
    file.write_text(SUITE)
    of.write_text("/1")
    first = outcome([str(file), "--policy", "random", "--tasks", "3", "-n", "2", "--folder", "run"], capsys)
    assert (first["mixture"]["errors"], first["mixture"]["n_trials"]) == (2, 4)  # type: ignore[index]
    assert first["mixture"]["failures"] == {"verifier score": 2}  # type: ignore[index]
    of.write_text("none")
    assert main(["eval", "--resume", "run", "--json"]) == 0
    said = capsys.readouterr()
    mended = json.loads(said.out.splitlines()[-1])
    assert (mended["mixture"]["errors"], mended["mixture"]["n_trials"]) == (0, 6)
    assert len(list(read_episodes("run"))) == 6 and {e.stop.kind for e in read_episodes("run")} != {"error"}
    of.write_text("")
    assert main(["eval", str(file), "--policy", "random", "--tasks", "3"]) == 3
    assert "error: none of 3 episodes could be scored; of evaluate.0.0, task" in capsys.readouterr().err


def test_another_split_and_what_the_suite_reports(capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(["tau_airline", "--policy", "null", "--split", "base"], capsys)
    assert found["environments"]["tau_airline"]["n_tasks"] == 50  # type: ignore[index]
    assert found["reports"]["tau_airline"]["before_stop"] == 19 / 50  # type: ignore[index]
    assert main(["eval", "tau_airline", "--policy", "oracle", "--split", "base", "--tasks", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "tau_airline: db 1, said 1, before_stop 1, scored 1"
    some = outcome(["guess_the_number", "--policy", "oracle", "--split", "train", "--tasks", "3"], capsys)
    assert some["mixture"]["n_tasks"] == 3  # type: ignore[index]


def test_a_recipes_held_out_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(["quickstart", "--policy", "oracle", "--tasks", "2", "--trials", "1"], capsys)
    assert len(found["environments"]) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(("arguments", "said"), [
    (["tictactoe"], "did you mean 'tic_tac_toe'"), (["tic_tac_toe", "--policy", "oracl"], "did you mean 'oracle'"),
    (["quickstart", "--policy", "null", "--test-task", "3"], "did you mean '--test-tasks'"),
    (["tic_tac_toe", "--policy", "null", "--temperature", "-1"], "temperature"),
    (["tic_tac_toe", "--policy", "null", "--split", "tset"], "did you mean 'test'"),
    (["tic_tac_toe", "--policy", "null", "--split", "train"], "does not end; say how many with --tasks"),
    (["quickstart", "--policy", "null", "--split", "train"], "leave out --split"),
    ([], "no environment or recipe given"), (["--resume", "nowhere"], "is no run folder"),
    (["--resume", "other"], "not an evaluation"), (["tic_tac_toe", "--resume", "other"], "leave out all but --json"),
])
def test_bad_input(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    open_run("other", recipe="quickstart").close()
    assert main(["eval", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def address() -> Iterator[str]:
    """A model that plays the move 5, whatever it is asked."""
    with serving(lambda asked: {"content": "5"}) as url:
        yield url


def test_evaluating_a_server_loads_no_torch(address: str, tmp_path: Path) -> None:
    script = (
        "import sys; from polyturn.cli.main import main; "
        f"code = main(['eval', 'tic_tac_toe', '--policy', '{address}', '--model', 'small', '--tasks', '2', '--json', "
        f"'--runs', {str(tmp_path)!r}]); "
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=TOP)
    row, state = done.stdout.splitlines()[-2:]
    assert state == "0 False False", done.stderr
    found = json.loads(row)["mixture"]
    assert found["errors"] == 0 and found["n_trials"] == 2
    assert found["tokens"] == pytest.approx(2 * found["turns"])
