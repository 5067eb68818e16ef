"""ScalingInter-RL: the horizons, estimators that lose no score, exact masks, environments that leave nothing."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import psutil
import pytest

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.arrays import Measured, Turns, as_turns, lay_out
from polyturn.envs.answers import random_answer
from polyturn.envs.crafting import crafting
from polyturn.envs.grid import grid
from polyturn.envs.gymnasium import Gymnasium
from polyturn.envs.openspiel import tic_tac_toe
from polyturn.envs.search import search
from polyturn.envs.textarena import guess_the_number
from polyturn.errors import BadInput
from polyturn.learn.curriculum import Mixture, Share, StepBudget
from polyturn.losses.weighting import token_mean
from polyturn.methods.learning.agentgym_rl import ESTIMATORS, ScalingHorizon, horizon, reinforce_plus_plus
from polyturn.policies.dictated import Dictated
from polyturn.protocols import Completion, Match, Message, Player, Suite
from polyturn.rollout.pool import play
from polyturn.rollout.score import score_matches
from polyturn.rollout.worker import in_worker
from polyturn.testing import check_advantage
from polyturn.types import Group, Limits, Sampling, Score, Stop, Task, assistant
from tests.advantages.build import Said, batch, episode
from tests.methods.learning import agentgym_rl_slow as slow
from tests.methods.learning.agentgym_rl_slow import Rollout
from tests.policies.tiny import tiny_local

# ---------------------------------------------------------------- the horizon


@dataclass
class Lists:
    """A curriculum of one match, with memory."""

    suite: Any = field(default_factory=grid)
    limits: Limits = Limits()
    seen: int = 0

    def propose(self, iteration: int) -> Sequence[Match]:
        task = next(iter(self.suite.tasks("train")))
        player = Player(lambda: AnswerAgent(self.suite.oracle(task)), "main")
        return [Match(self.suite, task, {"agent": player}, limits=self.limits, train=frozenset({"agent"}))]

    def observe(self, groups: Sequence[Group]) -> None:
        self.seen += len(groups)

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: Any) -> None:
        self.seen = state["seen"]


def test_the_series_by_hand() -> None:
    # TextCraft: 10 for steps 1..100, 20 for 101..200, 30 from 201 on; iterations count from 0
    assert [horizon(i, (10, 20, 30), 100) for i in (0, 1, 98, 99, 100, 101, 198, 199, 200, 201, 10_000)] == [
        10, 10, 10, 10, 20, 20, 20, 20, 30, 30, 30
    ]
    assert [horizon(i, (6,), 1) for i in range(3)] == [6, 6, 6]


def test_the_series_of_a_thousand_schedules_and_of_every_resume() -> None:
    draw = random.Random(0)
    for _ in range(1000):
        listed = sorted(draw.sample(range(1, 60), draw.randint(1, 4)))
        every, steps = draw.randint(1, 9), draw.randint(1, 50)
        expected = slow.horizons(listed, every, steps)
        assert [horizon(i, listed, every) for i in range(steps)] == expected
        at = draw.randint(0, steps)  # a resume begins with objects that were just made
        first, after = (ScalingHorizon(Lists(), listed, every) for _ in range(2))
        after.restore(first.state())
        assert [after.propose(i)[0].limits.env_steps for i in range(at, steps)] == expected[at:]


def test_a_counter_restored_at_a_checkpoint_would_switch_late() -> None:
    # 10 10 10 20 20 20 30 30; restored after step 3, the counter repeats 10 once more
    assert slow.horizons([10, 20, 30], 3, 8) == [10, 10, 10, 20, 20, 20, 30, 30]
    assert slow.resumed_with_a_counter([10, 20, 30], 3, 8, at=3) == [10, 10, 10, 10, 20, 20, 20, 30]
    assert [horizon(i, (10, 20, 30), 3) for i in range(3, 8)] == [20, 20, 20, 30, 30]


def test_a_match_keeps_its_own_shorter_limits_and_the_memory_inside_is_kept() -> None:
    scaling = ScalingHorizon(Lists(limits=Limits(env_steps=4, model_calls=9)), (2, 6), 1)
    assert [scaling.propose(i)[0].limits for i in (0, 1)] == [
        Limits(env_steps=2, model_calls=9), Limits(env_steps=4, model_calls=9)
    ]
    scaling.observe([(), ()])
    other = ScalingHorizon(Lists(), (2, 6), 1)
    other.restore(scaling.state())
    assert isinstance(other.inner, Lists) and other.inner.seen == 2
    nested = StepBudget(ScalingHorizon(Mixture(()), (2,), 1), 10)
    assert nested.state() == {"taken": 0, "inner": {"inner": None}}
    for listed, every in (((), 1), ((0, 1), 1), ((3, 3), 1), ((5, 2), 1), ((1, 2), 0)):
        with pytest.raises(BadInput, match="rising"):
            ScalingHorizon(Lists(), listed, every)


async def test_a_horizon_truncates_and_is_no_failure_of_the_environment() -> None:
    lists = Lists(grid(lengths=(6,)))
    for steps, kind in ((5, "truncated"), (6, "done")):
        matches = ScalingHorizon(lists, (steps,), 1).propose(0)
        groups = await score_matches(matches, await play(matches, {"main": Dictated(name="main")}))
        assert groups[0][0].stop.kind == kind and groups[0][0].error is None
        assert groups[0][0].scores["score"]["agent"].value == float(steps == 6)
        assert groups[0][0].final is not None and groups[0][0].final["left"] == 6 - steps


# ---------------------------------------------------------------- estimators


def turns_of(rollouts: Sequence[Rollout]) -> Turns:
    """The rollouts, each run of generated positions a turn, as the real functions lay them out. What follows the last
    run is an observation that the environment gave at its end: it belongs to no turn."""
    groups: dict[int, list[Any]] = {}
    for number, one in enumerate(rollouts):
        said = [Said(run) for run in runs(one.generated)]
        made = episode({"agent": said}, name=f"g{one.group}", trial=number,
                       scores={"score": {"agent": Score(one.score)}})
        groups.setdefault(one.group, []).append(made)
    tokens = lay_out([tuple(group) for group in groups.values()], "main")
    order = [number for group in groups for number, one in enumerate(rollouts) if one.group == group]
    values = [value for number in order for value, generated in
              zip(rollouts[number].values, rollouts[number].generated, strict=True) if generated]
    return as_turns(tokens, Measured(np.zeros(len(tokens)), heads={"value": np.array(values)}))


def runs(generated: Sequence[bool]) -> list[int]:
    """The lengths of the runs of True.

    [False, True, True, False, True] -> [2, 1]
    """
    found = [0]
    for one in generated:
        if one:
            found[-1] += 1
        elif found[-1]:
            found.append(0)
    return [length for length in found if length]


def by_token(advantage: Any, turns: Turns) -> list[list[float]]:
    """The advantage of each token, row by row."""
    from polyturn.advantages.turn import as_tokens

    found_N = as_tokens(advantage(turns), turns)
    return [found_N[turns.tokens.trajectory_N == b].tolist() for b in range(len(turns.root_B))]


SHORT = Rollout(0, (False, True, True, False, True, False), (0, 0.5, 0.25, 0, 0.5, 0), 1.0)
"""Prompt, two tokens, observation, one token, and the observation after the end, on which the score stands."""


def test_estimators_by_hand() -> None:
    other = replace(SHORT, score=0.0)
    turns = turns_of([SHORT, other])
    # scores 1 and 0: mean 0.5, sample deviation sqrt(0.5) = 0.707107: 0.5 / 0.707108 = 0.707106
    assert by_token(ESTIMATORS["grpo"], turns)[0] == pytest.approx([0.7071058] * 3, abs=1e-6)
    # 2 / (2 - 1) * 0.5
    assert by_token(ESTIMATORS["rloo"], turns) == [[1.0] * 3, [-1.0] * 3]
    # returns 0.25 0.5 1 and 0 0 0: mean 1.75 / 6 = 0.291667; squares 0.0625 + 0.25 + 1 = 1.3125
    # variance (1.3125 - 6 * 0.291667**2) / 5 = 0.160417, deviation 0.400520: (1 - 0.291667) / 0.400520 = 1.768535
    found = by_token(partial(reinforce_plus_plus, gamma=0.5), turns)
    assert found[0] == pytest.approx([-0.104032, 0.520157, 1.768535], abs=1e-5)
    assert found[1] == pytest.approx([-0.728220] * 3, abs=1e-5)
    # values 0.5 0.25 0.5, lambda 1, gamma 1: each is 1 - V
    assert by_token(ESTIMATORS["gae"], turns)[0] == pytest.approx([0.5, 0.75, 0.5])


def drawn(draw: random.Random) -> list[Rollout]:
    found = []
    for group in range(draw.randint(1, 3)):
        for _ in range(draw.randint(1, 4)):
            marks = [draw.random() < 0.6 for _ in range(draw.randint(1, 8))]
            generated = (False, *marks, *([] if any(marks) else [True]), *([False] * draw.randint(0, 1)))
            values = tuple(draw.random() for _ in generated)
            found.append(Rollout(group, generated, values, draw.choice((0.0, 0.5, 1.0))))
    return found


def test_estimators_equal_the_slow_twin_on_a_thousand_random_batches() -> None:
    draw = random.Random(1)
    lost = by_token_differs = 0
    for _ in range(1000):
        rollouts = drawn(draw)
        turns, gamma, lam = turns_of(rollouts), draw.choice((0.0, 0.9, 1.0)), draw.random()
        lengths = [sum(one.generated) for one in rollouts]
        for name, twin in (("grpo", slow.grpo), ("rloo", slow.rloo)):
            expected = [[value] * length for value, length in zip(twin(rollouts), lengths, strict=True)]
            assert flat(by_token(ESTIMATORS[name], turns)) == pytest.approx(flat(expected), abs=1e-9)
        by_token_differs += slow.grpo(rollouts) != pytest.approx(slow.grpo(rollouts, by_token=True))
        whitened = slow.reinforce_plus_plus(rollouts, gamma)
        found = flat(by_token(partial(reinforce_plus_plus, gamma=gamma), turns))
        assert found == pytest.approx(flat(whitened), abs=1e-9)
        gae = partial(ESTIMATORS["gae"], gamma=gamma, lambda_=lam)
        expected = [slow.gae(one, gamma, lam) for one in rollouts]
        assert flat(by_token(gae, turns)) == pytest.approx(flat(expected), abs=1e-9)
        lost += expected != [slow.gae(one, gamma, lam, carried=False) for one in rollouts]
    # with the score left on the observation, or with tokens for rollouts, it is another advantage: this could fail
    assert lost > 300 and by_token_differs > 500


def flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in rows for value in row]


def test_a_score_is_never_lost_and_as_released_it_would_be() -> None:
    rollouts = [SHORT, replace(SHORT, score=0.0)]
    # switched off: the score times the mask of its own position, an observation
    assert slow.returns(SHORT, 1.0, carried=False) == [0.0, 0.0, 0.0]
    assert slow.gae(SHORT, 1.0, 1.0, carried=False) == slow.gae(rollouts[1], 1.0, 1.0)
    assert slow.reinforce_plus_plus(rollouts, 1.0, carried=False) == [[0.0] * 3] * 2
    for name, estimator in ESTIMATORS.items():
        first, second = by_token(estimator, turns_of(rollouts))
        assert first != second and first[-1] > second[-1], name


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_a_score_on_a_turn_that_was_taken_back_is_not_lost(name: str) -> None:
    def made(score: float, trial: int) -> Any:
        said = [Said(2), Said(1, dropped="a context took it back")]
        return episode({"agent": said}, trial=trial, scores={"score": {"agent": Score(score)}}, stop=Stop("truncated"))

    turns = batch([(made(1.0, 0), made(0.0, 1))], lambda n, b: Measured(
        np.zeros(n), heads={"value": np.full(n, 0.5)}, end={"value": np.zeros(b)}))
    first, second = by_token(ESTIMATORS[name], turns)
    assert first[1] > second[1] and first[2] == second[2] == 0.0


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_conformance_of_estimators(name: str) -> None:
    check_advantage(ESTIMATORS[name])


# ---------------------------------------------------------------- the mask of generated tokens


@dataclass
class Listening:
    """A policy that writes down the ids of every completion."""

    inner: Any
    heard: list[list[int]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def sample(self, messages: Sequence[Message], **more: Any) -> Completion:
        completion: Completion = await self.inner.sample(messages, **more)
        assert completion.ids is not None
        self.heard.append(completion.ids.tolist())
        return completion


@pytest.mark.parametrize("mask", [True, False])
async def test_what_is_trained_is_what_was_generated_id_by_id(mask: bool) -> None:
    suite, policy = grid(), Listening(tiny_local(deterministic=True))
    make = partial(ChatAgent, sampling=Sampling(max_tokens=5), mask=mask)
    share = Share(suite, lambda task: {"agent": Player(make, "main")}, frozenset({"agent"}), 2, 2)
    matches = ScalingHorizon(Mixture((share,), 3), (2, 4), 1).propose(1)
    groups = await score_matches(matches, await play(matches, {"main": policy}))  # type: ignore[dict-item]
    tokens = lay_out(groups, "main")
    turns = as_turns(tokens)
    spoken = [
        tokens.id_N[(tokens.trajectory_N == b) & (tokens.turn_N == k)].tolist()
        for b in range(len(turns.root_B)) for k in range(int((turns.finish_BK[b] != "").sum()))
    ]
    assert sorted(spoken) == sorted(policy.heard) and len(spoken) > 8
    assert tokens.sampled_N.all() and len(tokens) == sum(map(len, policy.heard))
    assert (token_mean(turns, tokens) > 0).all()
    shown = sum(len(span.ids) for group in groups for e in group for t in e.trajectories for span in t.spans)
    assert shown > 3 * len(tokens)  # the rest are observations and role marks, none of them trained


# ---------------------------------------------------------------- environments


def lake() -> Gymnasium:
    import gymnasium

    moves = ("left", "down", "right", "up")
    return Gymnasium(
        lambda: gymnasium.make("FrozenLake-v1", is_slippery=False), name="lake", say=lambda cell: f"Cell {cell}.",
        parse=lambda reply: moves.index(reply.strip()), legal=lambda cell, info: moves, returns=(0.0, 1.0),
    )


@pytest.mark.parametrize("make", [grid, crafting, partial(search, people=8, fresh=True), guess_the_number, tic_tac_toe,
                                  lake])
async def test_200_cycles_leave_no_instance_and_no_thread(make: Any) -> None:
    """One client drives them all: make, start, a step, close; every second one is closed before it began."""
    suite: Suite = make()
    tasks = list(islice(suite.tasks("train"), 10))
    await cycle(suite, tasks[0], 1)
    kinds = {type(await suite.make(task, 0)) for task in tasks[:1]}
    gc.collect()
    before = {kind: alive(kind) for kind in kinds}
    threads, children = set(threading.enumerate()), set(psutil.Process().children(recursive=True))
    for number in range(200):
        await cycle(suite, tasks[number % 10], number)
    await suite.close()
    gc.collect()
    assert {kind: alive(kind) for kind in kinds} == before
    assert set(threading.enumerate()) <= threads
    assert set(psutil.Process().children(recursive=True)) <= children


async def cycle(suite: Suite, task: Task, number: int) -> None:
    env: Any = await suite.make(task, number)
    if suite.spec.worker != "none":
        env = in_worker(env, suite.spec.worker, suite.spec.step_timeout_s)
    if number % 2:
        step = await env.start()
        answers = {ask.seat: random_answer(task, 0, ask.seat) for ask in step.asks}
        await env.step({ask.seat: answers[ask.seat](ask) if ask.legal else assistant("x") for ask in step.asks})
    await env.close()


def alive(kind: type) -> int:
    return sum(type(one) is kind for one in gc.get_objects())
