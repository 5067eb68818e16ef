"""M-DPO and M-KTO: by hand, by slow twins, by what the theory says, on real trajectories."""

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
from torch import Tensor

from polyturn.arrays import Measured, Tokens, as_turns, lay_out
from polyturn.errors import BadInput
from polyturn.learn.learner import Learner
from polyturn.losses.learned import Learned, Loss
from polyturn.losses.weighting import group_mean, trajectory_mean
from polyturn.methods.learning.multi_turn_preference import (
    RightAndWrong,
    chosen_likelihood,
    chosen_tokens,
    is_clean,
    m_dpo,
    m_kto,
    mismatch_point,
    mismatched,
    preference,
    right_ones,
    whole_text,
)
from polyturn.testing import check_advantage, check_loss
from polyturn.types import Episode, Event, Message, Score, Span, Stop, Task, Trajectory, Turn, assistant, user
from tests.methods.learning import multi_turn_preference_slow as slow
from tests.methods.learning.multi_turn_preference_slow import Word
from tests.tiny import tiny_llama

# ---------------------------------------------------------------- made trajectories


def made(
    name: str, group: str, replies: Sequence[Sequence[int]], heard: Sequence[Sequence[int]], right: bool,
    prompt: Sequence[int] = (3, 4), **more: Any,
) -> Episode:
    """An episode whose replies have these ids, each answered by the ids heard (the last one by nothing)."""
    spans = [Span(-1, np.array(prompt, np.int32))]
    messages: list[Message] = [user("?" + name.rstrip("0123456789"))]
    turns = []
    for k, ids in enumerate(replies):
        spans.append(Span(len(spans) - 1, np.array(ids, np.int32), True, np.full(len(ids), -1.0)))
        messages.append(assistant(" ".join(map(str, ids))))
        shown = tuple(range(len(messages) - 1))
        turns.append(Turn(2 * k, "agent", "main", shown, len(messages) - 1, (len(spans) - 1,), step=k))
        if k < len(heard):
            spans.append(Span(len(spans) - 1, np.array(heard[k], np.int32)))
            messages.append(user(" ".join(map(str, heard[k]))))
    trajectory = Trajectory("agent", "main", messages=tuple(messages), turns=tuple(turns), spans=tuple(spans))
    score = {"score": {"agent": Score(float(right), success=right)}}
    return Episode(**{
        "id": name, "task": Task(group, "f"), "seed": 0, "group": group, "train": frozenset({"agent"}),
        "trajectories": (trajectory,), "scores": score, "stop": Stop("done"), **more,
    })


def pair() -> tuple[Episode, Episode]:
    """Right: [10 11] heard [20 21 22] then [12]. Wrong: [13] heard [23] then [14 15 16]."""
    return (made("right", "g", [[10, 11], [12]], [[20, 21, 22]], True),
            made("wrong", "g", [[13], [14, 15, 16]], [[23]], False))


def learned(
    tokens: Tokens, logprob: Sequence[float], reference: Sequence[float], weighting: Any = group_mean
) -> Learned:
    measured = Measured(np.array(logprob), np.array(reference))
    turns = as_turns(tokens, measured)
    advantage_N = preference(turns)[tokens.trajectory_N, tokens.turn_N]
    weight_N = weighting(turns, tokens)

    def number(values: Any, grad: bool = False) -> Tensor:
        return torch.tensor(np.array(values), dtype=torch.float64, requires_grad=grad)

    def index(values: Any) -> Tensor:
        return torch.tensor(np.array(values), dtype=torch.long)

    return Learned(
        number(logprob, True), number(logprob), number(logprob), number(advantage_N), number(weight_N),
        index(tokens.turn_N), index(tokens.trajectory_N), index(tokens.group_N), index(tokens.version_N),
        reference_N=number(reference),
    )


def value(loss: Loss, made: Learned) -> float:
    return float(loss(made)[0].detach())


def from_logits(tokens: Tokens, logits_UV: Tensor, reference_UV: Tensor, weighting: Any = group_mean) -> Learned:
    """The same from logits after every node of the tree."""
    before_N = torch.from_numpy(tokens.tree.parent_U[tokens.node_N].astype(np.int64))
    id_N = torch.from_numpy(tokens.id_N.astype(np.int64))[:, None]
    read = [torch.log_softmax(table_UV[before_N], -1).gather(1, id_N)[:, 0] for table_UV in (logits_UV, reference_UV)]
    made = learned(tokens, read[0].tolist(), read[1].tolist(), weighting)
    return replace(made, logprob_N=read[0])


# ---------------------------------------------------------------- (a) by hand

HALF, MORE, LESS = math.log(23), math.log(69), math.log(23 / 3)
"""Logits of one of 24 ids, the others at 0: 23 / (23 + 23) = 1/2, 69 / (69 + 23) = 3/4, (23/3) / (23/3 + 23) = 1/4."""
CHANCE = {11: MORE, 12: HALF, 14: LESS, 15: HALF, 16: HALF, 20: MORE, 21: LESS, 22: MORE, 23: MORE}


@pytest.mark.parametrize(("beta", "masked", "unmasked", "mixed"), [
    (0.1, 0.6075669, 0.6207685, 0.7191653), (0.5, 0.3423466, 0.3862174, 0.4539450),
])
def test_from_logits_to_losses_by_hand(beta: float, masked: float, unmasked: float, mixed: float) -> None:
    """With 1/2 under the reference an id's D is log(3/2), log(1/2) or 0. The first ids share the prompt's row: 10 has
    44 / (44 + 22 + 22) = 1/2 and 13 has 22 / 88 = 1/4, under the reference 11 / (11 + 11 + 22) = 1/4 both.

    u_right = log 2 + log(3/2) + 0 = log 3, u_wrong = 0 + log(1/2): log(1 + 6^-beta). What the calculator said adds
    log(9/4 * 1/2) to the right one and log(3/2) to the wrong one: gap log(3.375 / 0.75), log(1 + 4.5^-beta). The chosen
    words have 1/2, 3/4 and 1/2: a mean -log p of 0.5579922, of which a fifth is mixed in.
    """
    tokens = lay_out([pair()], "main")
    logits_UV, reference_UV = (torch.zeros(len(tokens.tree.id_U), 24, dtype=torch.float64) for _ in range(2))
    for node, token in enumerate(tokens.tree.id_U.tolist()):
        if token in CHANCE:
            logits_UV[tokens.tree.parent_U[node], token] = CHANCE[token]
            reference_UV[tokens.tree.parent_U[node], token] = HALF
    prompt = int(tokens.tree.parent_U[tokens.node_N[0]])
    logits_UV[prompt, 10], logits_UV[prompt, 13] = math.log(44), math.log(22)
    reference_UV[prompt, [10, 13]] = math.log(11)
    for each, expected in ((tokens, masked), (whole_text(tokens), unmasked)):
        assert value(m_dpo(beta=beta), from_logits(each, logits_UV, reference_UV)) == pytest.approx(expected, abs=1e-6)
    both = from_logits(tokens, logits_UV, reference_UV)
    assert value(m_dpo(beta=beta, nll=0.2, tokens=3.0), both) == pytest.approx(mixed, abs=1e-6)


LOGPROB, REFERENCE = [-1.0, -0.5, -2.0, -1.0, -1.5, -0.5, -3.0], [-1.5, -1.0, -2.5, -0.5, -1.0, -0.5, -2.0]
# u_right = 0.5 + 0.5 + 0.5 = 1.5; u_wrong = -0.5 - 0.5 + 0 - 1 = -2: the gap is 3.5.


@pytest.mark.parametrize(("beta", "expected"), [
    (0.1, 0.5333823),  # log(1 + exp(-0.35)) = log(1.7046881)
    (0.5, 0.1602242),  # log(1 + exp(-1.75)) = log(1.1737739)
])
def test_m_dpo_by_hand(beta: float, expected: float) -> None:
    tokens = lay_out([pair()], "main")
    assert tokens.id_N.tolist() == [10, 11, 12, 13, 14, 15, 16]  # the calculator's 20 to 23 are no part of it
    assert value(m_dpo(beta=beta), learned(tokens, LOGPROB, REFERENCE)) == pytest.approx(expected, abs=1e-6)


def test_the_nll_mix_by_hand() -> None:
    # mean over the chosen tokens: (1 + 0.5 + 2) / 3 = 1.1666667; 0.5333823 + 0.2 * 1.1666667 = 0.7667156
    made = learned(lay_out([pair()], "main"), LOGPROB, REFERENCE)
    assert value(m_dpo(beta=0.1, nll=0.2, tokens=3.0), made) == pytest.approx(0.7667156, abs=1e-6)


@pytest.mark.parametrize(("beta", "expected"), [
    # z = 0.5. right: u - z = 1; wrong: z - u = 2.5
    (0.1, 0.5 * (0.4750208 + 0.4378235)),  # 1 - sigmoid(0.1), 1 - sigmoid(0.25)
    (0.5, 0.5 * (0.3775407 + 0.2227001)),  # 1 - sigmoid(0.5), 1 - sigmoid(1.25)
])
def test_m_kto_by_hand(beta: float, expected: float) -> None:
    made = learned(lay_out([pair()], "main"), LOGPROB, REFERENCE, trajectory_mean)
    assert value(m_kto(z=0.5, beta=beta), made) == pytest.approx(expected, abs=1e-6)


def test_the_single_turn_value_by_hand() -> None:
    # With the calculator's words: +2 * 3 for 20, 21, 22 and +1 for 23: u_right = 1.5 + 6, u_wrong = -2 + 1: gap 8.5.
    # beta 0.1: log(1 + exp(-0.85)) = 0.3558651
    tokens = whole_text(lay_out([pair()], "main"))
    assert tokens.id_N.tolist() == [10, 11, 20, 21, 22, 12, 13, 23, 14, 15, 16]
    assert tokens.sampled_N.tolist() == [True] * 2 + [False] * 3 + [True] * 2 + [False] + [True] * 3
    assert tokens.turn_N.tolist() == [0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    more = [LOGPROB[0], LOGPROB[1], -1, -1, -1, LOGPROB[2], LOGPROB[3], -1, *LOGPROB[4:]]
    other = [REFERENCE[0], REFERENCE[1], -3, -3, -3, REFERENCE[2], REFERENCE[3], -2, *REFERENCE[4:]]
    assert value(m_dpo(beta=0.1), learned(tokens, more, other)) == pytest.approx(0.3558651, abs=1e-6)


def test_the_mismatched_point_by_hand() -> None:
    # Two prompts, one trajectory each. Behind the other's prompt: margins (0.5 + 0.25) and -0.25: mean 0.25.
    groups = [(made("a1", "a", [[10, 11]], [], True),), (made("b1", "b", [[12]], [], False, prompt=(5,)),)]
    tokens = mismatched(lay_out(groups, "main"))
    assert [tokens.tree.path(int(node)).tolist() for node in tokens.node_N] == [[5, 10], [5, 10, 11], [3, 4, 12]]
    measured = Measured(np.array([-1.0, -1.0, -1.0]), np.array([-1.5, -1.25, -0.75]))
    assert mismatch_point(tokens, measured) == pytest.approx(0.25)
    assert mismatch_point(tokens, replace(measured, old_N=np.full(3, -9.0))) == 0.0
    with pytest.raises(BadInput, match="needs reference_N"):
        mismatch_point(tokens, Measured(np.zeros(3)))


def test_mismatched_pairs_take_a_prompt_of_another_group_and_keep_what_was_heard() -> None:
    right, wrong = pair()
    other = made("other", "h", [[17]], [], True, prompt=(5, 6, 7))
    tokens = mismatched(lay_out([(right, wrong), (other,)], "main"))
    paths = {b: tokens.tree.path(int(tokens.node_N[tokens.trajectory_N == b][-1])).tolist() for b in range(3)}
    assert paths == {0: [5, 6, 7, 10, 11, 20, 21, 22, 12], 1: [5, 6, 7, 13, 23, 14, 15, 16], 2: [3, 4, 17]}
    assert tokens.id_N.tolist() == [10, 11, 12, 13, 14, 15, 16, 17]  # and only own words count
    with pytest.raises(BadInput, match="two or more groups"):
        mismatched(lay_out([(right, wrong)], "main"))


# ---------------------------------------------------------------- (b) slow twins


def drawn(seed: int) -> tuple[list[tuple[Episode, Episode]], list[tuple[list[Word], list[Word]]]]:
    """Random pairs, and the same as words with their probabilities."""
    draw = random.Random(seed)
    pairs, words = [], []
    for g in range(draw.randint(1, 4)):
        sides, spoken = [], []
        for side in (True, False):
            count = draw.randint(1, 3)
            replies = [[draw.randint(10, 60) for _ in range(draw.randint(1, 4))] for _ in range(count)]
            heard = [[draw.randint(10, 60) for _ in range(draw.randint(1, 3))] for _ in range(count - 1)]
            sides.append(made(f"{g}{side}", f"g{g}", replies, heard, side, prompt=(3, 60 + g)))
            row = []
            for k, ids in enumerate(replies):
                row += [Word(True, -draw.random() * 3, -draw.random() * 3) for _ in ids]
                answer = heard[k] if k < count - 1 else []
                row += [Word(False, -draw.random() * 3, -draw.random() * 3) for _ in answer]
            spoken.append(row)
        pairs.append((sides[0], sides[1]))
        words.append((spoken[0], spoken[1]))
    return pairs, words


def columns(words: list[tuple[list[Word], list[Word]]], masked: bool = True) -> tuple[list[float], list[float]]:
    flat = [word for one in words for side in one for word in side if word.mine or not masked]
    return [word.logprob for word in flat], [word.reference for word in flat]


def test_equal_their_slow_twins_on_a_thousand_batches() -> None:
    differs = 0
    for seed in range(1000):
        pairs, words = drawn(seed)
        draw = random.Random(-seed)
        beta, nll, z = draw.choice((0.1, 0.5, 1.0)), draw.choice((0.0, 0.3)), draw.choice((0.0, 0.7))
        tokens = lay_out(pairs, "main")
        made = learned(tokens, *columns(words))
        mean = chosen_tokens(made.advantage_N.numpy(), made.weight_N.numpy(), tokens.group_N)
        expected = slow.m_dpo(words, beta, nll=nll)
        assert value(m_dpo(beta=beta, nll=nll, tokens=mean), made) == pytest.approx(expected, rel=1e-9)
        differs += abs(slow.m_dpo(words, beta, nll=nll, mean=True) - expected) > 1e-3
        by_row = learned(tokens, *columns(words), trajectory_mean)
        sides = [(words_of, right) for one in words for words_of, right in zip(one, (True, False), strict=True)]
        assert value(m_kto(z=z, beta=beta, desirable=1.5, undesirable=0.5), by_row) == pytest.approx(
            slow.m_kto(sides, beta, z, 1.5, 0.5), rel=1e-9)
        whole = whole_text(tokens)
        assert value(m_dpo(beta=beta), learned(whole, *columns(words, masked=False))) == pytest.approx(
            slow.m_dpo(words, beta, masked=False), rel=1e-9)
    assert differs > 900  # margins as means over tokens are another loss


def test_the_mismatched_point_equals_its_slow_twin() -> None:
    differs = 0
    for seed in range(1000):
        pairs, words = drawn(seed)
        if len(pairs) == 1:
            continue
        tokens = mismatched(lay_out(pairs, "main"))
        logprob, reference = columns(words)
        found = mismatch_point(tokens, Measured(np.array(logprob), np.array(reference)))
        sides = [side for one in words for side in one]
        assert found == pytest.approx(slow.mismatch_point(sides))
        differs += found != pytest.approx(slow.mismatch_point(sides, by_token=True))
    assert differs > 250  # a mean over tokens in place of trajectories is another point


# ---------------------------------------------------------------- (c) the mask


def test_observations_do_not_matter_to_m_dpo_and_do_to_the_single_turn_loss() -> None:
    """The logits that predict the calculator's words: their gradient is exactly 0, and moving them changes nothing."""
    tokens = lay_out([pair()], "main")
    whole = whole_text(tokens)
    predicting = tokens.tree.parent_U[whole.node_N]
    own, heard = predicting[whole.sampled_N], predicting[~whole.sampled_N]
    draw, loss = torch.Generator().manual_seed(0), m_dpo(beta=0.5)
    logits_UV = torch.randn(len(tokens.tree.id_U), 30, generator=draw, dtype=torch.float64)
    moved_UV = logits_UV.clone()
    moved_UV[heard] += 3 * torch.randn(len(heard), 30, generator=draw, dtype=torch.float64)
    uniform_UV = torch.zeros_like(logits_UV)
    for each, matters in ((tokens, False), (whole, True)):
        table_UV = logits_UV.clone().requires_grad_()
        before, after = (loss(from_logits(each, table, uniform_UV))[0] for table in (table_UV, moved_UV))
        assert (float(before.detach()) != float(after.detach())) == matters
        (slope_UV,) = torch.autograd.grad(before, table_UV)
        assert bool((slope_UV[own] != 0).any(dim=1).all())
        assert bool((slope_UV[heard] == 0).all()) == (not matters)


def test_on_a_real_model_the_mask_changes_which_tokens_have_a_gradient_and_not_what_they_are() -> None:
    tokens = lay_out([pair()], "main")
    whole = whole_text(tokens)
    learner = Learner(tiny_llama(), lr=1e-3, reference="initial")
    own, all_words = learner.measure(tokens), learner.measure(whole)
    np.testing.assert_allclose(all_words.old_N[whole.sampled_N], own.old_N, atol=1e-12)
    assert len(all_words.old_N) == len(own.old_N) + 4


def test_paths_that_branch_are_refused() -> None:
    right, wrong = pair()
    trajectory = right.trajectories[0]
    spans = (*trajectory.spans[:3], replace(trajectory.spans[3], parent=0))  # turn 2 begins at the prompt again
    torn = replace(right, trajectories=(replace(trajectory, spans=spans),))
    for make in (whole_text, mismatched):
        with pytest.raises(BadInput, match="are not one path"):
            make(lay_out([(torn,), (replace(wrong, group="h"),)], "main"))


def test_the_mask_of_the_released_code_by_hand() -> None:
    # <bos> <start_of_turn> user \n Q <end_of_turn> \n <start_of_turn> model \n A B <end_of_turn> \n, then a tool's turn
    # as a user's, and the second reply.
    first, header, said, end = [2, 106, 1645, 108, 50, 107, 108], [106, 2516, 108], [10, 11], [107, 108]
    ids = [*first, *header, *said, *end, 106, 1645, 108, 20, 107, 108, *header, 12, *end]
    mask = slow.gemma_mask(ids)
    assert [i for i, keep in zip(ids, mask, strict=True) if keep] == [2, *header, *said, *end, *header, 12, *end]
    # By who wrote it: replies with their end of turn and no header, which the policy never chose.
    episode = made("gemma", "g", [[10, 11, 107], [12, 107]], [[108, 106, 1645, 108, 20, 107, 108, *header]], True,
                   prompt=[*first, *header])
    tokens = lay_out([(episode,)], "main")
    assert tokens.id_N.tolist() == [10, 11, 107, 12, 107]
    path = tokens.tree.path(int(tokens.node_N[-1])).tolist()
    assert path == ids[:-1]
    own = [int(depth) for depth in tokens.tree.depth_U()[tokens.node_N]]
    assert all(mask[place] for place in own) and not any(mask[place] for place, i in enumerate(path) if i == 20)


# ---------------------------------------------------------------- (d) conformance and the data


def test_conformance() -> None:
    check_advantage(preference)
    check_loss(m_dpo(beta=0.3))
    check_loss(m_dpo(beta=0.3, nll=0.5, tokens=4.0))
    check_loss(m_kto(z=0.3))
    check_loss(partial(chosen_likelihood, tokens=2.0))


def test_one_right_and_one_wrong_of_each_prompt() -> None:
    group = tuple(made(f"{'r' if k % 3 else 'w'}{k}", "g", [[10 + k], [40 + k]], [[5]], bool(k % 3)) for k in range(9))
    only_right = tuple(made(f"x{k}", "h", [[10 + k], [40]], [[5]], True) for k in range(3))
    found = RightAndWrong(0)([group, only_right])
    (one,) = found
    assert len(one) == 2 and one[0].scores["score"]["agent"].success and not one[1].scores["score"]["agent"].success
    names = {RightAndWrong(seed)([group])[0][0].id for seed in range(40)}
    assert names == {"r1", "r2", "r4", "r5", "r7", "r8"}  # every right one can be drawn
    assert [e.id for g in right_ones([group]) for e in g] == ["r1", "r2", "r4", "r5", "r7", "r8"]


def test_equal_texts_count_once() -> None:
    same = [made(f"r{k}", "g", [[10], [11]], [[5]], True) for k in range(5)]
    other = made("r9", "g", [[12], [11]], [[5]], True)
    assert len(right_ones([tuple([*same, other])])[0]) == 2
    wrong = made("w1", "g", [[13], [11]], [[5]], False)
    drawn = [RightAndWrong(seed)([tuple([*same, other, wrong])])[0][0].id for seed in range(60)]
    assert 15 <= drawn.count("r9") <= 45  # half of the draws, not a sixth


def test_what_may_not_be_of_a_pair() -> None:
    clean = made("a", "g", [[10], [11]], [[5]], True)
    assert is_clean(clean)
    assert not is_clean(made("a", "g", [[10]], [], True))  # answered without the tool
    assert not is_clean(replace(clean, events=(Event(1, "invalid", "agent"),)))
    trajectory = clean.trajectories[0]
    broken = replace(trajectory.messages[2], status="error")
    messages = (*trajectory.messages[:2], broken, *trajectory.messages[3:])
    assert not is_clean(replace(clean, trajectories=(replace(trajectory, messages=messages),)))
    # The released filter looks for the word: a right solution whose tool prints "error" stays here.
    prints = replace(trajectory.messages[2], parts=user("the error is 5").parts)
    messages = (*trajectory.messages[:2], prints, *trajectory.messages[3:])
    assert is_clean(replace(clean, trajectories=(replace(trajectory, messages=messages),)))
    abstained = replace(clean, scores={"score": {"agent": Score(None)}})
    failed = replace(clean, stop=Stop("error", "x"))
    assert RightAndWrong(0)([(abstained, failed)]) == [] and right_ones([(abstained, failed)]) == []


def test_a_pair_shares_its_prompt() -> None:
    right, wrong = pair()
    tokens = lay_out([(right, wrong)], "main")
    beginnings = {tuple(tokens.tree.path(int(tokens.node_N[tokens.trajectory_N == b][0]))[:-1]) for b in range(2)}
    assert beginnings == {(3, 4)}
