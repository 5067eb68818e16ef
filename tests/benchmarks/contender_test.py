"""A process that works when it is told to, times itself, and whose end is said with its last words."""

from __future__ import annotations

import sys

import pytest

from benchmarks.contender import Contender

SERVES = """
import time
from benchmarks.contender import Called
called = Called()
print("this is not for the benchmark")
called.tell(ready=True)
count = 0
while called.begin():
    count += 1
    time.sleep(0.05)
    called.end(count=count)
"""


def test_it_works_when_told_and_times_itself() -> None:
    contender = Contender.start([sys.executable, "-c", SERVES])
    assert contender.told() == {"ready": True}
    first, second = contender.go(), contender.go()
    assert (first["count"], second["count"]) == (1, 2)
    assert 0.05 <= second["seconds"] < 30 and 0 <= second["cpu_seconds"] < 0.05 + second["seconds"]
    assert second["peak"] > 2**20
    assert "this is not for the benchmark" in contender.heard.read_text()
    contender.close()
    assert contender.process.returncode == 0 and not contender.heard.exists()


def test_its_end_is_said_with_its_last_words() -> None:
    contender = Contender.start([sys.executable, "-c", "raise SystemExit('no weights here')"])
    with pytest.raises(RuntimeError, match="no weights here"):
        contender.told()
    contender.close()
