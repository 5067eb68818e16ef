"""Commands, exit codes and what is said when something is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import pytest

from polyturn.cli.main import COMMANDS, Terminated, exit_code, main
from polyturn.errors import (
    BadInput,
    BudgetSpent,
    DeadlinePassed,
    EnvironmentFailed,
    MissingPackage,
    NotFinite,
    NotTrainable,
    PolicyFailed,
    PolyturnError,
    UnknownName,
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"polyturn {name}" in text.split("examples:")[1]
    assert "--json" in text or name == "chat"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert [name for name in COMMANDS if f"\n  {name} " not in text] == []


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rum"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("polyturn: error: no command named 'rum'; did you mean 'run'?")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("arguments", [
    ["envs", "--jsn"], ["methods", "--jsno"], ["doctor", "--jsonn"], ["runs", "list", "--jso"],
    ["eval", "x", "--polcy"], ["play", "x", "--jsonx"], ["audit", "x", "--jsno"], ["chat", "x", "--trace"],
])
def test_an_unknown_flag_names_the_nearest(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert f"no flag named '{arguments[-1]}'; did you mean '--" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [
    (BadInput("x"), 2), (UnknownName("recipe", "x", ["y"]), 2), (MissingPackage("x", "y"), 2),
    (EnvironmentFailed("x"), 3), (PolicyFailed("x"), 3), (DeadlinePassed("x"), 3),
    (NotFinite("x"), 4), (NotTrainable("x"), 4), (BudgetSpent("x"), 4),
])
def test_exit_codes(error: PolyturnError, code: int) -> None:
    assert exit_code(error) == code


def raising(error: BaseException) -> Callable[[str, list[str]], int]:
    def command(name: str, arguments: list[str]) -> int:
        raise error

    return command


@pytest.mark.parametrize(("error", "code", "said"), [
    (KeyboardInterrupt(), 130, "interrupted"), (Terminated(), 143, "terminated"),
    (NotFinite("loss is nan"), 4, "loss is nan"), (RuntimeError("odd"), 70, "a fault of Polyturn itself"),
])
def test_what_a_command_raises(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(import_module("polyturn.cli.runs"), "command", raising(error))
    assert main(["runs", "list"]) == code
    text = capsys.readouterr().err
    assert said in text
    assert ("Traceback" in text) == (code == 70)


def test_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("polyturn.cli.runs"), "command", raising(NotFinite("loss is nan")))
    with pytest.raises(NotFinite):
        main(["runs", "list", "--traceback"])


WAITING = """
import sys, time
from importlib import import_module
from polyturn.cli.main import main
def command(name, arguments):
    print("waiting", flush=True)
    time.sleep(60)
import_module("polyturn.cli.runs").command = command
sys.exit(main(["runs", "list"]))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_one_line(sent: signal.Signals, code: int) -> None:
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WAITING], text=True, **both) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        os.kill(child.pid, sent)
        _, said = child.communicate(timeout=30)
    assert child.returncode == code
    assert len(said.splitlines()) == 1
    assert "what was finished is kept" in said


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "polyturn", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("polyturn 0.")
