from __future__ import annotations

import subprocess
import sys

CODE = """
import resource, sys
import numpy as np
from polyturn.learn.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(3 * 2**20)  # 24 MiB each time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
told = keep_freed_memory()
faults()
print(int(told), plain, faults())
"""


def test_blocks_are_used_again_instead_of_fetched_afresh() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    told, plain, kept = map(int, done.stdout.split())
    if sys.platform == "linux" and told:
        assert kept < plain / 5, (plain, kept)
    else:
        assert not told
