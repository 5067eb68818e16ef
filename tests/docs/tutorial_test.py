"""The tutorial's environment keeps its contract, and its commands work, with a tiny model for two iterations."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import polyturn
from polyturn.cli.main import COMMANDS, main
from polyturn.cli.recipe import load, module_of, read_settings
from polyturn.cli.run import _parser
from polyturn.cli.scaffold import write
from polyturn.testing import check_suite
from tests.policies.tiny import tiny_folder

DOCS = Path(__file__).parents[2] / "docs"
NIM = DOCS / "tutorial_nim.py"
SMALL = ["--iterations", "2", "--warm-updates", "2", "--warm-episodes", "2", "--groups", "2", "--rollouts", "2",
         "--test-tasks", "2", "--trials", "1", "--max-tokens", "4"]


def test_the_page_prints_the_file() -> None:
    assert NIM.read_text().strip() in (DOCS / "tutorial.md").read_text()


async def test_the_environment_keeps_its_contract() -> None:
    measured = await check_suite(module_of(str(NIM)).suite())
    assert measured["oracle"] > 0.9
    assert measured["null"] == 0.0


@pytest.mark.parametrize("policy", ["oracle", "null"])
def test_it_plays_and_is_rated(policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", str(NIM), "--policy", policy]) == 0
    assert "stones. Take 1, 2 or 3" in capsys.readouterr().out
    assert main(["eval", str(NIM), "--policy", policy, "--tasks", "16", "--json", "--runs", str(tmp_path)]) == 0
    row = json.loads(capsys.readouterr().out)["environments"]["nim"]
    assert (row["mean"] > 0.8, row["illegal"]) == ((True, 0.0) if policy == "oracle" else (False, 1.0))


def test_it_trains_and_the_run_is_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = str(tiny_folder(tmp_path / "model")), str(tmp_path / "run")
    arguments = ["run", "group_rl", "--environment", str(NIM), "--model", model, *SMALL, "--folder", folder, "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["table"].keys() == {"before", "after"}
    assert main(["audit", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] > 0 and found["faults"] == []
    assert main(["eval", str(NIM), "--policy", folder, "--tasks", "2", "--json", "--runs", str(tmp_path)]) == 0


def test_it_trains_from_python(tmp_path: Path) -> None:
    results = polyturn.train(
        module_of(str(NIM)).suite(), folder=tmp_path / "run", quiet=True, model=str(tiny_folder(tmp_path / "model")),
        warm_updates=1, warm_episodes=2, iterations=1, groups=1, rollouts=2, test_tasks=2, trials=1, max_tokens=4,
    )
    assert "after - before" in results["text"]


def shown_commands() -> list[list[str]]:
    """Every ``polyturn`` line of the pages' code blocks."""
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    blocks = [block for page in pages for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("polyturn ")]


@pytest.mark.parametrize("words", shown_commands(), ids=" ".join)
def test_commands_that_the_pages_show_have_the_flags_they_use(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, rest = words[0], words[1:]
    assert command in COMMANDS
    flags = {word.split("=")[0] for word in rest if word.startswith("--")}
    main([command, "--help"])
    own = flags - set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    if own:
        assert command == "run" and not rest[0].startswith("-")
        arguments = [word for word in _parser().parse_known_args(rest)[1] if word != rest[0]]
        subject = str(write("recipe", "my_run", tmp_path)[0]) if rest[0] == "my_run.py" else rest[0]
        read_settings(load(subject), arguments)
