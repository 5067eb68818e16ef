"""``--mcp`` with a server of the standard library, and an address whose model calls its tool."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from polyturn.cli.main import main
from polyturn.record.read import read_episodes
from tests.cli.model_server import serving

PLAIN = f"{sys.executable} -I -S {Path(__file__).parents[1] / 'tools' / 'plain_server.py'}"
TASKS = '''
from pathlib import Path
from polyturn.envs.tasks import from_file

FILE = Path(__file__).with_name("sums.jsonl")


def suite():
    return from_file(FILE, lambda episode: float("42" in episode.final["replies"][-1]))
'''


def call_add(asked: Mapping[str, Any]) -> dict[str, object]:
    """Calls the tool ``add`` where it is offered and was not called, then says what it answered."""
    last = asked["messages"][-1]
    offered = {tool["function"]["name"] for tool in asked.get("tools", ())}
    if last["role"] == "tool" or "add" not in offered:
        return {"content": last["content"]}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 20, "b": 22}'}}
    return {"content": None, "tool_calls": [call]}


@pytest.fixture
def address() -> Iterator[str]:
    with serving(call_add) as url:
        yield url


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "prompt": f"{n} + {42 - n} =", "split": "test"}) + "\n" for n in range(1, 4)))
    (tmp_path / "sums.py").write_text(TASKS)
    return "sums.py"


def test_eval_gives_a_policy_the_tools_of_a_server(
    tasks: str, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", tasks, "--policy", address, "--model", "small", "--json"]
    assert main([*arguments, "--folder", "with", "--mcp", PLAIN]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])["mixture"]
    assert (found["mean"], found["errors"], found["n_trials"]) == (1.0, 0, 3)
    assert "tools of --mcp: add, crash" in said.err
    episode = next(iter(read_episodes(tmp_path / "with")))
    assert [message.text for message in episode.trajectories[0].messages if message.role == "tool"] == ["42"]
    assert main([*arguments, "--folder", "without"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["mixture"]["mean"] == 0.0


def test_play_shows_the_same(tasks: str, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", tasks, "--policy", address, "--model", "small", "--json", "--mcp", PLAIN]) == 0
    played = json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"][0]
    assert [turn["said"] for turn in played["turns"]] == ["", "42"] and played["scores"] == {"agent": 1.0}


@pytest.mark.parametrize(("more", "said"), [
    (["--policy", "random", "--mcp", PLAIN], "is a script and calls no tools"),
    (["--mask", "--mcp", PLAIN], "--mask allows only"),
    (["--mcp-env", "HOME"], "--mcp-env would do nothing without --mcp"),
    (["--mcp", "no-such-program"], "no program 'no-such-program'"),
    (["--mcp", PLAIN, "--mcp", PLAIN], "two MCP servers offer add"),
    (["--mcp", PLAIN, "--mcp-timeout", "0"], "'0' is no number above 0"),
])
def test_what_cannot_be_is_said_before_anything_is_recorded(
    tasks: str, address: str, more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = [] if "--policy" in more else ["--policy", address, "--model", "small"]
    assert main(["eval", tasks, *policy, *more]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_a_recipe_says_itself_what_tools_it_has(tasks: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "quickstart", "--mcp", PLAIN]) == 2
    assert "is a recipe, which says itself" in capsys.readouterr().err
