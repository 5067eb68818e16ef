"""What every detector gives: a finding of the audit, at a place as exact as can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyturn.types import Finding


def fault(name: str, target: Mapping[str, Any], value: float | str | None, reason: str) -> Finding:
    """A finding with source ``audit``; ``target`` holds any of episode, seat, policy, turn, span, token, iteration,
    stage."""
    return Finding(name, target, value, reason, "audit", "1")
