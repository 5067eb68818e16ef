"""What looks like a fault and is a method: published estimators on random batches leave every detector silent.

And small batches worked by hand, in which one detector has to speak and the others must not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from polyturn.advantages.family import ByFamily
from polyturn.advantages.group import RoleBaseline, group_centred, group_relative, group_standardised, leave_one_out
from polyturn.advantages.returns import returns_BK, token_gae, token_returns, turn_gae
from polyturn.advantages.turn import turn_relative
from polyturn.arrays import Tokens, Turns, as_turns, lay_out
from polyturn.losses.weighting import constant, group_mean, masked, not_cut, rollout_mean, token_mean, turn_mean
from polyturn.methods.context.supo import supo_advantage, supo_weight
from polyturn.methods.learning.agentgym_rl import reinforce_plus_plus
from polyturn.types import Episode, FloatArray, Group, Message, PolicyInfo, Score, Stop, assistant, user
from tests.advantages.build import Said, episode, random_batch
from tests.audit.build import found_in, update_of

METHODS: Mapping[str, Callable[[Turns], FloatArray]] = {
    "grpo": group_standardised, "grpo_sample": partial(group_standardised, scale="sample"), "dr_grpo": group_centred,
    "rloo": leave_one_out, "running": RoleBaseline(), "running_late": RoleBaseline(gamma=0.9, alpha=0.5),
    "reinforce": returns_BK, "discounted": partial(returns_BK, gamma=0.9), 
    "by_token": partial(token_returns, gamma=0.99),
    "reinforce_plus_plus": reinforce_plus_plus, "gae": partial(token_gae, lambda_=0.9),
    "turn_gae": partial(turn_gae, gamma=0.95, lambda_=0.8), "turn_relative": turn_relative,
    "by_step": partial(turn_relative, key=("group", "seat", "step"), gamma=0.9),
    "supo": partial(supo_advantage, statistics="finished"), "rms": partial(group_relative, scale="root_mean_square"),
    "families": ByFamily({"a": group_centred, "b": RoleBaseline()}),
}
WEIGHTS = (token_mean, turn_mean, rollout_mean, group_mean, partial(constant, divisor=8.0), supo_weight,
           partial(masked, keep=not_cut))


def whole_scores(groups: list[Group]) -> list[Group]:
    """The same episodes with nothing paid by turn: the score alone."""
    def plain(one: Episode) -> Episode:
        return replace(one, trajectories=tuple(
            replace(t, turns=tuple(replace(turn, rewards={}) for turn in t.turns)) for t in one.trajectories))

    return [tuple(plain(one) for one in group) for group in groups]


def check_silent(name: str, seed: int) -> None:
    """No finding where a method was paid by turn and by score, and by score alone."""
    groups = random_batch(seed)[0]
    for played in (groups, whole_scores(groups)):
        if "score" not in as_turns(lay_out(played, "main")).channels:
            continue
        update = update_of(played, METHODS[name], WEIGHTS[seed % len(WEIGHTS)])
        assert found_in(update) == set(), f"seed {seed}"


ONCE_ACCUSED = (166, 208, 313, 314, 560)
"""Batches whose numbers happen to look like a fault: turns alone at their step, rollouts that hold no token or whose
turns differ in credit, a mean over rows of 0, workers that take their lead's credit."""


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_no_faults(name: str) -> None:
    for seed in (*range(8), *ONCE_ACCUSED):
        check_silent(name, seed)


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_methods_are_no_faults_on_many_batches(name: str) -> None:
    for seed in range(8, 300):
        check_silent(name, seed)


# ---------------------------------------------------------------- by hand


def group_of(*plays: tuple[float, int], name: str = "g", stop: Stop = Stop("done")) -> Group:
    """Plays of one task: their score, and how many turns of two tokens they took."""
    return tuple(
        replace(episode({"agent": [Said(2) for _ in range(turns)]}, name=name, trial=trial,
                        scores={"score": {"agent": Score(score)}}, stop=stop), id=f"{name}.{trial}")
        for trial, (score, turns) in enumerate(plays))


BINARY = [group_of((1, 1), (0, 3), (0, 2), (0, 1)), group_of((1, 2), (1, 1), (0, 3), (0, 3), name="h"),
          group_of((0, 2), (0, 2), (0, 1), (0, 1), name="i")]


def over(rows: Callable[[Turns], FloatArray]) -> Callable[[Turns], FloatArray]:
    """Score less the group's mean, in which a rollout counts as ``rows`` says."""
    def advantage(turns: Turns) -> FloatArray:
        score_B, many_B = turns.reward_BK().sum(axis=1), rows(turns)
        out_B = np.zeros(len(score_B))
        for group in np.unique(turns.group_B):
            here = turns.group_B == group
            out_B[here] = score_B[here] - (score_B * many_B)[here].sum() / many_B[here].sum()
        return np.where(turns.kept_BK, out_B[:, None], 0.0)

    return advantage



def test_rows_for_rollouts_by_hand() -> None:
    """Scores 1, 0, 0, 0 in 1, 3, 2, 1 turns: the mean over rollouts is 1/4, over turns 1/7. A turn has two tokens, so
    tokens would count the same, and nothing can be said; with uneven turns it can."""
    by_turn = over(lambda turns: turns.kept_BK.sum(axis=1).astype(float))
    assert found_in(update_of(BINARY, by_turn)) == set()
    uneven = [tuple(replace(one, trajectories=(longer(one),)) for one in group) for group in BINARY]
    assert found_in(update_of(uneven, by_turn)) == {"rows_for_rollouts"}
    assert found_in(update_of(uneven, over(lambda turns: np.ones(len(turns.group_B))))) == set()
    assert found_in(update_of(uneven, over(lambda turns: turns.tokens_BK.sum(axis=1).astype(float)))) == set()


def test_a_pair_speaks_against_a_mean_over_rows_by_hand() -> None:
    """Scores 1 and 0 in 1 and 3 turns, the first of five tokens: the mean is 1/4 over turns, 1/2 over rollouts."""
    pair = group_of((1, 1), (0, 3), name="pair")
    groups = [tuple(replace(one, trajectories=(longer(one),)) for one in group) for group in (*BINARY, pair)]

    def rows(turns: Turns) -> FloatArray:
        return turns.kept_BK.sum(axis=1).astype(float)

    def but_the_pair(turns: Turns) -> FloatArray:
        return np.where(turns.group_B == turns.group_B.max(), 1.0, rows(turns))

    assert found_in(update_of(groups, over(rows))) == {"rows_for_rollouts"}
    assert found_in(update_of(groups, over(but_the_pair))) == set()
    assert found_in(update_of([pair], over(rows))) == set()  # a pair alone shows nothing


def test_a_rollout_without_tokens_counts_in_a_mean_over_rollouts_by_hand() -> None:
    """Scores 1, 0, 0, 1 in 2, 1, 1, 1 turns, of which the last was taken back: the mean is 1/2 over rollouts, and by
    chance over kept turns; over all turns it is 3/5."""
    played = group_of((1, 2), (0, 1), (0, 1), (1, 1))
    back = replace(played[3], trajectories=tuple(
        replace(t, turns=tuple(replace(turn, dropped="window") for turn in t.turns)) for t in played[3].trajectories))
    group = (*(replace(one, trajectories=(longer(one),)) for one in played[:3]), back)
    assert found_in(update_of([group], group_centred)) == set()
    by_turn = over(lambda turns: (turns.finish_BK != "").sum(axis=1).astype(float))
    assert found_in(update_of([group], by_turn)) == {"rows_for_rollouts"}


def test_credit_reset_by_hand() -> None:
    """Scores 1, 0, 1, 0, all paid for the second turn: the first has 0 where credit ends, and where turns are compared
    by step and each stands alone at its own."""
    def plays(*steps: int) -> Group:
        return tuple(replace(episode(
            {"agent": [Said(2, step=step), Said(2, step=9)]}, name="g", trial=trial,
            scores={"score": {"agent": Score(float(trial % 2 == 0))}}), id=f"g.{trial}")
            for trial, step in enumerate(steps))

    def own(turns: Turns) -> FloatArray:
        return np.where(turns.kept_BK, turns.reward_BK(), 0.0)

    by_step = METHODS["by_step"]
    assert found_in(update_of([plays(0, 0, 0, 0)], own)) == {"credit_reset"}
    assert found_in(update_of([plays(0, 0, 0, 0)], by_step)) == set()
    assert found_in(update_of([plays(0, 1, 2, 3)], by_step)) == set()


def longer(one: Episode) -> Any:
    """The trajectory with a first reply of five tokens."""
    turns = len(one.trajectories[0].turns)
    return episode({"agent": [Said(5 if k == 0 else 2) for k in range(turns)]}).trajectories[0]


def test_sub_seats_counted_for_rollouts_by_hand() -> None:
    """A lead that called two workers counts thrice where every trajectory is a row."""
    played = tuple(
        replace(episode({"agent": [Said(3)], **{f"agent/worker.{w}": [Said(2)] for w in range(workers)}}, name="g",
                        trial=trial, scores={"score": {"agent": Score(float(score))}}), id=f"g.{trial}")
        for trial, (score, workers) in enumerate(((1, 2), (0, 0), (0, 1), (1, 0))))

    def rows(turns: Turns) -> FloatArray:
        """The mean over all rows of the group, each with its root's score."""
        score_B = turns.reward_BK().sum(axis=1)[turns.root_B]
        return np.where(turns.kept_BK, (score_B - score_B.mean())[:, None], 0.0)

    assert found_in(update_of([played], rows)) == {"rows_for_rollouts"}
    assert found_in(update_of([played], group_centred)) == set()


def test_where_every_step_is_a_sample_other_rows_are_wrong_still() -> None:
    """Leads of 1, 4, 1, 1 turns with 2, 0, 1, 0 workers of one turn, scores 1, 0, 0, 1: the mean over steps is
    4/10, over rollouts 1/2, over trajectories 4/7."""
    played = tuple(
        replace(episode({"agent": [Said(3)] * turns, **{f"agent/worker.{w}": [Said(2)] for w in range(workers)}},
                        name="g", trial=trial, scores={"score": {"agent": Score(float(score))}}), id=f"g.{trial}")
        for trial, (score, turns, workers) in enumerate(((1, 1, 2), (0, 4, 0), (0, 1, 1), (1, 1, 0))))

    def less(centre: float) -> Callable[[Turns], FloatArray]:
        return lambda turns: np.where(
            turns.kept_BK, (turns.reward_BK().sum(axis=1)[turns.root_B] - centre)[:, None], 0.0)

    for centre, by_rollout, by_step in ((0.5, set(), set()), (0.4, {"rows_for_rollouts"}, set()),
                                        (4 / 7, {"rows_for_rollouts"}, {"rows_for_rollouts"})):
        assert found_in(update_of([played], less(centre))) == by_rollout, centre
        assert found_in(update_of([played], less(centre), waivers=("steps",))) == by_step, centre


def test_contexts_counted_for_rollouts_by_hand() -> None:
    """Every call begins a context of its own, as after a summary; each context is a row."""
    def branched(one: Episode) -> Episode:
        trajectory = one.trajectories[0]
        spans = tuple(replace(span, parent=-1) if not span.sampled else span for span in trajectory.spans)
        return replace(one, trajectories=(replace(trajectory, spans=spans),))

    uneven = [tuple(replace(one, trajectories=(longer(one),)) for one in group) for group in BINARY]
    played = [tuple(branched(one) for one in group) for group in uneven]
    by_context = over(lambda turns: np.array([
        sum(span.parent == -1 for span in source.trajectory.spans) for source in turns.tokens.trajectories], float))
    assert found_in(update_of(played, by_context)) == {"rows_for_rollouts"}


def test_normalised_twice_by_hand() -> None:
    """Groups 1, 0, 0, 0 and 1, 1, 0, 0 have deviations 0.433 and 0.5; the third is dead, so that the deviation over
    the batch is below 1 and the second division inflates."""
    def twice(turns: Turns) -> FloatArray:
        once_BK = group_standardised(turns)
        first_B = once_BK[:, 0]
        return np.where(turns.kept_BK, (once_BK - first_B.mean()) / first_B.std(), 0.0)

    assert found_in(update_of(BINARY, twice)) == {"normalised_twice"}
    assert found_in(update_of(BINARY[:1], twice)) == set()  # one live group alone: it changes nothing

    def batch_scaled(turns: Turns) -> FloatArray:
        """REINFORCE++ with a group baseline: centred by group, scaled once by the batch."""
        centred_BK = group_centred(turns)
        return centred_BK / centred_BK[:, 0].std()

    assert found_in(update_of(BINARY, batch_scaled)) == set()


def test_a_reward_whose_turn_is_masked_by_hand() -> None:
    """Credit stands on the last turn alone, and the weighting leaves the last turn out: nobody learns of the score."""
    def at_the_end(turns: Turns) -> FloatArray:
        return group_centred(turns) * (np.arange(turns.kept_BK.shape[1]) == turns.kept_BK.sum(axis=1)[:, None] - 1)

    def but_the_last(turns: Turns, tokens: Tokens) -> FloatArray:
        last_B = turns.kept_BK.sum(axis=1) - 1
        return np.where(tokens.turn_N == last_B[tokens.trajectory_N], 0.0, token_mean(turns, tokens))

    played = [group_of((1, 2), (0, 2), (0, 2), (1, 3))]
    assert "lost_reward" in found_in(update_of(played, at_the_end, but_the_last))
    assert "lost_reward" not in found_in(update_of(played, at_the_end))
    cut = [tuple(replace(one, stop=Stop("truncated")) for one in group) for group in played]
    assert "lost_reward" not in found_in(update_of(cut, at_the_end, but_the_last))  # an overlong mask is a method


def test_dialogues_that_were_cut_by_hand() -> None:
    """Pairs of one reply each whose prompts hold the earlier replies as text; and stored turns answered again."""
    messages: tuple[Message, ...] = (user("a"), assistant("b"), user("c"), assistant("d"))

    def cut(one: Episode) -> Episode:
        trajectory = one.trajectories[0]
        shown = replace(trajectory, messages=messages, turns=(replace(trajectory.turns[0], prompt=(0, 1, 2), reply=3),))
        return replace(one, trajectories=(shown,))

    pairs = [tuple(cut(one) for one in group_of((1, 1), (0, 1), name=f"p{i}")) for i in range(3)]

    def sign(turns: Turns) -> FloatArray:
        return np.where(group_centred(turns) > 0, 1.0, -1.0)

    assert found_in(update_of(pairs, sign, group_mean)) == {"last_turn_only"}
    stored = [tuple(replace(one, parent="e#3") for one in group) for group in pairs]
    assert found_in(update_of(stored, sign, group_mean)) == set()
    assert found_in(update_of(pairs, group_centred, group_mean)) == set()  # no preference


def test_a_policy_whose_ends_are_unknown_is_not_judged() -> None:
    known = [tuple(replace(one, cast={"agent": PolicyInfo("main", "model", ends=(99,))}) for one in g) for g in BINARY]
    assert found_in(update_of(known, group_centred)) == {"untrained_end"}
    assert found_in(update_of(BINARY, group_centred)) == set()
