"""The processes of a learner: started, bound to loopback, and ended with one another, whoever goes first."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from polyturn.errors import BadInput, LearnerFailed
from polyturn.learn.learner import Learner
from polyturn.learn.ranks.group import Ranks, join_from_environment, open_ranks
from polyturn.learn.ranks.learner import RankedLearner
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.policies.tiny import tiny_model
from tests.tiny import VOCABULARY, random_tokens

pytestmark = pytest.mark.timeout(600)  # processes that start on a busy machine
ROOT = Path(__file__).parents[3]
SOON_S = 30.0
"""Within this a lost process must be noticed, on a busy machine too; the deadline of the group is far longer."""


@contextmanager
def learning(deadline_s: float) -> Iterator[tuple[Ranks, RankedLearner]]:
    with open_ranks(2, deadline_s=deadline_s, device="cpu") as ranks:
        learner = RankedLearner(ranks, tiny_model(VOCABULARY, 0), lr=1e-3)
        update(learner)
        yield ranks, learner


def update(learner: RankedLearner, loss: Any = policy_gradient) -> None:
    tokens = random_tokens(np.random.default_rng(0))
    learner.update(tokens, None, np.ones(len(tokens)), np.full(len(tokens), 1 / len(tokens)), loss)


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_all_listen_on_loopback_alone_and_end_when_told() -> None:
    with learning(300.0) as (ranks, learner):
        every = [os.getpid(), *ranks.processes]
        sockets = [own for pid in every for own in psutil.Process(pid).net_connections("tcp")]
        assert {own.laddr.ip.removeprefix("::ffff:") for own in sockets} == {"127.0.0.1"}
        with pytest.raises(BadInput, match=r"in a torch\.distributed group already"):
            open_ranks(2, device="cpu")
        other = ranks.processes[0]
    assert gone(other)
    with pytest.raises(LearnerFailed, match="they were closed"):
        update(learner)


def test_a_rank_that_is_killed_ends_the_update_with_its_name_and_no_hang() -> None:
    with learning(300.0) as (ranks, learner):
        pid = ranks.processes[0]

        def deadly(learned: Any) -> Any:
            os.kill(pid, signal.SIGKILL)
            return policy_gradient(learned)

        said = rf"rank 1 \(process {pid}\) ended by signal SIGKILL, while a gradient was made .*--resume"
        started = time.monotonic()
        with pytest.raises(LearnerFailed, match=said):
            update(learner, deadly)
        assert time.monotonic() - started < SOON_S
        with pytest.raises(LearnerFailed, match="have ended: rank 1"):
            learner.state()


def test_a_rank_that_hangs_is_given_up_at_the_deadline_and_killed() -> None:
    with learning(20.0) as (ranks, learner):
        pid = ranks.processes[0]
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(LearnerFailed, match=r"the ranks came apart, while .* was made"):
            update(learner)
        assert time.monotonic() - started < 20.0 + SOON_S and gone(pid)


def test_a_rank_that_fails_says_why_in_its_last_words() -> None:
    with learning(300.0) as (ranks, learner):
        ranks.tell({"do": "nonsense"})
        with pytest.raises(LearnerFailed, match=r"ended with exit status 1, its last words: .*no order is named"):
            update(learner)


def run(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


def test_the_others_end_when_the_driver_is_killed_at_play() -> None:
    driver = run("import time\nfrom polyturn.learn.ranks.group import open_ranks\n"
                 "ranks = open_ranks(2, device='cpu')\nprint(ranks.processes[0], flush=True)\ntime.sleep(600)")
    try:
        assert driver.stdout is not None
        other = int(driver.stdout.readline())
        assert not gone(other)
    finally:
        driver.kill()
        driver.wait()
    until = time.monotonic() + SOON_S
    while not gone(other) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(other)


SCRIPT = """
import numpy as np
from polyturn.learn.ranks.group import open_ranks
from polyturn.learn.ranks.learner import RankedLearner
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.policies.tiny import tiny_model
from tests.tiny import VOCABULARY, random_tokens
with open_ranks(2, device="cpu") as ranks:
    learner = RankedLearner(ranks, tiny_model(VOCABULARY, 0), lr=1e-3)
    tokens = random_tokens(np.random.default_rng(0))
    ones = np.ones(len(tokens))
    print("norm", learner.update(tokens, None, ones, ones / len(tokens), policy_gradient)["learner/grad_norm"])
"""


def test_the_same_script_runs_under_the_variables_of_torchrun() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [run(SCRIPT, RANK=str(rank), LOCAL_RANK=str(rank), **told) for rank in range(2)]
    try:
        said = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    tokens = random_tokens(np.random.default_rng(0))
    ones = np.ones(len(tokens))
    alone = Learner(tiny_model(VOCABULARY, 0), lr=1e-3)
    norm = alone.update(tokens, None, ones, ones / len(tokens), policy_gradient)["learner/grad_norm"]
    assert float(said[0][0].split()[1]) == pytest.approx(norm, rel=1e-5)
    assert said[1][0] == ""


def test_what_cannot_be_joined_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="1 ranks; expected at least 2"):
        open_ranks(1)
    with pytest.raises(BadInput, match="lacks RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"):
        join_from_environment(deadline_s=1.0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(BadInput, match="2 ranks were asked for, and torchrun started 3"):
        open_ranks(2)


def test_a_process_that_cannot_start_is_told_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LearnerFailed, match="rank 1 ended with exit status 1"):
        open_ranks(2, device="cpu")
