"""M-DPO and M-KTO: preferences between whole trajectories, over the tokens that the policy wrote and no others.

With the KL penalty on actions only, and a tool whose answer is fixed by what was asked, the best policy satisfies

    r(tau) = eta * sum_h log(pi*(a_h | s_h) / pi_ref(a_h | s_h)) + const(prompt)

so the implicit reward of a trajectory is ``u = sum over action tokens of (log pi - log pi_ref)``: a sum, no mean, with
the tool's words masked. M-DPO: ``-log sigmoid(beta (u_right - u_wrong))``; M-KTO: ``1 - sigmoid(beta (u - z))`` for a
right trajectory, ``1 - sigmoid(beta (z - u))`` for a wrong one. Data are made in rounds by the policy itself; the
reference is the policy at the begin of the round, or stays the first one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from polyturn.arrays import Measured, Tokens, Tree, Turns
from polyturn.errors import BadInput
from polyturn.losses.learned import Learned, Loss, Metrics
from polyturn.losses.preference import dpo, kto
from polyturn.losses.terms import Sum, of_unit, segments, sum_by, total, trained
from polyturn.paper import Paper
from polyturn.paths import path_tokens
from polyturn.seeds import generator
from polyturn.types import Episode, FloatArray, Group, IntArray

PAPER = Paper(
    title="Building Math Agents with Multi-Turn Iterative Preference Learning",
    arxiv="2409.02392",
    year=2024,
    claim="Preference learning on trajectories with tool calls works once the tool's words are masked and the "
          "probabilities of all the policy's own turns are summed; in rounds it raises accuracy in mathematics.",
    adds=("right_and_wrong: Filter", "preference: Advantage", "m_dpo, m_kto: Loss", "mismatched, whole_text: Tokens"),
    axes={"task": "agentic: mathematics with tools", "method": "model: preference learning", "agent": "single",
          "challenge": "credit over turns that hold words the policy did not write"},
    deviations=(
        "All samples come from the present policy; the paper adds a third from the round before.",
        "The mask comes from who wrote each token, not from searching for the ids of a chat template.",
        "A tool's error is read from the status of its message, so that a solution that prints the word stays.",
        "Sizes: a generated calculator task and a model of 0.3 or 135 million parameters, not GSM8K and 7 billion.",
    ),
)

# ---------------------------------------------------------------- data: one right, one wrong


def is_clean(episode: Episode, *, turns: int = 2) -> bool:
    """Whether a trajectory may be one of a pair: at least ``turns`` turns, every reply a legal one, and what the last
    one answered was no error."""
    (trajectory,) = episode.trajectories
    last = trajectory.messages[trajectory.turns[-1].prompt[-1]]
    legal = not any(event.kind == "invalid" for event in episode.events)
    return len(trajectory.turns) >= turns and legal and last.status != "error"


def is_right(episode: Episode, verifier: str = "score") -> bool | None:
    """Whether the final answer was right; None where nobody knows."""
    score = next(iter(episode.scores.get(verifier, {}).values()), None)
    return None if score is None or score.value is None else bool(score.success)


@dataclass(frozen=True, slots=True)
class RightAndWrong:
    """A filter: of each group one right and one wrong trajectory, drawn at random; groups without both are left out.

    Trajectories of equal text count once. ``may(episode)`` says which may be drawn.
    """

    seed: int
    may: Callable[[Episode], bool] = is_clean

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        pairs = []
        for group in groups:
            texts: dict[tuple[str, ...], Episode] = {}
            for episode in group:
                if episode.stop.kind != "error" and is_right(episode) is not None and self.may(episode):
                    texts.setdefault(_text(episode), episode)
            sides = [[e for e in texts.values() if is_right(e) is side] for side in (True, False)]
            if all(sides):
                draws = generator("pair", self.seed, group[0].group)
                pairs.append(tuple(side[int(draws.integers(len(side)))] for side in sides))
        return pairs


def right_ones(groups: Sequence[Group], may: Callable[[Episode], bool] = is_clean) -> list[Group]:
    """Of each group the right trajectories of different texts: what filtered fine-tuning learns from."""
    kept = []
    for group in groups:
        texts = {_text(e): e for e in reversed(group) if e.stop.kind != "error" and is_right(e) and may(e)}
        if texts:
            kept.append(tuple(reversed(texts.values())))
    return kept


def _text(episode: Episode) -> tuple[str, ...]:
    return tuple(message.text for trajectory in episode.trajectories for message in trajectory.messages)


def preference(turns: Turns, *, channel: str = "score", right: float = 1.0) -> FloatArray:
    """``advantage_BK``: 1 on every turn of a trajectory whose score is at least ``right``, else -1."""
    score_B = turns.reward_BK((channel,)).sum(axis=1)
    sign_B = np.where(score_B >= right, 1.0, -1.0)
    return np.where(turns.kept_BK & turns.valid_B[:, None], sign_B[:, None], 0.0)


# ---------------------------------------------------------------- losses


@of_unit("group")
def chosen_likelihood(learned: Learned, *, tokens: float) -> tuple[Tensor, Metrics]:
    """``-logprob`` of the chosen trajectories, averaged over all their tokens of the batch.

    ``tokens``: trained tokens of chosen trajectories, on average over groups (:func:`chosen_tokens`); a constant of the
    batch. With ``weighting.group_mean`` the sum is the mean over the chosen tokens of all groups together, as the
    paper's code has it, and not the mean of the groups' means.
    """
    learned = trained(learned)
    if not 0 < tokens < math.inf:
        raise BadInput(f"tokens is {tokens}; expected a finite number > 0")
    group_N, count = segments(learned.group_N)
    weight_N = sum_by(learned.weight_N.detach(), group_N, count)[group_N]
    chosen_N = (learned.advantage_N.detach() > 0).to(weight_N.dtype)
    loss = -(weight_N * chosen_N * learned.logprob_N).sum() / tokens
    return loss, {"chosen/loss": total(loss), "chosen/count": total(chosen_N),
                  "chosen/logprob": total(chosen_N * learned.logprob_N)}


def chosen_tokens(advantage_N: FloatArray, weight_N: FloatArray, group_N: IntArray) -> float:
    """Trained tokens of chosen trajectories, on average over the groups that have trained tokens; at least 1."""
    groups = len(np.unique(group_N[weight_N != 0]))
    return max(1.0, float(((advantage_N > 0) & (weight_N != 0)).sum()) / max(groups, 1))


def m_dpo(*, beta: float = 0.1, nll: float = 0.0, tokens: float = 1.0) -> Loss:
    """The multi-turn DPO loss; with ``nll`` > 0 plus ``nll`` times the mean ``-logprob`` of the chosen tokens."""
    if nll < 0:
        raise BadInput(f"nll is {nll}; expected a number >= 0")
    plain = partial(dpo, beta=beta)
    return Sum((1.0, plain), (nll, partial(chosen_likelihood, tokens=tokens))) if nll else plain


def m_kto(*, z: float, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> Loss:
    """The multi-turn KTO loss at the reference point ``z`` (:func:`mismatch_point`)."""
    return partial(kto, beta=beta, desirable=desirable, undesirable=undesirable, reference_point=z)


def mismatch_point(tokens: Tokens, measured: Measured) -> float:
    """``z = max(0, mean over trajectories of sum(log pi - log pi_ref))`` of mismatched pairs.

    ``measured`` is what the learner read of ``mismatched(tokens)``: an estimate of how far the policy has moved from
    the reference, on replies that belong to other prompts. Raises: BadInput without a reference.
    """
    if measured.reference_N is None:
        raise BadInput("the reference point needs reference_N; give the learner a reference model and measure")
    rows = len(np.unique(tokens.trajectory_N))
    return max(0.0, float((measured.old_N - measured.reference_N).sum()) / max(rows, 1))


# ---------------------------------------------------------------- tokens


def mismatched(tokens: Tokens) -> Tokens:
    """Every trajectory's own words, and what answered them, behind the prompt of another group's trajectory.

    Trajectory b gets the prompt of the next trajectory that belongs to another group, going round; a prompt is what
    stands before the first trained token. Raises: BadInput for a batch of one group, or paths that branch.
    """
    group_B = np.array([source.group for source in tokens.trajectories])
    rows = [b for b in range(len(group_B)) if (tokens.trajectory_N == b).any()]
    paths, marks = [], []
    for place, b in enumerate(rows):
        others = [o for o in (*rows[place + 1:], *rows[:place]) if group_B[o] != group_B[b]]
        if not others:
            raise BadInput("mismatched pairs need prompts of two or more groups; make the batch larger")
        prompt = _path(tokens, others[0])[0]
        own, first, mine = _path(tokens, b)[1:]
        paths.append(np.concatenate([prompt, own]))
        marks.append([len(prompt) + place - first for place in mine])
    return path_tokens(paths, marks, temperature=float(tokens.temperature_N[0]) if len(tokens) else 1.0)


def _path(tokens: Tokens, b: int) -> tuple[IntArray, IntArray, int, list[int]]:
    """Of trajectory b: the prompt's ids, the ids from its first trained token on, where that stands, and where all
    trained tokens stand on the path. Raises: BadInput for tokens that are not on one path."""
    nodes = _nodes(tokens.tree, int(tokens.node_N[tokens.trajectory_N == b].max()))
    place = {node: depth for depth, node in enumerate(nodes)}
    mine = [place.get(node, -1) for node in tokens.node_N[tokens.trajectory_N == b].tolist()]
    if min(mine) < 1:
        raise BadInput(f"the turns of episode {tokens.trajectories[b].episode.id} are not one path; preferences "
                       "between trajectories need a context that keeps the whole history")
    ids = tokens.tree.id_U[nodes]
    first = min(mine)
    return ids[:first], ids[first:], first, mine


def _nodes(tree: Tree, node: int) -> list[int]:
    found = []
    while node >= 0:
        found.append(node)
        node = int(tree.parent_U[node])
    return found[::-1]


def whole_text(tokens: Tokens) -> Tokens:
    """The mask of a single-turn loss: all that follows the first prompt counts, the tool's words and the template's.

    For the baseline that takes a trajectory for one reply. Tokens that nobody sampled are marked so; they belong to the
    turn that follows them. Raises: BadInput for paths that branch.
    """
    columns: dict[str, list[float]] = {name: [] for name in _COLUMNS}
    support: dict[int, IntArray] = {}
    count = 0
    for b, source in enumerate(tokens.trajectories):
        own = {int(tokens.node_N[n]): int(n) for n in np.flatnonzero(tokens.trajectory_N == b)}
        if not own:
            continue
        _, ids, first, _ = _path(tokens, b)
        nodes = _nodes(tokens.tree, max(own))[first:]
        turn = int(tokens.turn_N[own[nodes[-1]]])
        rows: list[tuple[float, ...]] = []
        for place in range(len(ids) - 1, -1, -1):
            n = own.get(nodes[place])
            turn = turn if n is None else int(tokens.turn_N[n])
            read = (False, np.nan, 1.0, 0) if n is None else tuple(getattr(tokens, f"{name}_N")[n] for name in _READ)
            rows.append((nodes[place], *read, turn, b, source.group))
            if n is not None and n in tokens.support:
                support[count + place] = tokens.support[n]
        count += len(rows)
        for values in reversed(rows):
            for name, value in zip(_COLUMNS, values, strict=True):
                columns[name].append(value)
    arrays = {f"{n}_N": np.array(v, getattr(tokens, f"{n}_N").dtype) for n, v in columns.items()}
    return Tokens(tree=tokens.tree, trajectories=tokens.trajectories, end_B=tokens.end_B, support=support, **arrays)


_READ = ("sampled", "behavior", "temperature", "version")
_COLUMNS = ("node", *_READ, "turn", "trajectory", "group")
