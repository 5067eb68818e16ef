"""Faults as they happen: the broken rollout alone is lost, in time, with one clear line, and is never scored."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from polyturn import waits
from polyturn.agents.chat import ChatAgent
from polyturn.desk import Desk
from polyturn.envs.outside.process import Outside
from polyturn.errors import DeadlinePassed, VerifierFailed
from polyturn.policies.endpoint import Endpoint
from polyturn.protocols import Agent, Ask, Match, Player, Policy, Scores, Spec, Step
from polyturn.rollout.pool import Pool, play
from polyturn.rollout.score import score_matches, unscored
from polyturn.types import Group, Message, Score, Task, all_turns, user
from tests.byte_policy import BytePolicy
from tests.policies.http_server import Answer, Server, said


@dataclass
class Faulty:
    """One ask and the end; at ``place`` it does ``fault``."""

    place: str = ""
    fault: str = ""
    leaked: list[asyncio.Task[None]] = field(default_factory=list)

    async def _at(self, place: str, good: Any) -> Any:
        if place != self.place:
            return good
        if self.fault == "leak":
            self.leaked.append(asyncio.create_task(asyncio.sleep(60)))
            return good
        if self.fault in {"hang", "late", "deaf"}:
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    if self.fault == "hang":
                        raise
                    if self.fault == "late":
                        return good
        if self.fault == "exit":
            sys.exit(3)
        if self.fault == "cancelled":
            raise asyncio.CancelledError
        if self.fault == "crash":
            raise ValueError("broken gears")
        return {"nan": {"count": float("nan")}, "none": None}[self.fault]

    async def start(self, state: bytes | None = None) -> Step:
        step: Step = await self._at("start", Step((Ask("agent", (user("go"),)),)))
        return step

    async def step(self, replies: Mapping[str, Message]) -> Step:
        step: Step = await self._at("step", Step(rewards={"agent": {"end": 1.0}}))
        return step

    async def final(self) -> Mapping[str, Any]:
        final: Mapping[str, Any] = await self._at("final", {"count": 1})
        return final

    async def close(self) -> None:
        await self._at("close", None)


@dataclass
class One:
    """Scores 1 whatever it is shown, if it answers; ``of`` the episodes it crashes for."""

    name: str = "one"
    fault: str = ""
    of: str = ""

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        if self.fault == "hang":
            await asyncio.sleep(60)
        episodes = [episode for group in groups for episode in group]
        if self.fault == "crash" and any(self.of in episode.id for episode in episodes):
            raise ValueError("the judge fell")
        return {episode.id: {"agent": Score(1.0)} for episode in episodes}


@dataclass
class Suite:
    """Of all that it makes, the second is broken."""

    place: str = ""
    fault: str = ""
    verifier: One = field(default_factory=One)
    spec: Spec = Spec("shop", step_timeout_s=0.1, score_timeout_s=0.1)
    made: list[Faulty] = field(default_factory=list)

    def tasks(self, split: str) -> list[Task]:
        return [Task("t", "shop")]

    async def make(self, task: Task, seed: int) -> Faulty:
        self.made.append(Faulty(self.place, self.fault) if len(self.made) == 1 else Faulty())
        if self.place == "make" and len(self.made) == 2:
            await self.made[1]._at("make", None)
        return self.made[-1]

    async def close(self) -> None: ...


async def played(
    suite: Suite, policy: Policy | None = None, *, make: Callable[[], Agent] = ChatAgent, call_timeout_s: float = 600.0
) -> Group:
    """A group of three, scored, within three seconds."""
    match = Match(suite, Task("t", "shop"), {"agent": Player(make, "main")}, rollouts=3)
    async with asyncio.timeout(3):
        pool = Pool(concurrency=1, call_timeout_s=call_timeout_s)
        groups = await play([match], {"main": policy or BytePolicy(limit=10_000)}, pool=pool)
        (scored,) = await score_matches([match], groups)
    return scored


def told(group: Group) -> str:
    """Why the second broke; the others are whole and alone are scored."""
    assert [episode.stop.kind for episode in group] == ["done", "error", "done"]
    assert [bool(episode.scores) for episode in group] == [True, False, True]
    assert group[1].error
    return group[1].stop.reason


@pytest.mark.parametrize("place", ["make", "start", "step", "final", "close"])
@pytest.mark.parametrize(("fault", "words"), [
    ("hang", "did not answer within 0.1 s"), ("late", "did not answer within 0.1 s"),
    ("deaf", "did not answer within 0.1 s"), ("exit", "raised SystemExit: 3"), ("crash", "broken gears"),
    ("cancelled", "was cancelled by itself"),
])
async def test_a_broken_environment_is_lost_alone(
    monkeypatch: pytest.MonkeyPatch, place: str, fault: str, words: str
) -> None:
    monkeypatch.setattr(waits, "GRACE_S", 0.1)
    group = await played(Suite(place, fault))
    assert words in told(group)
    assert len(all_turns(group[1])) == (place not in {"make", "start"})


class Dreamer(ChatAgent):
    """Answers, and then waits for something that never comes; ``deaf`` does so although it is cancelled."""

    deaf = False

    async def act(self, ask: Ask, desk: Desk) -> Message:
        reply = await super().act(ask, desk)
        while desk.log.episode_id.endswith(".1"):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
        return reply


class DeafDreamer(Dreamer):
    deaf = True


@pytest.mark.parametrize("make", [Dreamer, DeafDreamer])
async def test_an_agent_that_waits_for_something_of_its_own_is_lost_alone(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Agent]
) -> None:
    monkeypatch.setattr(waits, "GRACE_S", 0.1)
    group = await played(Suite(), make=make, call_timeout_s=0.2)
    assert "seat 'agent' has an agent whose act() went on for 0.2 s in no call and no named wait" in told(group)
    assert len(all_turns(group[1])) == 1


@pytest.mark.parametrize(("place", "fault"), [("start", "none"), ("step", "none"), ("final", "none"), ("final", "nan")])
async def test_nonsense_is_no_answer(place: str, fault: str) -> None:
    group = await played(Suite(place, fault))
    assert told(group) and group[1].final is None


def test_tasks_that_an_environment_leaves_behind_do_not_keep_the_program() -> None:
    suite, began = Suite("step", "leak"), time.monotonic()
    group = asyncio.run(played(suite))
    assert [episode.stop.kind for episode in group] == ["done"] * 3
    assert suite.made[1].leaked[0].cancelled() and time.monotonic() - began < 3


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
async def test_a_clock_that_jumps_moves_no_deadline(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    now, began = time.time, time.monotonic()
    asyncio.get_running_loop().call_later(0.05, monkeypatch.setattr, time, "time", lambda: now() + jump)
    suite = Suite("step", "hang")
    group = await played(suite)
    assert "did not answer within 0.1 s" in told(group)
    assert time.time() - now() == pytest.approx(jump, abs=1) and time.monotonic() - began < 3
    assert all(0 <= episode.ended - episode.started < 3 for episode in group)


@pytest.mark.parametrize(("trouble", "words"), [
    (Answer({"x": "y" * 50}, cut=20, stall=True), "no whole answer"), (Answer("slow down", 429), "HTTP 429"),
    (Answer("oh", 500), "HTTP 500"), (Answer('{"choices": [{"mess'), "no JSON"),
])
async def test_a_broken_endpoint_breaks_the_rollout_that_asked(trouble: Answer, words: str) -> None:
    async with Server([said("4"), trouble, said("4")]) as server:
        policy = Endpoint(server.url, "small", name="main", key_env="", timeout_s=0.2, retries=0)
        group = await played(Suite(), policy)
        await policy.close()
    assert words in told(group) and len(server.asked) == 3


@pytest.mark.parametrize(("fault", "error", "words"), [
    ("hang", DeadlinePassed, "verifier 'one' did not score within 0.1 s"),
    ("crash", VerifierFailed, "none of 3 episodes could be scored; of play.0.0, task t: verifier one: Value"),
])
async def test_a_verifier_that_scores_nothing_ends_the_run_in_time(
    fault: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await played(Suite(verifier=One(fault=fault)))


async def test_what_a_verifier_cannot_score_is_lost_alone() -> None:
    group = await played(Suite(verifier=One(fault="crash", of="play.0.1")))
    assert told(group) == "verifier one: ValueError: the judge fell" and unscored(group[1])
    assert group[1].final == {"count": 1} and len(all_turns(group[1])) == 1


# ---------------------------------------------------------------- processes killed from outside


@dataclass
class Asleep:
    """A plain environment that tells its process; the second of a suite then sleeps in its step."""

    folder: str
    number: int

    def start(self, state: bytes | None = None) -> Step:
        return Step((Ask("agent", (user("go"),)),))

    def step(self, replies: Mapping[str, Message]) -> Step:
        Path(self.folder, f"{self.number}.pid").write_text(str(os.getpid()))
        time.sleep(60 if self.number == 1 else 0)
        return Step(rewards={"agent": {"end": 1.0}})

    def final(self) -> Mapping[str, Any]:
        return {"count": 1, "pid": os.getpid()}

    def close(self) -> None: ...


@dataclass
class InProcesses:
    """A suite of :class:`Asleep`, each in a process of its own."""

    folder: Path
    verifier: One = field(default_factory=One)
    spec: Spec = Spec("asleep", worker="process", step_timeout_s=30.0)
    made: int = 0

    def tasks(self, split: str) -> list[Task]:
        return [Task("t", "shop")]

    async def make(self, task: Task, seed: int) -> Any:
        self.made += 1
        return Asleep(str(self.folder), self.made - 1)

    async def close(self) -> None: ...


def killed_when_it_sleeps(file: Path) -> int:
    """Kills the process whose number stands in the file as soon as it is written; its number."""
    while not (file.exists() and file.read_text()):
        time.sleep(0.01)
    os.kill(int(file.read_text()), signal.SIGKILL)
    return int(file.read_text())


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_worker_that_is_killed_from_outside_is_lost_alone_and_the_next_has_a_fresh_one(
    tmp_path: Path, retries: int
) -> None:
    suite = InProcesses(tmp_path)
    match = Match(suite, Task("t", "shop"), {"agent": Player(ChatAgent, "main")}, rollouts=3)  # type: ignore[arg-type]
    policies: dict[str, Policy] = {"main": BytePolicy(limit=10_000)}
    playing = play([match], policies, pool=Pool(concurrency=1, retries=retries))
    groups, pid = await asyncio.gather(playing, asyncio.to_thread(killed_when_it_sleeps, tmp_path / "1.pid"))
    (group,) = await score_matches([match], groups)
    whole = [episode for episode in group if episode.stop.kind == "done"]
    assert all(e.scores and e.final is not None and e.final["pid"] not in {pid, os.getpid()} for e in whole)
    assert len({e.final["pid"] for e in whole if e.final is not None}) == len(whole)
    if retries:
        assert [e.id for e in group] == ["play.0.0", "play.0.1r1", "play.0.2"] and len(whole) == 3
        return
    assert told(group).startswith("environment: the process of Asleep ended during step() (exit code -9)")
    assert len(all_turns(group[1])) == 1 and group[1].final is None


class FromOutside:
    """An environment whose step is answered by a package's process; the second of a suite is answered late."""

    def __init__(self, outside: Outside, number: int) -> None:
        self.outside, self.number = outside, number

    async def start(self, state: bytes | None = None) -> Step:
        self.outside.lease()
        return Step((Ask("agent", (user("go"),)),))

    async def step(self, replies: Mapping[str, Message]) -> Step:
        await self.outside.ask({"number": self.number})
        return Step(rewards={"agent": {"end": 1.0}})

    async def final(self) -> Mapping[str, Any]:
        return {"count": 1}

    async def close(self) -> None:
        self.outside.release()


async def test_a_packages_process_that_is_killed_from_outside_is_started_again_for_the_next(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "script.py").write_text(
        "import os, pathlib, time\n"
        "def answer(request):\n"
        "    if request['number'] == 1:\n"
        f"        pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))\n"
        "        time.sleep(60)\n"
        "    return 0\n")
    outside = Outside("thing", tmp_path / "site", tmp_path / "script.py", timeout_s=30.0, memory_mb=1024)

    @dataclass
    class Packaged(Suite):
        async def make(self, task: Task, seed: int) -> Any:
            self.made.append(Faulty())
            return FromOutside(outside, len(self.made) - 1)

    suite = Packaged(spec=Spec("shop", step_timeout_s=30.0))
    match = Match(suite, Task("t", "shop"), {"agent": Player(ChatAgent, "main")}, rollouts=3)
    playing = play([match], {"main": BytePolicy(limit=10_000)}, pool=Pool(concurrency=1))
    groups, _ = await asyncio.gather(playing, asyncio.to_thread(killed_when_it_sleeps, tmp_path / "pid"))
    (group,) = await score_matches([match], groups)
    await outside.close()
    assert told(group).startswith("environment: the worker of thing ended at request 2")
    assert outside.starts == 2
