"""Writes docs/envs.md, docs/methods.md and the figures in docs/methods/ from the tables in the source and docs/results.

``python docs/tables.py`` prints both pages, ``--write`` writes them, ``--check`` fails if one differs.
"""

from __future__ import annotations

import json
import re
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
Gymnasium and PettingZoo bring in any environment of these packages with two functions of yours. What `needs` names is
fetched by `polyturn envs --install NAME`, once; `comes` says whether it is data, code that runs in a worker with
packages of its own, an extra of Polyturn, or part of the core.

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
    shown = table(envs(), ("name", "package", "comes", "seats", "oracle", "random", "null", "licence", "needs"))
    rows = [{**row, "name": link(str(row["name"]))} for row in methods()]
    papers = table(rows, ("name", "folder", "title", "arxiv", "claim", "recipe", "test", "figure"))
    of_methods = {path: with_figure(path) for path in sorted((DOCS / "methods").glob("*.md"))}
    return {DOCS / "envs.md": ENVS + shown, DOCS / "methods.md": METHODS + papers, **of_methods}


def link(name: str) -> str:
    """The name of a method, with its page behind it where there is one."""
    return f"[{name}](methods/{name}.md)" if (DOCS / "methods" / f"{name}.md").exists() else name


def with_figure(page: Path) -> str:
    """The text of a method's page with its measured result between the marks.

    Raises: ValueError for a page without the marks ``<!-- figure -->`` and ``<!-- /figure -->``.
    """
    text = page.read_text(encoding="utf-8")
    if not re.search("<!-- figure -->.*<!-- /figure -->", text, re.DOTALL):
        raise ValueError(f"{page} lacks the marks <!-- figure --> and <!-- /figure -->")
    shown = f"<!-- figure -->\n{measured(page.stem)}<!-- /figure -->"
    return re.sub("<!-- figure -->.*<!-- /figure -->", lambda _: shown, text, flags=re.DOTALL)


def measured(name: str) -> str:
    """A study's result as Markdown: the sentence, a row an arm with every point, the plot, the command."""
    path = DOCS / "results" / f"{name}.json"
    if not path.exists():
        return "Not measured yet.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    outcomes = [outcome for outcome in next(iter(found["arms"].values()))["means"]]
    rows = [{"arm": arm, "settings": spoken(row["settings"]),
             **{outcome: with_points(row, outcome) for outcome in outcomes}} for arm, row in found["arms"].items()]
    return (f"\n{found['figure']}\n\n{table(rows, ('arm', 'settings', *outcomes))}\n"
            f"Means with 95 % intervals over seeds, then every seed's point. `{found['command']}`, {found['date']}; "
            f"settings chosen on seeds {spoken(found['choose_seeds'])}.\n\n![{name}](../results/{name}.svg)\n\n")


def with_points(row: Mapping[str, Any], outcome: str) -> str:
    """``0.62 [0.5, 0.74]: 0.55 0.6 0.7``."""
    mean = row["means"][outcome]
    points = " ".join(f"{value:.3g}" for value in row["points"][outcome].values())
    return f"{mean['mean']:.3g} [{mean['low']:.3g}, {mean['high']:.3g}]: {points}"


def spoken(values: Any) -> str:
    """Settings or seeds in a line."""
    pairs = [f"{key} {value}" for key, value in values.items()] if isinstance(values, dict) else map(str, values)
    return ", ".join(pairs)


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
