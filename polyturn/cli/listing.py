"""``polyturn methods`` and ``polyturn envs``: tables read from source with ``ast``; nothing listed is imported."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from polyturn.cli.parse import Parser, print_json, table_text
from polyturn.errors import BadInput

PACKAGE = Path(__file__).parents[1]


def literal(path: Path, name: str) -> Any:
    """The value of a module-level literal, or None where the file has none of that name.

    A call such as ``Paper(title="...")`` reads as the mapping of its arguments. Raises: BadInput for no literal.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if [ast.unparse(target) for target in targets] == [name]:
                return _value(node.value, f"{path}: {name}")
    return None


def _value(node: ast.expr | None, where: str) -> Any:
    if isinstance(node, ast.Call):
        if node.args:
            raise BadInput(f"{where} has positional arguments; use keywords, so that it can be read without import")
        return {str(keyword.arg): _value(keyword.value, where) for keyword in node.keywords}
    if isinstance(node, ast.Tuple | ast.List):
        return [_value(item, where) for item in node.elts]
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError as error:
        raise BadInput(f"{where} is no literal ({error}); it must be readable without import") from error


def methods(package: Path = PACKAGE) -> list[dict[str, Any]]:
    """One mapping for each file under ``methods/`` that has a ``PAPER``: what that says, folder, recipe, test, and the
    measured figure from ``docs/results``; None where there is none."""
    found = []
    for path in sorted((package / "methods").rglob("*.py")):
        paper = literal(path, "PAPER")
        if paper is not None:
            found.append(_method(path, paper, package))
    return found


def _method(path: Path, paper: Mapping[str, Any], package: Path) -> dict[str, Any]:
    inside = path.relative_to(package / "methods")
    recipe = package / "recipes" / path.name
    test = package.parent / "tests" / "methods" / inside.with_name(f"{path.stem}_test.py")
    return {
        "name": path.stem, "folder": str(inside.parent), "title": paper.get("title"), "arxiv": paper.get("arxiv"),
        "claim": paper.get("claim"), "recipe": path.stem if recipe.exists() else None,
        "figure": figure(path.stem, package), "test": str(test.relative_to(package.parent)) if test.exists() else None,
        "adds": paper.get("adds"), "axes": paper.get("axes"), "deviations": paper.get("deviations"),
    }


def figure(name: str, package: Path = PACKAGE) -> str | None:
    """What was measured for a method, in a sentence; None where ``docs/results`` has no file of its name."""
    path = package.parent / "docs" / "results" / f"{name}.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["figure"]) if path.exists() else None


def envs(package: Path = PACKAGE) -> list[dict[str, Any]]:
    """The entries of every ``ENVS`` literal under ``envs/``, by name, each with the ``module`` that it stands in and
    with how its package ``comes``."""
    return sorted(({**entry, "comes": comes(entry)} for entry in _entries(package)), key=lambda e: str(e["name"]))


def comes(entry: Mapping[str, Any]) -> str:
    """How an environment's package comes: with the ``core``, with an extra of Polyturn, or by ``polyturn envs
    --install``, as ``data`` that our code reads or as a ``worker`` in an environment of its own.

    >>> comes({"needs": "tau"}), comes({"needs": "bfcl"}), comes({"extra": "search"}), comes({})
    ('data', 'worker', 'extra search', 'core')
    """
    from polyturn.envs.pins import INSTALLABLE

    kinds = ["worker" if INSTALLABLE[entry["needs"]].beside else "data"] if "needs" in entry else []
    kinds += [f"extra {entry['extra']}"] if "extra" in entry else []
    return ", ".join(kinds) or "core"


def _entries(package: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((package / "envs").rglob("*.py")):
        for entry in literal(path, "ENVS") or ():
            inside = path.relative_to(package).with_suffix("").parts
            yield {"module": ".".join(("polyturn", *inside)), **entry}


def command(name: str, arguments: list[str]) -> int:
    """Prints the methods or the environments, or fetches what environments need."""
    parser = Parser(name, f"List the {'methods, with papers' if name == 'methods' else 'environments'}.",
                    [f"polyturn {name}", f"polyturn {name} --json"])
    parser.add_argument("--json", action="store_true", help=f"one object with a list under {name!r}")
    if name == "envs":
        parser.add_argument("--install", metavar="NAME", help="fetch the data that environments need, once, into "
                            "Polyturn's cache folder; the column 'needs' names them")
    asked = parser.all_known(arguments)
    if name == "methods":
        return _methods(asked.json)
    return _envs(asked.json) if asked.install is None else _install(asked.install, asked.json)


def _methods(as_json: bool) -> int:
    rows = methods()
    if as_json:
        shown = ("name", "folder", "arxiv", "recipe", "test")
        print_json({"methods": [{key: row.get(key) for key in (*shown, *row)} for row in rows]})
    else:
        print("\n\n".join(map(_paragraph, rows)) if rows else "no methods in this version")
    return 0


def _envs(as_json: bool) -> int:
    from polyturn.envs.install import is_installed

    rows = [{**row, "installed": is_installed(row["needs"]) if "needs" in row else None} for row in envs()]
    shown = ("name", "package", "comes", "seats", "oracle", "null", "licence", "needs", "installed")
    if as_json:
        print_json({"envs": [{key: row.get(key) for key in (*shown, *row)} for row in rows]})
        return 0
    print(table_text([list(shown), *([_cell(row.get(key)) for key in shown] for row in rows)]))
    for needed in sorted({str(row["needs"]) for row in rows if row["installed"] is False}):
        print(f"to play the environments that need {needed}: polyturn envs --install {needed}", file=sys.stderr)
    return 0


def _install(name: str, as_json: bool) -> int:
    from polyturn.envs.install import install, is_installed, pinned

    package, before = pinned(name), is_installed(name)
    folder = install(name, lambda line: print(f"polyturn: {line}", file=sys.stderr))
    if as_json:
        print_json({"installed": {"name": name, "package": package.package, "version": package.version,
                                  "folder": str(folder), "fetched": not before}})
    else:
        print(f"{package.package} {package.version} {'was already' if before else 'is'} in {folder}")
    return 0


def _paragraph(row: Mapping[str, Any]) -> str:
    """A method as people read it: title, claim, what was measured, how to run it."""
    lines = [f"{row['name']}: {row['title']} (arXiv {row['arxiv']})", f"  {row['claim']}"]
    lines += [f"  measured: {row['figure']}"] if row["figure"] else []
    lines += [f"  run: polyturn run {row['recipe']}"] if row["recipe"] else []
    return "\n".join([*lines, f"  test: {_cell(row['test'])}"])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else "-" if value is None else str(value)
