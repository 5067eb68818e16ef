"""The literal of a method file."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyturn.cli.listing import literal
from polyturn.paper import Paper

SOURCE = '''
from polyturn.paper import Paper
PAPER = Paper(
    title="A paper", arxiv="2501.00001", year=2025, claim="It works.", adds=("Rule: Advantage",),
    axes={"task": "agentic", "method": "model: reinforcement learning", "challenge": "credit"}, deviations=("none",),
)
'''


def test_a_paper_reads_without_import_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "method.py").write_text(SOURCE)
    read = literal(tmp_path / "method.py", "PAPER")
    space: dict[str, object] = {}
    exec(compile(SOURCE, "method.py", "exec"), space)
    paper = space["PAPER"]
    assert isinstance(paper, Paper)
    assert read["axes"] == paper.axes and tuple(read["deviations"]) == paper.deviations
    assert (read["title"], read["arxiv"], read["year"]) == (paper.title, paper.arxiv, paper.year)


def test_a_paper_takes_names_only() -> None:
    with pytest.raises(TypeError):
        Paper("A paper", "2501.00001")  # type: ignore[misc,call-arg]
