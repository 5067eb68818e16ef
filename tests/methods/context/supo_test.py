"""SUPO: numbers by hand, equality with the slow twin, the policy gradient of two segments, rows and rollouts."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.advantages.group import group_standardised
from polyturn.advantages.turn import as_tokens
from polyturn.agents.chat import ChatAgent
from polyturn.arrays import Turns, as_turns, lay_out
from polyturn.contexts.keep import Keep
from polyturn.envs.lookup import hunt_rules, key_hunt
from polyturn.errors import BadInput
from polyturn.learn.learner import Learner
from polyturn.learn.loop import Rule
from polyturn.losses.learned import Learned
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.methods.context.supo import (
    ASK,
    PAPER,
    as_rows,
    overlong_B,
    segments,
    supo_advantage,
    supo_context,
    supo_rule,
    supo_weight,
)
from polyturn.policies.local import Local
from polyturn.policies.tiny import open_model
from polyturn.protocols import Context, Match, Player
from polyturn.rollout.pool import play
from polyturn.rollout.score import score_matches
from polyturn.testing import check_advantage, check_context, check_loss, made_groups, made_turns
from polyturn.types import Episode, Group, Sampling, Score, Stop
from tests.advantages.build import Said, batch, episode
from tests.methods.context.supo_slow import Rollout, advantages_by_rows, loss

# ---------------------------------------------------------------- building rollouts


def rollout(
    reward: float, segments: list[list[int]], *, stop: str = "done", trial: int = 0, name: str = "g"
) -> Episode:
    """An episode whose segments have turns of so many tokens; every segment but the last ends with a summary."""
    said: list[Said] = []
    for number, turns in enumerate(segments):
        last = number == len(segments) - 1
        said += [Said(size, purpose="summary" if i == len(turns) - 1 and not last else "act")
                 for i, size in enumerate(turns)]
    return episode(
        {"agent": said}, name=name, trial=trial, stop=Stop(stop),  # type: ignore[arg-type]
        scores={"score": {"agent": Score(reward)}},
    )


def hand() -> Turns:
    """Four rollouts of a group: one summary and right; none and wrong; two summaries and cut; none and wrong."""
    return batch([(
        rollout(1.0, [[2, 3], [1]]), rollout(0.0, [[2]], trial=1),
        rollout(0.0, [[1, 1], [1, 1], [2]], stop="truncated", trial=2), rollout(0.0, [[4]], trial=3),
    )])


# ---------------------------------------------------------------- by hand


def test_advantages_by_hand() -> None:
    turns = hand()
    # R = 1, 0, 0, 0: mean 1/4; population variance (9/16 + 3/16) / 4 = 3/16, std 0.4330; sample 1/4, std 1/2
    for scale, high, low in (("population", 0.75 / 0.4330127, -0.25 / 0.4330127), ("sample", 1.5, -0.5)):
        advantage_BK = supo_advantage(turns, scale=scale, epsilon=0.0)  # type: ignore[arg-type]
        assert advantage_BK[0, :3] == pytest.approx([high] * 3, abs=1e-6)  # both segments, summary and actions alike
        assert advantage_BK[2, :5] == pytest.approx([low] * 5, abs=1e-6)
        assert advantage_BK[0, 3:] == pytest.approx(0.0)
    # only the finished three, 1, 0, 0: mean 1/3, population variance (4/9 + 2/9) / 3 = 2/9, std 0.4714
    finished_BK = supo_advantage(turns, statistics="finished", epsilon=0.0)
    assert finished_BK[0, 0] == pytest.approx((2 / 3) / 0.47140452)
    assert finished_BK[1, 0] == finished_BK[3, 0] == pytest.approx((-1 / 3) / 0.47140452)
    assert (finished_BK[2] == 0).all()


def test_statistics_over_rows_would_be_others() -> None:
    # by rows the votes are 1, 1, 0, 0, 0, 0, 0: mean 2/7, variance 2/7 * 5/7 = 10/49, std 0.4518
    group = [Rollout(1.0, True, [[], []]), Rollout(0.0, True, [[]]), Rollout(0.0, False, [[], [], []]),
             Rollout(0.0, True, [[]])]
    by_rows = advantages_by_rows(group, epsilon=0.0)
    assert by_rows[0] == pytest.approx((5 / 7) / math.sqrt(10 / 49))
    assert abs(by_rows[0] - supo_advantage(hand(), epsilon=0.0)[0, 0]) > 0.1


def test_masks_and_denominators_by_hand() -> None:
    turns = hand()
    assert overlong_B(turns).tolist() == [False, False, True, False]
    tokens = turns.tokens
    # tokens: 2 + 3 + 1 = 6, 2, 1 + 1 + 1 + 1 + 2 = 6 of the overlong one, 4; together 18, without it 12
    trained, every = supo_weight(turns, tokens), supo_weight(turns, tokens, denominator="all")
    cut = tokens.trajectory_N == 2
    assert len(tokens) == 18 and (trained[cut] == 0).all() and (every[cut] == 0).all()
    assert trained[~cut] == pytest.approx([1 / 12] * 12) and every[~cut] == pytest.approx([1 / 18] * 12)
    for denominator in ("trained", "all"):
        unmasked = supo_weight(turns, tokens, mask=False, denominator=denominator)  # type: ignore[arg-type]
        assert unmasked == pytest.approx([1 / 18] * 18)


@pytest.mark.parametrize(("stop", "overlong"), [("done", False), ("truncated", True), ("budget", True)])
def test_overlong_is_read_from_the_stop_and_not_from_the_score(stop: str, overlong: bool) -> None:
    turns = batch([(rollout(1.0, [[1]], stop=stop), rollout(0.0, [[1]], trial=1))])
    assert overlong_B(turns).tolist() == [overlong, False]


def test_a_batch_of_overlong_rollouts_trains_nothing() -> None:
    turns = batch([(rollout(1.0, [[1]], stop="budget"), rollout(0.0, [[1]], stop="truncated", trial=1))])
    assert (supo_weight(turns, turns.tokens) == 0).all()
    assert (supo_advantage(turns, statistics="finished") == 0).all()


def test_other_words_are_refused() -> None:
    with pytest.raises(BadInput, match="statistics is 'rows'"):
        supo_advantage(hand(), statistics="rows")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="denominator is 'rows'"):
        supo_weight(hand(), hand().tokens, denominator="rows")  # type: ignore[arg-type]


def test_the_parts_keep_their_contracts() -> None:
    for statistics in ("all", "finished"):
        check_advantage(partial(supo_advantage, statistics=statistics))
    check_loss(supo_rule().loss)
    turns = made_turns(made_groups())
    for mask, denominator in ((True, "trained"), (True, "all"), (False, "all")):
        weight_N = supo_weight(turns, turns.tokens, mask=mask, denominator=denominator)  # type: ignore[arg-type]
        kept_N = turns.kept_BK[turns.tokens.trajectory_N, turns.tokens.turn_N]
        assert (weight_N[~kept_N] == 0).all() and (weight_N >= 0).all()
        assert weight_N.sum() == pytest.approx(1) or ((mask, denominator) == (True, "all") and weight_N.sum() < 1)
    assert PAPER.arxiv == "2510.06727"


# ---------------------------------------------------------------- the slow twin


def drawn(draw: random.Random) -> tuple[list[Group], list[list[Rollout]]]:
    """Random groups, as episodes and as what the twin reads."""
    groups, plain = [], []
    for g in range(draw.randint(1, 3)):
        made, told = [], []
        for trial in range(draw.randint(1, 5)):
            shape = [[draw.randint(1, 3) for _ in range(draw.randint(1, 3))] for _ in range(draw.randint(1, 4))]
            reward, stop = draw.choice((0.0, 0.0, 0.5, 1.0)), draw.choice(("done", "done", "truncated", "budget"))
            made.append(rollout(reward, shape, stop=stop, trial=trial, name=f"g{g}"))
            pairs = [[(draw.gauss(-1, 0.5), draw.gauss(-1, 0.5)) for _ in range(sum(turns))] for turns in shape]
            told.append(Rollout(reward, stop == "done", pairs))
        groups.append(tuple(made))
        plain.append(told)
    return groups, plain


def our_loss(groups: list[Group], plain: list[list[Rollout]], **options: Any) -> float:
    """The loss of the rule on the twin's log-probabilities."""
    sample = options.pop("sample")
    rule = supo_rule(**options, scale="sample" if sample else "population")
    tokens = lay_out(groups, "main")
    turns = as_turns(tokens)
    pairs = [pair for group in plain for one in group for segment in one.segments for pair in segment]
    logprob_N, old_N = (torch.tensor([pair[i] for pair in pairs], dtype=torch.float64) for i in (0, 1))
    columns = (as_tokens(rule.advantage(turns), turns), rule.weighting(turns, tokens), tokens.turn_N,
               tokens.trajectory_N, tokens.group_N, tokens.version_N)
    found, _ = rule.loss(Learned(logprob_N, old_N, old_N, *(torch.from_numpy(np.asarray(c)) for c in columns)))
    return float(found)


@pytest.mark.parametrize("part", range(10))
def test_a_thousand_random_batches_equal_the_slow_twin(part: int) -> None:
    differ = 0
    for seed in range(100 * part, 100 * part + 100):
        draw = random.Random(seed)
        groups, plain = drawn(draw)
        options: dict[str, Any] = {
            "mask": draw.random() < 0.7, "statistics": draw.choice(("all", "finished")),
            "denominator": draw.choice(("trained", "all")), "sample": draw.random() < 0.5,
        }
        ours = our_loss(groups, plain, **options)
        assert ours == pytest.approx(loss(plain, **options), rel=1e-9, abs=1e-12), (seed, options)
        wrong = [[replace(one, reward=a) for one, a in zip(group, advantages_by_rows(group, epsilon=1e-6), strict=True)]
                 for group in plain]
        by_rows = -sum(
            min(math.exp(new - old) * one.reward, min(max(math.exp(new - old), 0.8), 1.2) * one.reward)
            for group in wrong for one in group for segment in one.segments for new, old in segment
        ) / max(sum(len(segment) for group in wrong for one in group for segment in one.segments), 1)
        plain_loss = loss(plain, mask=False, statistics="all", denominator="all", sample=False)
        differ += abs(by_rows - plain_loss) > 1e-6
    assert differ > 30  # votes by row change the objective; this test would see it


# ---------------------------------------------------------------- gradient of two segments


def test_the_rows_gradient_is_the_policy_gradient_of_two_segments() -> None:
    """A table of softmaxes: in the first segment an action, then a summary; in the second, whose context is the summary
    alone, an answer. R = 1 where the answer is the action. All 27 rollouts, weighed by their probability."""
    draw = torch.Generator().manual_seed(3)
    table = torch.randn(1 + 3 + 3, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    chance = torch.softmax(table, -1)
    ways = [(a, z, y) for a in range(3) for z in range(3) for y in range(3)]
    value = sum(chance[0, a] * chance[1 + a, z] * chance[4 + z, y] for a, z, y in ways if y == a)
    (exact,) = torch.autograd.grad(value, table, retain_graph=True)  # type: ignore[arg-type]

    rows = [[(0, a), (1 + a, z)] for a, z, y in ways], [[(4 + z, y)] for a, z, y in ways]  # the two segments
    logprobs, weights, credit = [], [], []
    for segment in rows:
        for (a, z, y), choices in zip(ways, segment, strict=True):
            probability = float((chance[0, a] * chance[1 + a, z] * chance[4 + z, y]).detach())
            for state, choice in choices:
                logprobs.append(torch.log(chance[state, choice]))
                weights.append(probability)
                credit.append(float(y == a))
    logprob_N = torch.stack(logprobs)
    zeros = torch.zeros(len(logprobs))
    learned = Learned(
        logprob_N, logprob_N.detach(), logprob_N.detach(), torch.tensor(credit, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64), zeros, zeros, zeros, zeros,
    )
    (ours,) = torch.autograd.grad(supo_rule().loss(learned)[0], table)
    assert torch.allclose(-ours, exact, atol=1e-12) and float(exact[1:4].abs().sum()) > 1e-3  # the summary learns


# ---------------------------------------------------------------- played rollouts


async def played(context: Context, *, steps: int = 9, rollouts: int = 4, seed: int = 0) -> tuple[Local, list[Group]]:
    """A tiny random model hunts; its replies are noise, its context is real."""
    suite = key_hunt(parts=4, steps=steps)
    told = [hunt_rules(4), ASK, "Reply open and one of the drawers a e i o, or code."]
    model = open_model("tiny", lambda: told * 4, seed=seed, deterministic=True)
    player = Player(lambda: ChatAgent(context=context, sampling=Sampling(max_tokens=5)), "main")
    matches = [Match(suite, task, {"agent": player}, 3, rollouts, train=frozenset({"agent"}))
               for task in suite.tasks("test")][:2]
    groups = await play(matches, {"main": model})
    return model, await score_matches(matches, groups)


def with_rewards(groups: list[Group]) -> list[Group]:
    """The same play, scored 1, 0, 1, 0, so that there is something to learn."""
    return [tuple(replace(made, scores={"score": {"agent": Score(float(trial % 2))}})
                  for trial, made in enumerate(group)) for group in groups]


def answered(made: Episode) -> Episode:
    """The same play, as if it had ended with an answer."""
    ended = tuple(replace(trajectory, stop=Stop("done")) for trajectory in made.trajectories)
    return replace(made, stop=Stop("done"), trajectories=ended)


def gradient_of(model: Local, groups: list[Group], rule: Rule) -> tuple[float, torch.Tensor]:
    """Loss and, as a fingerprint of the gradient, the weights after one step."""
    before = {name: p.detach().clone() for name, p in model.model.named_parameters()}
    learner = Learner(model.model, lr=1e-2)
    tokens = lay_out(groups, "main")
    turns = as_turns(tokens)
    advantage_N = as_tokens(rule.advantage(turns), turns)
    metrics = learner.update(tokens, None, advantage_N, rule.weighting(turns, tokens), rule.loss)
    after = torch.cat([p.detach().flatten() for p in model.model.parameters()])
    with torch.no_grad():
        for name, p in model.model.named_parameters():
            p.copy_(before[name])
    return float(metrics["learner/loss"]), after


async def test_without_a_summary_it_is_multi_turn_grpo_bit_for_bit() -> None:
    found = []
    for context, rule in (
        (supo_context(100_000), supo_rule()),
        (Keep(), Rule(group_standardised, token_mean, policy_gradient)),
    ):
        model, groups = await played(context)
        model.close()
        done = [tuple(answered(made) for made in group) for group in with_rewards(groups)]
        found.append(gradient_of(model, done, rule))
    fresh = torch.cat([p.detach().flatten() for p in model.model.parameters()])
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1]) and not torch.equal(found[0][1], fresh)


async def test_the_rows_of_a_rollout_are_the_flat_sum_over_its_sampled_tokens() -> None:
    model, groups = await played(supo_context(120, max_tokens=6))
    model.close()
    episodes = [made for group in groups for made in group]
    pieces = [segments(made.trajectories[0]) for made in episodes]
    assert max(len(parts) for parts in pieces) >= 3
    learner = Learner(model.model, lr=1e-3)
    tokens = lay_out(groups, "main")
    kept_N = as_turns(tokens).kept_BK[tokens.trajectory_N, tokens.turn_N]
    flat = learner.measure(tokens).old_N
    for b, made in enumerate(episodes):
        rows = as_rows(made.trajectories[0])
        scored = learner.score([row.ids for row in rows])  # each row alone, as a plain sequence
        by_rows = sum(values[row.trained].sum() for row, values in zip(rows, scored, strict=True))
        mine = (tokens.trajectory_N == b) & kept_N
        assert sum(row.trained.sum() for row in rows) == mine.sum()  # a summary is trained in one segment alone
        assert by_rows == pytest.approx(flat[mine].sum(), abs=1e-3)
        behavior = tokens.behavior_N[mine]
        assert np.abs(flat[mine] - behavior).max() < 1e-4  # and the sampler drew them with these probabilities


async def test_what_overflowed_is_no_part_of_any_row_and_weighs_nothing() -> None:
    model, groups = await played(supo_context(120, max_tokens=6))
    model.close()
    tokens = lay_out(with_rewards(groups), "main")
    turns = as_turns(tokens)
    dropped_BK = ~turns.kept_BK & (turns.finish_BK != "")
    assert dropped_BK.any()
    dropped_N = dropped_BK[tokens.trajectory_N, tokens.turn_N]
    for options in ({}, {"mask": False}, {"denominator": "all"}):
        assert (supo_weight(turns, tokens, **options)[dropped_N] == 0).all()  # type: ignore[arg-type]


async def test_a_cap_right_after_a_summary_drops_the_row_and_keeps_the_rollout() -> None:
    # the last segment has no turn of its own: two rows, and the rollout still votes in its group
    made = rollout(0.0, [[2, 1], [1, 1]], stop="budget")
    cut = made.trajectories[0]
    last = replace(cut.turns[-1], purpose="summary")
    made = replace(made, trajectories=(replace(cut, turns=(*cut.turns[:-1], last)),))
    assert [len(part) for part in segments(made.trajectories[0])] == [2, 2]
    assert len(as_rows(made.trajectories[0])) == 2
    turns = batch([(made, rollout(1.0, [[1]], trial=1))])
    assert supo_advantage(turns, epsilon=0.0)[:, 0] == pytest.approx([-1.0, 1.0])


async def test_the_cap_on_summaries_ends_a_rollout_as_overlong() -> None:
    model, groups = await played(supo_context(100, summaries=1, max_tokens=6), steps=30)
    model.close()
    stops = {made.stop.kind for group in groups for made in group}
    assert stops == {"budget"} and "summaries: 1 spent" in groups[0][0].stop.reason
    turns = as_turns(lay_out(groups, "main"))
    assert overlong_B(turns).all() and turns.valid_B.all()


def test_turns_on_different_paths_are_no_row() -> None:
    made = rollout(0.0, [[2, 1]]).trajectories[0]
    spans = list(made.spans)
    spans[2] = replace(spans[2], parent=-1)
    with pytest.raises(BadInput, match="different paths"):
        as_rows(replace(made, spans=tuple(spans)))


async def test_its_context_keeps_the_contract() -> None:
    await check_context(supo_context(100, max_tokens=8))
