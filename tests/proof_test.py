"""The promises of the core on a random model, from the desk to the learner: what was sampled is what is trained.

The ids in the ledger are those that the model saw, the learner's log-probabilities are the sampler's, every sampled
token is trained once, and a kill loses no turn. :mod:`tests.proof_model_test` proves the same with the embedded model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.agents.chat import ChatAgent
from polyturn.arrays import lay_out
from polyturn.audit.paths import path_faults
from polyturn.audit.report import audit_run
from polyturn.chat import Chat
from polyturn.desk import Desk, Log
from polyturn.learn.learner import Learner
from polyturn.policies.local import Local
from polyturn.protocols import Ask, Match, Player
from polyturn.record.read import read_episodes
from polyturn.record.write import open_run
from polyturn.rollout.pool import Pool, play
from polyturn.types import Group, Message, Sampling, Task, user
from tests.byte_tokenizer import CHATML, QWEN, THINKER, byte_tokenizer
from tests.policies.tiny import tiny_model
from tests.proof_cases import (
    DROPPING,
    Heard,
    Scale,
    by_turn,
    cases,
    check_cases_are_what_they_say,
    check_nothing_broke,
    check_reasoning_is_dropped,
    cut_of,
    gaps,
    ids_in,
    match_of,
    pair,
    suite_of,
    talk,
)
from tests.witness import Witness, check_saw_what_is_stored, stored

TEMPLATES = {
    "keeps all": CHATML, "drops earlier reasoning": DROPPING, "writes empty reasoning": QWEN,
    "shows no reasoning": THINKER,
}


def local(template: str = CHATML, **more: Any) -> Local:
    model = tiny_model(max_position_embeddings=4096, pad_token_id=None, **more.pop("config", {}))
    return Local(model, Chat(byte_tokenizer(template)), **more)


@pytest.mark.parametrize("template", TEMPLATES)
async def test_the_ledger_holds_what_the_model_saw_and_the_learner_reads_what_was_sampled(
    template: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = local(TEMPLATES[template])
    witness, heard = Witness(model, monkeypatch), Heard(model)
    rollouts = 2 if template == "drops earlier reasoning" else 1
    scale = Scale(reply=12, summary=200, cut=cut_of(model.chat))
    groups = await play(list(cases(scale, rollouts).values()), {"main": heard}, pool=Pool(concurrency=40))
    model.close()
    episodes = check_nothing_broke(groups)
    check_cases_are_what_they_say(groups)
    if TEMPLATES[template] == DROPPING:
        check_reasoning_is_dropped(groups)
    draws = check_saw_what_is_stored(witness, episodes)
    found = gaps(Learner(model.model, lr=0.0), groups)
    with capsys.disabled():
        print(f"[{template}: {draws} draws, mean batch {model.stats.mean_batch:.1f}, "
              f"largest difference {max(found.values()):.1e}]", end=" ")
    assert max(found.values()) < 1e-4, found
    assert model.stats.mean_batch > 4 and model.stats.cached > model.stats.prefilled
    searched = sum(bool(turn.branch) for e in episodes for t in e.trajectories for turn in t.turns)
    real = by_turn(lay_out(groups, "main"))
    assert not real - heard.replies and (heard.replies - real).total() == searched
    assert ids_in(real) == len(lay_out(groups, "main"))


async def test_a_fault_in_the_cache_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The witness can fail: one cached key that is moved by a place is noticed."""
    model = local()
    witness, desk = Witness(model, monkeypatch), Desk(Log("e", {"main": model}), "agent", "main")
    first = await desk.say([user("Hello there.")], sampling=Sampling(max_tokens=8))
    witness.check()
    driven: Any = model._engine.stepper
    keys, _ = driven.slots.layer(0, *[torch.empty(0)] * 2)
    with torch.inference_mode():
        keys[0, :, 3:5] = keys[0, :, 3:5].flip(1).clone()
    await desk.say([user("Hello there."), desk.message(first), user("Go on.")], sampling=Sampling(max_tokens=2))
    model.close()
    with pytest.raises(AssertionError, match="out of its position"):
        witness.check()


async def test_a_wrong_log_probability_is_seen() -> None:
    """The comparison can fail: weights that changed by a little give other log-probabilities."""
    model = local()
    order = cases(Scale(8, 200, 3), rollouts=1)["full history"]
    groups = await play([order], {"main": model})
    learner = Learner(model.model, lr=0.0)
    assert gaps(learner, groups)["full history"] < 1e-4
    with torch.no_grad():
        model.model.lm_head.weight[5] += 0.3
    assert gaps(learner, groups)["full history"] > 1e-4
    model.close()


async def test_only_what_the_learning_policy_said_from_learning_seats_is_trained() -> None:
    """Self-play against a frozen copy with the seats swapped, and against oneself with one seat learning."""
    main, frozen = Heard(local()), Heard(local(config={"seed": 1}, name="frozen"))
    pairs = suite_of(pair, "pair", ("a", "b"))

    def player(policy: str) -> Player:
        return Player(lambda: ChatAgent(sampling=Sampling(max_tokens=9)), policy)

    orders = [
        Match(pairs, Task(f"{a}-{b}", "pair"), {"a": player(a), "b": player(b)}, rollouts=3, train=frozenset(train))
        for a, b, train in (("main", "frozen", "a"), ("frozen", "main", "b"), ("main", "main", "b"))
    ]
    groups = await play(orders, {"main": main, "frozen": frozen})
    check_nothing_broke(groups)
    against_frozen, mirror = lay_out(groups[:2], "main"), lay_out(groups[2:], "main")
    in_mirror = {seat: spans_of(groups[2], seat) for seat in "ab"}
    assert by_turn(mirror) == in_mirror["b"]
    assert by_turn(against_frozen) == main.replies - in_mirror["a"] - in_mirror["b"]
    assert len(against_frozen) + ids_in(in_mirror["a"]) + len(mirror) == ids_in(main.replies)
    assert by_turn(lay_out([groups[0]], "frozen")).total() == 0 and frozen.replies.total() == 2 * 3 * 3
    for heard in (main, frozen):
        heard.inner.close()  # type: ignore[attr-defined]


def spans_of(group: Group, seat: str) -> Counter[tuple[bytes, bytes]]:
    spans = [span for e in group for t in e.trajectories if t.seat == seat for span in t.spans if span.sampled]
    return Counter((span.ids.tobytes(), np.asarray(span.logprobs).tobytes()) for span in spans)


async def test_bfloat16_sampling_stays_near_the_learner(capsys: pytest.CaptureFixture[str]) -> None:
    model = local(dtype="bfloat16")
    orders = cases(Scale(12, 200, 3))
    groups = await play([orders[name] for name in ("full history", "window", "two seats")], {"main": model})
    model.close()
    tokens = lay_out(groups, "main")
    gap_N = np.abs(Learner(model.model, lr=0.0).measure(tokens).old_N - tokens.behavior_N)
    with capsys.disabled():
        print(f"[bfloat16: mean {gap_N.mean():.4f}, largest {gap_N.max():.3f}]", end=" ")
    assert np.isfinite(gap_N).all() and 0 < gap_N.mean() < 0.15


# ---------------------------------------------------------------- crash and kill

PLAYING = """
import asyncio, json, sys
from polyturn.protocols import Match, Player
from polyturn.record.write import open_run
from polyturn.rollout.pool import play
from polyturn.types import Sampling, Task
from tests.proof_cases import LINES, suite_of
from tests.proof_test import local

class Telling:
    async def act(self, ask, desk):
        turn = await desk.say(ask.messages, sampling=Sampling(max_tokens=10))
        span = desk.log.grown(desk.seat, "main", None).ledger.spans[turn.spans[0]]
        print(json.dumps([desk.log.episode_id, turn.at, span.ids.tolist(), span.logprobs.tolist()]), flush=True)
        return desk.message(turn)

async def endless(task, seed, table):
    while True:
        await table.ask_all({"a": LINES[0], "b": LINES[2]}, fresh=True)

async def main():
    suite = suite_of(endless, "endless", ("a", "b"))
    match = Match(suite, Task("t", "endless"), {seat: Player(Telling, "main") for seat in "ab"}, rollouts=3)
    await play([match], {"main": local()}, recorder=open_run(sys.argv[1], recipe="test"))

asyncio.run(main())
"""


def test_a_kill_in_the_middle_of_episodes_loses_no_turn(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PLAYING, str(tmp_path / "run")]
    said: list[list[Any]] = []
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as playing:
        assert playing.stdout is not None
        try:
            for line in playing.stdout:
                said.append(json.loads(line))
                if len(said) == 20:
                    break
        finally:
            playing.kill()
    assert playing.returncode == -9 and len(said) == 20
    assert list(read_episodes(tmp_path / "run")) == []
    found = {e.id: e for e in read_episodes(tmp_path / "run", include_open=True)}
    assert len(found) == 3 and {e.stop.kind for e in found.values()} == {"error"}
    for name, at, ids, logprobs in said:
        ((trajectory, turn),) = [(t, u) for t in found[name].trajectories for u in t.turns if u.at == at]
        (span,) = (trajectory.spans[index] for index in turn.spans)
        assert span.sampled and span.logprobs is not None
        assert (span.ids.tolist(), span.logprobs.tolist()) == (ids, logprobs)
        assert len(stored(trajectory, turn)[0]) == turn.usage.prompt_tokens + len(ids)
    assert [fault for e in found.values() for fault in path_faults(e)] == []
    assert audit_run(tmp_path / "run").faults == []


async def test_a_crash_inside_an_agent_loses_no_turn(tmp_path: Path) -> None:
    @dataclass
    class Crashing:
        sampling: Sampling
        done: int = 0

        async def act(self, ask: Ask, desk: Desk) -> Message:
            self.done += 1
            turn = await desk.say(ask.messages, sampling=self.sampling)
            await desk.sub("helper").say(ask.messages, sampling=self.sampling)
            if self.done == 3:
                raise RuntimeError("the agent is broken")
            return desk.message(turn)

    model = Heard(local())
    cast = {"agent": Player(lambda: Crashing(Sampling(max_tokens=7)), "main")}
    order = match_of(suite_of(talk, "talk", ("agent",)), "crash", cast, 2)
    recorder = open_run(tmp_path / "run", recipe="test")
    (group,) = await play([order], {"main": model}, recorder=recorder)
    recorder.close()
    model.inner.close()  # type: ignore[attr-defined]
    assert [(e.stop.kind, "broken" in e.stop.reason) for e in group] == [("error", True)] * 2
    read = list(read_episodes(tmp_path / "run"))
    for episodes in (group, read):
        assert Counter(t.seat for e in episodes for t in e.trajectories for _ in t.turns) == {
            "agent": 6, "agent/helper": 6,
        }
        spans = sum((spans_of(tuple(episodes), seat) for seat in ("agent", "agent/helper")), Counter())
        assert spans == model.replies
    assert audit_run(tmp_path / "run").faults == []
