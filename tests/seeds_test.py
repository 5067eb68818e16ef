from __future__ import annotations

import subprocess
import sys

from polyturn.seeds import derive, generator


def test_parts_order_and_type_all_count() -> None:
    seeds = {derive(0, "a"), derive("a", 0), derive("0", "a"), derive(0, "a", ""), derive(0, "b"), derive("0a")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_every_process() -> None:
    code = "from polyturn.seeds import derive; print(derive(7, 'agent', 3))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(told.stdout) == derive(7, "agent", 3)


def test_generators_repeat() -> None:
    assert generator("x", 1).random() == generator("x", 1).random() != generator("x", 2).random()
