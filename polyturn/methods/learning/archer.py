"""ArCHer: a critic of whole replies, learned from replay, teaches a policy of tokens.

    y_Qi = r + gamma (1 - d) V'_i(o_next)         y_Vi = Q'_i(o, a~),  a~ ~ pi(. | o) drawn at the update
    critic loss = sum over Q1, Q2, V1, V2 of mean (head - y)^2;   after each step  theta' = (1 - tau) theta' + tau theta
    actor: A = min(Q1, Q2)(o, a~) - min(V1, V2)(o);   loss = - mean over replies of A * sum over tokens log pi

Each head looks at its own twin: there is no min in the targets. ``Q`` learns from what was played, by whatever policy;
``V`` follows the present one. The critic is a second :class:`polyturn.learn.learner.Learner`; the actor answers stored
observations again (:class:`polyturn.envs.stored.Stored`), so that no environment is stepped for its updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from polyturn.arrays import Measured, Tokens, in_play
from polyturn.envs.stored import Stored
from polyturn.errors import BadInput, NotTrainable
from polyturn.learn.learner import Learner
from polyturn.losses.learned import Learned, Metrics
from polyturn.losses.terms import needed, of_unit, total, trained
from polyturn.paper import Paper
from polyturn.paths import path_tokens
from polyturn.protocols import Match, Player, Policy, Recorder, Verifier
from polyturn.rollout.pool import Pool, play
from polyturn.seeds import derive
from polyturn.types import Episode, FloatArray, IntArray, Seat, Trajectory

PAPER = Paper(
    title="ArCHer: Training Language Model Agents via Hierarchical Multi-Turn RL",
    arxiv="2402.19446",
    year=2024,
    claim="A value function over whole replies, learned off-policy from replay, gives a token policy its advantage, "
          "and needs far fewer steps of the environment than policy gradients from the return of a dialogue.",
    adds=("critic_loss, actor_loss: Loss", "Ring: replay", "answer_again: fresh replies at stored observations"),
    axes={"task": "conversation", "method": "model: reinforcement learning", "agent": "single",
          "challenge": "sample efficiency and credit over long dialogues"},
    deviations=(
        "One causal encoder reads the observation, then the reply; the paper encodes both apart and joins the vectors.",
        "The critic starts from random weights over the policy's own vocabulary, not from RoBERTa.",
        "A batch is one mean, so the step is what the learning rate says; the code adds micro-batches up undivided.",
        "Tokens are kept as sampled; the code tokenizes decoded text again. Contexts are not cut at 512 tokens.",
        "Fresh replies for one iteration's critic updates are drawn together: the policy stays the same meanwhile.",
    ),
)
HEADS = ("q1", "q2", "v1", "v2")
PROBE = 0
"""An id that stands behind a path so that something is predicted there; nothing reads which."""

# ---------------------------------------------------------------- replay


@dataclass(frozen=True, slots=True)
class Transition:
    """One reply of one episode: ``o`` and ``a`` as ids, what it was paid, and what was asked next (None = over)."""

    episode: Episode
    at: int
    """``Turn.at``."""
    prompt: IntArray
    reply: IntArray
    reward: float
    following: IntArray | None
    monte_carlo: float
    """The discounted sum of rewards from here on; ArCHer stores it and does not use it."""


def transitions(
    episode: Episode, *, seat: Seat = "agent", policy: str = "main", gamma: float = 0.95
) -> list[Transition]:
    """The replies of a seat in order. Rewards are all that its turns were paid. The end of an episode, by a cut too, is
    the end: what follows is worth 0, as in the paper's code.

    Raises: NotTrainable for a turn whose tokens are unknown.
    """
    trajectory = episode.trajectory(seat, policy)
    turns = [] if trajectory is None else in_play(trajectory)
    if trajectory is None or any(not turn.spans for turn in turns):
        raise NotTrainable(f"episode {episode.id} has no tokens of policy {policy!r} in seat {seat!r}")
    asked = [_ids(trajectory, trajectory.path(trajectory.spans[turn.spans[0]].parent)) for turn in turns]
    said = [_ids(trajectory, turn.spans) for turn in turns]
    paid = [float(sum(turn.rewards.values())) for turn in turns]
    returns = monte_carlo(paid, gamma=gamma)
    return [
        Transition(episode, turn.at, asked[k], said[k], paid[k], following, returns[k])
        for k, (turn, following) in enumerate(zip(turns, [*asked[1:], None], strict=True))
    ]


def _ids(trajectory: Trajectory, spans: Sequence[int]) -> IntArray:
    return np.concatenate([np.zeros(0, np.int32), *(trajectory.spans[index].ids for index in spans)]).astype(np.int32)


def monte_carlo(rewards: Sequence[float], *, gamma: float = 0.95) -> list[float]:
    """``G_k = r_k + gamma G_(k+1)``.

    >>> monte_carlo([-1.0, -1.0, 0.0], gamma=0.5)
    [-1.5, -1.0, 0.0]
    """
    found: list[float] = []
    for reward in reversed(rewards):
        found.append(reward + gamma * (found[-1] if found else 0.0))
    return found[::-1]


@dataclass
class Ring:
    """The newest ``capacity`` transitions, drawn uniformly with replacement."""

    capacity: int = 100_000
    rows: list[Transition] = field(default_factory=list)
    newest: int = 0
    """How many came with the last :meth:`add`."""

    def add(self, rows: Sequence[Transition]) -> None:
        """Appends; what is oldest falls out."""
        self.rows = [*self.rows, *rows][-self.capacity :]
        self.newest = min(len(rows), self.capacity)

    def draw(self, count: int, draws: np.random.Generator, *, replay: bool = True) -> list[Transition]:
        """``count`` transitions; without ``replay`` of those that came last. Raises: BadInput where there are none."""
        known = self.rows if replay else self.rows[len(self.rows) - self.newest :]
        if not known:
            raise BadInput("the replay ring is empty: play first")
        return [known[int(index)] for index in draws.integers(len(known), size=count)]


async def answer_again(
    rows: Sequence[Transition], policies: Mapping[str, Policy], player: Player, *, verifier: Verifier, seed: int,
    label: str, recorder: Recorder | None = None, iteration: int = 0, pool: Pool = Pool(),
) -> list[Episode]:
    """For each transition an episode of one turn: a fresh reply to the stored observation. No environment is stepped;
    ``parent`` names the stored turn. Raises: NotTrainable where a reply could not be drawn.
    """
    episodes = list({row.episode.id: row.episode for row in rows}.values())
    suite = Stored((), episodes, verifier=verifier, player=policies[player.policy].info())
    tasks = {task.id: task for task in suite.tasks("test")}
    seat = suite.spec.seats[0]
    matches = [
        Match(suite, tasks[f"{row.episode.id}#{row.at}"], {seat: player}, derive("again", seed, place),
              train=frozenset({seat}), iteration=iteration)
        for place, row in enumerate(rows)
    ]
    fresh = [group[0] for group in await play(matches, policies, label=label, recorder=recorder, pool=pool)]
    for episode in fresh:
        if episode.stop.kind == "error":
            raise NotTrainable(f"{episode.parent} could not be answered again: {episode.stop.reason}")
    return fresh


def reply_of(episode: Episode, *, seat: Seat = "agent", policy: str = "main") -> IntArray:
    """The ids of the first reply of an episode."""
    trajectory = episode.trajectory(seat, policy)
    if trajectory is None or not trajectory.turns or not trajectory.turns[0].spans:
        raise NotTrainable(f"episode {episode.id} has no tokens of policy {policy!r} in seat {seat!r}")
    return _ids(trajectory, trajectory.turns[0].spans)


# ---------------------------------------------------------------- the critic


def critic_heads(size: int, *, width: int = 64, seed: int = 0) -> dict[str, nn.Module]:
    """Four heads of three layers, each with its own random weights (equal twins would stay equal)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("archer heads", seed) % 2**31)
        return {
            name: nn.Sequential(
                nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
            for name in HEADS
        }


def states(prompts: Sequence[IntArray]) -> Tokens:
    """Where V is read: one token a prompt, behind it."""
    return path_tokens([np.append(prompt, PROBE) for prompt in prompts], [[len(prompt)] for prompt in prompts])


def replies(prompts: Sequence[IntArray], said: Sequence[IntArray]) -> Tokens:
    """Where V and Q are read: two tokens a reply, ``turn_N`` 0 behind the prompt (V) and 1 behind the reply (Q)."""
    pairs = list(zip(prompts, said, strict=True))
    paths = [np.concatenate([prompt, reply, [PROBE]]).astype(np.int32) for prompt, reply in pairs]
    return path_tokens(paths, [[len(prompt), len(prompt) + len(reply)] for prompt, reply in pairs])


def bellman(
    reward_R: FloatArray, value_R: Mapping[str, FloatArray], fresh_R: Mapping[str, FloatArray], *, gamma: float = 0.95
) -> dict[str, FloatArray]:
    """The four targets: ``q_i = r + gamma * value v_i of what follows`` (0 where it is over), ``v_i = fresh q_i``."""
    found = {f"q{i}": reward_R + gamma * value_R[f"v{i}"] for i in (1, 2)}
    return {**found, **{f"v{i}": np.array(fresh_R[f"q{i}"]) for i in (1, 2)}}


@of_unit("token")
def critic_loss(learned: Learned) -> tuple[Tensor, Metrics]:
    """``sum over heads of weight (head - target)^2`` where a head has a target; with weights 1 / replies the sum of the
    four means. Metrics: ``critic/<head>`` (squared errors, summed) and ``critic/count`` (targets)."""
    learned = trained(learned)
    loss, metrics = learned.logprob_N.new_zeros(()), {"critic/count": 0.0}
    for name in HEADS:
        target_N = needed(learned.targets.get(name), f"targets of {name}", "pass targets= to update").detach()
        has_N = ~torch.isnan(target_N)
        square_N = torch.where(has_N, learned.heads[name] - torch.nan_to_num(target_N), 0.0) ** 2
        loss = loss + (learned.weight_N.detach() * square_N).sum()
        metrics[f"critic/{name}"] = total(square_N)
        metrics["critic/count"] += total(has_N)
    return loss, metrics


def update_critic(
    critic: Learner, rows: Sequence[Transition], fresh: Sequence[IntArray], *, gamma: float = 0.95, tau: float = 0.1
) -> Metrics:
    """One step of the critic on these transitions, ``fresh[r]`` being a new reply of the present policy to row r; then
    its target copy follows by ``tau``. The critic was made with ``heads=critic_heads(...)``, ``reference="initial"``.
    """
    prompts = [row.prompt for row in rows]
    alive = [r for r, row in enumerate(rows) if row.following is not None]
    value_R = {name: np.zeros(len(rows)) for name in ("v1", "v2")}
    if alive:
        after = critic.values(states([f for row in rows if (f := row.following) is not None]), reference=True)
        for name, value in value_R.items():
            value[alive] = after[name]
    behind = replies(prompts, fresh)
    drawn = critic.values(behind, reference=True)
    fresh_R = {name: drawn[name][behind.turn_N == 1] for name in ("q1", "q2")}
    target_R = bellman(np.array([row.reward for row in rows]), value_R, fresh_R, gamma=gamma)
    tokens = replies(prompts, [row.reply for row in rows])
    targets = {name: np.full(len(tokens), np.nan) for name in HEADS}
    for name in HEADS:
        targets[name][tokens.turn_N == int(name[0] == "q")] = target_R[name]
    nothing_N = np.zeros(len(tokens))
    weight_N = np.full(len(tokens), 1 / len(rows))
    metrics = critic.update(tokens, Measured(nothing_N), nothing_N, weight_N, critic_loss, targets=targets)
    critic.renew_reference(tau)
    return {name: value for name, value in metrics.items() if name.startswith("critic/")}


def advantage(
    critic: Learner, prompts: Sequence[IntArray], said: Sequence[IntArray], *, baseline: bool = True
) -> FloatArray:
    """``A_R = min(Q1, Q2)(o, a) - min(V1, V2)(o)`` by the critic itself, not its target copy; not normalised. Without
    ``baseline`` the first term alone."""
    tokens = replies(prompts, said)
    value = critic.values(tokens)
    at_V, at_Q = tokens.turn_N == 0, tokens.turn_N == 1
    quality_R: FloatArray = np.minimum(value["q1"], value["q2"])[at_Q]
    return quality_R - np.minimum(value["v1"], value["v2"])[at_V] if baseline else quality_R


# ---------------------------------------------------------------- the actor


@of_unit("token")
def actor_loss(learned: Learned) -> tuple[Tensor, Metrics]:
    """``term = -A * logprob``: no ratio, no clip. With weights 1 / replies the mean over replies of the sum over their
    tokens. Metrics: ``actor/loss``, ``actor/logprob`` and ``actor/count`` (tokens)."""
    learned = trained(learned)
    loss = -(learned.weight_N.detach() * learned.advantage_N.detach() * learned.logprob_N).sum()
    return loss, {"actor/loss": total(loss), "actor/logprob": total(learned.logprob_N),
                  "actor/count": float(len(learned.weight_N))}


@of_unit("token")
def actor_loss_with_baseline(learned: Learned, *, longest: int) -> tuple[Tensor, Metrics]:
    """``term = -(A - b) * logprob + (A - b)^2 / longest``, b the head ``baseline``, constant in the first part.

    ``longest`` is the number of tokens of the batch's longest reply: the paper's code takes the mean of the squares
    over all positions of the padded batch. Metrics: ``actor/loss``, ``baseline/square``, ``actor/count``.
    """
    learned = trained(learned)
    if longest < 1:
        raise BadInput(f"longest is {longest}; expected at least 1")
    head_N = needed(learned.heads.get("baseline"), "the head 'baseline'", "make the learner with heads=('baseline',)")
    weight_N, advantage_N = learned.weight_N.detach(), learned.advantage_N.detach()
    actor = -(weight_N * (advantage_N - head_N.detach()) * learned.logprob_N).sum()
    square_N = (advantage_N - head_N) ** 2
    return actor + (weight_N * square_N).sum() / longest, {
        "actor/loss": total(actor), "baseline/square": total(square_N), "actor/count": float(len(weight_N))}
