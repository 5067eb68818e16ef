"""Recipes by name and path, and their settings from flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from polyturn.cli.recipe import (
    flags,
    is_recipe,
    load,
    module_of,
    read_settings,
    refuse_idle,
    shipped,
    with_values,
)
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


# ---------------------------------------------------------------- settings that would do nothing

NEEDING = TEXT + '''
NEEDS = (
    (("learning_rate",), {"mask": ()}),
    (("dtype",), {"mask": (True,), "learning_rate": (1e-3, 2e-3)}),
)
'''


@pytest.fixture
def needing(tmp_path: Path) -> Any:
    path = tmp_path / "needing.py"
    path.write_text(NEEDING)
    return load(str(path))


@pytest.mark.parametrize(("values", "said"), [
    ({"learning_rate": 2e-3}, r"this setting would do nothing: --learning-rate 0.002 needs --mask to be set \(it is F"),
    ({"dtype": "bfloat16"}, "--dtype bfloat16 needs --mask to be True"),
    ({"dtype": "bfloat16", "mask": True, "learning_rate": 5.0}, r"--learning-rate to be 0.001 or 0.002 \(it is 5"),
    ({"dtype": "bfloat16", "learning_rate": 2e-3}, "these settings would do nothing: --learning-rate .*; --dtype"),
])
def test_a_setting_that_would_do_nothing_is_refused(needing: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        refuse_idle(needing, with_values(needing, values))


@pytest.mark.parametrize("values", [
    {}, {"mask": True}, {"mask": True, "learning_rate": 2e-3}, {"mask": True, "dtype": "bfloat16"},
    {"learning_rate": 1e-3},  # the default: it says nothing
])
def test_settings_that_do_something_pass(needing: Any, values: dict[str, Any]) -> None:
    refuse_idle(needing, with_values(needing, values))


def test_a_number_type_that_determinism_overrides_is_refused(recipe: Any) -> None:
    lower = with_values(recipe, {"dtype": "bfloat16"})
    refuse_idle(recipe, lower)
    with pytest.raises(BadInput, match="--dtype bfloat16 has no effect with --deterministic"):
        refuse_idle(recipe, lower, deterministic=True)


def test_a_recipe_without_a_number_type_may_be_deterministic(tmp_path: Path) -> None:
    path = tmp_path / "short.py"
    path.write_text(TEXT.replace('    dtype: Literal["float32", "bfloat16"] = "float32"\n', ""))
    short = load(str(path))
    refuse_idle(short, short.settings(), deterministic=True)


def test_needs_of_settings_that_do_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(TEXT + '\nNEEDS = ((("mask",), {"learning_rat": ()}),)\n')
    with pytest.raises(UnknownName, match="did you mean 'learning_rate'"):
        load(str(path))


@pytest.mark.parametrize("name", shipped())
def test_what_shipped_recipes_need_can_be_met_and_missed(name: str) -> None:
    """Each need names values that its setting can have, and one by which it is switched off."""
    found = load(name)
    refuse_idle(found, found.settings())
    defaults = found.settings()
    for own, others in found.needs:
        for other, values in others.items():
            choices = get_args(get_type_hints(found.settings)[other])
            assert all(isinstance(value, type(getattr(defaults, other))) for value in values) and other not in own
            assert not choices or (set(values) < set(choices) and values)


def test_the_command_refuses_before_anything_is_made(tmp_path: Path) -> None:
    from polyturn.cli.main import main

    folder = tmp_path / "run"
    assert main(["run", "mem1", "--warm-updates", "0", "--keep", "0.1", "--folder", str(folder)]) == 2
    assert not folder.exists()
