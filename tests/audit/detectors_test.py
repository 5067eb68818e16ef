"""Every silent fault, planted in the arithmetic or the data of a real step, is found by its detector and at its place.

Nothing here sets a mark: a planted run differs from the clean one in what was computed, and the record is what the
library writes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyturn.advantages.group import group_centred, group_standardised
from polyturn.advantages.returns import token_returns
from polyturn.advantages.turn import as_tokens
from polyturn.arrays import Tokens, Turns, in_play
from polyturn.audit.detectors import BY_UPDATE, LOOKS_FOR
from polyturn.forest.layout import pack
from polyturn.learn.gradient import Batch, Tally, accumulate, before
from polyturn.learn.loop import Rule
from polyturn.losses.learned import Learned, Loss
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.preference import dpo
from polyturn.losses.terms import Sum
from polyturn.losses.weighting import group_mean, token_mean
from polyturn.protocols import Completion
from polyturn.types import Episode, FloatArray, Group, Sampling, Score
from tests.audit.build import CLEAN, Share01, cut, trained, with_ids

# ---------------------------------------------------------------- advantages that are wrong


def masked_axis(turns: Turns) -> list[list[tuple[bool, float, int]]]:
    """Each trajectory as peers lay it out: observations and replies in one row of (trained, reward, turn)."""
    rows = []
    score_BK = turns.reward_BK()
    for b, source in enumerate(turns.tokens.trajectories):
        row: list[tuple[bool, float, int]] = []
        for k, turn in enumerate(in_play(source.trajectory)):
            row += [(False, 0.0, k)] * 2 + [(True, 0.0, k)] * int(turns.tokens_BK[b, k])
            row[-1] = (True, float(score_BK[b, k]), k)
            assert turn.spans
        rows.append(row)
    return rows


def reset_at_masked(turns: Turns, *, gamma: float = 0.9) -> FloatArray:
    """The discounted return of verl issue 6376: multiplied by the mask on its way back, so an observation ends it."""
    advantage_BK = np.zeros(turns.kept_BK.shape)
    for b, row in enumerate(masked_axis(turns)):
        later = 0.0
        for is_trained, reward, k in reversed(row):
            later = (reward + gamma * later) * is_trained
            if is_trained:
                advantage_BK[b, k] = later
    return advantage_BK - advantage_BK[turns.kept_BK].mean()


def on_the_last_position(turns: Turns) -> FloatArray:
    """The score stands on the last position of the row, which is the environment's last word where it has one, and is
    then masked: the return of those rows is 0."""
    advantage_BK = np.zeros(turns.kept_BK.shape)
    score_B = turns.reward_BK().sum(axis=1)
    for b, source in enumerate(turns.tokens.trajectories):
        ends_masked = len(in_play(source.trajectory)) < 3
        advantage_BK[b] = 0.0 if ends_masked else score_B[b]
    return advantage_BK


def twice(turns: Turns) -> FloatArray:
    """Standardised by group, and then once more over the tokens of the batch."""
    once_N = as_tokens(group_standardised(turns), turns)
    return (once_N - once_N.mean()) / (once_N.std() + 1e-8)


def over_turn_rows(turns: Turns) -> FloatArray:
    """Every turn is a training row with its rollout's score, and the group's mean is taken over rows."""
    score_B = turns.reward_BK().sum(axis=1)
    row_BK = np.where(turns.kept_BK, score_B[:, None], np.nan)
    advantage_BK = np.zeros(row_BK.shape)
    for group in np.unique(turns.group_B):
        here = turns.group_B == group
        advantage_BK[here] = row_BK[here] - np.nanmean(row_BK[here])
    return np.nan_to_num(advantage_BK)


def without_epsilon(turns: Turns) -> FloatArray:
    """Divided by the deviation as it is, however small."""
    score_B = turns.reward_BK().sum(axis=1)
    out_B = np.zeros(len(score_B))
    for group in np.unique(turns.group_B):
        here = turns.group_B == group
        out_B[here] = (score_B[here] - score_B[here].mean()) / max(score_B[here].std(), 1e-300)
    return np.where(turns.kept_BK, out_B[:, None], 0.0)


class Rounded(Share01):
    """One score for all, added up in another order for long replies."""

    def value(self, said: str) -> float:
        return (0.1 + 0.2) + 0.3 if len(said) % 2 else 0.1 + (0.2 + 0.3)


class Nothing(Share01):
    def value(self, said: str) -> float:
        return 0.0


class WholeTranscript:
    """Rewards a word wherever it stands in the dialogue (verl issue 6392); it stands in what the environment asks."""

    name = "score"

    async def __call__(self, groups: Sequence[Group]) -> Any:
        return {e.id: {"agent": Score(self.value(e))} for g in groups for e in g}

    def value(self, episode: Episode) -> float:
        text = "".join(m.text for t in episode.trajectories for m in t.messages)
        return float("say 2" in text)


# ---------------------------------------------------------------- weights, losses and data that are wrong


def without_the_end(turns: Turns, tokens: Tokens) -> FloatArray:
    """The last token of each turn is left out of the mask."""
    weight_N = token_mean(turns, tokens)
    last = np.append((np.diff(tokens.turn_N) != 0) | (np.diff(tokens.trajectory_N) != 0), True)
    return np.where(last, 0.0, weight_N)


def only_the_last(turns: Turns, tokens: Tokens) -> FloatArray:
    """A dialogue handed to a trainer that learns from its last reply."""
    last_B = turns.kept_BK.sum(axis=1) - 1
    return np.where(tokens.turn_N == last_B[tokens.trajectory_N], group_mean(turns, tokens), 0.0)


def averaged(learned: Learned) -> Any:
    """The mean over what the micro-batch holds."""
    term_N = -learned.advantage_N * learned.logprob_N
    return (term_N * (learned.weight_N != 0)).mean(), {}


def zeros(completion: Completion) -> Completion:
    assert completion.logprobs is not None
    return replace(completion, logprobs=np.zeros(len(completion.logprobs)))


def ones(completion: Completion) -> Completion:
    assert completion.logprobs is not None
    return replace(completion, logprobs=np.full(len(completion.logprobs), -1.0))


def with_what_was_said_next(completion: Completion) -> Completion:
    """A harness that hands back its whole transcript: after the reply stand the ids of the next question."""
    return with_ids(completion, [10, 256, 117, 115, 101, 114]) if completion.finish == "stop" else completion


def best_and_worst(groups: Sequence[Group]) -> Sequence[Group]:
    pairs = []
    for group in groups:
        ranked = sorted(group, key=lambda e: e.scores["score"]["agent"].value or 0.0)
        pairs.append((ranked[0], ranked[-1]))
    return pairs


def sign(turns: Turns) -> FloatArray:
    return np.where(turns.kept_BK, np.where(group_centred(turns) > 0, 1.0, -1.0), 0.0)


PREFERENCE = Rule(sign, group_mean, dpo, filters=(best_and_worst,))
NUCLEUS = Sampling(max_tokens=6, top_p=0.6)

PLANTED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "credit_reset": ("credit_reset", {"rule": Rule(reset_at_masked, token_mean, policy_gradient)}),
    "reward_on_a_masked_token": ("lost_reward", {"rule": Rule(on_the_last_position, token_mean, policy_gradient)}),
    "normalised_twice": ("normalised_twice", {"rule": Rule(twice, token_mean, policy_gradient)}),
    "rows_for_rollouts": ("rows_for_rollouts", {"rule": Rule(over_turn_rows, token_mean, policy_gradient)}),
    "noise": ("noise_in_equal_group", {"rule": Rule(without_epsilon, token_mean, policy_gradient),
                                       "verifier": Rounded()}),
    "all_equal": ("no_signal", {"verifier": Nothing(), "updates": 10}),
    "zeros": ("placeholder_logprob", {"change": zeros}),
    "constant": ("placeholder_logprob", {"change": ones}),
    "renormalised": ("renormalised_logprob", {"change": lambda c: replace(c, support=None), "sampling": NUCLEUS}),
    "end_outside_the_mask": ("untrained_end", {"rule": replace(CLEAN, weighting=without_the_end)}),
    "end_not_recorded": ("untrained_end", {"change": lambda c: cut(c, 1) if c.finish == "stop" else c}),
    "tool_output_as_tokens": ("beyond_end", {"change": with_what_was_said_next}),
    "tool_output_scored": ("borrowed_score", {"verifier": WholeTranscript()}),
    "single_turn_dpo": ("last_turn_only", {"rule": replace(PREFERENCE, weighting=only_the_last), "reference": True}),
    "mean_of_a_micro_batch": ("loss_depends_on_split", {"rule": replace(CLEAN, loss=averaged)}),
}
SOUND: Mapping[str, dict[str, Any]] = {
    "grpo": {},
    "discounted": {"rule": Rule(partial(token_returns, gamma=0.9), token_mean, policy_gradient)},
    "preference": {"rule": PREFERENCE, "reference": True},
    "nucleus": {"sampling": NUCLEUS},
    "on_policy": {"rule": replace(CLEAN, on_policy=True, proportional=True)},
}


@pytest.mark.parametrize("fault", PLANTED)
async def test_a_planted_fault_is_caught(tmp_path: Path, fault: str) -> None:
    name, parts = PLANTED[fault]
    report = await trained(tmp_path / "run", **parts)
    found = [each for each in report.faults if each.name == name]
    assert found, (report.faults, report.unchecked)
    assert found[0].reason and found[0].target["stage"] == "play" and report.updates >= 2


async def test_a_learner_that_averages_its_micro_batches_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradient accumulation as it was in transformers before issue 34198: each micro-batch divided by their number,
    whatever it holds."""
    def averaging(reader: Any, batch: Batch, loss: Loss, limit: int) -> Tally:
        passes = len(pack(batch.tokens.tree, before(batch.tokens), limit))
        assert passes > 1
        return accumulate(reader, batch, Sum((1 / passes, loss)), limit)

    monkeypatch.setattr("polyturn.learn.learner.accumulate", averaging)
    report = await trained(tmp_path / "run")
    assert {fault.name for fault in report.faults} == {"loss_depends_on_split"}
    assert report.checks["audit/split"] == 0 < report.checks["audit/accumulated"]


@pytest.mark.parametrize("kind", SOUND)
async def test_sound_rules_are_silent(tmp_path: Path, kind: str) -> None:
    report = await trained(tmp_path / "run", **SOUND[kind])
    assert report.faults == [] and report.unchecked == () and report.updates == 2
    assert report.signal["play"][0] < report.signal["play"][1]


def test_every_check_is_explained() -> None:
    assert set(BY_UPDATE) <= set(LOOKS_FOR) and all(LOOKS_FOR.values())
