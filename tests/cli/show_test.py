"""``polyturn show`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyturn.cli.main import main
from tests.dashboard.made import made_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "110")
    made_run(tmp_path / "run", iterations=3)
    return tmp_path / "run"


def shown(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main(["show", *map(str, arguments)]) == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def test_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, folder)
    assert "guess finished" in text and "3 iterations · 6 episodes · 24 turns · 72 sampled tokens" in text
    assert "learn.2.0.1" in text and "guessing" in text and "6 of 6 episodes" in text


def test_filters_and_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, folder, "--where", "score = 0", "--sort", "iteration", "--count", 2)
    assert "2 of 3 episodes" in text and text.index("learn.0.0.1") < text.index("learn.1.0.1")
    assert "learn.2.0.1" not in text
    assert "was refused" in shown(capsys, folder, "--where", "drop table", code=2)


def test_an_episode_as_dialogue(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, folder, "learn.1.0.0")
    assert "done: guessed · score 1 · group 1, 0" in text
    places = [text.index(words) for words in ("Play a game", "Guess[image", "I say eight", "Too low", "I say twelve",
                                              "tool agent", "<b>Too</b> high?", "I say ten", "You won", "reward agent")]
    assert places == sorted(places)
    assert text.count("Play a game") == 1  # shown once, however many prompts held it


def test_the_numbers_of_a_turn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, folder, "1.3", "--turn", 2)
    line = next(line for line in text.splitlines() if "say" in line and "0.001" in line)
    assert line.split() == ["'", "say'", "6", "-0.2", "-0.199", "0.001", "1", "0.0417", "0.6"]
    assert "I say eight" not in text


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = json.loads(shown(capsys, folder, "--json"))
    assert run["episodes"]["total"] == 6 and run["run"]["episodes"] == 6
    episode = json.loads(shown(capsys, folder, "learn.0.0.1", "--json"))
    assert episode["episode"]["id"] == "learn.0.0.1" and len(episode["credit"]) == 3


@pytest.mark.parametrize("colour", ["advantage", "logprob", "gap", "mask", "none"])
def test_every_colour_shows_the_same_text(folder: Path, capsys: pytest.CaptureFixture[str], colour: str) -> None:
    assert shown(capsys, folder, "1.1", "--colour", colour) == shown(capsys, folder, "1.1")


def test_what_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'learn.2.0.1'" in shown(capsys, folder, "learn.2.0.9", code=2)
    assert "no run folder" in shown(capsys, folder.parent, code=2)


def test_control_characters_do_not_reach_the_terminal() -> None:
    from polyturn.cli.show import _safe

    assert _safe("a\x1b[2Jb\x07\n\tc\x7f") == "a\ufffd[2Jb\ufffd\n\tc\ufffd"
