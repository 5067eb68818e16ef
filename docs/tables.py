"""Writes docs/envs.md and docs/methods.md from the tables in the source, as the command line reads them.

``python docs/tables.py`` prints both pages, ``--write`` writes them, ``--check`` fails if one differs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyturn.cli.listing import envs, methods

DOCS = Path(__file__).parent
WRITTEN = "<!-- written by docs/tables.py -->\n"
ENVS = f"""# Environments

{WRITTEN}
Each is a real package behind an adapter, or our own. Scores are in 0..1 and mean over the seats: the scripted solver
(`oracle`), uniformly random legal play (`random`), and the player that says nothing (`null`). The adapters for
Gymnasium and PettingZoo bring in any environment of these packages with two functions of yours.

"""
METHODS = f"""# Methods

{WRITTEN}
Each is one file that adds its part to the core, with a recipe that runs and a test that checks its numbers by hand.

"""


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table, or a sentence where there is nothing."""
    if not rows:
        return "None in this version: the core comes first.\n"
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(row.get(column)) for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: Any) -> str:
    """One value as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


def pages() -> dict[Path, str]:
    """Page -> its text."""
    shown = table(envs(), ("name", "package", "seats", "oracle", "random", "null", "licence"))
    papers = table(methods(), ("name", "folder", "title", "arxiv", "recipe", "test", "figure"))
    return {DOCS / "envs.md": ENVS + shown, DOCS / "methods.md": METHODS + papers}


def main() -> int:
    """0, or 1 if a page differs."""
    for path, text in pages().items():
        if "--write" in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif "--check" in sys.argv:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                print(f"{path.name} differs: run python docs/tables.py --write")
                return 1
        else:
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
