"""MEM1: an agent of constant size, whose next turn sees the question and its last turn alone.

In turn k the policy is shown the question q, its last internal state t_{k-1}, its last action r_{k-1} and what came of
it, i_{k-1}. It writes a new state ``<IS>...</IS>``, which has to carry over everything still needed, and then an
action: ``<search>...</search>`` or ``<answer>...</answer>``. The reward comes at the end, one point for each objective
answered rightly at its place; each turn is a sample of its own with the rollout's advantage:

    R = sum_n [answer_n matches objective n],   A = (R - mean R) / (std R + epsilon) over the group,
    loss = - 1/N sum_k sum_{x in t_k, r_k} A log p(x | q, t_{k-1}, r_{k-1}, i_{k-1}, x before it in turn k)

The paper trains all turns in one sequence under a two-dimensional mask. :func:`intended_mask` is what it describes,
:func:`official_mask` what its release computes; neither equals what the sampler saw (tests/methods/context/mem1_test.py
measures by how much), so here each turn is trained on exactly the prompt that it was sampled from, which the
learner's forest computes in one pass (:func:`packed` shows that layout as plain arrays).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np

from polyturn.advantages.group import group_standardised
from polyturn.arrays import BoolArray, Weighting, in_play
from polyturn.contexts.memory import Memory
from polyturn.desk import Desk
from polyturn.envs.composition import action, matched
from polyturn.errors import BadInput
from polyturn.learn.loop import Rule
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.paper import Paper
from polyturn.protocols import View
from polyturn.types import Episode, IntArray, Message, Seat, Trajectory, user

PAPER = Paper(
    title="MEM1: Learning to Synergize Memory and Reasoning for Efficient Long-Horizon Agents",
    arxiv="2506.15841",
    year=2025,
    claim="An agent that rewrites one internal state each turn and forgets the rest keeps its context of constant size "
          "over any number of objectives, and learns by the end reward alone what to carry over.",
    adds=("ConstantState: Context", "objective_reward", "intended_mask, official_mask, packed: layouts of pruned turns",
          "mem1_rule: Rule"),
    axes={
        "task": "agentic: question answering with many objectives, search",
        "method": "model: reinforcement learning; internal: state written by the policy",
        "challenge": "prompts that grow with every turn; length beyond what was trained",
    },
    deviations=(
        "Every turn is trained on the prompt that it was sampled from. The released mask hides the previous state that "
        "the rollout showed, and its positions count over the whole rollout; even the intended mask is only exact for "
        "two turns, since hidden states of kept tokens still hold what was dropped.",
        "Group-relative advantages (GRPO) in place of PPO with a critic; any advantage of polyturn.advantages fits.",
        "A missing answer is a reward of 0 and not a raised error; the answer is read from the reply and not from "
        "prompt and reply together, so the example in a prompt cannot be taken for it.",
        "The hint with the turns left is a message of its own after the result.",
        "Peak context is reported over all rollouts, not over those with an exact match.",
    ),
)
STATE: Final = re.compile(r"<IS>(.*?)</IS>", re.DOTALL)
QUESTION, THOUGHT, ACTION, RESULT = 0, 1, 2, 3
Kind = Literal["question", "state", "action", "result"]

# ---------------------------------------------------------------- the agent's view


@dataclass(frozen=True, slots=True)
class ConstantState:
    """The :class:`polyturn.protocols.Context` of MEM1: the question, the last turn whole, its result, and a hint.

    ``hint``: the turns that are left are said after each result, and in the last turn that it must answer; they are the
    environment steps of the seat's budget (or of its model calls, where those are fewer). Without such a limit there is
    nothing to say. A hint is shown and not kept.
    """

    first: int = 1
    hint: bool = True

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """Question, last turn, result, hint."""
        view = await Memory(self.first).view(history, desk)
        left = [count for count in (desk.left.env_steps, desk.left.model_calls) if count is not None]
        if not self.hint or not left:
            return view
        return View((*view.messages, user(hint_text(min(left)), origin="reminder")))


def hint_text(left: int) -> str:
    """What is said with ``left`` turns left, the present one included.

    >>> hint_text(3), hint_text(1)
    ('[2 turns left]', '[last turn: answer now]')
    """
    if left <= 1:
        return "[last turn: answer now]"
    return f"[{left - 1} turn{'s' if left > 2 else ''} left]"


def state_of(reply: str) -> str:
    """The internal state that a reply wrote; empty where it wrote none.

    >>> state_of("<IS> a ba </IS><search>e</search>")
    'a ba'
    """
    found = STATE.search(reply)
    return found[1].strip() if found else ""


# ---------------------------------------------------------------- reward


def objective_reward(reply: str, answers: Sequence[Sequence[str]]) -> float:
    """One point for each objective that the reply's ``<answer>`` has right at its place (exact match); 0 without an
    answer. No point for format.

    >>> objective_reward("<IS>x</IS><answer>ba; ke</answer>", [["ba"], ["de"]])
    1.0
    """
    kind, said = action(reply) or ("", "")
    return float(sum(matched(said, answers))) if kind == "answer" else 0.0


def mem1_rule(*, weighting: Weighting = token_mean, clip_low: float = 0.2, clip_high: float = 0.2) -> Rule:
    """How groups become a gradient: the end reward against the group's, on every token that a turn wrote; results and
    questions are no tokens of the policy."""
    return Rule(
        group_standardised, weighting, partial(policy_gradient, clip_low=clip_low, clip_high=clip_high),
        on_policy=True, proportional=True,
    )


# ---------------------------------------------------------------- constant memory


def context_series(episode: Episode, seat: Seat = "agent") -> tuple[int, ...]:
    """Tokens of the prompt and reply of each turn of a seat, in order: what was in memory when the turn ended."""
    found = []
    for trajectory in episode.trajectories:
        if trajectory.seat == seat:
            found += [(turn.at, turn.usage.prompt_tokens + turn.usage.completion_tokens)
                      for turn in in_play(trajectory)]
    return tuple(tokens for _, tokens in sorted(found))


def peak_context(episodes: Sequence[Episode], seat: Seat = "agent") -> float:
    """The mean over episodes of their largest context, in tokens; episodes that broke are left out.

    Raises: BadInput where none is left.
    """
    peaks = [max(series) for e in episodes if e.stop.kind != "error" and (series := context_series(e, seat))]
    if not peaks:
        raise BadInput(f"of {len(episodes)} episodes none ended without an error and with a turn of seat {seat!r}, so "
                       "there is no context to measure")
    return float(np.mean(peaks))


# ---------------------------------------------------------------- layouts of a pruned rollout


@dataclass(frozen=True, slots=True)
class Laid:
    """A rollout as one sequence in order: question, then state, action and result of each turn.

    ``Laid(ids=[1, 2, 7, 8, 9], kind=[0, 0, 1, 2, 3], turn=[0, 0, 0, 0, 0])``
    """

    ids: IntArray
    kind: IntArray
    """:data:`QUESTION`, :data:`THOUGHT` (the state), :data:`ACTION` or :data:`RESULT`, of each token."""
    turn: IntArray

    @property
    def trained(self) -> BoolArray:
        """The loss mask: what the policy wrote, states and actions."""
        trained: BoolArray = (self.kind == THOUGHT) | (self.kind == ACTION)
        return trained


def laid(question: Sequence[int], turns: Sequence[Mapping[Kind, Sequence[int]]]) -> Laid:
    """The sequence of a question and turns ``{"state": ids, "action": ids, "result": ids}``; what is left out is empty.

    >>> laid([1, 2], [{"state": [7], "action": [8], "result": [9]}, {"state": [5], "action": [6]}]).ids.tolist()
    [1, 2, 7, 8, 9, 5, 6]
    """
    names: tuple[Kind, ...] = ("state", "action", "result")
    parts = [(question, QUESTION, 0)]
    parts += [(turn.get(name, ()), code, t) for t, turn in enumerate(turns) for code, name in enumerate(names, 1)]
    columns = [np.concatenate([np.full(len(ids), value) for ids, *codes in parts for value in codes[which : which + 1]])
               for which in (0, 1)]
    ids = np.concatenate([np.asarray(ids, np.int32) for ids, _, _ in parts])
    return Laid(ids.astype(np.int32), columns[0].astype(np.int32), columns[1].astype(np.int32))


def intended_mask(one: Laid) -> BoolArray:
    """[T, T], True where the row's token may see the column's: what was in memory when it was written.

    A state or action sees the question, all of the turn before, and its own turn so far. A result is read in the next
    turn's prompt, with the question and its own turn. Causal throughout.
    """
    same, before = _turns(one)
    wrote = one.trained[:, None]
    seen = (one.kind == QUESTION)[None, :] | same | (wrote & before & (one.kind != QUESTION)[None, :])
    return _causal(seen)


def official_mask(one: Laid) -> BoolArray:
    """The mask of the release (MIT-MI/MEM1, attn_mask_utils.py): states and actions see the question, action and result
    of the turn before, but *not its state*; an action sees its own turn's state; results see only themselves."""
    same, before = _turns(one)
    row, column = one.kind[:, None], one.kind[None, :]
    block = same & (row == column)
    wrote = (row == THOUGHT) | (row == ACTION)
    seen = block | (wrote & (column == QUESTION)) | (wrote & before & ((column == ACTION) | (column == RESULT)))
    return _causal(seen | ((row == ACTION) & same & (column == THOUGHT)))


def _turns(one: Laid) -> tuple[BoolArray, BoolArray]:
    """[T, T]: same turn (a question is of no turn), and column's turn just before the row's."""
    turn = np.where(one.kind == QUESTION, -2, one.turn)
    return turn[:, None] == turn[None, :], turn[None, :] == turn[:, None] - 1


def _causal(seen: BoolArray) -> BoolArray:
    lower: BoolArray = np.tril(seen)
    return lower


def compact_position(one: Laid) -> IntArray:
    """The position of each token when it was first in memory, counted from 0 over what the sampler was shown then; in
    the released code positions count over the whole rollout instead.

    >>> compact_position(laid([1], [{"state": [2, 3], "result": [4]}, {"state": [5]}, {"state": [6]}])).tolist()
    [0, 1, 2, 3, 4, 2]
    """
    position = np.full(len(one.ids), -1, np.int32)
    for turn in range(int(one.turn.max(initial=-1)) + 2):
        shown = np.flatnonzero(_in_memory(one, turn))
        fresh = position[shown] < 0
        position[shown[fresh]] = np.flatnonzero(fresh)
    return position


def _in_memory(one: Laid, turn: int) -> BoolArray:
    """What turn ``turn`` was generated from, and what it wrote."""
    last = (one.kind != QUESTION) & (one.turn == turn - 1)
    memory: BoolArray = (one.kind == QUESTION) | last | ((one.turn == turn) & one.trained)
    return memory


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn as the sampler saw it: its pruned prompt and reply. ``Sample(ids=[1, 2, 7], trained=[False, False,
    True])``."""

    ids: IntArray
    trained: BoolArray


def samples(one: Laid) -> list[Sample]:
    """The turns of a rollout, each with its pruned prompt encoded afresh: the reference for every other layout."""
    found = []
    for turn in range(int(one.turn.max(initial=-1)) + 1):
        shown = np.flatnonzero(_in_memory(one, turn))
        found.append(Sample(one.ids[shown], (one.trained & (one.turn == turn))[shown]))
    return found


def played_samples(trajectory: Trajectory) -> list[Sample]:
    """The turns of a recorded trajectory, with exactly the ids that the model was fed and drew."""
    found = []
    for turn in in_play(trajectory):
        spans = [(trajectory.spans[index].ids, index in turn.spans) for index in trajectory.path(turn.spans[-1])]
        ids = np.concatenate([ids for ids, _ in spans]).astype(np.int32)
        found.append(Sample(ids, np.concatenate([np.full(len(ids), own) for ids, own in spans])))
    return found


@dataclass(frozen=True, slots=True)
class Packed:
    """Samples as one sequence without approximation: a block each, with copies of what it was shown."""

    ids: IntArray
    position: IntArray
    """From 0 in each block."""
    block: IntArray
    trained: BoolArray

    @property
    def mask(self) -> BoolArray:
        """[T, T]: causal within each block."""
        return _causal(self.block[:, None] == self.block[None, :])


def packed(given: Sequence[Sample]) -> Packed:
    """The samples side by side. The learner's forest is this layout with equal beginnings computed once."""
    sizes = [len(sample.ids) for sample in given]
    none = np.zeros(0, np.int32)
    return Packed(
        np.concatenate([none, *(sample.ids for sample in given)]).astype(np.int32),
        np.concatenate([none, *(np.arange(size) for size in sizes)]).astype(np.int32),
        np.repeat(np.arange(len(given)), sizes).astype(np.int32),
        np.concatenate([none.astype(np.bool_), *(sample.trained for sample in given)]),
    )
