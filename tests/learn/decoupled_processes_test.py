"""Decoupled training whose episodes are played by other processes: the same run to the bit, also when one is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from polyturn.advantages.group import group_standardised
from polyturn.audit.report import audit_run
from polyturn.errors import BadInput
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.decoupled.schedule import Schedule
from polyturn.learn.decoupled.train import train_decoupled
from polyturn.learn.learner import Learner
from polyturn.learn.loop import Rule, Stage
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.policies.local import Local
from polyturn.progress import make_progress
from polyturn.record.read import read_credit, read_episodes, read_metrics
from polyturn.record.write import open_run
from polyturn.types import Task
from tests.policies.tiny import tiny_local
from tests.rollout.crew_parts import speaker, talks
from tests.rollout.crew_test import plain

TICKET = Schedule(environments=6, max_lag=1, by_ticket=True)
FREE = Schedule(environments=6, groups=2, max_lag=2)
CLOCKED = ("/seconds", "/tokens_per_s", "/occupied", "/busy", "/waited_s")


def stage(model: Local, **payload: Any) -> Stage:
    tasks = [Task(f"t{i}", "talk", {"place": (i, 1), **payload}) for i in range(6)]
    share = Share(talks(*tasks), lambda task: {"agent": speaker()}, frozenset({"agent"}), 2, 3)
    rule = Rule(group_standardised, token_mean, policy_gradient)
    return Stage("play", Mixture([share], seed=3), {"main": model}, model, Learner(model.model, lr=3e-3), rule, 4)


async def done(folder: Path, schedule: Schedule, *, processes: int, ray: str = "", kill: bool = False,
               **payload: Any) -> Run:
    """A run; ``kill``: after its second update a worker is killed."""
    torch.set_num_threads(1)
    model = tiny_local(deterministic=True)
    run = Run(folder, open_run(folder, recipe="test"), make_progress(StringIO()), True, processes, ray)
    said: list[str] = []
    object.__setattr__(run.progress, "note", said.append)
    run.results["said"] = said
    killing = asyncio.create_task(_kill(folder)) if kill else None
    try:
        await train_decoupled(run, stage(model, **payload), schedule, save_every=2)
    finally:
        if killing is not None:
            killing.cancel()
        run.recorder.close()
        model.close()
    run.results["weights"] = model.model.state_dict()
    return run


async def _kill(folder: Path) -> None:
    while len(read_metrics(folder)) < 2:  # noqa: ASYNC110 (a file says it)
        await asyncio.sleep(0.01)
    for process in psutil.Process().children():
        if "spawn_main" in " ".join(process.cmdline()):
            process.kill()
            return


def same(one: Run, other: Run) -> bool:
    return all(torch.equal(value, other.results["weights"][name]) for name, value in one.results["weights"].items())


def metrics(folder: Path) -> list[Mapping[str, Any]]:
    return [{"stage": row["stage"], "iteration": row["iteration"], **{
        name: value for name, value in row["values"].items() if not name.endswith(CLOCKED)
    }} for row in read_metrics(folder)]


def credit(folder: Path) -> list[str]:
    return sorted(repr(sorted((name, value) for name, value in row.items() if name != "play"))
                  for row in read_credit(folder))


def episodes(folder: Path) -> dict[str, Any]:
    return {e.id: plain(e) for e in read_episodes(folder)}


async def test_by_ticket_two_processes_make_the_run_of_one_to_the_bit_also_when_one_is_killed(tmp_path: Path) -> None:
    alone = await done(tmp_path / "alone", TICKET, processes=0)
    two = await done(tmp_path / "two", TICKET, processes=2)
    hit = await done(tmp_path / "hit", TICKET, processes=2, kill=True, sleep_s=0.05)
    assert not two.results["said"] or not any("worker" in one for one in two.results["said"])
    assert same(alone, two)
    assert metrics(tmp_path / "alone") == metrics(tmp_path / "two") and len(metrics(tmp_path / "two")) == 4
    assert credit(tmp_path / "alone") == credit(tmp_path / "two") and credit(tmp_path / "two")
    assert episodes(tmp_path / "alone") == episodes(tmp_path / "two") and len(episodes(tmp_path / "two")) == 24
    assert same(alone, hit)  # what the killed one held was played again: the same tokens
    assert credit(tmp_path / "hit") == credit(tmp_path / "alone")
    said = [one for one in hit.results["said"] if "(exit code -9)" in one]
    assert any("another takes its place" in one for one in said)
    assert any("stage play: worker" in one and "is played again" in one for one in said)
    for name in ("two", "hit"):
        assert audit_run(tmp_path / name).faults == []


async def test_free_a_killed_worker_costs_no_group_and_doubles_none(tmp_path: Path) -> None:
    run = await done(tmp_path / "run", FREE, processes=2, kill=True, sleep_s=0.03)
    assert any("is played again" in one for one in run.results["said"])
    rows = read_metrics(tmp_path / "run")
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert max(row["values"]["decoupled/lag_most"] for row in rows) <= 2
    spans = [(row["episode"], row["span"]) for row in read_credit(tmp_path / "run")]
    assert spans and len(spans) == len(set(spans)) and audit_run(tmp_path / "run").faults == []


async def test_an_address_without_actors_is_refused(tmp_path: Path) -> None:
    model = tiny_local(deterministic=True)
    run = Run(tmp_path, open_run(tmp_path / "run"), make_progress(StringIO()), True, ray="auto")
    with pytest.raises(BadInput, match="ray is 'auto', and processes is 0"):
        await train_decoupled(run, stage(model), replace(TICKET))
    run.recorder.close()
    model.close()


SCRIPT = """
import asyncio, sys
from polyturn.policies.dictated import Dictated
from polyturn.rollout.crew.lead import Crew
from polyturn.rollout.crew.processes import begin
from polyturn.rollout.episode import Place
from tests.rollout.crew_parts import match

async def main():
    crew = Crew(begin, 1)
    working = asyncio.create_task(crew.work())
    while not crew.hands:
        await asyncio.sleep(0.01)
    print(crew.hands[0].link.process.pid, flush=True)
    await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_workers_end_with_a_leader_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "lead.py").write_text(SCRIPT)
    alone = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    leader = subprocess.Popen([sys.executable, str(tmp_path / "lead.py")], env=alone, stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    worker = psutil.Process(int(leader.stdout.readline()))
    os.kill(leader.pid, signal.SIGKILL)
    leader.wait(timeout=10)
    ends = time.monotonic() + 10
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < ends:
        time.sleep(0.05)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
