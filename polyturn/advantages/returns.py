"""Credit over time: discounted returns and generalised advantage estimation (GAE), by turn and by token.

Time runs over what the policy itself did. Padding, observations and turns that were taken back are no steps of it:
they neither discount nor end a return, and what was paid at a dropped turn is handed to the last one kept before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polyturn.advantages.group import live_BK
from polyturn.arrays import BoolArray, Turns, in_play
from polyturn.errors import BadInput
from polyturn.told import tell
from polyturn.types import FloatArray, IntArray

# ---------------------------------------------------------------- accumulate


def gae(
    reward_BT: FloatArray, value_BT: FloatArray, live_BT: BoolArray, bootstrap_B: FloatArray, *, gamma: float,
    lambda_: float,
) -> FloatArray:
    """``A_t = delta_t + gamma lambda A_s`` with ``delta_t = r_t + gamma V_s - V_t``, where s is the next live step
    after t; after the last one A is 0 and V is ``bootstrap_B``. 0 where a step is not live.

    A reward at a step that is not live counts for the last live step before it (for none, if there is none). With
    values 0 and lambda 1 this is the discounted return.

    >>> gae(np.array([[0.0, 1.0]]), np.zeros((1, 2)), np.ones((1, 2), bool), np.zeros(1), gamma=0.5, lambda_=1.0)
    array([[0.5, 1. ]])
    """
    for name, rate in (("gamma", gamma), ("lambda_", lambda_)):
        if not 0 <= rate <= 1:
            raise BadInput(f"{name} is {rate}; expected a number in 0..1")
    advantage_BT = np.zeros(reward_BT.shape)
    next_B, value_B, owed_B = np.zeros(len(reward_BT)), bootstrap_B, np.zeros(len(reward_BT))
    for t in range(reward_BT.shape[1] - 1, -1, -1):
        live_B = live_BT[:, t]
        paid_B = reward_BT[:, t] + owed_B
        delta_B = paid_B + gamma * value_B - value_BT[:, t]
        next_B = np.where(live_B, delta_B + gamma * lambda_ * next_B, next_B)
        value_B = np.where(live_B, value_BT[:, t], value_B)
        owed_B = np.where(live_B, 0.0, paid_B)
        advantage_BT[:, t] = np.where(live_B, next_B, 0.0)
    return advantage_BT


# ---------------------------------------------------------------- inherit, in time


def served_BK(turns: Turns) -> IntArray:
    """Which turn of the root each turn served: the last kept one asked for before it in the same environment step or
    later; else the next; else the root's last. -1 where the root kept none. A root's turn serves itself."""
    served = np.tile(np.arange(turns.kept_BK.shape[1], dtype=np.int32), (len(turns.root_B), 1))
    for b in np.flatnonzero(turns.root_B != np.arange(len(turns.root_B))).tolist():
        root = int(turns.root_B[b])
        root_turns = in_play(turns.tokens.trajectories[root].trajectory)
        kept = [k for k, turn in enumerate(root_turns) if not turn.dropped]
        for k, turn in enumerate(in_play(turns.tokens.trajectories[b].trajectory)):
            later = [i for i in kept if root_turns[i].step >= turn.step]
            before = [i for i in later if root_turns[i].at <= turn.at]
            served[b, k] = (before[-1:] or later[:1] or kept[-1:] or [-1])[0]
    return served


def inherit_BK(value_BK: FloatArray, turns: Turns) -> FloatArray:
    """Each turn's value; for a sub-seat, the value of the root's turn that it served. 0 where there is no credit."""
    served = served_BK(turns)
    of_root_BK = value_BK[turns.root_B[:, None], served]
    own_BK = np.where(live_BK(turns) & (served >= 0), of_root_BK, 0.0)
    tell("inherit", "BK", own_BK, served=served)
    return own_BK


def rewards_BK(turns: Turns, channels: Sequence[str] = ("score",)) -> FloatArray:
    """What each turn was paid; a sub-seat's turn is paid what its root was paid from the turn that it served up to the
    one that its next turn served. Then a sub-seat's return is its root's from that turn on."""
    reward_BK = turns.reward_BK(channels)
    served = served_BK(turns)
    paid_BK = reward_BK.copy()
    for b in np.flatnonzero(turns.root_B != np.arange(len(turns.root_B))).tolist():
        count = len(in_play(turns.tokens.trajectories[b].trajectory))
        ends = [*served[b, 1:count].tolist(), reward_BK.shape[1]]
        paid_BK[b] = 0.0
        for k, (start, end) in enumerate(zip(served[b, :count].tolist(), ends, strict=True)):
            paid_BK[b, k] = reward_BK[turns.root_B[b], max(start, 0):max(end, 0)].sum()
    tell("channels", "BK", paid_BK, **{f"paid {name}": turns.reward_BK((name,)) for name in channels})
    return paid_BK


# ---------------------------------------------------------------- by turn


def returns_BK(turns: Turns, *, channels: Sequence[str] = ("score",), gamma: float = 1.0) -> FloatArray:
    """``G_k = r_k + gamma G_(k+1)`` by turn, with ``bootstrap_B`` after the last; an Advantage by itself.

    Stages: channels, inherit, accumulate (turns). 0 for turns that cannot have credit.
    """
    reward_BK = rewards_BK(turns, channels)
    out_BK = gae(reward_BK, np.zeros(reward_BK.shape), live_BK(turns), turns.bootstrap_B, gamma=gamma, lambda_=1.0)
    tell("accumulate", "BK", out_BK, gamma=gamma, unit="turn", paid=reward_BK)
    return out_BK


def turn_gae(
    turns: Turns, *, channels: Sequence[str] = ("score",), gamma: float = 1.0, lambda_: float = 1.0,
    head: str = "value",
) -> FloatArray:
    """``advantage_BK``: :func:`gae` over turns; a turn's value is read before its first token, and a turn of no tokens
    is no step. Stages: channels, inherit, accumulate (turns).

    Raises: BadInput where the learner measured no such head.
    """
    value_N = measured_head(turns, head)
    tokens = turns.tokens
    value_BK = np.zeros(turns.kept_BK.shape)
    place_N = tokens.trajectory_N.astype(np.int64) * turns.kept_BK.shape[1] + tokens.turn_N
    first, index = np.unique(place_N, return_index=True)
    value_BK.flat[first] = value_N[index]
    steps_BK = live_BK(turns) & (turns.tokens_BK > 0)
    reward_BK = rewards_BK(turns, channels)
    out_BK = gae(reward_BK, value_BK, steps_BK, turns.bootstrap_B, gamma=gamma, lambda_=lambda_)
    tell("accumulate", "BK", out_BK, gamma=gamma, lambda_=lambda_, unit="turn", paid=reward_BK, value=value_BK)
    return out_BK


# ---------------------------------------------------------------- by token


def token_gae(
    turns: Turns, *, channels: Sequence[str] = ("score",), gamma: float = 1.0, lambda_: float = 1.0,
    head: str = "value",
) -> FloatArray:
    """``advantage_N``: :func:`gae` over the trained tokens of each trajectory in time order, however many observation
    tokens stand between them; a turn is paid at its last token. Stages: channels, inherit, accumulate (tokens).

    Raises: BadInput where the learner measured no such head.
    """
    return _over_tokens(turns, measured_head(turns, head), channels, gamma, lambda_)


def token_returns(turns: Turns, *, channels: Sequence[str] = ("score",), gamma: float = 1.0) -> FloatArray:
    """The discounted return by token, with ``bootstrap_B`` after the last; needs no values. An Advantage by itself."""
    return _over_tokens(turns, np.zeros(len(turns.tokens)), channels, gamma, 1.0)


def value_target_N(
    turns: Turns, *, channels: Sequence[str] = ("score",), gamma: float = 1.0, lambda_: float = 1.0,
    head: str = "value",
) -> FloatArray:
    """What a value head learns: ``A_N + V_N``, the lambda-return by token; V itself where there is no credit."""
    value_N = measured_head(turns, head)
    return _over_tokens(turns, value_N, channels, gamma, lambda_) + value_N


def measured_head(turns: Turns, head: str) -> FloatArray:
    """``heads[head]`` of what the learner measured. Raises: BadInput where it is missing."""
    heads = {} if turns.measured is None else turns.measured.heads
    if head not in heads:
        raise BadInput(
            f"the learner measured no head {head!r} (it has: {', '.join(sorted(heads)) or 'none'}); give it one "
            f"(Learner(heads=({head!r},))) and pass what it measured to as_turns"
        )
    return heads[head]


def _over_tokens(
    turns: Turns, value_N: FloatArray, channels: Sequence[str], gamma: float, lambda_: float
) -> FloatArray:
    # One column per token and, after a turn's tokens, one that is no step and carries what the turn was paid: so a turn
    # of no tokens pays the token before it. Tokens stand in time order, row by row.
    row_N, turn_N = turns.tokens.trajectory_N, turns.tokens.turn_N
    pay_BK = np.cumsum(turns.tokens_BK + 1, axis=1) - 1
    count_B = turns.tokens_BK.sum(axis=1)
    column_N = np.arange(len(row_N)) - (np.cumsum(count_B) - count_B)[row_N] + turn_N
    shape = (len(pay_BK), int(pay_BK.max(initial=-1)) + 1)
    reward_BT, value_BT, live_BT = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.bool_)
    reward_BT[np.arange(len(pay_BK))[:, None], pay_BK] = rewards_BK(turns, channels)
    value_BT[row_N, column_N] = value_N
    live_BT[row_N, column_N] = live_BK(turns)[row_N, turn_N]
    advantage_BT = gae(reward_BT, value_BT, live_BT, turns.bootstrap_B, gamma=gamma, lambda_=lambda_)
    advantage_N: FloatArray = advantage_BT[row_N, column_N]
    tell("accumulate", "N", advantage_N, gamma=gamma, lambda_=lambda_, unit="token", value=value_N)
    return advantage_N
