"""The door to the checks holds every check."""

from __future__ import annotations

import inspect

import polyturn.testing as door
from polyturn.testing import CheckFailed


def test_every_check_of_the_kit_is_at_the_door() -> None:
    checks = {name for name in door.__all__ if name.startswith("check_")}
    assert checks == {
        "check_advantage", "check_agent", "check_context", "check_env", "check_loss", "check_policy", "check_suite"}
    for name in checks:
        assert "Raises: CheckFailed" in (inspect.getdoc(getattr(door, name)) or ""), name
    assert issubclass(CheckFailed, AssertionError)
