"""The suite's own rules, tried on small suites of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

HERE = Path(__file__).parent


async def double(number: int) -> int:
    return 2 * number


async def test_a_test_may_be_a_coroutine() -> None:
    assert await double(2) == 4


@given(some.integers())
async def test_a_property_may_be_a_coroutine(number: int) -> None:
    assert await double(number) == number + number


def run_suite(folder: Path, test: str, skips: str = "") -> subprocess.CompletedProcess[str]:
    """A pytest run over one file, with this folder's conftest."""
    (folder / "conftest.py").write_text((HERE / "conftest.py").read_text())
    (folder / "skips.txt").write_text(skips)
    (folder / "one_test.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "one_test.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


SKIPPING = "import pytest\n\ndef test_it():\n    pytest.skip('no reason at all')\n"


def test_a_failing_coroutine_fails(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "async def test_it():\n    assert 1 == 2\n")
    assert done.returncode == 1
    assert "1 failed" in done.stdout


def test_a_skip_without_leave_makes_the_run_red(tmp_path: Path) -> None:
    done = run_suite(tmp_path, SKIPPING)
    assert done.returncode == 1
    assert "SKIPPED WITHOUT LEAVE one_test.py::test_it" in done.stdout


def test_an_expected_failure_is_a_skip(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "import pytest\n\n@pytest.mark.xfail\ndef test_it():\n    assert False\n")
    assert done.returncode == 1


def test_a_whole_module_skipped_makes_the_run_red(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "import pytest\n\npytest.skip('all', allow_module_level=True)\n")
    assert done.returncode != 0
    assert "SKIPPED WITHOUT LEAVE" in done.stdout


def test_a_skip_with_leave_is_allowed(tmp_path: Path) -> None:
    done = run_suite(tmp_path, SKIPPING, "one_test.py::test_it : the machine has no such thing\n")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("line", ["one_test.py::test_it", "one_test.py::test_it :"])
def test_leave_needs_a_reason(tmp_path: Path, line: str) -> None:
    done = run_suite(tmp_path, SKIPPING, line + "\n")
    assert done.returncode != 0
    assert "no reason" in done.stderr + done.stdout
