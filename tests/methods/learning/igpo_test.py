"""IGPO: beliefs, gains and credit by hand, a slow twin, what the paper claims, and the faults of released code."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.advantages.group import group_standardised
from polyturn.agents.chat import ChatAgent
from polyturn.arrays import Turns
from polyturn.chat import Chat
from polyturn.envs.search import search
from polyturn.errors import BadInput, NotTrainable, UnknownName
from polyturn.learn.loop import zero_groups
from polyturn.losses.learned import Learned
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.methods.learning.igpo import (
    Beliefs,
    Outcome,
    beliefs,
    gains,
    information_gain,
    kept,
    prompt_of,
    silent_groups,
    snapshot,
    token_f1,
)
from polyturn.protocols import Match, Player, Verifier
from polyturn.rollout.episode import Place, play_episode
from polyturn.testing import check_advantage
from polyturn.types import Episode, FloatArray, Group, IntArray, Sampling, Score, Task
from tests.advantages.build import Said, batch, episode
from tests.methods.learning import igpo_slow as slow
from tests.methods.learning.igpo_slow import Rollout
from tests.policies.tiny import plain_logprobs, tiny_local, tiny_tokenizer

RULES: Any = partial(information_gain)


def played(group: list[Rollout], name: str = "g") -> Group:
    """The rollouts as episodes; three prompt tokens stand before each reply."""
    made = []
    for trial, rollout in enumerate(group):
        said = [Said(count, prompt=(1, 2, 3)) for count in rollout.tokens]
        paid = {t: {"gain": gain} for t, gain in enumerate(rollout.gains) if gain is not None}
        scores = {"belief": {"agent": Score(0.5, turns=paid)}, "outcome": {"agent": Score(rollout.outcome)}}
        made.append(episode({"agent": said}, name=name, trial=trial, scores=scores))
    return tuple(made)


def rows(advantage_BK: FloatArray, turns: Turns) -> list[list[float]]:
    return [row[finish != ""].tolist() for row, finish in zip(advantage_BK, turns.finish_BK, strict=True)]


def rollout(gains: Sequence[float | None], outcome: float, tokens: Sequence[int] | None = None) -> Rollout:
    return Rollout(list(gains), outcome, list(tokens or [1] * (len(gains) + 1)))


# ---------------------------------------------------------------- (a) by hand


class Told:
    """A scorer with log-probabilities by id, which keeps the paths that it was asked for."""

    def __init__(self, by_id: dict[int, float]) -> None:
        self.by_id, self.paths = by_id, list[list[int]]()

    async def logprobs(self, paths: Sequence[IntArray]) -> Sequence[FloatArray]:
        self.paths += [path.tolist() for path in paths]
        return [np.array([np.nan, *(self.by_id.get(int(id), -9.0) for id in path[1:])]) for path in paths]

    async def distributions(self, path: IntArray) -> FloatArray:
        raise AssertionError("not asked for")


async def test_a_belief_by_hand() -> None:
    chat = Chat(tiny_tokenizer())
    space, a, b = (int(chat.forced((text,))[0][0]) for text in (" ", "a", "b"))
    scorer = Told({space: math.log(0.5), a: math.log(0.25), b: math.log(0.5)})
    # " ab": the geometric mean of 0.5, 0.25 and 0.5 is (1/16)**(1/3).
    [found] = await beliefs(scorer, chat, [np.array([7, 8], np.int32)], ["ab"])
    assert found == pytest.approx((1 / 16) ** (1 / 3)) == pytest.approx(0.39685, abs=1e-5)
    before = chat.forced(("answer:",))[0].tolist()
    assert scorer.paths == [[7, 8, *before, space, a, b]]
    with pytest.raises(BadInput, match="true answer is empty"):
        await beliefs(scorer, chat, [np.array([7], np.int32)], [" "])


def test_gains_by_hand_and_they_telescope() -> None:
    turns = kept(played([rollout([0.0, 0.0], 1.0)])[0].trajectories[0])
    score = gains(turns, [0.1, 0.4, 0.2])
    # r_1 = 0.4 - 0.1, r_2 = 0.2 - 0.4; logs: log 4, -log 2. The last turn has the outcome and no gain.
    assert score.turns[0]["gain"] == pytest.approx(0.3) and score.turns[1]["gain"] == pytest.approx(-0.2)
    assert score.turns[0]["log_gain"] == pytest.approx(math.log(4))
    assert score.turns[1]["log_gain"] == pytest.approx(-math.log(2))
    assert set(score.turns) == {0, 1} and score.parts == {"p0": 0.1, "p1": 0.4, "p2": 0.2} and score.value == 0.2
    draw = random.Random(0)
    for _ in range(100):
        belief = [draw.random() for _ in range(draw.randint(1, 6))]
        turns = kept(played([rollout([0.0] * (len(belief) - 1), 1.0)])[0].trajectories[0])
        paid = gains(turns, belief).turns.values()
        assert sum(values["gain"] for values in paid) == pytest.approx(belief[-1] - belief[0])
        assert sum(values["log_gain"] for values in paid) == pytest.approx(math.log(belief[-1] / belief[0]))


GROUP = [rollout([0.2, 0.4], 1.0), rollout([0.0], 0.0), rollout([0.6], 1.0)]


def test_separate_by_hand() -> None:
    turns = batch([played(GROUP)])
    # Gains 0.2, 0.4, 0.6 (the exact 0 is dropped): mean 0.4, variance 0.08 / 3; so -+0.2 / sqrt(0.0266667) = -+1.2247.
    # Outcomes 1, 0, 1: mean 2/3, variance 2/9; 0.7071, -1.4142, 0.7071. Then sums from the end.
    found = rows(information_gain(turns), turns)
    assert found[0] == pytest.approx([-1.2247 + 0.0 + 0.7071, 0.0 + 0.7071, 0.7071], abs=1e-4)
    assert found[1] == pytest.approx([-1.4142, -1.4142], abs=1e-4)  # the dropped turn takes what comes after it
    assert found[2] == pytest.approx([1.2247 + 0.7071, 0.7071], abs=1e-4)
    found = rows(information_gain(turns, gamma=0.95), turns)
    # 0.7071; 0 + 0.95 * 0.7071 = 0.6718; -1.2247 + 0.95 * 0.6718 = -0.5866. The dropped turn is not discounted.
    assert found[0] == pytest.approx([-0.5866, 0.6718, 0.7071], abs=1e-4)
    assert found[1] == pytest.approx([-1.4142, -1.4142], abs=1e-4)


def test_joint_by_hand() -> None:
    turns = batch([played([rollout([0.5], 1.0), rollout([-0.5], 0.0)])])
    # 0.5, 1, -0.5, 0: mean 0.25, variance (0.0625 + 0.5625 + 0.5625 + 0.0625) / 4 = 0.3125, deviation 0.55902.
    # 0.4472, 1.3416, -1.3416, -0.4472; sums 1.7889 and -1.7889. Gamma 0.95: 0.4472 + 1.2746 = 1.7218.
    assert rows(information_gain(turns, pool="joint"), turns) == [
        pytest.approx([1.7889, 1.3416], abs=1e-4), pytest.approx([-1.7889, -0.4472], abs=1e-4)]
    found = rows(information_gain(turns, pool="joint", gamma=0.95), turns)
    assert found[0] == pytest.approx([1.7218, 1.3416], abs=1e-4)


def test_a_gain_of_zero_that_is_kept_counts() -> None:
    turns = batch([played(GROUP)])
    # Gains 0.2, 0.4, 0, 0.6: mean 0.3, variance 0.2 / 4 = 0.05, deviation 0.2236; the third: -1.3416 - 1.4142.
    assert rows(information_gain(turns, zero="keep"), turns)[1] == pytest.approx([-2.7558, -1.4142], abs=1e-4)


def test_a_lone_value_has_no_advantage_and_is_not_blown_up() -> None:
    turns = batch([played([rollout([0.3], 1.0)])])
    assert rows(information_gain(turns), turns) == [[0.0, 0.0]]


def test_the_withdrawn_snapshot_by_hand() -> None:
    group = [rollout([0.4], 1.0, [2, 1]), rollout([], 0.5, [3])]
    turns = batch([played(group)])
    # Columns: rollout 0 says c0 c1, hears c2 c3 c4, says c5; rollout 1 says c0 c1 c2. Own rewards: 0.4 0.4, the reply
    # at c5 has 1.0 (and so has the tool column before it), 0.5 0.5 0.5. Means: c0 and c1 0.45, c2 0.25, c5 0.5.
    assert snapshot(turns).tolist() == pytest.approx([0.4 - 0.45, 0.4 - 0.45, 1.0 - 0.5, 0.05, 0.05, 0.25])


def test_f1_over_sets_of_words_by_hand() -> None:
    # {new, york} and {new, york, city}: both 2, so 2 * 2 / (2 + 3).
    assert token_f1("New York, new YORK", ["The New York City"]) == pytest.approx(0.8)
    assert token_f1("the", ["the"]) == 0.0 and token_f1("", ["x"]) == 0.0
    assert token_f1("Ovenna", ["Kastrel", "an Ovenna."]) == 1.0
    with pytest.raises(BadInput, match="no true answer"):
        token_f1("x", [])


async def test_outcomes_by_hand() -> None:
    rule = Outcome(lambda e: e.final["answer"], lambda e: ("Ovenna",))  # type: ignore[index]
    made = [Episode(name, Task("t", "f"), 0, final=final) for name, final in (
        ("right", {"answer": "ovenna"}), ("none", {"answer": None}), ("blank", {"answer": " "}), ("unread", None))]
    scores = await rule([tuple(made)])
    assert [scores[name]["agent"].value for name in ("right", "none", "blank", "unread")] == [1.0, -2.0, -2.0, None]
    assert scores["none"]["agent"].parts == {"f1": 0.0}


# ---------------------------------------------------------------- (b) slow twin


def random_group(draw: random.Random) -> list[Rollout]:
    group = []
    for _ in range(draw.randint(1, 5)):
        gains_ = [draw.choice((0.0, 0.0, None, -0.3, 0.1, 0.5)) for _ in range(draw.randint(0, 4))]
        group.append(rollout(gains_, draw.choice((-2.0, 0.0, 0.5, 1.0)), [draw.randint(1, 4) for _ in [*gains_, 0]]))
    return group


class Drawn:
    """A scorer with log-probabilities at random, which keeps what it said."""

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.said = draw, list[list[float]]()

    async def logprobs(self, paths: Sequence[IntArray]) -> Sequence[FloatArray]:
        self.said = [[-3 * self.draw.random() for _ in path] for path in paths]
        return [np.array(row) for row in self.said]

    async def distributions(self, path: IntArray) -> FloatArray:
        raise AssertionError("not asked for")


async def test_a_thousand_beliefs_and_their_gains_equal_the_slow_twin() -> None:
    chat, draw, differs = Chat(tiny_tokenizer()), random.Random(3), 0
    for _ in range(1000):
        scorer, answer = Drawn(draw), "".join(draw.choice("abcd") for _ in range(draw.randint(1, 6)))
        prompts = [np.arange(draw.randint(1, 5), dtype=np.int32) for _ in range(draw.randint(2, 4))]
        found = await beliefs(scorer, chat, prompts, [answer] * len(prompts))
        size = len(answer) + 1  # a byte each, and the space before it
        expected = [slow.belief(row[-size:]) for row in scorer.said]
        assert found == pytest.approx(expected)
        differs += found != pytest.approx([slow.belief_as_a_product(row[-size:]) for row in scorer.said])
        turns = kept(played([rollout([0.0] * (len(prompts) - 1), 1.0)])[0].trajectories[0])
        paid = [(values["gain"], values["log_gain"]) for values in gains(turns, found).turns.values()]
        assert [pytest.approx(pair) for pair in slow.gains(expected)] == paid
    assert differs == 1000


def test_equal_to_the_slow_twin_on_a_thousand_groups() -> None:
    differs = 0
    for seed in range(500):
        draw = random.Random(seed)
        groups = [random_group(draw), random_group(draw)]
        turns = batch([played(group, f"g{place}") for place, group in enumerate(groups)])
        pool, gamma = draw.choice(("joint", "separate")), draw.choice((1.0, 0.95, 0.0))
        zero = draw.choice(("drop", "keep"))
        found = rows(RULES(turns, pool=pool, gamma=gamma, zero=zero), turns)
        expected = [row for group in groups for row in slow.credit(group, pool, gamma, zero)]
        assert len(found) == len(expected)
        for row, wanted in zip(found, expected, strict=True):
            assert row == pytest.approx(wanted, abs=1e-9)
        wrong = [row for group in groups for row in slow.by_token(group, "joint", 0.0, zero)]
        differs += wrong != [pytest.approx(row) for row in slow.credit(groups[0], "joint", 0.0, zero)
                             + slow.credit(groups[1], "joint", 0.0, zero)]
        flat = [value for group in groups for row in slow.snapshot(group, 3) for value in row]
        assert snapshot(turns).tolist() == pytest.approx(flat, abs=1e-9)
    assert differs > 250  # statistics by token are another rule, and these groups show it


# ---------------------------------------------------------------- (c) what the paper claims


def gradient_of(turns: Turns, advantage_N: FloatArray) -> list[float]:
    """Of the clipped loss, by the log-probability of each token."""
    tokens, zeros = turns.tokens, torch.zeros(len(advantage_N), dtype=torch.float64)
    logprob_N, index = zeros.clone().requires_grad_(), zeros.long()
    weight_N = torch.from_numpy(token_mean(turns, tokens))
    made = Learned(logprob_N, zeros, zeros, torch.from_numpy(advantage_N), weight_N, index, index, index, index)
    (slope,) = torch.autograd.grad(policy_gradient(made)[0], logprob_N)
    return [float(value) for value in slope]


def test_a_group_that_failed_alike_teaches_all_the_same() -> None:
    failed = [rollout([0.3, -0.1], 0.0), rollout([0.1, 0.0], 0.0), rollout([0.05], 0.0)]
    turns = batch([played(failed)])
    grpo, igpo = group_standardised(turns, channels=("outcome",)), information_gain(turns)
    place_N = (turns.tokens.trajectory_N, turns.tokens.turn_N)
    assert gradient_of(turns, grpo[place_N]) == [0.0] * len(turns.tokens)
    assert all(gradient_of(turns, igpo[place_N])[: 2])  # the first two turns of the first rollout
    assert not grpo.any() and zero_groups(turns.tokens, grpo[place_N]) == 1.0
    assert igpo[:, 0].all() and zero_groups(turns.tokens, igpo[place_N]) == 0.0
    assert igpo[0, 0] > igpo[2, 0]


def test_a_useless_search_in_a_won_rollout_earns_less_than_a_useful_one() -> None:
    turns = batch([played([rollout([-0.2, 0.6], 1.0), rollout([0.0], 0.0)])])
    found = rows(information_gain(turns, gamma=0.0), turns)[0]
    assert found[0] < 0 < found[1]


def test_silent_groups_are_counted() -> None:
    groups = [played([rollout([0.0], 1.0), rollout([], 0.0)]), played([rollout([0.1], 1.0)])]
    assert silent_groups(groups) == 0.5 and silent_groups([]) == 0.0


# ---------------------------------------------------------------- (d) contract


def with_beliefs(groups: list[Group]) -> list[Group]:
    def scored(made: Episode) -> Episode:
        score = made.scores["score"]["agent"]
        [trajectory] = made.trajectories
        paid = {turn.at: {"gain": turn.rewards["reward"]} for turn in kept(trajectory)[:-1]}
        more = {"belief": {"agent": replace(score, turns=paid)}, "outcome": {"agent": score}}
        return replace(made, scores={**made.scores, **more})

    return [tuple(scored(made) for made in group) for group in groups]


@pytest.mark.parametrize("rule", [
    information_gain, snapshot, partial(information_gain, pool="joint", gamma=0.95, zero="keep")])
def test_conformance(rule: Any) -> None:
    check_advantage(rule, extra=with_beliefs)


def test_parts_are_verifiers_and_rules_are_checked() -> None:
    chat = Chat(tiny_tokenizer())
    assert isinstance(Beliefs(Told({}), chat, lambda e: "x"), Verifier)
    assert isinstance(Outcome(lambda e: "", lambda e: ()), Verifier)
    turns = batch([played(GROUP)])
    with pytest.raises(UnknownName, match="did you mean 'joint'"):
        information_gain(turns, pool="join")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="rule for gains of 0"):
        information_gain(turns, zero="no")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"gamma is 1\.5"):
        information_gain(turns, gamma=1.5)
    with pytest.raises(BadInput, match="no reward channel"):
        information_gain(turns, gain="beliefs/gain")


# ---------------------------------------------------------------- (e) on real play; faults that could recur


async def a_play(local: Any, **more: Any) -> Episode:
    suite = search(people=4, test_tasks=4, steps=3, shown=9, results=1, listed=True, **more)
    task = next(iter(suite.tasks("test")))
    agent = partial(ChatAgent, sampling=Sampling(max_tokens=40), mask=True)
    match = Match(suite, task, {"agent": Player(agent, "main")}, train=frozenset({"agent"}))
    for trial in range(20):
        made = await play_episode(match, {"main": local}, Place("e", trial=trial))
        if len(made.trajectories[0].turns) == 3:
            return made
    raise AssertionError("no play of three turns in twenty")


async def test_beliefs_are_those_of_a_plain_forward_and_leave_the_episode_as_it_is() -> None:
    local = tiny_local()
    made = await a_play(local)
    before = repr(made)
    rule = Beliefs(local, local.chat, lambda e: str(e.task.payload["answers"][0]))
    scores = await rule([(made,)])
    assert repr(made) == before
    parts = scores["e"]["agent"].parts
    answer = f" {made.task.payload['answers'][0]}"
    opening, ids = local.chat.forced(("answer:", answer))
    for t, turn in enumerate(made.trajectories[0].turns):
        prompt = local.chat.encode([made.trajectories[0].messages[place] for place in turn.prompt], written=known(made))
        fed = np.concatenate([*(piece.ids for piece in prompt), opening])
        assert parts[f"p{t}"] == pytest.approx(float(np.exp(plain_logprobs(local.model, fed, ids).mean())), rel=1e-3)
    assert len({round(value, 9) for value in parts.values()}) == 3
    local.close()


def known(made: Episode) -> Any:
    """Own replies as the ids that they were sampled as."""
    from polyturn.protocols import Piece

    spans = made.trajectories[0].spans
    return lambda message: tuple(Piece(spans[s[2]].ids, s) for s in message.spans) or None


async def test_a_prompt_is_what_was_fed_and_nothing_stale() -> None:
    """The released code keeps old tail tokens in its scoring batch when a prompt does not grow."""
    local = tiny_local()
    made = await a_play(local)
    trajectory = made.trajectories[0]
    paths = [prompt_of(made, trajectory, turn) for turn in trajectory.turns]
    assert [len(path) for path in paths] == [turn.usage.prompt_tokens for turn in trajectory.turns]
    local.close()
    bare = replace(trajectory.turns[0], spans=())
    with pytest.raises(NotTrainable, match="gave no tokens"):
        prompt_of(made, trajectory, bare)


async def test_an_answer_is_scored_on_its_own_tokens_whatever_stands_before_it() -> None:
    chat = Chat(tiny_tokenizer())
    for before in ("answer:", "answer: <", ""):
        opening, answer = chat.forced((before, " Ovenna"))
        assert chat.parse(np.concatenate([opening, answer])).text == f"{before} Ovenna"
        assert answer.tolist() == chat.forced(("", " Ovenna"))[1].tolist()


async def test_a_rollout_of_another_length_keeps_all_its_gains() -> None:
    """The released code drops every gain of a rollout whose turns it cannot count."""
    turns = batch([played([rollout([0.1] * 11, 0.0), rollout([0.5], 0.0)])])
    assert all(any(row) for row in rows(information_gain(turns), turns))


async def test_who_said_nothing_abstains() -> None:
    silent = Episode("s", Task("t", "f"), 0)
    scores = await Beliefs(Told({}), Chat(tiny_tokenizer()), lambda e: "x")([(silent,)])
    assert scores["s"]["agent"].value is None
