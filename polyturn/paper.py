"""What a method file says of its source, as one literal that is read without importing the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """The source of a method: ``PAPER = Paper(title="SPIRAL: ...", arxiv="2506.24119", year=2025, ...)``.

    Every value is a literal, so that ``polyturn methods`` and the tables in the documentation read it with ``ast``.
    """

    title: str
    arxiv: str
    year: int
    claim: str
    """What the paper says its idea does, in one or two sentences."""
    adds: tuple[str, ...]
    """The parts of the file and what they are: ``("RoleAdvantage: Advantage",)``."""
    axes: Mapping[str, str]
    """Where it stands in the field: ``{"task": ..., "method": ..., "challenge": ...}``."""
    deviations: tuple[str, ...] = ()
    """Where this implementation differs from the paper or its released code, and why."""
