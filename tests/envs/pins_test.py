"""The pins have the form that pip demands, and each set of wheels a folder of its own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from polyturn.envs.pins import INSTALLABLE, Wheel


@pytest.mark.parametrize("name", INSTALLABLE)
def test_every_wheel_has_a_version_and_a_hash(name: str) -> None:
    package = INSTALLABLE[name]
    wheels = (Wheel(package.package, package.version, (package.sha256,)), *package.beside)
    assert len({wheel.package for wheel in wheels}) == len(wheels)
    for wheel in wheels:
        assert wheel.sha256 and len(set(wheel.sha256)) == len(wheel.sha256)
        assert all(re.fullmatch("[0-9a-f]{64}", one) for one in wheel.sha256)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", wheel.version)
    kept = [PurePosixPath(path) for path in package.keep]
    assert all(any(PurePosixPath(file).is_relative_to(path) for path in kept) for file in package.needs)


def test_another_wheel_has_another_folder() -> None:
    package = INSTALLABLE["bfcl"]
    other = replace(package, beside=(replace(package.beside[0], sha256=("0" * 64,)),))
    assert other.folder != package.folder
    assert INSTALLABLE["tau"].folder.name == f"inspect-evals-0.26.0-{INSTALLABLE['tau'].sha256[:16]}"
