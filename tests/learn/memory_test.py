from __future__ import annotations

import platform
import subprocess
import sys

from polyturn.learn.memory import FreedMemory

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


GIVEN_BACK = """
import threading
import numpy as np
from polyturn.learn.memory import FreedMemory, keep_freed_memory, resident_bytes

def work():
    blocks = [np.ones(2 * 2**20) for _ in range(20)]  # 320 MiB
    del blocks

keep_freed_memory()
freed = FreedMemory()
first, again = freed.give_back(), freed.give_back()
before = resident_bytes()
thread = threading.Thread(target=work)
thread.start()
thread.join()
work()
kept = resident_bytes() - before
told = freed.give_back()
print(int(first), int(again), int(told), kept, resident_bytes() - before)
"""


def test_what_the_threads_keep_is_given_back_after_the_last_pass() -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True, timeout=60)
    _, again, told, kept, left = map(int, done.stdout.split())
    if sys.platform == "linux" and told:
        assert not again, "it has not grown in between"
        assert kept > 250 * 2**20 and left < 50 * 2**20, (kept, left)
    else:
        assert not told


def test_little_growth_goes_back_after_a_while() -> None:
    now = [100.0]
    freed = FreedMemory(above=2**60, every_s=30.0, clock=lambda: now[0])
    if not freed.give_back():  # nothing was given back yet, so it is time
        assert sys.platform != "linux" or platform.libc_ver()[0] != "glibc"
        return
    found = []
    for seconds in (0.0, 29.0, 1.0, 1.0, 30.0):
        now[0] += seconds
        found.append(freed.give_back())
    assert found == [False, False, True, False, True]
