"""MEM1: masks, positions and rewards by hand; the layouts against what the sampler saw; context of constant size."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.advantages.turn import as_tokens
from polyturn.agents.chat import ChatAgent
from polyturn.arrays import as_turns, lay_out
from polyturn.contexts.keep import Keep
from polyturn.desk import Budget, Desk, Log
from polyturn.envs.lookup import composed_lookup
from polyturn.errors import BadInput
from polyturn.learn.learner import Learner
from polyturn.losses.learned import Learned
from polyturn.methods.context.mem1 import (
    ACTION,
    PAPER,
    QUESTION,
    RESULT,
    THOUGHT,
    ConstantState,
    Laid,
    compact_position,
    context_series,
    hint_text,
    intended_mask,
    laid,
    mem1_rule,
    objective_reward,
    official_mask,
    packed,
    peak_context,
    played_samples,
    samples,
    state_of,
)
from polyturn.policies.tiny import open_model
from polyturn.protocols import Match, Player
from polyturn.rollout.pool import play
from polyturn.testing import check_context, check_loss
from polyturn.types import Episode, Group, Limits, Sampling, Score, Stop, assistant, user
from tests.advantages.build import Said, episode
from tests.byte_policy import BytePolicy
from tests.methods.context import mem1_slow as slow
from tests.tiny import tiny_llama

NAMES = {QUESTION: "question", THOUGHT: "state", ACTION: "action", RESULT: "result"}


def rows(mask: Any) -> list[str]:
    return ["".join("1" if seen else "." for seen in row) for row in mask]


# q0 q1 | t0 r0 i0 | t1 r1 i1 | t2 r2
HAND = laid([1, 2], [{"state": [3], "action": [4], "result": [5]}, {"state": [6], "action": [7], "result": [8]},
                     {"state": [9], "action": [10]}])

# ---------------------------------------------------------------- by hand


def test_the_intended_mask_by_hand() -> None:
    assert rows(intended_mask(HAND)) == [
        "1.........", "11........",
        "111.......", "1111......", "11111.....",  # turn 0 sees the question and itself
        "111111....", "1111111...",  # turn 1 sees all of turn 0, its state too
        "11...111..",  # what came of turn 1 is read with turn 1, when turn 0 is forgotten
        "11...1111.", "11...11111",  # turn 2 sees turn 1 and not turn 0
    ]


def test_the_released_mask_by_hand_lacks_the_state() -> None:
    assert rows(official_mask(HAND)) == [
        "1.........", "11........",
        "111.......", "1111......", "....1.....",  # a result sees itself alone
        "11.111....", "11.1111...",  # turn 1 does not see t0, which its prompt held
        ".......1..",
        "11....111.", "11....1111",
    ]
    missing = intended_mask(HAND) & ~official_mask(HAND)
    # i0: q0 q1 t0 r0; t1, r1: t0; i1: q0 q1 t1 r1; t2, r2: t1
    assert missing.sum() == 4 + 1 + 1 + 4 + 1 + 1
    assert not (official_mask(HAND) & ~intended_mask(HAND)).any()


def test_loss_mask_positions_and_samples_by_hand() -> None:
    assert HAND.trained.tolist() == [False, False, True, True, False, True, True, False, True, True]
    # turn 1 is shown q, t0 r0 i0 (2, 3, 4) and writes at 5, 6; i1 is first read as q, t1 r1 i1: at 4; turn 2 goes on
    assert compact_position(HAND).tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6]
    found = samples(HAND)
    assert [sample.ids.tolist() for sample in found] == [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 6, 7, 8, 9, 10]]
    assert [sample.trained.sum() for sample in found] == [2, 2, 2]
    one = packed(found)
    assert one.position.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6]
    assert one.block.tolist() == [0] * 4 + [1] * 7 + [2] * 7
    assert one.mask.sum() == 4 * 5 // 2 + 2 * (7 * 8 // 2)
    assert sorted(one.ids[one.trained].tolist()) == [3, 4, 6, 7, 9, 10]  # each once


@pytest.mark.parametrize(("reply", "points"), [
    ("<IS>x</IS><answer>ba; ke</answer>", 2.0), ("<answer>ba</answer>", 1.0), ("<answer>ke; ba</answer>", 0.0),
    ("<answer>ba; ke; lo</answer>", 2.0), ("<answer> The BA.;ke</answer>", 2.0), ("<IS>ba; ke</IS>", 0.0),
    ("<search>a</search><answer>ba; ke</answer>", 0.0), ("<answer>ba; ke", 0.0), ("", 0.0),
    ("reply <answer>...; ...</answer>", 0.0),
])
def test_one_point_for_each_objective_in_its_place(reply: str, points: float) -> None:
    assert objective_reward(reply, [["ba"], ["ke", "de"]]) == points


def test_states_and_hints() -> None:
    assert state_of("<IS>a ba</IS><search>e</search>") == "a ba" and state_of("a ba") == ""
    assert [hint_text(left) for left in (3, 2, 1)] == ["[2 turns left]", "[1 turn left]", "[last turn: answer now]"]
    assert PAPER.arxiv == "2506.15841"


# ---------------------------------------------------------------- slow twins


def drawn(draw: random.Random) -> Laid:
    def ids(low: int) -> list[int]:
        return [draw.randint(3, 60) for _ in range(draw.randint(low, 3))]

    turns = [{"state": ids(0), "action": ids(1), "result": ids(0)} for _ in range(draw.randint(1, 5))]
    return laid(ids(1), turns)  # type: ignore[arg-type]


def test_a_thousand_random_masks_equal_the_slow_twins() -> None:
    draw = random.Random(0)
    for _ in range(1000):
        one = drawn(draw)
        places = [(NAMES[int(kind)], int(turn)) for kind, turn in zip(one.kind, one.turn, strict=True)]
        assert intended_mask(one).tolist() == slow.intended(places)
        assert official_mask(one).tolist() == slow.official(places)


def test_a_thousand_random_rewards_equal_the_slow_twin_and_by_set_would_not() -> None:
    draw = random.Random(1)
    words, differ = ["ba", "ke", "The Ki", "lo lo", "", "mo!"], 0
    for _ in range(1000):
        answers = [[draw.choice(words[:4]) for _ in range(draw.randint(1, 2))] for _ in range(draw.randint(1, 4))]
        said = "; ".join(draw.choice(words) for _ in range(draw.randint(0, 5)))
        reply = draw.choice(("", "<IS>ba; ke</IS>", "<search>a</search>")) + draw.choice(
            (f"<answer>{said}</answer>", f"<answer>{said}", said))
        assert objective_reward(reply, answers) == slow.reward(reply, answers), (reply, answers)
        differ += slow.reward(reply, answers) != slow.reward_by_set(reply, answers)
    assert differ > 100


def test_a_thousand_random_losses_equal_the_slow_twin() -> None:
    draw, differ = random.Random(2), 0
    for _ in range(1000):
        rewards = [draw.choice((0.0, 0.5, 1.0)) for _ in range(draw.randint(2, 5))]
        shape = [[draw.randint(1, 3) for _ in range(draw.randint(1, 4))] for _ in rewards]
        group: Group = tuple(
            episode({"agent": [Said(size) for size in sizes]}, trial=t, scores={"score": {"agent": Score(reward)}})
            for t, (reward, sizes) in enumerate(zip(rewards, shape, strict=True))
        )
        tokens = lay_out([group], "main")
        turns, rule = as_turns(tokens), mem1_rule()
        columns = (as_tokens(rule.advantage(turns), turns), rule.weighting(turns, tokens), tokens.turn_N,
                   tokens.trajectory_N, tokens.group_N, tokens.version_N)
        spoken = [[[(draw.gauss(-1, 0.5), draw.gauss(-1, 0.5)) for _ in range(size)] for size in sizes]
                  for sizes in shape]
        pairs = [pair for sizes in spoken for turn in sizes for pair in turn]
        logprob_N, old_N = (torch.tensor([pair[i] for pair in pairs], dtype=torch.float64) for i in (0, 1))
        more = [torch.from_numpy(np.asarray(column)) for column in columns]
        made, _ = rule.loss(Learned(logprob_N, old_N, old_N, *more))
        assert float(made) == pytest.approx(slow.loss(rewards, spoken), abs=1e-9)
        differ += float(made) != pytest.approx(slow.loss(rewards, spoken, by_turn=True), abs=1e-6)
    assert differ > 500  # turns for words is another loss


def test_the_loss_keeps_its_contract() -> None:
    check_loss(mem1_rule().loss)


# ---------------------------------------------------------------- the key test: layouts against what the sampler saw


def plain_logprobs(model: Any, ids: Any) -> Any:
    """Log-probability of each id given those before it, by a plain forward; the first is NaN."""
    ids = torch.tensor(np.asarray(ids)[None].astype(np.int64))
    with torch.no_grad():
        rows = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
    return np.concatenate([[np.nan], rows.gather(1, ids[0, 1:, None])[:, 0].double().numpy()])


def masked_logits(model: Any, ids: Any, position: Any, mask: Any) -> Any:
    """Log-probabilities [T, V] after each token under a 2-D mask and given positions."""
    bias = torch.zeros(mask.shape, dtype=model.dtype).masked_fill(~torch.from_numpy(mask.copy()), -1e9)
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(ids[None].astype(np.int64)), attention_mask=bias[None, None],
            position_ids=torch.tensor(position[None].astype(np.int64)),
        ).logits[0]
    return torch.log_softmax(logits, -1).double().numpy()


def single_copy(model: Any, one: Laid, mask: Any, position: Any) -> Any:
    """Log-probabilities of the trained tokens in one copy of the sequence, each read at the token that stood before it
    in its sample."""
    table = masked_logits(model, one.ids, position, mask)
    found = []
    for n in np.flatnonzero(one.trained):
        turn = int(one.turn[n])
        shown = [m for m in range(n) if one.kind[m] == QUESTION or one.turn[m] >= turn - 1]
        found.append(table[shown[-1], one.ids[n]])
    return np.array(found)


def gaps(model: Any, one: Laid) -> dict[str, list[float]]:
    """Layout -> per turn the largest distance from the samples that the policy drew from."""
    reference = np.concatenate([plain_logprobs(model, s.ids)[s.trained] for s in samples(one)])
    turn_N = one.turn[one.trained]
    block = packed(samples(one))
    table = masked_logits(model, block.ids, block.position, block.mask)
    place = np.flatnonzero(block.trained)
    layouts = {
        "packed": table[place - 1, block.ids[place]],
        "intended": single_copy(model, one, intended_mask(one), compact_position(one)),
        "official": single_copy(model, one, official_mask(one), np.arange(len(one.ids))),
    }
    return {name: [float(np.abs(values - reference)[turn_N == t].max()) for t in range(int(turn_N.max()) + 1)]
            for name, values in layouts.items()}


def test_packed_is_exact_and_a_single_copy_is_not() -> None:
    model = tiny_llama(num_hidden_layers=3)
    draw = np.random.default_rng(5)
    turns = [{name: draw.integers(3, 60, size).tolist() for name, size in (("state", 4), ("action", 3), ("result", 4))}
             for _ in range(5)]
    found = gaps(model, laid(draw.integers(3, 60, 6).tolist(), turns))  # type: ignore[arg-type]
    assert max(found["packed"]) < 1e-8
    assert max(found["intended"][:2]) < 1e-8 and min(found["intended"][2:]) > 1e-4  # old turns live on in hidden states
    assert found["official"][0] < 1e-8 and min(found["official"][1:]) > 1e-3  # wrong from the second turn on


async def rollouts(context: Any, *, objectives: int = 3, plays: int = 1) -> tuple[Any, list[Group]]:
    """A tiny random model plays composed lookups in float32; its replies are noise."""
    suite = composed_lookup(objectives=objectives, test_tasks=2)
    model = open_model("tiny", lambda: ["<IS> ba</IS><search> a</search>"] * 4, seed=0)
    player = Player(lambda: ChatAgent(context=context, sampling=Sampling(max_tokens=7)), "main")
    matches = [Match(suite, task, {"agent": player}, 3, plays, train=frozenset({"agent"}))
               for task in suite.tasks("test")]
    return model, await play(matches, {"main": model})


async def test_sampler_samples_packed_and_forest_agree_within_1e_4_in_float32() -> None:
    model, groups = await rollouts(ConstantState())
    model.close()
    plain = model.model.eval()
    episodes = [made for group in groups for made in group]
    tokens = lay_out(groups, "main")
    forest = Learner(plain, lr=1e-3).measure(tokens).old_N
    assert len(episodes) == 2 and all(len(made.trajectories[0].turns) == 8 for made in episodes)
    for b, made in enumerate(episodes):
        mine = tokens.trajectory_N == b
        given = played_samples(made.trajectories[0])
        by_sample = np.concatenate([plain_logprobs(plain, sample.ids)[sample.trained] for sample in given])
        block = packed(given)
        place = np.flatnonzero(block.trained)
        together = masked_logits(plain, block.ids, block.position, block.mask)[place - 1, block.ids[place]]
        for other in (by_sample, together, forest[mine]):
            assert np.abs(other - tokens.behavior_N[mine]).max() < 1e-4


async def test_each_turn_is_trained_once_on_its_pruned_prompt() -> None:
    model, groups = await rollouts(ConstantState())
    model.close()
    (trajectory,) = groups[0][0].trajectories
    for before, turn in pairwise(trajectory.turns):
        shown = [trajectory.messages[index] for index in turn.prompt]
        assert [m.origin for m in shown] == ["env", "policy", "env", "reminder"]
        assert turn.prompt[0] == trajectory.turns[0].prompt[0] and turn.prompt[1] == before.reply
    hints = [trajectory.messages[turn.prompt[-1]].text for turn in trajectory.turns]
    counted = [f"[{left} turns left]" for left in (7, 6, 5, 4, 3, 2)]
    assert hints == [*counted, "[1 turn left]", "[last turn: answer now]"]
    owned = [index for turn in trajectory.turns for index in turn.spans]
    assert sorted(owned) == [i for i, span in enumerate(trajectory.spans) if span.sampled]


# ---------------------------------------------------------------- constant memory


async def test_the_context_does_not_grow_with_the_turns_and_a_full_history_does() -> None:
    constant, full = await rollouts(ConstantState()), await rollouts(Keep())
    for model, _ in (constant, full):
        model.close()
    flat, grown = (np.array(context_series(run[1][0][0])) for run in (constant, full))
    assert len(flat) == len(grown) == 8
    assert flat[1:].max() - flat[1:].min() < 0.2 * flat[1:].max()
    assert (np.diff(grown) > 0).all() and grown[-1] > 1.5 * flat.max()


def test_the_peak_counts_every_rollout_also_one_that_failed() -> None:
    made = episode({"agent": [Said(2), Said(3)]})
    trajectory = made.trajectories[0]
    turns = tuple(replace(turn, usage=replace(turn.usage, prompt_tokens=10 * (k + 1), completion_tokens=k + 2))
                  for k, turn in enumerate(trajectory.turns))
    made = replace(made, trajectories=(replace(trajectory, turns=turns),))
    assert context_series(made) == (12, 23)
    short = replace(made, trajectories=(replace(trajectory, turns=turns[:1]),), stop=Stop("truncated"))
    broken: Episode = replace(made, stop=Stop("error"))
    assert peak_context([made, short, broken]) == (23 + 12) / 2
    with pytest.raises(BadInput, match="of 1 episodes none ended without an error"):
        peak_context([broken])


async def test_the_context_keeps_its_contract_and_says_nothing_without_a_limit() -> None:
    await check_context(ConstantState())
    history = [user("q"), assistant("<IS>1</IS>"), user("r1"), assistant("<IS>2</IS>"), user("r2")]
    endless = Desk(Log("e", {"main": BytePolicy()}), "agent", "main")
    view = await ConstantState().view(history, endless)
    assert [message.text for message in view.messages] == ["q", "<IS>2</IS>", "r2"]
    spent = Desk(Log("e", {"main": BytePolicy()}), "agent", "main", Budget(Limits(env_steps=9, model_calls=1)))
    assert (await ConstantState().view(history, spent)).messages[-1].text == "[last turn: answer now]"
    assert len((await ConstantState(hint=False).view(history, spent)).messages) == 3
