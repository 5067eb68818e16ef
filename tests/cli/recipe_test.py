"""Recipes by name and path, and their settings from flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyturn.cli.recipe import flags, is_recipe, load, module_of, read_settings, shipped, with_values
from polyturn.errors import BadInput, UnknownName

TEXT = '''
from dataclasses import dataclass
from typing import Literal

@dataclass(frozen=True)
class Settings:
    learning_rate: float = 1e-3
    """Step size."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    mask: bool = False

async def main(settings, run):
    pass
'''


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    return load(str(path))


def test_every_shipped_recipe_loads_with_default_settings() -> None:
    assert "quickstart" in shipped()
    for name in shipped():
        found = load(name)
        assert found.settings() == read_settings(found, [])
        assert found.source == found.path.read_text()


def test_flags_with_dashes_or_underscores(recipe: Any) -> None:
    for flag in ("--learning-rate", "--learning_rate"):
        assert read_settings(recipe, [flag, "3e-5"]).learning_rate == 3e-5
    found = read_settings(recipe, ["--dtype", "bfloat16", "--mask"])
    assert (found.dtype, found.mask) == ("bfloat16", True)
    assert "--no-mask" in flags(recipe.settings)


def test_the_nearest_flag_may_be_the_commands_own(recipe: Any) -> None:
    with pytest.raises(UnknownName, match="did you mean '--resume'"):
        read_settings(recipe, ["--resme"], ["--resume"])


@pytest.mark.parametrize("arguments", [["--dtype", "float16"], ["--learning-rate", "fast"], ["--learning-rate"]])
def test_values_of_the_wrong_type_are_one_line(recipe: Any, arguments: list[str]) -> None:
    with pytest.raises(BadInput) as error:
        read_settings(recipe, arguments)
    text = str(error.value)
    assert "\n" not in text and "─" not in text
    assert "dtype" in text or "learning-rate" in text


def test_settings_by_name(recipe: Any) -> None:
    assert with_values(recipe, {"learning_rate": 0.5}).learning_rate == 0.5
    with pytest.raises(UnknownName, match="did you mean 'learning_rate'"):
        with_values(recipe, {"learnin_rate": 0.5})


def test_a_file_is_imported_once_and_again_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("value = [\n")
    with pytest.raises(BadInput, match=r"x\.py, line"):
        module_of(str(path))
    path.write_text("value = []\n")
    assert module_of(str(path)) is module_of(str(path))


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "env.py").write_text(f"value = {name!r}\n")
    assert [module_of(str(tmp_path / name / "env.py")).value for name in ("a", "b")] == ["a", "b"]


def test_an_environment_file_is_no_recipe(tmp_path: Path, recipe: Any) -> None:
    (tmp_path / "env.py").write_text("def suite(): ...\n")
    assert not is_recipe(str(tmp_path / "env.py"))
    assert is_recipe(str(recipe.path)) and is_recipe("quickstart") and not is_recipe("tic_tac_toe")
