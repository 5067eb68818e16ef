"""Threads and processes for plain environments: deadlines, errors, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.errors import BadInput, DeadlinePassed, EnvironmentFailed
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Ask, Env, Match, Player, Spec, Step
from polyturn.rollout.episode import Place, play_episode
from polyturn.rollout.worker import in_worker, kill_tree, packed
from polyturn.types import EMPTY, Episode, Event, Message, Seat, Stop, Task, assistant, user
from polyturn.waits import waits


@dataclass
class Counter:
    """Counts to three; the reply says what goes wrong."""

    folder: str = ""
    count: int = 0

    def start(self, state: bytes | None = None) -> Step:
        self.thread = threading.get_ident()
        self.count = int(state or b"0")
        return Step((Ask("agent", (user("go"),)),), events=(Event(0, "milestone", content=EMPTY),))

    def step(self, replies: Mapping[Seat, Message]) -> Step:
        assert threading.get_ident() == self.thread
        text = replies["agent"].text
        if text == "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
            Path(self.folder, "child").write_text(str(child.pid))
        if text in ("hang", "child"):
            time.sleep(60)
        if text == "nap":
            time.sleep(0.6)
        if text == "raise":
            raise KeyError("the vase broke")
        if text == "exit":
            sys.exit(3)
        if text == "die":
            os._exit(7)
        if text == "refuse":
            raise BadInput("nobody asked you")
        self.count += 1
        return Step(stop=Stop("done")) if self.count == 3 else Step((Ask("agent"),), {"agent": {"count": self.count}})

    def final(self) -> Mapping[str, Any]:
        assert threading.get_ident() == self.thread
        return {"count": self.count, "pid": os.getpid()}

    def save(self) -> bytes:
        return str(self.count).encode()

    def close(self) -> None:
        if self.folder:
            Path(self.folder, "closed").write_text("yes")


@dataclass
class Forgetful:
    """Has no ``save``, and cannot be sent anywhere."""

    hook: Any = None

    def start(self, state: bytes | None = None) -> Step:
        return Step((Ask("agent"),))

    def step(self, replies: Mapping[Seat, Message]) -> Step:
        return Step(stop=Stop("done"))

    def final(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None: ...


KINDS = ("thread", "process")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("env-")]


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in
            " ".join(child.cmdline())]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_play_gives_the_same_as_the_plain_environment(kind: Any, tmp_path: Path) -> None:
    env = in_worker(Counter(str(tmp_path)), kind, 30.0)
    assert isinstance(env, Env)
    first = await env.start()
    assert first.asks[0].messages[0].text == "go" and first.events[0].content == {}
    assert (await env.step({"agent": assistant("x")})).rewards == {"agent": {"count": 1}}
    assert await env.save() == b"1"
    await env.step({"agent": assistant("x")})
    assert (await env.step({"agent": assistant("x")})).stop == Stop("done")
    final = await env.final()
    assert final["count"] == 3
    assert (final["pid"] == os.getpid()) == (kind == "thread")
    await env.close()
    await env.close()
    assert (tmp_path / "closed").exists()
    assert threads() == [] and children() == []
    with pytest.raises(BadInput, match="after close"):
        await env.step({"agent": assistant("x")})


async def test_a_saved_state_goes_into_another_worker() -> None:
    env = in_worker(partial(Counter, ""), "thread", 5.0)
    await env.start(b"2")
    assert (await env.step({"agent": assistant("x")})).stop == Stop("done")
    await env.close()


def test_save_is_there_exactly_where_the_plain_environment_has_it() -> None:
    assert hasattr(in_worker(Counter()), "save") and hasattr(in_worker(Counter), "save")
    assert not hasattr(in_worker(Forgetful()), "save") and not hasattr(in_worker(partial(Counter, "")), "save")


@pytest.mark.parametrize("kind", KINDS)
async def test_an_exception_becomes_an_environment_failure_with_its_text(kind: Any) -> None:
    env = in_worker(Counter(), kind, 30.0)
    await env.start()
    with pytest.raises(EnvironmentFailed, match=r"Counter\.step\(\) raised KeyError: 'the vase broke'(?s:.*)line"):
        await env.step({"agent": assistant("raise")})
    with pytest.raises(BadInput, match="nobody asked you"):
        await env.step({"agent": assistant("refuse")})
    assert (await env.step({"agent": assistant("x")})).rewards == {"agent": {"count": 1}}
    with pytest.raises(EnvironmentFailed, match=r"step\(\) (raised SystemExit: 3|(?s:.*)exit code 3)"):
        await env.step({"agent": assistant("exit")})
    with contextlib.suppress(EnvironmentFailed):
        await env.close()
    assert threads() == [] and children() == []


async def test_a_process_that_dies_is_named_with_its_exit_code() -> None:
    env = in_worker(Counter(), "process", 30.0, name="shop")
    await env.start()
    with pytest.raises(EnvironmentFailed, match=r"the process of shop ended during step\(\) \(exit code 7\)"):
        await env.step({"agent": assistant("die")})
    with pytest.raises(EnvironmentFailed):
        await env.close()
    assert threads() == [] and children() == []


async def test_a_hung_thread_is_named_and_closes_its_environment_when_it_comes_back(tmp_path: Path) -> None:
    env = in_worker(Counter(str(tmp_path)), "thread", 0.2)
    await env.start()
    with pytest.raises(DeadlinePassed, match=r"Counter: step\(\) did not .* 0.2 s; its thread 'env-Counter-"):
        await env.step({"agent": assistant("nap")})
    with pytest.raises(EnvironmentFailed, match="given up"):
        await env.final()
    await env.close()
    await asyncio.sleep(1.0)
    assert (tmp_path / "closed").exists() and threads() == []


async def test_a_hung_process_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    env = in_worker(Counter(str(tmp_path)), "process", 4.0)
    await env.start()
    with pytest.raises(DeadlinePassed, match=r"its process and everything that it started \(2 in all\) were killed"):
        await env.step({"agent": assistant("child")})
    await env.close()
    grandchild = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
    assert threads() == [] and children() == []


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_one_sees_which_thread_or_process_is_waited_for(kind: Any) -> None:
    env = in_worker(Counter(), kind, 30.0)
    await env.start()
    task = asyncio.create_task(env.step({"agent": assistant("nap")}))
    await asyncio.sleep(0.1)
    (wait,) = [wait for wait in waits() if wait.who == "environment Counter"]
    assert wait.whom.startswith(f"its {kind} env-Counter-") and (wait.what, wait.deadline_s) == ("step()", 30.0)
    await task
    await env.close()
    assert not [wait for wait in waits() if wait.who == "environment Counter"]


async def test_a_cancelled_call_gives_the_environment_up() -> None:
    env = in_worker(Counter(), "process", 30.0)
    await env.start()
    task = asyncio.create_task(env.step({"agent": assistant("hang")}))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await env.close()
    assert threads() == [] and children() == []


def test_a_process_ends_when_its_parent_is_killed() -> None:
    code = (
        "import asyncio, sys; sys.path.insert(0, 'tests/rollout')\n"
        "from worker_test import Counter\nfrom polyturn.rollout.worker import in_worker\n"
        "from polyturn.types import assistant\n"
        "async def main():\n"
        "    env = in_worker(Counter(), 'process', 30.0)\n    await env.start()\n"
        "    print((await env.final())['pid'], flush=True)\n"
        "    await env.step({'agent': assistant('hang')})\n"
        "if __name__ == '__main__': asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": str(root)})
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    worker.wait(timeout=5)


async def test_a_closed_worker_that_never_started_leaves_nothing(tmp_path: Path) -> None:
    env = in_worker(Counter(str(tmp_path)), "process")
    await env.close()
    assert threads() == [] and children() == []


async def test_what_cannot_be_sent_to_a_process_is_refused_in_words() -> None:
    env = in_worker(Forgetful(lambda: None), "process", 30.0)
    with pytest.raises(BadInput, match=r"Forgetful cannot be sent to a process: .*top level of a module"):
        await env.start()
    await env.close()
    assert threads() == []


@pytest.mark.parametrize(("kind", "timeout_s", "words"), [
    ("fork", 1.0, "expected 'thread' or 'process'"), ("thread", 0.0, "expected a number above 0"),
    ("thread", float("nan"), "expected a number above 0"),
])
def test_bad_settings_are_refused(kind: Any, timeout_s: float, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        in_worker(Counter(), kind, timeout_s)


async def test_two_environments_do_not_wait_for_each_other() -> None:
    slow, quick = in_worker(Counter(), "thread", 5.0), in_worker(Counter(), "thread", 5.0)
    await slow.start()
    await quick.start()
    waiting = asyncio.create_task(slow.step({"agent": assistant("nap")}))
    await quick.step({"agent": assistant("x")})
    assert not waiting.done()
    await waiting
    await slow.close()
    await quick.close()
    assert threads() == []


def test_killing_what_is_gone_kills_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert kill_tree(process.pid) == 0


def test_read_only_mappings_are_packed() -> None:
    assert pickle.loads(packed(EMPTY)) == EMPTY


# ---------------------------------------------------------------- in a match


@dataclass
class Counting:
    """A suite of counters in workers."""

    worker: Any
    step_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        self.spec = Spec("count", worker=self.worker, step_timeout_s=self.step_timeout_s)

    def tasks(self, split: str) -> tuple[Task, ...]:
        return (Task("one", "count"),)

    async def make(self, task: Task, seed: int) -> Any:
        return Counter()

    async def close(self) -> None: ...


async def played(suite: Counting, *replies: str) -> Episode:
    match = Match(suite, Task("one", "count"), {"agent": Player(ChatAgent, "scripted")})
    return await play_episode(match, {"scripted": Scripted(list(replies))}, Place("e"))


async def test_a_match_is_played_in_a_process() -> None:
    episode = await played(Counting("process"), "x", "x", "x")
    assert episode.stop == Stop("done") and episode.error is None
    assert episode.final is not None and episode.final["count"] == 3
    assert episode.paid("agent", "count") == 1 + 2  # the third reply ends it, unpaid
    assert threads() == [] and children() == []


async def test_a_hanging_environment_is_an_error_of_its_episode() -> None:
    began = time.monotonic()
    episode = await played(Counting("thread", 0.3), "x", "nap")
    assert episode.stop.kind == "error" and "did not answer within" in episode.stop.reason
    assert "count.step()" in episode.stop.reason and time.monotonic() - began < 3
    assert len(episode.trajectories[0].turns) == 2 and episode.final is None
    await asyncio.sleep(0.8)
    assert threads() == [] and children() == []


async def test_a_raising_environment_is_an_error_of_its_episode_with_its_text() -> None:
    episode = await played(Counting("thread"), "x", "raise")
    assert episode.stop.kind == "error" and "KeyError: 'the vase broke'" in episode.stop.reason
    assert episode.error is not None and "worker_test.py" in episode.error
    assert threads() == [] and children() == []
