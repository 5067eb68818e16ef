"""Recipes: found by name or path, their settings read from flags. :mod:`polyturn.recipes` says what a recipe is."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, fields, is_dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from polyturn.cli.main import USER_MODULE
from polyturn.cli.parse import check_flags
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Match

FOLDER = Path(__file__).parents[1] / "recipes"
MOST_FIELDS = 20


Needs: TypeAlias = Sequence[tuple[tuple[str, ...], Mapping[str, tuple[Any, ...]]]]
"""Pairs of settings and, by other setting, the values with which they do anything; () = any but an empty one."""


@dataclass(frozen=True)
class Recipe:
    """A loaded recipe; the optional functions are None where the module has none."""

    name: str
    path: Path
    settings: type[Any]
    main: Callable[[Any, Any], Awaitable[None]]
    held_out: Callable[[Any], Sequence[Match]] | None = None
    foresee: Callable[[Any], Mapping[str, Any]] | None = None
    text: Callable[[Mapping[str, Any]], str] | None = None
    needs: Needs = ()
    processes: bool = False
    """Whether other processes can play its episodes: the module says ``PROCESSES = True``."""
    ranks: bool = False
    """Whether its learners may run on several processes: it makes them by ``run.learner``."""

    @property
    def source(self) -> str:
        """The recipe's text, which the run folder keeps."""
        return self.path.read_text(encoding="utf-8")


def shipped() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def is_recipe(subject: str) -> bool:
    """Whether a word names a recipe: a shipped one, or a ``.py`` file with ``Settings``."""
    return subject in shipped() or (subject.endswith(".py") and hasattr(module_of(subject), "Settings"))


def load(subject: str) -> Recipe:
    """The recipe of this name or in this file. Raises: UnknownName, or BadInput with what the file lacks."""
    if not subject.endswith(".py") and subject not in shipped():
        raise UnknownName("recipe", subject, shipped())
    module = module_of(subject) if subject.endswith(".py") else importlib.import_module(f"polyturn.recipes.{subject}")
    main, settings = getattr(module, "main", None), getattr(module, "Settings", None)
    if main is None or settings is None:
        missing = " and ".join(name for name in ("Settings", "main") if not hasattr(module, name))
        raise BadInput(f"{subject} is no recipe: it has no {missing}; it needs a dataclass Settings and "
                       "async def main(settings, run)")
    if not isinstance(settings, type) or not is_dataclass(settings) or not inspect.iscoroutinefunction(main):
        raise BadInput(f"{subject}: expected a dataclass Settings and an async def main(settings, run)")
    _check_fields(subject, settings)
    path = Path(str(module.__file__))
    optional = {name: getattr(module, name, None) for name in ("held_out", "foresee", "text")}
    needs: Needs = getattr(module, "NEEDS", ())
    _check_needs(subject, settings, needs)
    return Recipe(path.stem, path, settings, main, **optional, needs=needs,
                  processes=bool(getattr(module, "PROCESSES", False)), ranks=bool(getattr(module, "RANKS", False)))


def module_of(file: str) -> ModuleType:
    """The module in a user's ``.py`` file, imported once. Raises: BadInput for no file, or one with a syntax error."""
    path = Path(file).resolve()
    if not path.is_file():
        raise BadInput(f"no file {file!r}; give a name ({', '.join(shipped())}) or a .py file that exists")
    name = f"{USER_MODULE}{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, SyntaxError):
            raise BadInput(f"{file}, line {error.lineno}: {error.msg}") from error
        raise
    return module


def _check_fields(subject: str, settings: type[Any]) -> None:
    own = fields(settings)
    bare = [f.name for f in own if f.default is MISSING and f.default_factory is MISSING]
    if bare:
        raise BadInput(f"{subject}: Settings.{bare[0]} has no default; every field needs one")
    if len(own) > MOST_FIELDS:
        raise BadInput(f"{subject}: Settings has {len(own)} fields; at most {MOST_FIELDS}")


def _check_needs(subject: str, settings: type[Any], needs: Needs) -> None:
    known = [f.name for f in fields(settings)]
    for name in (name for own, others in needs for name in (*own, *others)):
        if name not in known:
            raise UnknownName(f"setting in NEEDS of {subject}", name, known)


def idle(recipe: Recipe, settings: Any) -> dict[str, str]:
    """Setting -> why it does nothing: of those that differ from their defaults, each that another one switches off."""
    default, found = recipe.settings(), {}
    changed = [f.name for f in fields(settings) if getattr(settings, f.name) != getattr(default, f.name)]
    for name in changed:
        wants = [item for own, others in recipe.needs if name in own for item in others.items()]
        for other, values in wants:
            now = getattr(settings, other)
            if now in values if values else now:
                continue
            wanted = " or ".join(str(value) or "left out" for value in values) or "set"
            found[name] = f"{_flag(name)} {getattr(settings, name)} needs {_flag(other)} to be {wanted} (it is {now!r})"
            break
    return found


def refuse_idle(recipe: Recipe, settings: Any, *, deterministic: bool = False) -> None:
    """Nothing, where every setting that differs from its default does something.

    Raises: BadInput naming each one that does not (:func:`idle`), with what it needs. ``deterministic`` runs compute in
    float32, whatever a setting ``dtype`` says.
    """
    found = [*idle(recipe, settings).values()]
    if deterministic and getattr(settings, "dtype", "float32") not in (
        "float32", getattr(recipe.settings(), "dtype", "float32")
    ):
        found.append(f"--dtype {settings.dtype} has no effect with --deterministic, which computes in float32")
    if found:
        raise BadInput(f"{recipe.name}: {'these settings' if len(found) > 1 else 'this setting'} would do nothing: "
                       f"{'; '.join(found)}. Leave out what has no effect, or change what switches it off")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def flags(settings: type[Any]) -> list[str]:
    """The flags that a Settings class makes."""
    names = [f.name for f in fields(settings)]
    dashed = [name.replace("_", "-") for name in names]
    return [f"--{no}{name}" for no in ("", "no-") for name in (*dashed, *names)]


def read_settings(recipe: Recipe, arguments: Sequence[str], others: Sequence[str] = ()) -> Any:
    """The Settings that these flags give. ``others`` = flags of the command itself, for the nearest name.

    Raises: UnknownName for an unknown flag, BadInput for a value that does not fit its type.
    """
    import tyro

    if not {"--help", "-h"} & set(arguments):
        check_flags(arguments, [*flags(recipe.settings), *others])
    said = StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(recipe.settings, args=list(arguments), prog=f"polyturn run {recipe.name}")
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise BadInput(f"{recipe.name}: {_plain(said.getvalue())}") from None


def _plain(box: str) -> str:
    """A framed message as one line of text."""
    lines = (line.strip(" │╭╮╰╯─\t") for line in box.splitlines())
    return " ".join(" ".join(line for line in lines if line).split()) or "the settings could not be read"


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Any:
    """The Settings with some fields set, as Python gives them. Raises: UnknownName for a field that does not exist."""
    known = [f.name for f in fields(recipe.settings)]
    for name in values:
        if name not in known:
            raise UnknownName(f"setting of {recipe.name}", name, known)
    return recipe.settings(**values)
