"""Decoupled training on a tiny model: what it learns from, how old, and that a kill loses and doubles nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from polyturn.advantages.group import group_standardised
from polyturn.agents.chat import ChatAgent
from polyturn.audit.report import audit_run
from polyturn.errors import BadInput, DeadlinePassed, NotFinite, VerifierFailed
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.decoupled.schedule import Schedule, fresh, lags, oldest_version
from polyturn.learn.decoupled.train import train_decoupled
from polyturn.learn.learner import Learner
from polyturn.learn.loop import NOTHING_MOST, Rule, Stage, train
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.policies.local import Local
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.progress import make_progress
from polyturn.protocols import Player, Spec, Verifier
from polyturn.record.read import read_credit, read_episodes, read_metrics
from polyturn.record.write import open_run
from polyturn.rollout.pool import Pool, without_errors
from polyturn.rollout.score import unscored
from polyturn.types import Group, Sampling, Score, Task
from tests.policies.tiny import tiny_local, tiny_model

RULE = Rule(group_standardised, token_mean, policy_gradient)
TICKET = Schedule(environments=6, max_lag=2, by_ticket=True)
FREE = Schedule(environments=6, groups=2, max_lag=2, replicas=2)


async def vowels(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """Two asks; the share of the reply's bytes that are 'a'..'m'. Slow in a way that its task fixes."""
    said = []
    for number in range(2):
        await asyncio.sleep(float(task.payload.get("sleep_s", 0.0)))
        said.append((await table.ask("agent", f"say {number}")).text)
    letters = "".join(said)
    return {"share": sum("a" <= letter <= "m" for letter in letters) / max(len(letters), 1)}


class ByShare:
    name = "score"

    async def __call__(self, groups: Any) -> Any:
        return {e.id: {"agent": Score(e.final.get("share", 0.0))} for group in groups for e in group}


def suite(sleep_s: float = 0.0) -> ProgramSuite:
    tasks = [Task(f"t{i}", "vowels", {"sleep_s": sleep_s * (1 + i % 3)}) for i in range(6)]
    return ProgramSuite(Spec("vowels"), as_env(vowels), {"train": tasks}, verifier=ByShare())  # type: ignore[arg-type]


def stage(model: Local, *, iterations: int, rule: Rule = RULE, sleep_s: float = 0.0, lr: float = 3e-3,
          verifiers: tuple[Verifier, ...] = (), retries: int = 0) -> Stage:
    cast = lambda task: {"agent": Player(lambda: ChatAgent(sampling=Sampling(max_tokens=6)), "main")}  # noqa: E731
    mixture = Mixture([Share(suite(sleep_s), cast, frozenset({"agent"}), 2, 3)], seed=3)
    return Stage("play", mixture, {"main": model}, model, Learner(model.model, lr=lr), rule, iterations,
                 pool=Pool(retries=retries), verifiers=verifiers)


def a_run(folder: Path, *, resume: bool = False) -> Run:
    return Run(folder, open_run(folder, recipe="test", resume=resume), make_progress(StringIO()), deterministic=True)


def weights(model: Local) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def same(one: Local, other: Local) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def trained(folder: Path) -> list[tuple[str, int]]:
    return [(row["episode"], row["span"]) for row in read_credit(folder)]


async def done(folder: Path, schedule: Schedule, *, iterations: int = 5, decoupled: bool = True, **more: Any) -> Local:
    torch.set_num_threads(1)
    model, run = tiny_local(deterministic=True), a_run(folder)
    try:
        order = stage(model, iterations=iterations, **more)
        await (train_decoupled(run, order, schedule, save_every=2) if decoupled else train(run, order, save_every=2))
    finally:
        run.recorder.close()
        model.close()
    return model


# ---------------------------------------------------------------- by ticket


async def test_by_ticket_without_lag_is_the_plain_loop_to_the_bit(tmp_path: Path) -> None:
    plain = await done(tmp_path / "plain", TICKET, iterations=4, decoupled=False)
    other = await done(tmp_path / "ticket", replace(TICKET, max_lag=0), iterations=4)
    assert same(plain, other)
    assert audit_run(tmp_path / "ticket").faults == []


async def test_by_ticket_every_group_is_played_by_the_weights_of_its_lag(tmp_path: Path) -> None:
    model = await done(tmp_path / "run", TICKET)
    by_id = {e.id: e for e in read_episodes(tmp_path / "run")}
    assert len(by_id) == 5 * 2 * 3
    for row in read_credit(tmp_path / "run"):
        assert oldest_version(by_id[row["episode"]], "main") == max(0, row["iteration"] - 2)
        assert row["version"] == row["iteration"]
    rows = [row["values"] for row in read_metrics(tmp_path / "run")]
    assert [row["decoupled/lag_most"] for row in rows] == [0, 1, 2, 2, 2]
    assert len(trained(tmp_path / "run")) == len(set(trained(tmp_path / "run")))
    again = await done(tmp_path / "again", replace(TICKET, environments=2), sleep_s=0.01)
    assert same(model, again)  # fewer environments and slow ones, in another order: the same weights


async def cut_and_gone_on_with(folder: Path, schedule: Schedule, *, at: int, iterations: int = 6, **more: Any) -> Local:
    """A run that ends in the middle of an update, where nothing more is written, and one that goes on with it."""
    torch.set_num_threads(1)
    first, run = tiny_local(deterministic=True), a_run(folder)
    order = stage(first, iterations=iterations, **more)
    step, made = order.learner.update, []

    def update(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        if len(made) > at:
            raise NotFinite("the machine stopped")
        return step(*args, **kwargs)

    order.learner.update = update  # type: ignore[method-assign]
    with pytest.raises(NotFinite):
        await train_decoupled(run, order, schedule, save_every=2)
    run.recorder.close("stopped")
    first.close()
    second, again = tiny_local(tiny_model(seed=9), deterministic=True), a_run(folder, resume=True)
    await train_decoupled(again, stage(second, iterations=iterations, **more), schedule, save_every=2)
    again.recorder.close()
    second.close()
    return second


@pytest.mark.parametrize("at", [1, 3, 5])
async def test_by_ticket_a_resumed_run_equals_the_one_left_alone_to_the_bit(tmp_path: Path, at: int) -> None:
    whole = await done(tmp_path / "whole", TICKET, iterations=6)
    broken = await cut_and_gone_on_with(tmp_path / "broken", TICKET, at=at)
    assert same(whole, broken)
    assert sorted(trained(tmp_path / "broken")) == sorted(trained(tmp_path / "whole"))
    assert audit_run(tmp_path / "broken").faults == []


async def test_a_resumed_run_does_not_play_again_what_could_not_be_scored(tmp_path: Path) -> None:
    more: dict[str, Any] = {"verifiers": (Falls("play.t5.2"),), "retries": 1}
    whole = await done(tmp_path / "whole", TICKET, iterations=6, **more)
    for name, schedule in (("ticket", TICKET), ("free", FREE)):
        broken = await cut_and_gone_on_with(tmp_path / name, schedule, at=3, **more)
        assert schedule is FREE or same(whole, broken)
        ended = [e.id for e in read_episodes(tmp_path / name) if e.group == "play.t5"]
        assert sorted(ended) == ["play.t5.0", "play.t5.1", "play.t5.2"]
        assert [e.id for e in read_episodes(tmp_path / name) if unscored(e)] == ["play.t5.2"]
        assert audit_run(tmp_path / name).faults == []


# ---------------------------------------------------------------- free


async def test_free_no_token_is_older_than_the_lag_and_none_is_trained_twice(tmp_path: Path) -> None:
    await done(tmp_path / "run", FREE, iterations=8, sleep_s=0.004)
    rows = [row["values"] for row in read_metrics(tmp_path / "run")]
    assert len(rows) == 8 and max(row["decoupled/lag_most"] for row in rows) <= 2
    assert any(row["decoupled/lag"] > 0 for row in rows)
    assert min(row["decoupled/fewest_serving"] for row in rows) >= 1
    assert all(0 < row["rollout/busy"] <= row["rollout/occupied"] <= 1.001 for row in rows[1:])
    assert len(trained(tmp_path / "run")) == len(set(trained(tmp_path / "run")))
    assert audit_run(tmp_path / "run").faults == []


@pytest.mark.parametrize("at", [1, 3, 4])
async def test_free_a_resumed_run_follows_what_was_done_and_loses_no_episode(tmp_path: Path, at: int) -> None:
    torch.set_num_threads(1)
    folder = tmp_path / "run"
    model = await cut_and_gone_on_with(folder, FREE, at=at, iterations=6, sleep_s=0.004)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert not any("rewind" in line for line in lines)
    took = [(line["update"], tuple(line["took"])) for line in lines if "took" in line]
    assert [update for update, _ in took] == sorted({update for update, _ in took}) == list(range(6))
    numbers = [number for _, group in took for number in group]
    assert len(numbers) == len(set(numbers)) == 12
    assert len(trained(folder)) == len(set(trained(folder)))
    # every update is made of the groups that the journal names, also those made before the kill
    for update, group in took:
        credited = {row["episode"].rsplit(".", 1)[0] for row in read_credit(folder) if row["iteration"] == update}
        assert credited <= {f"play.t{number}" for number in group}
    assert audit_run(folder).faults == []
    assert model.version == 6


async def test_free_groups_without_signal_are_settled_and_never_counted(tmp_path: Path) -> None:
    def odd(groups: Any) -> Any:
        """Keeps a group whose first episode has an odd ticket."""
        return [g for g in without_errors(groups) if int(g[0].group.split("t")[-1]) % 2]

    rule = replace(RULE, filters=(odd,))
    await done(tmp_path / "run", FREE, iterations=3, rule=rule)
    last = [row["values"] for row in read_metrics(tmp_path / "run")][-1]
    assert last["decoupled/dead"] >= 5
    assert {int(row["episode"].split(".")[1][1:]) % 2 for row in read_credit(tmp_path / "run")} == {1}


@dataclass
class Falls:
    """A verifier beside the suite's that raises for some episodes."""

    of: str
    name: str = "again"

    async def __call__(self, groups: Any) -> Any:
        if any(self.of in e.id for group in groups for e in group):
            raise ValueError("no such key")
        return {e.id: {"agent": Score(0.0)} for group in groups for e in group}


async def test_what_cannot_be_scored_is_lost_alone_and_where_nothing_can_the_run_ends(tmp_path: Path) -> None:
    for name, schedule in (("free", FREE), ("ticket", TICKET)):
        await done(tmp_path / name, schedule, iterations=3, verifiers=(Falls("play.t1.2"),))
        lost = [e.id for e in read_episodes(tmp_path / name) if e.stop.kind == "error"]
        assert lost == ["play.t1.2"] and "play.t1.2" not in {one for one, _ in trained(tmp_path / name)}
        assert list(audit_run(tmp_path / name).faults) == []
        with pytest.raises(VerifierFailed, match=r"none of \d+ episodes could be scored; of play.t\d.0, task t\d: ver"):
            await done(tmp_path / f"{name}_no", schedule, iterations=3, verifiers=(Falls(""),))


async def test_by_ticket_updates_without_anything_to_learn_are_counted_however_many(tmp_path: Path) -> None:
    rule = replace(RULE, filters=(partial(lambda groups, *, of: [], of=1),))
    model = await done(tmp_path / "run", replace(TICKET, max_lag=0), iterations=NOTHING_MOST + 2, rule=rule)
    rows = [row["values"] for row in read_metrics(tmp_path / "run")]
    assert [row["learner/steps"] for row in rows] == [0.0] * (NOTHING_MOST + 2)
    assert same(model, tiny_local(deterministic=True)) and audit_run(tmp_path / "run").faults == []


async def test_the_learner_says_for_what_it_waits_and_gives_up_at_its_deadline(tmp_path: Path) -> None:
    model, run = tiny_local(), a_run(tmp_path / "run")
    said: list[str] = []
    object.__setattr__(run.progress, "note", said.append)
    slow = replace(FREE, environments=1, deadline_s=2.5, tell_after_s=1.0)
    with pytest.raises(DeadlinePassed, match=r"waiting for data, 0 of 2 groups of update 0 \(1 episodes in play"):
        await train_decoupled(run, stage(model, iterations=2, sleep_s=30.0), slow)
    assert said and "waiting for data, 0 of 2 groups" in said[0]
    run.recorder.close()
    model.close()


async def test_what_is_refused(tmp_path: Path) -> None:
    model, run = tiny_local(), a_run(tmp_path / "run")
    order = stage(model, iterations=1)
    with pytest.raises(BadInput, match="not the stage's model"):
        await train_decoupled(run, replace(order, policies={"main": tiny_local(tiny_model(seed=4))}), FREE)
    run.recorder.close()
    model.close()
    with pytest.raises(BadInput, match="max_lag is -1"):
        Schedule(max_lag=-1)
    with pytest.raises(BadInput, match="by ticket"):
        Schedule(by_ticket=True, replicas=2)


# ---------------------------------------------------------------- staleness by hand


async def test_what_is_fresh_by_hand(tmp_path: Path) -> None:
    await done(tmp_path / "run", TICKET, iterations=4)
    group: Group = tuple(e for e in read_episodes(tmp_path / "run") if e.group == "play.t6")  # update 3, version 1
    assert [oldest_version(e, "main") for e in group] == [1, 1, 1]
    assert fresh(group, "main", 3, 2, own="play.t6") == group
    assert fresh(group, "main", 4, 2, own="play.t6") == ()
    stored = replace(group[0], group="play.t0")
    assert fresh((stored, *group[1:]), "main", 9, 2, own="play.t6") == (stored,)
    found = lags([group], "main", 4)
    assert found == {"decoupled/lag": 3.0, "decoupled/lag_most": 3.0}


SCRIPT = """
import asyncio, sys
from pathlib import Path
import torch
from tests.learn.decoupled_test import FREE, TICKET, a_run, stage
from tests.policies.tiny import tiny_local, tiny_model
from polyturn.learn.decoupled.train import train_decoupled

async def main():
    torch.set_num_threads(1)
    folder, which, resume = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "resume"
    model = tiny_local(tiny_model(seed=9) if resume else None, deterministic=True)
    run = a_run(folder, resume=resume)
    order = stage(model, iterations=12, sleep_s=0.01)
    await train_decoupled(run, order, TICKET if which == "ticket" else FREE, save_every=4)
    run.recorder.close()
    model.close()

asyncio.run(main())
"""


@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", ["ticket", "free"])
def test_killed_without_warning_in_the_middle_of_an_update(tmp_path: Path, which: str) -> None:
    """SIGKILL of the process, twice, then to the end."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", SCRIPT, str(folder), which]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for attempt, updates in enumerate((3, 6)):
        process = subprocess.Popen([*command, "resume" if attempt else "new"], env=alone, stderr=subprocess.PIPE)
        ends = time.monotonic() + 240
        while time.monotonic() < ends and process.poll() is None:
            rows = read_metrics(folder) if (folder / "run.json").exists() else []
            if len(rows) >= updates:
                break
            time.sleep(0.01)
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    ended = subprocess.run([*command, "resume"], env=alone, capture_output=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    assert [row["iteration"] for row in read_metrics(folder)] == list(range(12))
    spans = trained(folder)
    assert len(spans) == len(set(spans)) and audit_run(folder).faults == []
    took = {row["episode"].rsplit(".", 1)[0] for row in read_credit(folder)}
    assert len(took) <= 24
    if which == "ticket":
        assert {e.group for e in read_episodes(folder)} == {f"play.t{number}" for number in range(24)}
