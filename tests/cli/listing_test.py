"""Listings read from source: nothing that is listed is imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyturn.cli.listing import envs, literal, methods
from polyturn.cli.main import main
from polyturn.envs.install import pinned
from polyturn.errors import BadInput

PAPER = '''
"""A method that cannot be imported."""
import nothing_of_this_name
from polyturn.paper import Paper
PAPER = Paper(title="Self-play", arxiv="2506.24119", year=2025, claim="It learns.", adds=("role baseline",),
              axes={"task": "games"})
'''


def checkout(top: Path) -> Path:
    """A package with one method, its test and recipe, and one file without PAPER."""
    package = top / "polyturn"
    for folder in (package / "methods" / "learning", package / "recipes", package / "envs",
                   top / "tests" / "methods" / "learning"):
        folder.mkdir(parents=True)
    (package / "methods" / "learning" / "spiral.py").write_text(PAPER)
    (package / "methods" / "learning" / "part.py").write_text("x = 1\n")
    (package / "recipes" / "spiral.py").write_text("")
    (top / "tests" / "methods" / "learning" / "spiral_test.py").write_text("")
    return package


def test_methods_are_read_and_not_imported(tmp_path: Path) -> None:
    assert methods(checkout(tmp_path)) == [{
        "name": "spiral", "folder": "learning", "title": "Self-play", "arxiv": "2506.24119", "claim": "It learns.",
        "recipe": "spiral", "figure": None, "test": "tests/methods/learning/spiral_test.py", "adds": ["role baseline"],
        "axes": {"task": "games"}, "deviations": None,
    }]


def test_the_figure_is_the_one_of_the_results_file(tmp_path: Path) -> None:
    package = checkout(tmp_path)
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "spiral.json").write_text('{"figure": "score: a 1, b 0"}')
    assert methods(package)[0]["figure"] == "score: a 1, b 0"


def test_a_method_without_recipe_and_test_says_so(tmp_path: Path) -> None:
    package = checkout(tmp_path)
    (package / "methods" / "learning" / "other.py").write_text(PAPER.replace("Self-play", "Other"))
    found = methods(package)[0]
    assert (found["name"], found["recipe"], found["test"]) == ("other", None, None)


def test_a_paper_that_must_be_computed_is_refused(tmp_path: Path) -> None:
    package = checkout(tmp_path)
    (package / "methods" / "learning" / "bad.py").write_text('TITLE = "x"\nPAPER = Paper(title=TITLE)\n')
    with pytest.raises(BadInput, match=r"bad\.py: PAPER is no literal"):
        methods(package)
    (package / "methods" / "learning" / "bad.py").write_text('PAPER = Paper("x")\n')
    with pytest.raises(BadInput, match="use keywords"):
        methods(package)


def test_environments_are_read_and_not_imported(tmp_path: Path) -> None:
    package = checkout(tmp_path)
    (package / "envs" / "games.py").write_text(
        'import nothing_of_this_name\nENVS = [{"name": "b", "seats": ("agent",)}, {"name": "a", "seats": ()}]\n')
    found = envs(package)
    assert [entry["name"] for entry in found] == ["a", "b"]
    assert found[1] == {"name": "b", "seats": ("agent",), "module": "polyturn.envs.games", "comes": "core"}


def test_annotated_literals_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("import os\nA: dict[str, int] = {'x': 1}\nA = 2 if os else 3\n")
    assert literal(path, "A") == {"x": 1}
    assert literal(path, "B") is None


@pytest.mark.parametrize("name", ["methods", "envs"])
def test_json_is_one_object_with_a_list(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--json"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert isinstance(json.loads(line)[name], list)


def test_environments_say_what_they_need_and_whether_it_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POLYTURN_CACHE", str(tmp_path))
    entries = [{"name": "x", "seats": ("agent",), "needs": "tau", "comes": "data"}, {"name": "y", "seats": ("agent",)}]
    monkeypatch.setattr("polyturn.cli.listing.envs", lambda: entries)
    assert main(["envs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["envs"]
    assert [(row["needs"], row["installed"]) for row in found] == [("tau", False), (None, None)]
    assert main(["envs"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1].split() == ["x", "-", "data", "agent", "-", "-", "-", "tau", "no"]
    assert "polyturn envs --install tau" in said.err


def test_what_is_installed_is_not_fetched_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POLYTURN_CACHE", str(tmp_path))
    package = pinned("tau")
    for file in package.needs:
        (package.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (package.folder / file).write_text("")
    assert main(["envs", "--install", "tau", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["installed"]
    assert found == {"name": "tau", "package": "inspect-evals", "version": "0.26.0", "folder": str(package.folder),
                     "fetched": False}
    assert main(["envs", "--install", "tau"]) == 0
    assert "was already in" in capsys.readouterr().out


def test_an_unknown_package_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "--install", "tua"]) == 2
    assert "did you mean 'tau'?" in capsys.readouterr().err
