"""IGPO: each turn of a search agent is paid by how much it raised the model's own belief in the true answer.

Claim (arXiv 2510.14967): rewarding every turn by its information gain, beside the outcome at the end, gives a dense
signal where whole groups fail alike, and does not reward a useless search in a rollout that won. With the true answer
``a = a_1 .. a_L``, read with the weights that played:

    p_t = exp(1/L sum_j log pi(a_j | what stands before turn t + 1, "answer:", a_<j)),    t = 0 .. T - 1;
    r_t = p_t - p_(t-1) for t < T (or log p_t - log p_(t-1)),    r_T = F1 of the answer given, -2 where there is none;
    A_t = (r_t - mean) / std in the group, gains and outcomes together ("joint") or each by themselves ("separate");
    A~_t = sum over k >= t of gamma^(k-t) A_k, on every token of turn t.

The beliefs are read on continuations that were never played; the episode stays as it is. They are constants.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from polyturn.advantages.group import EQUAL, counted_B, keys_B, live_BK, total_B
from polyturn.advantages.returns import inherit_BK
from polyturn.arrays import BoolArray, Turns, in_play
from polyturn.chat import Chat
from polyturn.errors import BadInput, NotTrainable, UnknownName
from polyturn.paper import Paper
from polyturn.protocols import Scores, Scoring
from polyturn.types import Episode, FloatArray, Group, IntArray, Score, Seat, Trajectory, Turn

PAPER = Paper(
    title="Information Gain-based Policy Optimization: A Simple and Effective Approach for Multi-Turn LLM Agents",
    arxiv="2510.14967", year=2025,
    claim="Paying each turn by how much it raised the model's belief in the true answer gives search agents a signal "
          "where whole groups fail alike.",
    adds=("Beliefs: Verifier", "Outcome: Verifier", "information_gain: Advantage", "snapshot: Advantage"),
    axes={
        "task": "agentic: search and question answering",
        "method": "model: reinforcement learning; external: retrieval",
        "challenge": "sparse outcome rewards over many turns",
    },
    deviations=(
        "The forced continuation is 'answer:' and the true answer, the way in which the search environment is answered;"
        " the released code writes a closing sentence and tags.",
        "The answer's tokens are its own, whatever stands before them; the released code counts them off in one text, "
        "as if no token could span the border.",
        "Gains stand on the turns that earned them; the released code finds these again by splitting text, and drops "
        "all gains of a rollout where the numbers differ.",
        "A turn whose gain is exactly 0 takes the credit of the next turn that counts, undiscounted.",
        "Equal values have an advantage of exactly 0.",
        "The default is 'separate', against outcomes drowned by gains.",
    ),
)

Pool: TypeAlias = Literal["separate", "joint"]
Zero: TypeAlias = Literal["drop", "keep"]
BEFORE = "answer:"
GAIN, LOG_GAIN, OUTCOME = "belief/gain", "belief/log_gain", "outcome"

# ---------------------------------------------------------------- beliefs


@dataclass(slots=True)
class Beliefs:
    """A :class:`polyturn.protocols.Verifier` that reads ``p_0 .. p_(T-1)`` of each episode with the scorer's present
    weights, which must be those that played: give it to a stage as one of its own verifiers.

    ``Score.value`` is the last belief, ``parts`` hold all of them (``p0``, ``p1`` ...), ``turns`` the channels ``gain``
    and ``log_gain`` of every kept turn but the last. A seat that said nothing abstains.
    """

    scorer: Scoring
    chat: Chat
    truth: Callable[[Episode], str]
    """The true answer; of several, one."""
    before: str = BEFORE
    """What is written before the answer, as the policy itself would write it."""
    seat: Seat = "agent"
    policy: str = "main"
    name: str = "belief"

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        """Episode id -> seat -> score. Raises: NotTrainable for a turn whose tokens are unknown."""
        episodes = [episode for group in groups for episode in group]
        rows = [(e, t, kept(t)) for e in episodes if (t := e.trajectory(self.seat, self.policy)) is not None]
        prompts = [prompt_of(episode, trajectory, turn) for episode, trajectory, row in rows for turn in row]
        truths = [self.truth(episode) for episode, _, row in rows for _ in row]
        found = iter(await beliefs(self.scorer, self.chat, prompts, truths, before=self.before))
        scores: dict[str, dict[Seat, Score]] = {episode.id: {self.seat: Score(None)} for episode in episodes}
        for episode, _, row in rows:
            if row:
                scores[episode.id] = {self.seat: gains(row, [next(found) for _ in row])}
        return scores


def kept(trajectory: Trajectory) -> list[Turn]:
    """The turns of real play that no context took back, in their order."""
    return [turn for turn in in_play(trajectory) if not turn.dropped]


def prompt_of(episode: Episode, trajectory: Trajectory, turn: Turn) -> IntArray:
    """The very ids that the model was fed for a turn. Raises: NotTrainable where they are unknown."""
    if not turn.spans:
        raise NotTrainable(f"episode {episode.id}, turn at {turn.at}: policy {turn.policy!r} gave no tokens, so "
                           "nothing can be read after them")
    path = trajectory.path(trajectory.spans[turn.spans[0]].parent)
    return np.concatenate([np.zeros(0, np.int32), *(trajectory.spans[span].ids for span in path)]).astype(np.int32)


async def beliefs(
    scorer: Scoring, chat: Chat, prompts: Sequence[IntArray], truths: Sequence[str], *, before: str = BEFORE
) -> list[float]:
    """Per prompt, ``exp`` of the mean log-probability of the true answer's ids after the prompt and ``before``.

    Raises: BadInput for an answer that is empty.
    """
    paths, lengths = [], []
    for prompt, truth in zip(prompts, truths, strict=True):
        if not truth.strip():
            raise BadInput("a true answer is empty; there is nothing to believe in")
        opening, answer = chat.forced((before, f" {truth.strip()}"))
        paths.append(np.concatenate([prompt, opening, answer]).astype(np.int32))
        lengths.append(len(answer))
    logprobs = await scorer.logprobs(paths)
    return [float(np.exp(row[-length:].mean())) for row, length in zip(logprobs, lengths, strict=True)]


def gains(turns: Sequence[Turn], belief: Sequence[float]) -> Score:
    """The score that these beliefs make: ``belief[t]`` was read before ``turns[t]``."""
    paid = {}
    for turn, old, new in zip(turns[:-1], belief[:-1], belief[1:], strict=True):
        tiny = np.finfo(np.float64).tiny
        log_gain = float(np.log(max(new, tiny)) - np.log(max(old, tiny)))
        paid[turn.at] = {"gain": new - old, "log_gain": log_gain}
    return Score(belief[-1], parts={f"p{t}": value for t, value in enumerate(belief)}, turns=paid)


def silent_groups(groups: Sequence[Group], channel: str = "gain", name: str = "belief") -> float:
    """The share of groups in which no turn has a gain other than 0: what then teaches is the outcome alone."""
    spoke = [
        any(values.get(channel, 0.0) != 0 for episode in group for score in episode.scores.get(name, {}).values()
            for values in score.turns.values())
        for group in groups
    ]
    return 1 - sum(spoke) / len(spoke) if spoke else 0.0


# ---------------------------------------------------------------- the outcome


@dataclass(slots=True)
class Outcome:
    """A :class:`polyturn.protocols.Verifier`: :func:`token_f1` of the answer given, ``malformed`` where there is none.

    ``parts["f1"]`` is the same without the penalty. Abstains where the final state could not be read.
    """

    said: Callable[[Episode], str | None]
    truths: Callable[[Episode], Sequence[str]]
    malformed: float = -2.0
    seat: Seat = "agent"
    name: str = OUTCOME

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        """Episode id -> seat -> score."""
        return {episode.id: {self.seat: self._score(episode)} for group in groups for episode in group}

    def _score(self, episode: Episode) -> Score:
        if episode.final is None:
            return Score(None)
        said = self.said(episode)
        if said is None or not said.strip():
            return Score(self.malformed, success=False, parts={"f1": 0.0})
        value = token_f1(said, self.truths(episode))
        return Score(value, success=value == 1, parts={"f1": value})


def token_f1(said: str, truths: Sequence[str]) -> float:
    """The best F1 of the answer with one of the true ones, over sets of words: a word said twice counts once. Case,
    punctuation and articles do not count. Raises: BadInput for no true answers.

    >>> token_f1("The river Ovenna, Ovenna!", ["Ovenna"])
    0.6666666666666666
    """
    if not truths:
        raise BadInput("there is no true answer to compare with")
    return max(_f1(_words(said), _words(truth)) for truth in truths)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.sub(r"[^\w\s]", "", text.lower()).split()) - {"a", "an", "the"}


def _f1(said: frozenset[str], truth: frozenset[str]) -> float:
    both = len(said & truth)
    return 2 * both / (len(said) + len(truth)) if both else 0.0


# ---------------------------------------------------------------- credit


def information_gain(
    turns: Turns, *, gain: str = GAIN, outcome: str = OUTCOME, pool: Pool = "separate", gamma: float = 1.0,
    zero: Zero = "drop", epsilon: float = 1e-6,
) -> FloatArray:
    """``advantage_BK``: channels, normalise (unit: turn; within group and seat, over root trajectories), accumulate
    (turns, gamma), inherit.

    What counts: each kept turn that has a gain (with ``zero`` "drop", one other than exactly 0), and each rollout's
    outcome on its last kept turn. ``std = sqrt(population variance + 1e-8)``; a value alone has the advantage 0. A turn
    that does not count takes the sum of the next one that does. Raises: BadInput for an unknown channel or gamma out of
    0..1, UnknownName for another rule.
    """
    check_rules(pool, zero, gamma)
    paid_BK, has_gain_BK, last_BK = rewards(turns, gain, outcome)
    if zero == "drop":
        has_gain_BK &= paid_BK != 0
    group_BK = np.broadcast_to(keys_B(turns, ("group", "seat"))[:, None], paid_BK.shape)
    counts_BK = has_gain_BK | last_BK
    normal_BK = np.zeros(paid_BK.shape)
    for chosen_BK in (counts_BK,) if pool == "joint" else (has_gain_BK, last_BK):
        normal_BK[chosen_BK] = standardised(paid_BK[chosen_BK], group_BK[chosen_BK], epsilon)
    return inherit_BK(accumulated(normal_BK, counts_BK, gamma), turns)


def check_rules(pool: str, zero: str, gamma: float) -> None:
    """Nothing for known rules. Raises: UnknownName, BadInput."""
    if pool not in ("separate", "joint"):
        raise UnknownName("pool", pool, ("separate", "joint"))
    if zero not in ("drop", "keep"):
        raise UnknownName("rule for gains of 0", zero, ("drop", "keep"))
    if not 0 <= gamma <= 1:
        raise BadInput(f"gamma is {gamma}; expected a number in 0..1")


def rewards(turns: Turns, gain: str, outcome: str) -> tuple[FloatArray, BoolArray, BoolArray]:
    """What each turn of a scored root was paid, which turns have a gain, and which are last and have the outcome.

    A gain channel may be missing where every rollout had one turn; its verifier's own channel may not.
    """
    owner = gain.partition("/")[0]
    outcome_B = total_B(turns, (outcome,))
    turns.reward_BK((owner,))
    gain_BK = turns.reward_CBK[turns.channels.index(gain)] if gain in turns.channels else np.full(
        turns.kept_BK.shape, np.nan)
    own_BK = live_BK(turns) & counted_B(turns)[:, None]
    place_BK = np.where(own_BK, np.arange(own_BK.shape[1]), -1)
    last_BK = own_BK & (place_BK == place_BK.max(axis=1, initial=-1)[:, None])
    has_gain_BK = own_BK & ~last_BK & ~np.isnan(gain_BK)
    paid_BK = np.where(last_BK, outcome_B[:, None], np.where(has_gain_BK, gain_BK, 0.0))
    return paid_BK, has_gain_BK, last_BK


def standardised(value_I: FloatArray, group_I: IntArray, epsilon: float = 1e-6) -> FloatArray:
    """``(v - mean) / (sqrt(variance + 1e-8) + epsilon)`` within each group; exactly 0 where its values are equal."""
    out_I = np.zeros(len(value_I))
    for group in np.unique(group_I).tolist():
        mine_I = group_I == group
        values = value_I[mine_I]
        if np.ptp(values) > EQUAL * np.abs(values).max():
            out_I[mine_I] = (values - values.mean()) / (np.sqrt(values.var() + 1e-8) + epsilon)
    return out_I


def accumulated(value_BK: FloatArray, counts_BK: BoolArray, gamma: float) -> FloatArray:
    """``S_k = v_k + gamma S_next`` over the turns that count; another turn takes the next one's S as it is."""
    sum_BK, next_B = np.zeros(value_BK.shape), np.zeros(len(value_BK))
    for k in range(value_BK.shape[1] - 1, -1, -1):
        next_B = np.where(counts_BK[:, k], value_BK[:, k] + gamma * next_B, next_B)
        sum_BK[:, k] = next_B
    return sum_BK


def snapshot(turns: Turns, *, gain: str = GAIN, outcome: str = OUTCOME) -> FloatArray:
    """``advantage_N`` as the first released code computes it, for comparison (its authors have withdrawn it): each
    turn's own reward, without normalisation and without credit across a tool result, less the group's mean at the same
    token column, whichever turns stand there.

    Columns count from the first reply's first token, tool results included; where a rollout is over or a tool stands
    it has 0, but the last column before a reply already has that reply's reward.
    """
    paid_BK, _, _ = rewards(turns, gain, outcome)
    tokens = turns.tokens
    row_N, key_B = tokens.trajectory_N, keys_B(turns, ("group", "seat"))
    depth_N = tokens.tree.depth_U()[tokens.node_N]
    first_B = np.full(len(turns.root_B), np.iinfo(np.int64).max)
    np.minimum.at(first_B, row_N, depth_N)
    column_N = depth_N - first_B[row_N] + 1
    reward_N = paid_BK[row_N, tokens.turn_N]
    starts_N = np.append(True, (np.diff(row_N) != 0) | (np.diff(tokens.turn_N) != 0))[: len(tokens)]
    width = int(column_N.max(initial=0)) + 1
    sum_JT = np.zeros((int(key_B.max(initial=0)) + 1, width))
    counts_N = counted_B(turns)[row_N]
    np.add.at(sum_JT, (key_B[row_N[counts_N]], column_N[counts_N]), reward_N[counts_N])
    leaks_N = counts_N & starts_N & (column_N > 1)
    np.add.at(sum_JT, (key_B[row_N[leaks_N]], column_N[leaks_N] - 1), reward_N[leaks_N])
    size_J = np.maximum(np.bincount(key_B[counted_B(turns)], minlength=len(sum_JT)), 1)
    credit_N = reward_N - (sum_JT / size_J[:, None])[key_B[row_N], column_N]
    return np.where(live_BK(turns)[row_N, tokens.turn_N] & counts_N, credit_N, 0.0)
