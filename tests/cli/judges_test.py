"""``--judge``: a file that judges, how it agrees with the score, and what is no judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyturn.cli.main import main
from polyturn.record.read import read_episodes

STERN = '''
async def judge(episode):
    """Whether it was won, but never of the first task; no verdict on the second one."""
    number = int(episode.task.id.rpartition("/")[2])
    if number == 1:
        return None
    return False if number == 0 else episode.scores["score"]["agent"].value == 1.0
'''


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stern.py").write_text(STERN)


def test_verdicts_are_recorded_and_compared_and_move_no_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", "tic_tac_toe", "--policy", "random", "--tasks", "16", "-n", "2"]
    assert main([*arguments, "--folder", "plain", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main([*arguments, "--folder", "judged", "--json", "--judge", "stern.py"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["mixture"]["mean"] == plain["mixture"]["mean"] and "judges" not in plain
    pair = found["judges"]["pairs"]["score / stern"]
    episodes = list(read_episodes(tmp_path / "judged"))
    wins = {e.id: e.scores["score"]["agent"].value == 1.0 for e in episodes}
    kept = [e for e in episodes if not e.task.id.endswith("/1")]
    said = {e.id: e.scores["stern"]["agent"].value for e in episodes}
    assert pair["items"] == len(kept) == 30 and pair["abstained"] == [0, 2]
    assert {said[e.id] for e in episodes if e.task.id.endswith("/1")} == {None}
    assert pair["raw"] == pytest.approx(sum(wins[e.id] == (said[e.id] == 1.0) for e in kept) / 30)
    against = found["judges"]["against"]["stern"]
    true = [e for e in kept if wins[e.id]]
    assert against["specificity"] == 1.0
    assert against["sensitivity"] == pytest.approx(sum(said[e.id] == 1.0 for e in true) / len(true))
    assert json.loads((tmp_path / "judged" / "results.json").read_text())["judges"] == found["judges"]


def test_a_table_for_a_reader_and_a_judge_that_cannot_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "guess_the_number", "--policy", "null", "--tasks", "4", "--judge", "stern.py"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "score / stern" in said and "Krippendorff's alpha" in said
    assert "stern: 0 positive of 3 verdicts, 0 labelled true and 3 false; a corrected rate needs some of each" in said


@pytest.mark.parametrize(("text", "said"), [
    ("x = 1\n", "has no function judge(episode)"),
    ("def judge(episode):\n    return 'good'\n",
     "judge bad failed on each of 2 episodes; episode evaluate.0.0: said 'good'"),
    ("def judge(episode):\n    return 2\n", "said 2; expected 0..1"),
    ("def judge(episode):\n    raise KeyError('x')\n", "raised KeyError"),
])
def test_what_never_gives_a_verdict_is_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text(text)
    assert main(["eval", "guess_the_number", "--policy", "null", "--tasks", "2", "--judge", "bad.py"]) in (2, 3)
    assert said in capsys.readouterr().err


def test_a_judge_that_fails_on_some_is_said_and_moves_no_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shy.py").write_text(
        "def judge(episode):\n    return 1 / 0 if episode.trial else episode.scores['score']['agent'].value\n")
    arguments = ["eval", "tic_tac_toe", "--policy", "random", "--tasks", "4", "-n", "2", "--judge", "shy.py"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert ("shy failed on 4 of 8 episodes, which count as abstained; episode evaluate.0.1: raised ZeroDivisionError: "
            "division by zero") in said
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["mixture"]["errors"] == 0 and found["mixture"]["n_trials"] == 8
    assert found["judges"]["pairs"]["score / shy"]["abstained"] == [0, 4]


def test_the_example_of_the_documentation_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    code = page.partition("```python\n# ended_early.py\n")[2].partition("```")[0]
    (tmp_path / "ended_early.py").write_text(code)
    command = "polyturn eval guess_the_number --policy random -n 4 --judge ended_early.py"
    assert command in page
    assert main([*command.split()[1:], "--tasks", "8", "--json"]) == 0
    against = json.loads(capsys.readouterr().out.splitlines()[-1])["judges"]["against"]["ended_early"]
    assert against["sensitivity"] < 1 == against["specificity"]  # a hit at the last guess looks like a miss


def test_a_judge_is_named_after_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "score.py").write_text(STERN)
    assert main(["eval", "guess_the_number", "--policy", "null", "--tasks", "2", "--judge", "score.py"]) == 2
    assert "two judges are named 'score'" in capsys.readouterr().err
