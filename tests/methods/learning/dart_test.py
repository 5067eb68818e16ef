"""DART by hand: rollout numbers, curation, steps, losses, schedules; a slow twin; and the faults of released code."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.arrays import Measured, Turns, as_turns, lay_out
from polyturn.conformance.credit import check_advantage, check_loss, made_groups
from polyturn.errors import BadInput, NotTrainable, UnknownName
from polyturn.learn import checkpoint
from polyturn.losses.learned import Learned
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean, turn_mean
from polyturn.methods.learning.dart import (
    AdaptiveTasks,
    Experience,
    Played,
    curate,
    dart_loss,
    dart_rule,
    high_entropy,
    is_success,
    keeps_BK,
    reload_size,
    rescued,
    rollouts_for,
    simulate,
    step_entropy_BK,
    step_standardised,
)
from polyturn.protocols import Match
from polyturn.types import Episode, Group, Limits, Sampling, Score, Span, Stop, Task, Trajectory, Turn, assistant, user
from tests.methods.learning import dart_slow as slow

# ---------------------------------------------------------------- made by hand


def episode(
    name: str, reward: float, steps: int, *, task: str = "t", version: int = 0, trial: int = 0, tokens: int = 1,
    sampled: bool = True,
) -> Episode:
    """An episode of ``steps`` turns of ``tokens`` tokens each."""
    spans, turns, messages = [Span(-1, np.array([1, 2], np.int32))], [], [user("go")]
    for k in range(steps):
        ids = np.arange(10 * k + 3, 10 * k + 3 + tokens, dtype=np.int32)
        logprobs = np.full(tokens, -1.0) if sampled else None
        spans.append(Span(len(spans) - 1, ids, sampled, logprobs, version))
        messages.append(assistant(f"{k}"))
        turns.append(Turn(k, "agent", "main", (0,), k + 1, (k + 1,), step=k, sampling=Sampling()))
    said = Trajectory("agent", "main", messages=tuple(messages), turns=tuple(turns), spans=tuple(spans),
                      stop=Stop("done"))
    return Episode(name, Task(task, "f"), 0, f"g-{task}", trial, train=frozenset({"agent"}), trajectories=(said,),
                   scores={"score": {"agent": Score(reward, success=reward >= 1)}})


def turns_of(*groups: Group, entropy: list[float] | None = None) -> Turns:
    tokens = lay_out(groups, "main")
    entropy_N = np.array(entropy if entropy is not None else [0.0] * len(tokens))
    return as_turns(tokens, Measured(np.full(len(tokens), -1.0), None, entropy_N))


# ---------------------------------------------------------------- numbers and lengths


def test_rollout_numbers_by_hand() -> None:
    # 9 / 0.6 - 7 = 8; 9 / 0.75 - 7 = 5; 9 / 0.9 - 7 = 3; 9 / 1 - 7 = 2; below the threshold 8
    assert [rollouts_for(s) for s in (0.0, 0.5, 0.6, 0.65, 0.75, 0.9, 1.0)] == [8, 8, 8, 6, 5, 3, 2]
    assert rollouts_for(1.0, least=4) == 4 and rollouts_for(0.9, threshold=1.0) == 8
    assert rollouts_for(0.5, threshold=0.5) == 8  # 11, but never more than most
    assert rollouts_for(1.0, threshold=1.0) == 2  # as released, where the threshold is 1
    for bad in ({"success": 1.5}, {"success": 0.5, "least": 9}, {"success": 0.5, "threshold": 0.0}):
        with pytest.raises(BadInput, match="rate in"):
            rollouts_for(**bad)  # type: ignore[arg-type]


class Fixed:
    """Proposes the same two tasks for ever."""

    def propose(self, iteration: int) -> Any:
        return [Match(None, Task(name, "f"), {}, rollouts=1, limits=Limits(env_steps=30)) for name in "ab"]  # type: ignore[arg-type]

    def observe(self, groups: Any) -> None:
        """Nothing."""


def test_tasks_are_played_as_often_and_as_long_as_they_need(tmp_path: Any) -> None:
    tasks = AdaptiveTasks(Fixed())
    assert [(m.rollouts, m.limits.env_steps) for m in tasks.propose(0)] == [(8, 30), (8, 30)]
    # a: 3 of 4 succeed, in at most 7 steps; b: never, so its own limit stays
    tasks.observe([(episode("1", 1.0, 4, task="a"), episode("2", 1.0, 7, task="a")),
                   (episode("3", 1.0, 2, task="a"), episode("4", 0.0, 9, task="a")), (episode("5", 0.0, 9, task="b"),)])
    assert [(m.rollouts, m.limits.env_steps) for m in tasks.propose(1)] == [(5, 7), (8, 30)]
    checkpoint.save(tmp_path / "state", {"tasks": tasks.state()})
    again = AdaptiveTasks(Fixed())
    again.restore(checkpoint.load(tmp_path / "state")["tasks"])
    assert again.propose(1) == tasks.propose(1)
    # the rate is that of the last 8: after eight failures it is 0 again, and the length stays
    tasks.observe([tuple(episode(f"f{i}", 0.0, 9, task="a") for i in range(8))])
    assert [(m.rollouts, m.limits.env_steps) for m in tasks.propose(2)] == [(8, 7), (8, 30)]
    plain = AdaptiveTasks(Fixed(), numbers=False, lengths=False, seen=tasks.seen)
    assert [(m.rollouts, m.limits.env_steps) for m in plain.propose(2)] == [(8, 30), (8, 30)]
    broke = replace(episode("x", 1.0, 3, task="b"), scores={}, stop=Stop("error"))
    tasks.observe([(broke,)])
    assert tasks.propose(3) == tasks.propose(2)  # an episode that broke says nothing of its task


# ---------------------------------------------------------------- curation


def group(rewards: list[float], *, task: str = "t", versions: list[int] | None = None) -> Group:
    return tuple(
        episode(f"{task}{i}", reward, 2, task=task, version=(versions or [0] * len(rewards))[i], trial=i)
        for i, reward in enumerate(rewards))


def test_which_groups_are_learned_from() -> None:
    pool = Experience()
    mixed, won, lost = group([1, 0]), group([1, 1]), group([0, 0, 0], versions=[3, 2, 2])
    assert curate([mixed], experience=None) == [mixed]
    assert curate([won], experience=None) == [] and curate([lost], experience=None) == []
    assert curate([lost], experience=pool) == []  # no success anywhere
    assert curate([won], experience=pool) == [] and pool.successes["t"].id == "t1"  # the newest success of it
    # the oldest row, version 2 and trial 1, makes room
    rescue = curate([lost], experience=pool)[0]
    assert [e.id for e in rescue] == ["t0", "t1", "t2"] and [is_success(e) for e in rescue] == [False, True, False]
    assert rescue[1] is pool.successes["t"] and rescue[0] is lost[0] and rescue[2] is lost[2]
    assert curate([group([0, 0], task="u")], experience=pool) == []  # the success is of another task
    assert curate([group([0.0, 1.0])], experience=pool, all_success=0.5) == []
    broke = (replace(mixed[0], stop=Stop("error"), scores={}), *mixed[1:])
    assert curate([broke], experience=None) == []  # what is left never succeeded
    assert rescued(lost, won[0], "main")[1] is won[0]


def test_a_large_group_is_cut_with_both_outcomes_in_it() -> None:
    for seed in range(50):
        for rewards in ([1.0] + [0.0] * 15, [0.0] + [1.0] * 15):
            kept = curate([group(rewards)], experience=None, seed=seed)[0]
            assert len(kept) == 8 and {is_success(e) for e in kept} == {True, False}
            assert [e.trial for e in kept] == sorted({e.trial for e in kept})
    large = group([1.0] + [0.0] * 15)
    drawn = [[e.trial for e in curate([large], experience=None, seed=seed)[0]] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_pool_comes_back_from_a_checkpoint(tmp_path: Any) -> None:
    pool, again = Experience(), Experience()
    pool.store([group([1, 0])])
    checkpoint.save(tmp_path / "state", {"pool": pool.state()})
    again.restore(checkpoint.load(tmp_path / "state")["pool"])
    assert again.successes["t"].id == "t0"
    one, other = (each.successes["t"].trajectories[0] for each in (pool, again))
    assert (one.turns, one.messages) == (other.turns, other.messages)
    assert [span.ids.tolist() for span in one.spans] == [span.ids.tolist() for span in other.spans]


# ---------------------------------------------------------------- steps


def test_advantages_are_by_step_by_hand() -> None:
    # rewards 1 over 1 step, 0 over 3: four samples, mean 1/4, population deviation sqrt(3)/4, of n - 1 it is 1/2
    turns = turns_of((episode("a", 1.0, 1), episode("b", 0.0, 3)))
    found = step_standardised(turns)
    assert found[0, 0] == pytest.approx(0.75 / (math.sqrt(3) / 4)) == pytest.approx(math.sqrt(3))
    assert found[1, :3] == pytest.approx([-1 / math.sqrt(3)] * 3) and not found[0, 1:].any()
    official = step_standardised(turns, form="official")
    assert official[0, 0] == pytest.approx(0.75 / (0.5 + 1e-6)) and official[1, 0] == pytest.approx(-0.25 / 0.500001)
    assert not step_standardised(turns_of((episode("a", 1.0, 1), episode("b", 1.0, 3)))).any()
    with pytest.raises(UnknownName, match="paper"):
        step_standardised(turns, form="papers")  # type: ignore[arg-type]


def test_high_entropy_steps_by_hand() -> None:
    # entropies of five steps 0.1 0.2 0.3 0.4 0.5: the 0.2 quantile lies at 0.2 * 4 = 0.8 between the first two: 0.18
    one = (episode("a", 1.0, 2), episode("b", 0.0, 3))
    turns = turns_of(one, entropy=[0.5, 0.1, 0.2, 0.4, 0.3])
    assert keeps_BK(turns).tolist() == [[True, False, False], [True, True, True]]
    # weights: 1/5 each, the step that is left out still counts
    assert high_entropy(turns, turns.tokens).tolist() == pytest.approx([0.2, 0.0, 0.2, 0.2, 0.2])
    # official: int(0.8 * 5) = 4 of highest entropy, int(0.5 * 5) = 2
    assert keeps_BK(turns, form="official").sum() == 4
    assert keeps_BK(turns, share=0.5, form="official").tolist() == [[True, False, False], [False, True, False]]
    assert keeps_BK(turns, share=1.0).sum() == 5 and keeps_BK(turns, share=1.0, form="official").sum() == 5
    # each group has a quantile of its own; a step is its tokens' mean
    two = turns_of((episode("a", 1.0, 1, tokens=2), episode("b", 0.0, 1, tokens=2)), one,
                   entropy=[0.0, 9.0, 4.0, 4.0, 0.5, 0.1, 0.2, 0.4, 0.3])
    assert step_entropy_BK(two)[:2, 0].tolist() == [4.5, 4.0]
    assert keeps_BK(two, share=0.5)[:2, 0].tolist() == [True, False] and keeps_BK(two)[2:].sum() == 4
    with pytest.raises(BadInput, match="share is 0"):
        keeps_BK(turns, share=0.0)
    with pytest.raises(BadInput, match="not measured"):
        keeps_BK(as_turns(lay_out([one], "main")))


# ---------------------------------------------------------------- losses


def learned(new: list[float], old: list[float], behavior: list[float], advantage: list[float], turn: list[int]) -> Any:
    count = len(new)
    zeros = torch.zeros(count, dtype=torch.long)

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return Learned(
        column(new).requires_grad_(), column(old), column(behavior), column(advantage), column([1 / count] * count),
        torch.tensor(turn), zeros, zeros, zeros, reference_N=column(old))


def test_the_paper_loss_by_hand() -> None:
    # token 0: rho = e^0.5 = 1.6487 clipped at 1.28, w = min(e^-0.2, 1) = 0.818731, A = 1: 1.047975
    # token 1: rho = e^-0.5 = 0.606531 at A = -1: min(-0.606531, -0.8) = -0.8, w = min(e^0.3, 1) = 1
    batch = learned([-0.5, -1.5], [-1.0, -1.0], [-0.8, -1.3], [1.0, -1.0], [0, 1])
    value, _ = dart_loss(beta=0.0)(batch)
    assert float(value.detach()) == pytest.approx(-(0.818731 * 1.28 - 0.8) / 2, abs=1e-6)
    # with KL 0.1, reference = old: d = -0.5 and 0.5, k3 = e^d - 1 - d = 0.106531 and 0.148721
    whole, _ = dart_loss()(batch)
    assert float((whole - value).detach()) == pytest.approx(0.1 * (0.106531 + 0.148721) / 2, abs=1e-6)
    assert float(dart_loss(beta=0.0, truncate=None)(batch)[0].detach()) == pytest.approx(-(1.28 - 0.8) / 2, abs=1e-6)


def test_the_official_loss_by_hand() -> None:
    # one step of two tokens: mean log ratio (0.5 - 0.1) / 2 = 0.2, r = 1.221403 < 1.28, A = 2; w = 0.818731 and 1
    batch = learned([-0.5, -1.1], [-1.0, -1.0], [-0.8, -1.0], [2.0, 2.0], [0, 0])
    value, _ = dart_loss("official", beta=0.0)(batch)
    assert float(value.detach()) == pytest.approx(-(0.818731 + 1.0) * 2.442806 / 2, abs=1e-6)
    # r = e^3 at A = -1: -20.0855, but at least -10 by the dual clip
    far = learned([2.0], [-1.0], [-1.0], [-1.0], [0])
    assert float(dart_loss("official", beta=0.0)(far)[0].detach()) == pytest.approx(10.0)
    assert float(dart_loss(beta=0.0)(far)[0].detach()) == pytest.approx(math.exp(3))  # the paper has none


def test_a_missing_log_probability_weighs_one() -> None:
    batch = learned([-0.5, -1.5], [-1.0, -1.0], [float("nan"), -1.3], [1.0, -1.0], [0, 1])
    value, _ = dart_loss(beta=0.0)(batch)
    assert float(value.detach()) == pytest.approx(-(1.28 - 0.8) / 2)
    value.backward()
    assert torch.isfinite(batch.logprob_N.grad).all()
    with pytest.raises(NotTrainable, match="no recorded"):
        policy_gradient(batch, truncate=1.0)
    with pytest.raises(UnknownName, match="refuse"):
        policy_gradient(batch, truncate=1.0, unknown="odl")  # type: ignore[arg-type]


def test_a_masked_row_gives_no_nan() -> None:
    """Released code divides a row's sum by its tokens: a row that is masked whole gives NaN."""
    turns = turns_of((episode("a", 1.0, 2), episode("b", 0.0, 3)), entropy=[0.0, 0.0, 0.9, 0.9, 0.9])
    for form, inner in (("paper", token_mean), ("official", turn_mean)):
        weight_N = high_entropy(turns, turns.tokens, share=0.5, form=form, inner=inner)  # type: ignore[arg-type]
        assert np.isfinite(weight_N).all() and not weight_N[:2].any() and weight_N[2:].any()


@pytest.mark.parametrize("form", ["paper", "official"])
def test_conformance(form: Any) -> None:
    check_advantage(lambda turns: step_standardised(turns, form=form))
    check_loss(dart_loss(form, beta=0.0))
    check_loss(dart_loss(form))
    rule = dart_rule(form, share=0.8, beta=0.0)
    assert rule.by_step and rule.proportional and not rule.demonstrations and not rule.on_policy


# ---------------------------------------------------------------- the slow twin


def test_credit_and_selection_on_a_thousand_random_batches() -> None:
    draw, other = random.Random(0), 0
    for _ in range(1000):
        groups = [
            tuple(episode(f"{g}.{m}", float(draw.random() < 0.5), draw.randint(1, 3), task=f"t{g}", trial=m)
                  for m in range(draw.randint(1, 3))) for g in range(draw.randint(1, 2))
        ]
        entropy = {(e.id, k): draw.random() for one in groups for e in one for k in range(3)}
        order = [entropy[e.id, k] for one in groups for e in one for k in range(len(e.trajectories[0].turns))]
        turns = turns_of(*groups, entropy=order)
        kept = np.where(keeps_BK(turns), step_standardised(turns), 0.0)
        rows = [
            [slow.Row(e.id, e.scores["score"]["agent"].value or 0.0,
                      [entropy[e.id, k] for k in range(len(e.trajectories[0].turns))]) for e in one]
            for one in groups
        ]
        expected, wrong = slow.credit(rows), slow.credit(rows, by_rollout=True)
        names = [source.episode.id for source in turns.tokens.trajectories]
        found = {(name, k): kept[b, k] for b, name in enumerate(names) for k in range(kept.shape[1])
                 if (name, k) in expected}
        assert found == pytest.approx(expected, abs=1e-9)
        other += found != pytest.approx(wrong, abs=1e-9)
    assert other > 200  # rollouts for steps give another advantage, so the comparison could fail


def test_losses_and_gradients_on_a_thousand_random_tokens() -> None:
    draw, other = random.Random(2), 0
    for _ in range(1000):
        count = draw.randint(1, 5)
        columns = [[draw.uniform(-3, 0) for _ in range(count)] for _ in range(3)]
        advantage, turn = [draw.uniform(-2, 2) for _ in range(count)], sorted(draw.choices(range(2), k=count))
        official, truncate = draw.random() < 0.5, draw.choice((1.0, 2.0, None))
        batch = learned(*columns, advantage, turn)
        loss = dart_loss("official" if official else "paper", truncate=truncate, beta=0.0)
        value = float(loss(batch)[0].detach())
        assert value == pytest.approx(slow.loss(*columns, advantage, turn, official, truncate), abs=1e-9)
        other += value != pytest.approx(slow.loss(*columns, advantage, turn, not official, truncate), abs=1e-9)
    assert other > 300  # tokens for steps is another loss


# ---------------------------------------------------------------- weights under a perturbed rollout policy


def bandit(truncate: float | None, seed: int, noise: float) -> tuple[float, float]:
    """A row of choices trained for 150 updates on samples of a noisy copy of itself: the reward that it ends with, and
    its largest gradient."""
    draw = np.random.default_rng(seed)
    reward = draw.permutation(np.linspace(0, 1, 8))
    logits = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    loss, largest = dart_loss(beta=0.0, truncate=truncate), 0.0
    for _ in range(150):
        old = torch.log_softmax(logits.detach(), -1)
        rollout = torch.log_softmax(logits.detach() + noise * torch.from_numpy(draw.standard_normal(8)), -1)
        share = rollout.exp().numpy()
        chosen = draw.choice(8, 32, p=share / share.sum())
        advantage = (reward[chosen] - reward[chosen].mean()) / (reward[chosen].std() or 1.0)
        batch = learned([0.0] * 32, old[chosen].tolist(), rollout[chosen].tolist(), advantage.tolist(), [0] * 32)
        logits.grad = None
        loss(replace(batch, logprob_N=torch.log_softmax(logits, -1)[chosen]))[0].backward()
        assert logits.grad is not None
        largest = max(largest, float(logits.grad.norm()))
        with torch.no_grad():
            logits -= 0.3 * logits.grad
    return float((torch.softmax(logits.detach(), -1).numpy() * reward).sum()), largest


def test_with_perturbed_rollouts_weights_bound_the_gradient_and_still_learn() -> None:
    """Noise 2: weighted 0.98 reward, largest gradient 0.53; unweighted 1.00 and 0.71, for there noise only explores."""
    weighted, plain = ([bandit(truncate, seed, 2.0) for seed in range(8)] for truncate in (1.0, None))
    assert max(norm for _, norm in weighted) < 0.8 * max(norm for _, norm in plain)
    assert np.mean([reward for reward, _ in weighted]) > 0.95
    assert bandit(1.0, 0, 0.0) == bandit(None, 0, 0.0)  # without noise the weights are 1


# ---------------------------------------------------------------- schedules


def test_schedules_by_hand() -> None:
    # two environments, tasks (1 3) (1 1). Rollouts: a 1 1 1, b 3: both end at 3. Tasks: 0..3, then 3..4.
    tasks = [[1.0, 3.0], [1.0, 1.0]]
    assert simulate(tasks, 2) == Played(3.0, 1.0)
    assert simulate(tasks, 2, "task") == Played(4.0, 0.75)
    assert simulate(tasks, 2, "batch") == Played(4.0, 0.75) and simulate(tasks, 2, "batch", batch=2) == Played(3.0, 1.0)
    # four environments: tasks side by side, 6 of 12 seconds
    assert simulate(tasks, 4, "task") == Played(3.0, 0.5) and simulate([], 2) == Played(0.0, 0.0)
    with pytest.raises(BadInput, match="room for a task"):
        simulate(tasks, 1, "task")
    with pytest.raises(UnknownName, match="rollout"):
        simulate(tasks, 2, "episode")  # type: ignore[arg-type]


def test_playing_by_rollout_waits_least_and_keeps_environments_at_work() -> None:
    draw, ratios = random.Random(1), []
    for _ in range(200):
        tasks = [[min(2.0, max(0.05, draw.lognormvariate(-1.7, 1.0))) for _ in range(4)] for _ in range(12)]
        by = {unit: simulate(tasks, 8, unit, batch=2) for unit in ("rollout", "task", "batch")}  # type: ignore[arg-type]
        least = max(*map(max, tasks), sum(map(sum, tasks)) / 8)
        assert least <= by["rollout"].seconds + 1e-9 <= 2 * least
        assert all(0 < one.utilisation <= 1 + 1e-9 for one in by.values())
        ratios.append(by["rollout"].utilisation / by["batch"].utilisation)
    assert float(np.mean(ratios)) > 1.4


def test_reload_sizes() -> None:
    assert [reload_size(n) for n in (1, 2, 3, 4, 16)] == [1, 1, 1, 2, 2]
    assert reload_size(8, 4) == 4 and reload_size(3, 3) == 1


def test_made_groups_have_credit() -> None:
    turns = as_turns(lay_out(made_groups(0), "main"))
    assert np.isfinite(step_standardised(turns)).all()
