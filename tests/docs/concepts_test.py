"""What the pages say about the code is true: every named file, function and class exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PAIR = re.compile(r"`([\w/]+\.py)`\s+`([A-Za-z_][\w.]*)`")
FILE = re.compile(r"`((?:polyturn|docs|tests)/[\w/]+\.\w+)`")


def defined(path: Path) -> set[str]:
    """``name`` and ``Class.method`` of everything that a file defines."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names |= {node.name, *(f"{node.name}.{part.name}" for part in node.body
                                   if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return names


def test_the_path_of_a_token_names_real_code() -> None:
    pairs = PAIR.findall((ROOT / "docs" / "concepts.md").read_text())
    assert len(pairs) >= 20
    wrong = [f"{file}: {name}" for file, name in pairs
             if not (ROOT / "polyturn" / file).exists() or name not in defined(ROOT / "polyturn" / file)]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    if page.name == "architecture.md":  # it also names what is still to come
        return
    assert not [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()]


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        targets = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
        broken = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
        assert not broken, f"{page.name}: {broken}"
