"""Runs of small recipes of the test's own: settings, results, resume, dry run, and every way to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyturn.cli.main import main
from polyturn.cli.run import stored, unused
from polyturn.record.run import read_info

RECIPE = '''
"""Counts."""
import asyncio
from dataclasses import dataclass

@dataclass(frozen=True)
class Settings:
    """How far to count."""
    updates: int = 3
    """How many updates."""
    seed: int = 0
    """Fixes every draw."""
    words: tuple[str, ...] = ("a",)
    """Words."""
    fail: bool = False
    """Raise in the middle."""
    wait_s: float = 0.0
    """Seconds for each update."""

async def main(settings, run):
    run.progress.stage("count", settings.updates)
    for i in range(settings.updates):
        if settings.fail and i == 1:
            from polyturn.errors import NotFinite
            raise NotFinite("the loss of update 1 is nan")
        await asyncio.sleep(settings.wait_s)
        run.recorder.metrics(i, {"count/sum": float(i)})
        run.progress.iteration(i, {"score/count": i / settings.updates})
    run.keep(total=sum(range(settings.updates)), seed=settings.seed, odd=float(len(settings.words)))

def foresee(settings):
    return {"seconds": 90.0 * settings.updates, "bytes": 3 * 2**30, "stages": {"count": 90.0 * settings.updates}}

def text(results):
    return f"counted to {results['total']}"
'''


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "count.py").write_text(RECIPE)
    return "count.py"


def last_json(text: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(text.splitlines()[-1])
    return found


def test_a_recipe_file_runs_and_its_results_are_json(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, "--updates", "5", "--json", "--folder", "mine"]) == 0
    said = capsys.readouterr()
    found = last_json(said.out)
    assert (found["total"], found["seed"], found["run"]) == (10, 0, "mine")  # 0 + 1 + 2 + 3 + 4
    assert isinstance(found["seconds"], float) and isinstance(found["peak_bytes"], int)
    assert found["peak_bytes"] > 2**20
    assert said.out.count("\n") == 1
    assert "count · 5/5 · 0 s left · count 0.80" in said.err


def test_the_folder_says_what_was_run(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, "--seed", "7", "--words", "x", "y", "--runs", "all"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "counted to 3"
    folder = next(Path("all").iterdir())
    info = read_info(folder)
    assert info.recipe == recipe and info.text == RECIPE
    assert info.settings == {"updates": 3, "seed": 7, "words": ["x", "y"], "fail": False, "wait_s": 0.0}
    assert info.seeds == {"seed": 7, "deterministic": False}
    assert info.status == "finished"
    assert json.loads((folder / "results.json").read_text())["total"] == 3


def test_help_shows_the_settings(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--resume RUN" in text and "--updates" in text and "How many updates." in text


@pytest.mark.parametrize(("arguments", "said"), [
    (["--updats", "3"], "no flag named '--updats'; did you mean '--updates'?"),
    (["--updates", "many"], "updates"),
    (["--resum", "x"], "did you mean '--resume'?"),
    (["stray"], "stray"),
])
def test_wrong_flags(recipe: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, *arguments]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert len(text.splitlines()) == 1
    assert not Path("runs").exists()


MAIN = "async def main(s, r): ...\n"
PLAIN = "from dataclasses import dataclass, make_dataclass\n"


@pytest.mark.parametrize(("text", "said"), [
    ("x = 1\n", "has no Settings and main"),
    ("def f(:\n", "line 1"),
    ("Settings = 3\nasync def main(settings, run): ...\n", "expected a dataclass Settings"),
    (f"{PLAIN}@dataclass\nclass Settings:\n    n: int\n{MAIN}", "no default"),
    (f"{PLAIN}@dataclass\nclass Settings:\n    json: int = 1\n{MAIN}", "rename the field"),
    (f"{PLAIN}Settings = make_dataclass('Settings', [(f'f{{i}}', int, 1) for i in range(21)])\n{MAIN}",
     "21 fields; at most 20"),
])
def test_files_that_are_no_recipes(recipe: str, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.py").write_text(text)
    assert main(["run", "other.py"]) == 2
    assert said in capsys.readouterr().err


def test_names_that_do_not_exist(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    for subject, said in (("quickstrt", "did you mean 'quickstart'?"), ("gone.py", "no file 'gone.py'")):
        assert main(["run", subject]) == 2
        assert said in capsys.readouterr().err
    assert main(["run"]) == 2
    assert "no recipe given" in capsys.readouterr().err


def test_two_runs_into_one_folder(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, "--folder", "mine"]) == 0
    assert main(["run", recipe, "--folder", "mine"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_what_a_recipe_raises_ends_the_run_as_failed(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, "--fail", "--folder", "mine"]) == 4
    assert "polyturn: error: the loss of update 1 is nan" in capsys.readouterr().err
    info = read_info(Path("mine"))
    assert (info.status, info.attempts[-1].reason) == ("failed", "NotFinite: the loss of update 1 is nan")
    assert Path("mine/metrics.jsonl").read_text().count("count/sum") == 1  # update 0 is kept


def test_an_error_in_the_users_file_names_its_line(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    fault = "        {}['gone']\n        if False:"
    Path(recipe).write_text(RECIPE.replace("        if settings.fail and i == 1:", fault))
    assert main(["run", recipe, "--folder", "mine"]) == 4
    text = capsys.readouterr().err
    assert "Traceback" in text
    line = 1 + Path(recipe).read_text().splitlines().index("        {}['gone']")
    assert f"count.py, line {line}: KeyError: 'gone'" in text.splitlines()[-1]
    assert read_info(Path("mine")).status == "failed"


def test_what_the_system_refuses_is_one_line(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("a file where a folder should be")
    assert main(["run", recipe, "--folder", "taken/mine"]) == 4
    text = capsys.readouterr().err
    assert "taken" in text and len(text.splitlines()) == 1


def test_resume_takes_the_settings_of_the_run(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, "--updates", "4", "--words", "x", "y", "--folder", "mine"]) == 0
    capsys.readouterr()
    assert main(["run", "--resume", "mine", "--json"]) == 0
    found = last_json(capsys.readouterr().out)
    assert (found["total"], found["odd"]) == (6, 2.0)
    assert len(read_info(Path("mine")).attempts) == 2


@pytest.mark.parametrize(("arguments", "said"), [
    (["--resume", "mine", "--updates", "5"], "takes the run's own settings; leave out --updates 5"),
    (["other.py", "--resume", "mine"], "is a run of count.py, not of other.py"),
    (["--resume", "gone"], "it does not exist"),
    (["--resume", "empty"], "it is empty"),
])
def test_resumes_that_make_no_sense(
    recipe: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert main(["run", recipe, "--folder", "mine"]) == 0
    assert main(["run", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_changed_recipe_is_not_resumed(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, "--folder", "mine"]) == 0
    Path(recipe).write_text(RECIPE + "\n# another\n")
    assert main(["run", "--resume", "mine"]) == 2
    assert "has changed since" in capsys.readouterr().err


def test_a_run_of_others_runs_no_file_that_it_names(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run folder may name any file of this machine as its recipe; only the text that it keeps is run."""
    assert main(["run", recipe, "--folder", "mine"]) == 0
    Path("other.py").write_text("from pathlib import Path\nPath('trace').touch()\n" + RECIPE)
    run = Path("mine/run.json")
    run.write_text(run.read_text().replace('"count.py"', '"other.py"'))
    assert main(["run", "--resume", "mine"]) == 2
    assert "has changed since" in capsys.readouterr().err and not Path("trace").exists()


def test_dry_run_writes_nothing(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, "--dry-run", "--updates", "4"]) == 0
    text = capsys.readouterr().out
    assert "updates = 4" in text and "time: about 6 min 00 s" in text and "memory: about 3.0 GiB" in text
    assert not Path("runs").exists()
    assert main(["run", recipe, "--dry-run", "--json"]) == 0
    assert last_json(capsys.readouterr().out)["foreseen"] == {
        "seconds": 270.0, "bytes": 3 * 2**30, "stages": {"count": 270.0}}


def test_a_recipe_that_foresees_nothing_says_so(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bare.py").write_text(RECIPE.partition("def foresee")[0])
    assert main(["run", "bare.py", "--dry-run"]) == 0
    assert "does not say what it takes" in capsys.readouterr().out


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_keeps_what_was_finished(recipe: str, sent: signal.Signals, code: int) -> None:
    flags = ["--wait-s", "0.2", "--updates", "500", "--folder", "mine"]
    command = [sys.executable, "-m", "polyturn", "run", recipe, *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        table = Path("mine/metrics.jsonl")
        for _ in range(300):
            if table.exists() and table.read_text().count("\n") >= 2:
                break
            time.sleep(0.1)
        os.kill(child.pid, sent)
        _, said = child.communicate(timeout=60)
    assert child.returncode == code
    assert "Traceback" not in said
    assert "--resume" in said.splitlines()[-1]
    info = read_info(Path("mine"))
    assert (info.status, info.attempts[-1].reason) == ("stopped", "interrupted")
    assert table.read_text().count("count/sum") >= 2


def test_unused_finds_a_free_name(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    assert unused(folder) == folder
    folder.mkdir()
    assert unused(folder) == tmp_path / "x-2"


def test_settings_are_stored_as_json_values() -> None:
    from dataclasses import dataclass

    @dataclass
    class Settings:
        path: Path = Path("a/b")
        words: tuple[str, ...] = ("x",)

    assert stored(Settings()) == {"path": "a/b", "words": ["x"]}


def test_who_plays_is_refused_where_it_would_do_nothing(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in ((["--processes", "2"], "which plays its episodes in this process; those that can"),
                        (["--processes", "-1"], "is -1"), (["--ray", "auto"], "has no effect without --processes")):
        assert main(["run", recipe, *words]) == 2
        assert said in capsys.readouterr().err


def test_a_recipe_that_can_is_told_who_plays(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace("run.keep(total", "run.keep(played_by=[run.processes, run.ray], total")
    Path(recipe).write_text(text + "\nPROCESSES = True\n")
    assert main(["run", recipe, "--processes", "3", "--ray", "auto", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["played_by"] == [3, "auto"]
