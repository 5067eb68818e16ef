"""Writes the package's tree into README.md, one phrase a line, from the first sentence of each docstring.

``python docs/tree.py`` prints it, ``--write`` puts it into the README, ``--check`` fails if the README differs.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- tree: written by docs/tree.py -->\n```\n", "```\n<!-- end of tree -->"


def phrase(path: Path) -> str:
    """The first sentence of a module's docstring, on one line, without its full stop; a long one up to its colon."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    sentence = re.split(r"(?<=[.]) ", text, maxsplit=1)[0]
    if len(sentence) > 115:
        sentence = re.split(r"(?<=[:;]) ", sentence, maxsplit=1)[0]
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", sentence).replace("``", "").rstrip(".:;")


def lines(folder: Path, indent: int = 1) -> list[str]:
    """One line for each module of a folder, folders after files."""
    found = []
    entries = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
    for path in entries:
        pad = "  " * indent
        if path.suffix == ".py" and path.name != "__init__.py":
            found.append(f"{pad}{path.name:<{24 - len(pad)}}{phrase(path)}")
        elif path.is_dir() and (path / "__init__.py").exists():
            found.append(f"{pad}{path.name + '/':<{24 - len(pad)}}{phrase(path / '__init__.py')}")
            found.extend(lines(path, indent + 1))
    return found


def tree() -> str:
    """The whole block: the package, then what stands beside it."""
    rest = ["tests/                  mirrors polyturn/; architecture_test.py walks the rules of docs/architecture.md",
            "docs/                   concepts, tutorial, architecture, decisions/, log.md (measured results)"]
    return "\n".join(["polyturn/", *lines(ROOT / "polyturn"), *rest]) + "\n"


def main() -> int:
    """0, or 1 if the README shows another tree."""
    text = README.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    fresh = before + BEGIN + tree() + END + after
    if not found:
        print(f"README.md has no line {BEGIN.splitlines()[0]!r}")
        return 1
    if "--write" in sys.argv:
        README.write_text(fresh, encoding="utf-8")
    elif "--check" in sys.argv and fresh != text:
        print("README.md shows another tree: run python docs/tree.py --write")
        return 1
    elif "--check" not in sys.argv:
        print(tree(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
