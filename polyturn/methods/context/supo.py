"""SUPO: a policy that writes its own summaries when its context is full, and learns them from the task's reward.

A rollout that summarised I times is I + 1 plain trajectories, the *segments*: each begins with the prompt and the last
summary, and ends with the next summary as its final reply. The gradient of the return is the sum of theirs, so that a
summary is trained like any action. For a group of rollouts i with rewards R_i:

    A_i  = (R_i - mean R) / (std R + epsilon)              over rollouts, one vote each, however many segments
    loss = - 1/Z sum_i m_i sum_{k in i} min(r_k A_i, clip(r_k, 1 - low, 1 + high) A_i)

with k over the sampled tokens of all segments, r = exp(logprob - old), and m_i = 0 where the rollout was *overlong*: it
ended without an answer because the cap H on steps or the cap S on summaries was reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from polyturn.advantages.group import Scale, group_standardised
from polyturn.arrays import BoolArray, Tokens, Turns, in_play
from polyturn.contexts.summary import Summary
from polyturn.errors import BadInput
from polyturn.learn.loop import Rule
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import masked, token_mean
from polyturn.paper import Paper
from polyturn.types import FloatArray, IntArray, Sampling, Trajectory, Turn

PAPER = Paper(
    title="Scaling LLM Multi-turn RL with End-to-end Summarization-based Context Management",
    arxiv="2510.06727",
    year=2025,
    claim="An agent that writes summaries of its full context and learns them from the task's reward, in one policy "
          "gradient over all segments, beats one trained on a longer context.",
    adds=("supo_context: Context", "supo_advantage: Advantage", "supo_weight: Weighting", "supo_rule: Rule",
          "segments, as_rows: what a rollout is as plain training rows"),
    axes={
        "task": "agentic: long chains of tool calls",
        "method": "model: reinforcement learning; external: memory (summaries in text)",
        "challenge": "histories outgrow the context; what is kept must be learned, not engineered",
    },
    deviations=(
        "The paper does not say whether overlong rollouts count in the group statistics and in Z: both are options "
        "(statistics, denominator); they count in the statistics and not in Z by default.",
        "A rollout is laid out as one tree and not as I + 1 rows, so that what segments share is computed once; the "
        "loss is the same sum (tests/methods/context/supo_test.py).",
        "Where the only reply since the last summary overflows, it is summarised and not rolled back, for else the "
        "rollout would go round for ever.",
        "Clip range and prompt of the summary are not in what could be read: 0.2 either way, and a plain request.",
    ),
)
ASK = "Your context is full. Write down all that you need to go on; you will see the task and this alone."
Statistics = Literal["all", "finished"]
Denominator = Literal["trained", "all"]

# ---------------------------------------------------------------- context


def supo_context(
    limit: int, *, summaries: int | None = 7, ask: str = ASK, max_tokens: int = 256, policy: str | None = None
) -> Summary:
    """The context of a rollout: at most ``limit`` tokens are shown, at most ``summaries`` (S) are written; the pair of
    action and observation that overflowed is taken back first. ``policy`` = who writes them; None = the seat's own.

    Raises: BadInput for a limit below 1 or a negative S.
    """
    return Summary(
        limit, ask=ask, sampling=Sampling(max_tokens=max_tokens), roll_back=True, most=summaries, policy=policy
    )


# ---------------------------------------------------------------- credit


def overlong_B(turns: Turns) -> BoolArray:
    """True for the rows of a rollout that a cap or budget ended before it had answered; sub-seats go with their root.

    Read from how the rollout stopped: ``truncated`` or ``budget``, never from its score.
    """
    cut_B = np.isin(turns.stop_B, ("truncated", "budget"))
    overlong: BoolArray = cut_B[turns.root_B]
    return overlong


def supo_advantage(
    turns: Turns, *, statistics: Statistics = "all", scale: Scale = "population", epsilon: float = 1e-6
) -> FloatArray:
    """``advantage_BK = (R - mean R) / (std R + epsilon)`` over the rollouts of the group, on every turn, summaries too.

    ``statistics``: over "all" rollouts, or over those "finished" (the overlong ones then get 0). Raises: BadInput for
    another word.
    """
    if statistics not in ("all", "finished"):
        raise BadInput(f"statistics is {statistics!r}; expected 'all' or 'finished'")
    if statistics == "finished":
        turns = replace(turns, valid_B=turns.valid_B & ~overlong_B(turns))
    return group_standardised(turns, scale=scale, epsilon=epsilon)


def supo_weight(
    turns: Turns, tokens: Tokens, *, mask: bool = True, denominator: Denominator = "trained"
) -> FloatArray:
    """``weight_N = m / Z``: the overlong mask over a token count.

    ``denominator``: Z counts the tokens "trained" (those with m = 1), or "all" sampled ones of kept turns. Without
    ``mask`` m is 1 and both are :func:`polyturn.losses.weighting.token_mean`. Raises: BadInput for another word.
    """
    if denominator not in ("trained", "all"):
        raise BadInput(f"denominator is {denominator!r}; expected 'trained' or 'all'")
    if not mask:
        return token_mean(turns, tokens)
    keep_B = ~overlong_B(turns)
    if denominator == "all":
        return np.where(keep_B[tokens.trajectory_N], token_mean(turns, tokens), 0.0)
    return masked(turns, tokens, keep=lambda t: np.broadcast_to(keep_B[:, None], t.kept_BK.shape))


def supo_rule(
    *, mask: bool = True, statistics: Statistics = "all", denominator: Denominator = "trained",
    scale: Scale = "population", clip_low: float = 0.2, clip_high: float = 0.2,
) -> Rule:
    """How groups become a gradient: one update a batch, by the weights that wrote it."""
    return Rule(
        partial(supo_advantage, statistics=statistics, scale=scale),
        partial(supo_weight, mask=mask, denominator=denominator),
        partial(policy_gradient, clip_low=clip_low, clip_high=clip_high), on_policy=True, proportional=True,
    )


# ---------------------------------------------------------------- segments


@dataclass(frozen=True, slots=True)
class Row:
    """A segment as a plain training row: ``Row(ids=[5, 6, 7], trained=[False, False, True])``."""

    ids: IntArray
    trained: BoolArray
    """True for the tokens that this segment's turns sampled; the inserted summary is prompt here."""


def segments(trajectory: Trajectory) -> tuple[tuple[Turn, ...], ...]:
    """The turns of a rollout between its summaries, each summary the last turn of its segment; turns that were taken
    back belong to none. A last segment without a turn (a cap was hit right after a summary) is left out."""
    found: list[list[Turn]] = [[]]
    for turn in in_play(trajectory):
        if turn.dropped:
            continue
        found[-1].append(turn)
        if turn.purpose == "summary":
            found.append([])
    return tuple(tuple(turns) for turns in found if turns)


def as_rows(trajectory: Trajectory) -> tuple[Row, ...]:
    """A row for each segment: the path to its last token, on which its own turns stand.

    Raises: BadInput where a turn of the segment stands on another path (its reply was shown otherwise later).
    """
    return tuple(_row(trajectory, turns) for turns in segments(trajectory))


def _row(trajectory: Trajectory, turns: Sequence[Turn]) -> Row:
    path = trajectory.path(turns[-1].spans[-1])
    own = {index for turn in turns for index in turn.spans}
    if not own <= set(path):
        raise BadInput(f"turns of one segment of seat {trajectory.seat!r} stand on different paths, so they are no row")
    spans = [(trajectory.spans[index], index in own) for index in path]
    return Row(
        np.concatenate([span.ids for span, _ in spans]).astype(np.int32),
        np.concatenate([np.full(len(span.ids), trained) for span, trained in spans]),
    )
