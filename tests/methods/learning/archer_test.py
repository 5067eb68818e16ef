"""ArCHer: targets, losses and gradients by hand and by slow twins; the critic on a known problem; replay."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.agents.chat import ChatAgent
from polyturn.arrays import lay_out
from polyturn.envs.twenty_questions import TwentyQuestions, TwentyQuestionsEnv, twenty_questions
from polyturn.errors import BadInput, NotTrainable
from polyturn.learn.learner import Learner
from polyturn.losses.learned import Learned, Loss
from polyturn.methods.learning.archer import (
    HEADS,
    Ring,
    Transition,
    actor_loss,
    actor_loss_with_baseline,
    advantage,
    answer_again,
    bellman,
    critic_heads,
    critic_loss,
    monte_carlo,
    replies,
    reply_of,
    states,
    transitions,
    update_critic,
)
from polyturn.protocols import Match, Player, Step
from polyturn.rollout.episode import Place, play_episode
from polyturn.testing import check_loss
from polyturn.types import Episode, IntArray, Message, Sampling, Seat, Task
from tests.methods.learning import archer_slow as slow
from tests.policies.tiny import tiny_local
from tests.tiny import tiny_llama


def number(values: Any, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def ids(*values: int) -> IntArray:
    return np.array(values, np.int32)


def learned(rows: list[list[float]], worth: list[float], base: list[list[float]] | None = None) -> Learned:
    """Replies with their log-probabilities, one advantage a reply, weights 1 / replies."""
    flat, row = [v for one in rows for v in one], [r for r, one in enumerate(rows) for _ in one]
    index = torch.tensor(row)
    head = {} if base is None else {"baseline": number([v for one in base for v in one], True)}
    return Learned(
        number(flat, True), number(flat), number(flat), number([worth[r] for r in row]),
        number([1 / len(rows)] * len(row)), torch.zeros_like(index), index, index, torch.zeros_like(index), heads=head,
    )


def judged(heads: dict[str, list[float]], aims: dict[str, list[float]]) -> Learned:
    """Rows of V (first) and Q (second) tokens as the critic's loss sees them: a head has a target on its own rows."""
    count = len(heads["v1"])
    nothing = [0.0] * (2 * count)
    columns: dict[str, Any] = {name: [] for name in HEADS}
    targets: dict[str, Any] = {name: [] for name in HEADS}
    for r in range(count):
        for kind in ("v", "q"):
            for name in HEADS:
                own = name[0] == kind
                columns[name].append(heads[name][r] if own else 9.0)
                targets[name].append(aims[name][r] if own else math.nan)
    index = torch.arange(2 * count)
    return Learned(
        number(nothing, True), number(nothing), number(nothing), number(nothing), number([1 / count] * 2 * count),
        index, index, index, index, heads={name: number(columns[name], True) for name in HEADS},
        targets={name: number(targets[name]) for name in HEADS},
    )


# ---------------------------------------------------------------- (a) by hand

HEADS_BY_HAND = {"q1": [1.0, -2.0], "q2": [0.5, -1.0], "v1": [0.0, -1.5], "v2": [0.25, -3.0]}
TARGETS = {"q1": [-0.05, -1.0], "q2": [-1.475, -1.0], "v1": [0.4, -2.0], "v2": [0.6, 0.0]}


def test_the_targets_by_hand() -> None:
    # Row 0: r = -1, next V' = (1, -0.5): -1 + 0.95 * 1 = -0.05 and -1 - 0.475 = -1.475. Row 1 is over: -1 and -1.
    found = bellman(np.array([-1.0, -1.0]), {"v1": np.array([1.0, 0.0]), "v2": np.array([-0.5, 0.0])},
                    {"q1": np.array([0.4, -2.0]), "q2": np.array([0.6, 0.0])}, gamma=0.95)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: pytest.approx(value) for name, value in TARGETS.items()}


def test_no_target_takes_the_smaller_of_the_twins() -> None:
    # Clipped double Q would put min(1, -0.5) into both; here each head looks at its own twin.
    one = np.ones(1)
    found = bellman(np.zeros(1), {"v1": one, "v2": -one}, {"q1": one, "q2": -one}, gamma=1.0)
    assert (found["q1"], found["q2"], found["v1"], found["v2"]) == (1.0, -1.0, 1.0, -1.0)


def test_the_four_losses_and_the_gradients_of_each_head_by_hand() -> None:
    made = judged(HEADS_BY_HAND, TARGETS)
    loss, metrics = critic_loss(made)
    # q1: (1.05^2 + 1) / 2 = 1.05125; q2: (1.975^2 + 0) / 2 = 1.9503125; v1: (0.16 + 0.25) / 2 = 0.205;
    # v2: (0.35^2 + 9) / 2 = 4.56125. Together 7.7678125.
    assert float(loss.detach()) == pytest.approx(7.7678125)
    assert {name: metrics[f"critic/{name}"] / 2 for name in HEADS} == pytest.approx(
        {"q1": 1.05125, "q2": 1.9503125, "v1": 0.205, "v2": 4.56125})
    slopes = torch.autograd.grad(loss, [made.heads[name] for name in HEADS])
    # d/dh of (h - y)^2 / 2 rows = h - y, on the head's own rows; V stands at 0 and 2, Q at 1 and 3.
    expected = {"q1": [0, 1.05, 0, -1.0], "q2": [0, 1.975, 0, 0], "v1": [-0.4, 0, 0.5, 0], "v2": [-0.35, 0, -3.0, 0]}
    for name, slope in zip(HEADS, slopes, strict=True):
        assert slope.tolist() == pytest.approx(expected[name])


def test_the_actor_by_hand() -> None:
    # A = min(1, 0.5) - min(0, 0.25) = 0.5 and min(-2, -1) - min(-1.5, -3) = -2 + 3 = 1.
    worth = slow.advantage(HEADS_BY_HAND)
    assert worth == [0.5, 1.0]
    # -(0.5 * (-1 - 2) + 1 * (-0.5)) / 2 = -(-1.5 - 0.5) / 2 = 1; d/dlogprob = -A / 2
    made = learned([[-1.0, -2.0], [-0.5]], worth)
    loss, _ = actor_loss(made)
    assert float(loss.detach()) == pytest.approx(1.0)
    (slope,) = torch.autograd.grad(loss, made.logprob_N)
    assert slope.tolist() == pytest.approx([-0.25, -0.25, -0.5])


def test_the_actor_with_a_token_baseline_by_hand() -> None:
    # A - b: 0.5 - 0.1 = 0.4, 0.5 - 0.7 = -0.2, 1 - 0.5 = 0.5. Policy: -(0.4 * -1 - 0.2 * -2 + 0.5 * -0.5) / 2 = 0.125.
    # Squares over 2 rows of 2 positions: (0.16 + 0.04 + 0.25 + 0 for the padding) / 4 = 0.1125. Together 0.2375.
    made = learned([[-1.0, -2.0], [-0.5]], [0.5, 1.0], [[0.1, 0.7], [0.5]])
    loss, _ = actor_loss_with_baseline(made, longest=2)
    assert float(loss.detach()) == pytest.approx(0.2375)
    slope, base = torch.autograd.grad(loss, [made.logprob_N, made.heads["baseline"]])
    assert slope.tolist() == pytest.approx([-0.2, 0.1, -0.25])  # -(A - b) / 2: the baseline is a constant here
    assert base.tolist() == pytest.approx([-0.2, 0.1, -0.25])  # -2 (A - b) / 4
    with pytest.raises(BadInput, match="longest is 0"):
        actor_loss_with_baseline(made, longest=0)
    with pytest.raises(BadInput, match="the head 'baseline'"):
        actor_loss_with_baseline(learned([[-1.0]], [1.0]), longest=1)


def test_the_monte_carlo_return_by_hand() -> None:
    # gamma 0.95: 0; -1 + 0 = -1; -1 + 0.95 * -1 = -1.95; -1 + 0.95 * -1.95 = -2.8525
    assert monte_carlo([-1.0, -1.0, -1.0, 0.0]) == pytest.approx([-2.8525, -1.95, -1.0, 0.0])


def test_the_soft_update_by_hand() -> None:
    critic = Learner(tiny_llama(), lr=1e-3, heads=critic_heads(32), reference="initial")
    with torch.no_grad():
        for parameter in critic.parameters.values():
            parameter.fill_(2.0)
        for parameter in (*critic.reference.model.parameters(), *critic.reference_heads.parameters()):  # type: ignore[union-attr]
            parameter.fill_(1.0)
    critic.renew_reference(0.1)
    weights = critic._reference_weights()
    assert all(torch.allclose(p, torch.full_like(p, 1.1)) for p in weights.values())  # 0.9 * 1 + 0.1 * 2
    assert {name.split(".")[1] for name in weights if name.startswith("heads.")} == set(HEADS)


def constant_critic() -> Learner:
    """A critic whose copy says ``q 0.4 0.6, v 1.0 -0.5`` of everything, and it itself ``q 1.0 0.5, v 0.0 0.25``."""
    heads = {name: torch.nn.Linear(32, 1, dtype=torch.float64) for name in HEADS}
    for head in heads.values():
        torch.nn.init.zeros_(head.weight)
    critic = Learner(tiny_llama(num_hidden_layers=1), lr=1e-3, heads=heads, reference="initial")
    for made, values in ((critic.reference_heads, (0.4, 0.6, 1.0, -0.5)), (critic.heads, (1.0, 0.5, 0.0, 0.25))):
        for name, value in zip(HEADS, values, strict=True):
            torch.nn.init.constant_(made[name].bias, value)  # type: ignore[arg-type, union-attr]
    return critic


def test_an_update_of_the_critic_by_hand() -> None:
    critic = constant_critic()
    episode = Episode("e", Task("t", "f"), 0)
    rows = [Transition(episode, 0, ids(5, 6), ids(10, 2), -1.0, ids(5, 7), 0.0),
            Transition(episode, 1, ids(5, 7), ids(11, 2), -1.0, None, 0.0)]
    # The advantage is the critic's own, min(1, 0.5) - min(0, 0.25); its copy would say 0.4 + 0.5.
    assert advantage(critic, [ids(5, 6)], [ids(10, 2)]).tolist() == pytest.approx([0.5])
    metrics = update_critic(critic, rows, [ids(12, 2)] * 2)
    # Targets are the copy's, as above: q1 -0.05 and -1, q2 -1.475 and -1, v1 0.4 twice, v2 0.6 twice. Squares:
    # 1.05^2 + 2^2, 1.975^2 + 1.5^2, 2 * 0.4^2, 2 * 0.35^2.
    assert metrics == pytest.approx(
        {"critic/q1": 5.1025, "critic/q2": 6.150625, "critic/v1": 0.32, "critic/v2": 0.245, "critic/count": 8})
    for name, before in zip(HEADS, (0.4, 0.6, 1.0, -0.5), strict=True):  # then it follows by a tenth
        present, copy = (float(made[name].bias.detach()) for made in (critic.heads, critic.reference_heads))  # type: ignore[union-attr, operator]
        assert copy == pytest.approx(0.9 * before + 0.1 * present) and copy != pytest.approx(before, abs=1e-4)


# ---------------------------------------------------------------- (b) slow twins


def test_equal_their_slow_twins_on_a_thousand_batches() -> None:
    differs = 0
    for seed in range(1000):
        draw = random.Random(seed)
        rows = draw.randint(1, 6)

        def numbers(count: int, draw: random.Random = draw) -> list[float]:
            return [draw.uniform(-3, 3) for _ in range(count)]

        gamma, over = draw.choice((0.0, 0.95, 1.0)), [draw.random() < 0.3 for _ in range(rows)]
        rewards, heads = numbers(rows), {name: numbers(rows) for name in HEADS}
        value, fresh = {n: numbers(rows) for n in ("v1", "v2")}, {n: numbers(rows) for n in ("q1", "q2")}
        aims = slow.targets(rewards, over, value, fresh, gamma)
        alive = {n: np.where(over, 0.0, v) for n, v in value.items()}
        found = bellman(np.array(rewards), alive, {n: np.array(v) for n, v in fresh.items()}, gamma=gamma)
        for name in HEADS:
            np.testing.assert_allclose(found[name], aims[name], atol=1e-12)
        loss = float(critic_loss(judged(heads, aims))[0].detach())
        assert loss == pytest.approx(slow.critic_loss(heads, aims), rel=1e-9)
        said = [numbers(draw.randint(1, 5)) for _ in range(rows)]
        base = [numbers(len(row)) for row in said]
        worth = slow.advantage(heads)
        plain = float(actor_loss(learned(said, worth))[0].detach())
        assert plain == pytest.approx(slow.actor_loss(worth, said), rel=1e-9)
        with_base = actor_loss_with_baseline(learned(said, worth, base), longest=max(map(len, said)))
        assert float(with_base[0].detach()) == pytest.approx(slow.actor_loss_with_baseline(worth, said, base), rel=1e-9)
        assert monte_carlo(rewards, gamma=gamma) == pytest.approx(slow.monte_carlo(rewards, gamma))
        # A wrong unit, the mean over all tokens in place of replies, is another loss.
        tokens = sum(map(len, said))
        by_token = -sum(a * sum(row) for a, row in zip(worth, said, strict=True)) / tokens
        differs += tokens > rows and abs(by_token - plain) > 1e-3
    assert differs > 800


# ---------------------------------------------------------------- (c) the critic on a problem with a known answer

ONE, TWO, LEFT, RIGHT = ids(5, 6), ids(5, 7), ids(10, 2), ids(11, 2)


def rows_of_the_chain() -> list[Transition]:
    """State ONE: LEFT pays 0.3 and ends, RIGHT pays nothing and leads to TWO. There LEFT pays 0,
    RIGHT pays 1, and both end.

    Q*(TWO, RIGHT) = 1, Q*(TWO, LEFT) = 0, Q*(ONE, RIGHT) = 0.9 * 1, Q*(ONE, LEFT) = 0.3 with gamma 0.9.
    """
    episode = Episode("e", Task("t", "f"), 0)
    return [
        Transition(episode, 0, ONE, LEFT, 0.3, None, 0.3), Transition(episode, 0, ONE, RIGHT, 0.0, TWO, 0.0),
        Transition(episode, 1, TWO, LEFT, 0.0, None, 0.0), Transition(episode, 1, TWO, RIGHT, 1.0, None, 1.0),
    ]


def taught(gamma: float, updates: int = 250) -> tuple[Learner, dict[str, np.ndarray]]:
    """A critic after updates on all four transitions, and its Q of each; the policy is the best one: RIGHT."""
    model = tiny_llama(torch.float32, num_hidden_layers=1)
    critic = Learner(model, lr=2e-3, heads=critic_heads(32, width=32), reference="initial")
    rows = rows_of_the_chain()
    for update in range(updates):
        critic.lr = 2e-3 if update < 200 else 3e-4
        update_critic(critic, rows, [RIGHT] * 4, gamma=gamma, tau=0.3)
    tokens = replies([row.prompt for row in rows], [row.reply for row in rows])
    value = critic.values(tokens)
    return critic, {name: value[name][tokens.turn_N == 1] for name in ("q1", "q2")}


@pytest.mark.timeout(900)
def test_the_critic_finds_the_known_values_and_without_bootstrap_misses_what_is_delayed() -> None:
    best = np.array([0.3, 0.9, 0.0, 1.0])
    critic, found = taught(0.9)
    for name in ("q1", "q2"):
        # within 2 % of each value (of the smallest one where it is 0), after 250 updates
        assert (np.abs(found[name] - best) < 0.02 * np.where(best == 0, 0.3, best)).all(), found
    # Off-policy: LEFT was played half of the time, V is that of RIGHT, the present policy.
    value = critic.values(states([ONE, TWO]))
    np.testing.assert_allclose(value["v1"], [0.9, 1.0], atol=0.02)
    # The advantage of going on is 0, that of what the policy no longer does is below.
    np.testing.assert_allclose(advantage(critic, [ONE, ONE, TWO], [LEFT, RIGHT, LEFT]), [-0.6, 0.0, -1.0], atol=0.05)
    np.testing.assert_allclose(advantage(critic, [ONE], [LEFT], baseline=False), [0.3], atol=0.03)
    _, blind = taught(0.0, 150)
    assert blind["q1"][1] < 0.1 < 0.3 - 0.1 < blind["q1"][0]  # prefers the small reward at once


def test_the_twins_begin_apart() -> None:
    critic = Learner(tiny_llama(), lr=1e-3, heads=critic_heads(32))
    value = critic.values(replies([ONE], [LEFT]))
    assert len({round(float(value[name][1]), 6) for name in HEADS}) == 4
    same = [critic_heads(32, seed=3)["q1"][0].weight for _ in range(2)]  # type: ignore[index]
    assert torch.equal(same[0], same[1])


def test_q_sees_the_whole_reply_also_one_that_was_cut() -> None:
    # A reply of one id without an end: read before its last id, it would look like any other.
    critic = Learner(tiny_llama(), lr=1e-3, heads=critic_heads(32))
    tokens = replies([ONE, ONE], [ids(10), ids(11)])
    value = critic.values(tokens)
    assert abs(value["q1"][1] - value["q1"][3]) > 1e-6
    assert value["v1"][0] == pytest.approx(value["v1"][2], abs=1e-12)


# ---------------------------------------------------------------- (d) conformance, replay and stored observations


def test_conformance() -> None:
    check_loss(actor_loss)
    check_loss(partial(actor_loss_with_baseline, longest=3), heads=("baseline",))
    check_loss(_critic_loss_with_targets, heads=HEADS)


def _critic_loss_with_targets(learned: Learned) -> Any:
    assert learned.target_N is not None
    aims = {name: learned.target_N * (i + 1) for i, name in enumerate(HEADS)}
    return critic_loss(replace(learned, targets=aims))


def test_the_critic_needs_targets() -> None:
    loss: Loss = critic_loss
    with pytest.raises(BadInput, match="targets of q1"):
        loss(learned([[-1.0]], [1.0]))


def test_the_ring_keeps_the_newest_and_draws_with_replacement() -> None:
    rows = [replace(rows_of_the_chain()[0], at=k) for k in range(10)]
    ring = Ring(capacity=6)
    with pytest.raises(BadInput, match="empty"):
        ring.draw(1, np.random.default_rng(0))
    ring.add(rows[:5])
    ring.add(rows[5:8])
    assert [row.at for row in ring.rows] == [2, 3, 4, 5, 6, 7]
    drawn = [row.at for row in ring.draw(600, np.random.default_rng(0))]
    counts = np.bincount(drawn, minlength=8)[2:]
    assert counts.sum() == 600 and counts.min() > 60 and counts.max() < 140  # 100 each, standard deviation 9.1
    assert {row.at for row in ring.draw(60, np.random.default_rng(0), replay=False)} == {5, 6, 7}


class Counting:
    """Counts the steps of the environments that a suite makes."""

    def __init__(self, suite: TwentyQuestions) -> None:
        self.suite, self.spec, self.verifier, self.steps = suite, suite.spec, suite.verifier, 0

    def tasks(self, split: str) -> Any:
        return self.suite.tasks(split)

    async def make(self, task: Task, seed: int) -> Any:
        inner = await self.suite.make(task, seed)
        return CountingEnv(self, inner)

    async def close(self) -> None:
        """Nothing is shared."""


class CountingEnv:
    def __init__(self, suite: Counting, inner: TwentyQuestionsEnv) -> None:
        self.suite, self.inner = suite, inner
        self.start, self.final, self.close = inner.start, inner.final, inner.close

    async def step(self, said: dict[Seat, Message]) -> Step:
        self.suite.steps += 1
        return await self.inner.step(said)


async def test_answering_again_steps_no_environment_and_names_its_parent() -> None:
    policy = tiny_local(deterministic=True)
    suite: Any = Counting(twenty_questions(words=4, questions=4))
    player = Player(lambda: ChatAgent(mask=True, sampling=Sampling(max_tokens=40)), "main")
    task = next(iter(suite.tasks("test")))
    match = Match(suite, task, {"agent": player}, seed=5, train=frozenset({"agent"}))
    episode = await play_episode(match, {"main": policy}, Place("game"))
    rows = transitions(episode)
    assert suite.steps == len(rows) > 0 and [row.reward for row in rows][:-1] == [-1.0] * (len(rows) - 1)
    assert rows[-1].following is None and all(
        np.array_equal(row.following, after.prompt) for row, after in itertools.pairwise(rows)
        if row.following is not None)
    again = await answer_again(
        [rows[0], rows[-1], rows[0], rows[0]], {"main": policy}, player, verifier=suite.verifier, seed=1, label="again")
    policy.close()
    assert suite.steps == len(rows)  # the same as before
    assert [one.parent for one in again] == [f"game#{row.at}" for row in (rows[0], rows[-1], rows[0], rows[0])]
    assert len({reply_of(one).tobytes() for one in again if one.parent == f"game#{rows[0].at}"}) > 1
    # The fresh replies stand behind exactly the ids that were played, and they alone are trained.
    tokens = lay_out([(one,) for one in again], "main")
    for g, (one, row) in enumerate(zip(again, (rows[0], rows[-1], rows[0], rows[0]), strict=True)):
        path = tokens.tree.path(int(tokens.node_N[tokens.group_N == g][-1]))
        np.testing.assert_array_equal(path, np.concatenate([row.prompt, reply_of(one)]))
        assert len(one.trajectories[0].turns) == 1 and (tokens.group_N == g).sum() == len(reply_of(one))


async def test_what_has_no_tokens_cannot_be_replayed() -> None:
    with pytest.raises(NotTrainable, match="no tokens of policy"):
        transitions(Episode("e", Task("t", "f"), 0))
    with pytest.raises(NotTrainable, match="no tokens of policy"):
        reply_of(Episode("e", Task("t", "f"), 0))
