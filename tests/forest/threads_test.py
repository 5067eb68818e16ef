"""Teams of threads end when they are told to, and come back."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, os, threading, time
import torch
from polyturn.forest.threads import let_go
torch.set_num_threads(3)
count = lambda: len(os.listdir("/proc/self/task"))
x = torch.randn(1500, 1500)
before = count()
first = x @ x
found = [count() - before, let_go(), count() - before]
again = x @ x
found += [count() - before, bool(torch.equal(first, again))]
other = threading.Thread(target=let_go)
other.start(); other.join()
waited = time.monotonic() + 5
while count() - before > 2 and time.monotonic() < waited:  # the kernel takes a moment to forget a thread that ended
    time.sleep(0.01)
found.append(count() - before)  # the team of another thread is not touched
print(json.dumps(found))
"""


def test_the_team_of_the_calling_thread_ends_and_comes_back() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [2, True, 0, 2, True, 2]
