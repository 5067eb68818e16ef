"""MUA-RL: a group of eight by hand, a slow twin, what the paper claims, who is masked, faults of the released code."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.arrays import as_turns, lay_out
from polyturn.chat import Chat
from polyturn.desk import Desk, Log
from polyturn.envs.dialogue import STOP_WORD, Dialogue, Script
from polyturn.envs.end_state import EndState, sha256_of
from polyturn.envs.order_desk import VALUES, OrderDesk, RuleUser, order_desk, rule_user, scripted_agent
from polyturn.errors import PolicyFailed
from polyturn.losses.learned import Learned
from polyturn.losses.weighting import token_mean
from polyturn.methods.learning.mua_rl import (
    GROUP,
    KL,
    RULES,
    CutEnds,
    ask_rate,
    asked,
    is_valid,
    mua_advantage,
    mua_loss,
    user_drift,
    valid_only,
)
from polyturn.policies.dictated import Dictated
from polyturn.policies.scripted import Scripted
from polyturn.policies.tiny import learned_tokenizer, open_model
from polyturn.protocols import Ask, Match, Player
from polyturn.recipes.mua_rl import Settings, texts
from polyturn.rollout.pool import play
from polyturn.rollout.score import score_matches
from polyturn.testing import check_advantage, check_agent, check_loss
from polyturn.types import Call, Episode, Group, Message, Sampling, Score, Stop, Task, Tool, assistant, user
from tests.advantages.build import Said, batch, episode
from tests.methods.learning import mua_rl_slow as slow


def group(rewards: list[float | None], tokens: list[list[int]] | None = None, name: str = "g") -> Group:
    """A rollout for each reward, with turns of so many tokens."""
    return tuple(
        episode({"agent": [Said(count) for count in (tokens[i] if tokens else [2, 1])]}, name=name, trial=i,
                scores={"score": {"agent": Score(reward)}})
        for i, reward in enumerate(rewards)
    )


def by_rollout(groups: list[Group], advantage: Any = mua_advantage) -> list[float]:
    advantage_BK = advantage(batch(groups))
    return [float(row[0]) for row in advantage_BK]


# ---------------------------------------------------------------- (a) by hand


def test_a_group_of_eight_by_hand() -> None:
    # R = 1 0 0 1 0 0 0 1: mean 3/8; squares 3 (5/8)^2 + 5 (3/8)^2 = (75 + 45)/64 = 15/8; / 7 = 15/56;
    # std = 0.5175492; winners 0.625 / 0.5175502 = 1.207612, losers -0.375 / 0.5175502 = -0.724567
    found = by_rollout([group([1, 0, 0, 1, 0, 0, 0, 1])])
    win, lose = 1.207612, -0.724567
    assert found == pytest.approx([win, lose, lose, win, lose, lose, lose, win], abs=1e-6)
    assert len(found) == GROUP


def test_an_invalid_rollout_is_in_neither_statistics_nor_gradient() -> None:
    # Without the invalid one R = 1 0 0: mean 1/3, squares 4/9 + 1/9 + 1/9 = 2/3, / 2 = 1/3, std 0.5773503;
    # (2/3) / 0.5773513 = 1.154699, (-1/3) / 0.5773513 = -0.577349. As a zero it would make mean 1/4, winner 1.5.
    groups = [group([1, None, 0, 0])]
    assert by_rollout(groups) == pytest.approx([1.154699, 0.0, -0.577349, -0.577349], abs=1e-6)
    turns = batch(groups)
    weight_N = token_mean(turns, turns.tokens)
    assert weight_N[turns.tokens.trajectory_N == 1].tolist() == [0.0, 0.0, 0.0]
    assert weight_N.sum() == pytest.approx(1.0)
    assert by_rollout(valid_only(groups)) == pytest.approx([1.154699, -0.577349, -0.577349], abs=1e-6)


def test_every_token_of_a_rollout_has_its_advantage() -> None:
    advantage_BK = mua_advantage(batch([group([1, 0], [[3, 1, 2], [1]])]))
    # mean 1/2, squares 1/2, / 1, std 0.7071068: 0.5 / 0.7071078 = 0.707106
    assert advantage_BK.tolist() == pytest.approx(np.array([[0.707106] * 3, [-0.707106, 0, 0]]), abs=1e-6)


def test_the_loss_by_hand() -> None:
    # logprob -1, old -1.5: ratio e^0.5 = 1.648721, clipped at 1.2. A = 1: -1.2. k3 with reference -1.2: d = -0.2,
    # e^-0.2 - 1 + 0.2 = 0.0187308. A = -1: -min(-1.648721, -1.2) = 1.648721.
    def loss(advantage: float, weight: float) -> float:
        one = {"logprob_N": -1.0, "old_N": -1.5, "reference_N": -1.2, "advantage_N": advantage, "weight_N": 1.0}
        rows: dict[str, Any] = {name: torch.tensor([value], dtype=torch.float64) for name, value in one.items()}
        places = dict.fromkeys(("turn_N", "trajectory_N", "group_N", "version_N"), torch.zeros(1, dtype=torch.int64))
        return float(mua_loss(kl_weight=weight)(Learned(**rows, **places, behavior_N=rows["old_N"]))[0])

    assert loss(1.0, KL) == pytest.approx(-1.2 + 0.001 * 0.0187308, abs=1e-9)
    assert loss(-1.0, 0.0) == pytest.approx(1.6487213, abs=1e-7)


# ---------------------------------------------------------------- (b) the slow twin


def test_a_thousand_random_groups_equal_the_slow_twin() -> None:
    draws = random.Random(0)
    wrong = by_turn = 0
    for _ in range(1000):
        rewards = [None if draws.random() < 0.1 else float(draws.random() < 0.4) for _ in range(draws.randint(1, 8))]
        tokens = [[draws.randint(1, 4) for _ in range(draws.randint(1, 4))] for _ in rewards]
        if rewards.count(None) == len(rewards):
            assert valid_only([group(rewards, tokens)]) == []
        found = by_rollout([group(rewards, tokens)])
        assert found == pytest.approx(slow.advantages(rewards), abs=1e-9)
        wrong += found != pytest.approx(slow.advantages(rewards, sample=False), abs=1e-9)
        by_turn += found != pytest.approx(slow.advantages(rewards, turns=[len(row) for row in tokens]), abs=1e-9)
    # the deviation of a population is another number wherever a group is mixed, and so are turns for rollouts
    assert wrong > 500 and by_turn > 500


def random_state(draws: random.Random, depth: int = 3) -> Any:
    kind = draws.randint(0, 5 if depth else 3)
    if kind == 4:
        return {draws.choice("abcde") + str(i): random_state(draws, depth - 1) for i in range(draws.randint(0, 3))}
    if kind == 5:
        return [random_state(draws, depth - 1) for _ in range(draws.randint(0, 3))]
    return [draws.randint(-9, 9), draws.random(), draws.choice(["x, y", "it's", "\n", ""]), None][kind]


def test_a_thousand_random_ends_score_as_the_slow_twin() -> None:
    draws = random.Random(1)
    ones = 0
    for _ in range(1000):
        gold = {"s": random_state(draws)}
        final = gold if draws.random() < 0.7 else {"s": random_state(draws)}
        said = [draws.choice(["It costs 1,250.", "PACKED", "no", "80, 35"]) for _ in range(draws.randint(0, 3))]
        outputs = [draws.choice(["1250", "packed", "80", "1,250"]) for _ in range(draws.randint(0, 2))]
        assert sha256_of(final) == slow.hash_of(final)
        score = EndState().score(Episode("e", Task("t", "f"), 0, final={
            "db_sha256": sha256_of(final), "gold_sha256": sha256_of(gold), "said": said, "outputs": outputs,
            "valid": True, "stopped_by": "user"}))
        assert score.value == slow.reward(final, gold, said, outputs)
        ones += score.value == 1.0
    assert 100 < ones < 900


ENDS = {"the user ended it": "user", "leave ended it": "terminal", "a call could not be read": "bad",
        "the agent's reply was cut": "cut", "the user said nothing": "invalid",
        "30 user replies and tool executions": "cap"}


class Nothing:
    """A database in which every tool says ok."""

    def state(self) -> dict[str, Any]:
        return {}

    def call(self, name: str, arguments: Any) -> str:
        return "ok"


def random_move(draws: random.Random, who: str) -> str:
    if who == "user":
        return draws.choices(["yes", "", f"bye {STOP_WORD}"], [40, 1, 1])[0]
    return draws.choices(["why?", f"say {STOP_WORD}", "call:look", "call:leave", "bad", "cut"], [20, 2, 30, 1, 1, 1])[0]


def as_reply(move: str) -> Message:
    if move == "bad":
        return assistant("<tool_call>{", calls=(Call("c", "", None, "{", "no JSON"),))
    if move == "cut":
        return assistant("I wou", status="error")
    if move.startswith("call:"):
        return assistant("", calls=(Call("c", move[5:], {}), Call("d", "leave", {})))
    return assistant(move)


async def test_a_thousand_random_dialogues_end_as_the_slow_state_machine_says() -> None:
    draws = random.Random(2)
    seen: dict[str, int] = {}
    script = Script("", "", "", (Tool("look"), Tool("leave")), "", terminal=frozenset({"leave"}))
    for _ in range(1000):
        env = Dialogue(script, Nothing(), RULES)
        step, moves = await env.start(), []
        while step.asks:
            seat = step.asks[0].seat
            moves.append((seat, random_move(draws, seat)))
            step = await env.step({seat: as_reply(moves[-1][1])})
        found = ENDS[(await env.final())["ended"]]
        assert (slow.ending(moves), slow.ending(moves[:-1])) == (found, "open")
        seen[found] = seen.get(found, 0) + 1
    assert seen.keys() == set(ENDS.values()), seen


# ---------------------------------------------------------------- (c) what the paper claims


@cache
def desk_chat() -> Chat:
    return Chat(learned_tokenizer(texts(Settings(model="tiny"))))


async def rolled(task: Task, agents: list[Any], suite: OrderDesk, **more: Player) -> Group:
    """A group of one rollout for each scripted agent."""
    left = list(agents)
    cast = {"agent": Player(lambda: AnswerAgent(left.pop(0)), "main"), **more}
    match = Match(suite, task, cast, rollouts=len(agents), train=frozenset({"agent"}))
    groups = await play([match], {"main": Dictated(name="main", chat=desk_chat()), "down": Scripted([])})
    (scored,) = await score_matches([match], groups)
    return scored


async def test_asking_is_rewarded_with_a_live_user_and_punished_on_fixed_messages() -> None:
    made = (task for task in order_desk(kinds=("set_size",)).tasks("train"))
    for _ in range(4):
        task = next(made)
        right = task.payload["facts"]["size"]
        lucky = next(value for value in VALUES["size"] if value == right)
        wrong = next(value for value in VALUES["size"] if value != right)

        def agents(guesses: list[str], task: Task = task) -> list[Any]:
            return [scripted_agent(task) for _ in range(4)] + [scripted_agent(task, guess=guess) for guess in guesses]

        for live in (True, False):
            suite = order_desk(kinds=("set_size",), live=live)
            found = by_rollout([await rolled(task, agents([wrong, lucky, wrong, wrong]), suite)])
            asking, guessing = np.mean(found[:4]), np.mean(found[4:])
            assert (asking > guessing) == live and (asking > 0) == live


# ---------------------------------------------------------------- (d) contracts


def test_the_parts_keep_their_contracts() -> None:
    check_advantage(mua_advantage)
    check_loss(mua_loss())
    check_loss(mua_loss(kl_weight=0.0))


async def test_the_agent_keeps_its_contract() -> None:
    await check_agent(lambda: CutEnds(ChatAgent()))


# ---------------------------------------------------------------- who is trained


async def test_user_and_tool_tokens_are_not_trained_even_where_one_model_sits_in_both_seats() -> None:
    settings = Settings(model="tiny")
    model = open_model("tiny", lambda: texts(settings), seed=3)
    suite = order_desk(kinds=("set_size",))
    task = next(iter(suite.tasks("train")))
    talk = Sampling(max_tokens=6)
    cast = {"agent": Player(lambda: ChatAgent(sampling=talk), "main"),
            "user": Player(lambda: ChatAgent(sampling=talk), "main")}
    match = Match(OrderDesk(("set_size",), 1.0, RULES), task, cast, rollouts=2, train=frozenset({"agent"}))
    groups = await score_matches([match], await play([match], {"main": model}))
    model.close()
    kept = valid_only(groups)
    assert kept
    tokens = lay_out(kept, "main")
    own = [t for e in kept[0] if (t := e.trajectory("agent")) is not None]
    spans = [t.spans[i] for t in own for turn in t.turns for i in turn.spans]
    assert tokens.id_N.tolist() == [int(i) for span in spans for i in span.ids]
    assert all(span.sampled for span in spans) and tokens.sampled_N.all()
    told = sum(len(span.ids) for t in own for span in t.spans if not span.sampled)
    assert told > 0 and len(tokens) < len(tokens.tree.id_U)  # user, tool and template tokens are context alone
    weight_N = token_mean(as_turns(tokens), tokens)
    assert weight_N.sum() == pytest.approx(1.0)
    # The gradient by the logits after every id that was shown: exactly 0 but where a word of the agent is predicted.
    draw = torch.Generator().manual_seed(0)
    logits_UV, other_UV = (torch.randn(len(tokens.tree.id_U), 2000, generator=draw) for _ in range(2))
    before_N = torch.from_numpy(tokens.tree.parent_U[tokens.node_N].astype(np.int64))
    id_N = torch.from_numpy(tokens.id_N.astype(np.int64))[:, None]
    logprob_N, reference_N = (torch.log_softmax(table[before_N], -1).gather(1, id_N)[:, 0]
                              for table in (logits_UV.requires_grad_(), other_UV))
    index = torch.zeros(len(tokens), dtype=torch.int64)
    made = Learned(logprob_N, logprob_N.detach(), logprob_N.detach(), torch.ones(len(tokens)),
                   torch.from_numpy(weight_N.astype(np.float32)), index, index, index, index, reference_N=reference_N)
    (slope_UV,) = torch.autograd.grad(mua_loss()(made)[0], logits_UV)
    assert slope_UV.abs().sum(dim=1).nonzero()[:, 0].tolist() == sorted(set(before_N.tolist()))
    assert len(set(before_N.tolist())) < 0.5 * len(tokens.tree.id_U)


# ---------------------------------------------------------------- (e) faults of the released code


async def test_a_failed_user_is_flagged_and_left_out() -> None:
    suite = order_desk(kinds=("set_size",))
    task = next(iter(suite.tasks("train")))
    good = await rolled(task, [scripted_agent(task)], suite)
    broken = await rolled(task, [scripted_agent(task)], suite, user=Player(ChatAgent, "down"))
    assert broken[0].stop.kind == "error" and PolicyFailed.__name__ in broken[0].stop.reason
    assert is_valid(good[0]) and not is_valid(broken[0])
    assert valid_only([good + broken, broken]) == [good]


async def test_a_silent_user_is_no_normal_stop() -> None:
    suite = order_desk(kinds=("set_size",))
    task = next(iter(suite.tasks("train")))
    found = await rolled(task, [scripted_agent(task)], suite, user=Player(
        lambda: RuleUser(lambda ask: assistant("")), "silent"))
    assert found[0].scores["score"]["agent"].value is None and valid_only([found]) == []
    assert user_drift(found)["failed"] == 1.0


async def test_doing_nothing_on_a_task_that_changes_nothing_earns_nothing() -> None:
    suite = order_desk(kinds=("get_order",))  # its gold leaves the database as it is; the output must be said
    task = next(iter(suite.tasks("train")))
    found = await rolled(task, [lambda ask: assistant("Done."), scripted_agent(task)], suite)
    assert [e.scores["score"]["agent"].value for e in found] == [0.0, 1.0]
    assert found[0].final is not None and found[0].final["db_sha256"] == found[0].final["gold_sha256"]


async def test_sampled_tokens_are_kept_though_only_the_first_call_runs() -> None:
    suite = order_desk(kinds=("set_size",))
    task = next(iter(suite.tasks("train")))
    facts = task.payload["facts"]
    other = {**facts, "size": next(v for v in VALUES["size"] if v != facts["size"])}
    replies = [assistant("", calls=(Call("", "set_size", facts), Call("", "set_size", other))), assistant("Done.")]
    (found,) = await rolled(task, [lambda ask: replies.pop(0)], suite)
    assert found.scores["score"]["agent"].value == 1.0
    trajectory = found.trajectory("agent")
    assert trajectory is not None
    spelled = trajectory.spans[trajectory.turns[0].spans[0]].ids
    assert desk_chat().parse(spelled, tools=(Tool("set_size"),)).calls[1].arguments == other


async def test_a_reply_cut_by_its_length_limit_ends_the_dialogue() -> None:
    long = "What would you like to have changed today?"
    policy = Scripted(lambda messages: long, name="main", chat=desk_chat())
    desk = Desk(Log("e", {"main": policy}), "agent", "main")
    cut = await CutEnds(ChatAgent(sampling=Sampling(max_tokens=3))).act(Ask("agent", (user("Hi."),)), desk)
    whole = await CutEnds(ChatAgent()).act(Ask("agent", (user("Hi."),)), desk)
    assert (cut.status, whole.status) == ("error", "ok") and cut.spans


async def test_what_is_reported_of_agent_and_user() -> None:
    suite = order_desk(kinds=("set_size",))
    task = next(iter(suite.tasks("train")))
    blunt = rule_user(task)

    def leaking(ask: Ask) -> Message:
        return assistant(blunt(ask).text + " " + task.payload["facts"]["size"])

    asking, guessing = await rolled(task, [scripted_agent(task), scripted_agent(task, guess="none")], suite)
    (told,) = await rolled(task, [scripted_agent(task)], suite, user=Player(lambda: RuleUser(leaking), "leaky"))
    assert [asked(e) for e in (asking, guessing, told)] == [True, False, False]
    assert ask_rate([asking, guessing, told]) == pytest.approx(1 / 3)
    drift = user_drift([asking, guessing, told])
    assert drift == pytest.approx({"leaked": 1 / 3, "stopped_early": 1 / 3, "failed": 0.0})
    assert not is_valid(Episode("e", task, 0, stop=Stop("error", "x")))
