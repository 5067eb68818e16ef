"""DART: decoupled training, and data chosen by how hard each task is at the moment.

Claim (arXiv 2509.23866): with environments, sampling, data and learner as parts that never wait for each other, and
with rollout numbers, lengths, stored successes, high-entropy steps and truncated weights chosen from what was seen,
agents that act over many slow steps learn from far fewer of them. Every step of a trajectory is one sample that copies
its reward R; with D all steps of a group

    A = (R - mean_D R) / std_D R           w = min(pi_train_old / pi_rollout, C), C = 1, by token, constant
    J = E[ 1[H_step >= quantile_0.2(H of D)] (w min(rho A, clip(rho, 1 - low, 1 + high) A) - beta KL(pi || pi_ref)) ]

The scheduler is core (:mod:`polyturn.learn.decoupled`); here stand the curation and the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import floor
from typing import Any, Literal

import numpy as np

from polyturn.advantages.group import broadcast_BK, inherit_B, keys_B, live_BK, normalise_BK, total_B
from polyturn.arrays import BoolArray, Tokens, Turns, Weighting
from polyturn.errors import BadInput, UnknownName
from polyturn.learn.curriculum import restore_into, state_of, steps_of
from polyturn.learn.decoupled.schedule import oldest_version
from polyturn.learn.loop import Rule
from polyturn.losses.learned import Loss
from polyturn.losses.policy_gradient import policy_gradient, policy_gradient_by_turn
from polyturn.losses.regularize import kl
from polyturn.losses.terms import Sum
from polyturn.losses.weighting import token_mean, turn_mean
from polyturn.paper import Paper
from polyturn.protocols import Curriculum, Filter, Match
from polyturn.record.shape import shape_of
from polyturn.rollout.pool import without_errors
from polyturn.seeds import generator
from polyturn.types import Episode, FloatArray, Group, Limits

PAPER = Paper(
    title="DART: Efficient Multi-turn RL for GUI Agents via Decoupled Training and Adaptive Data Curation",
    arxiv="2509.23866", year=2025,
    claim="Environments that go on while the learner works, and data chosen by what each task still teaches, let "
          "agents learn from slow environments, also tasks that they never solve themselves.",
    adds=("AdaptiveTasks: Curriculum", "Experience", "curate: Filter", "step_standardised: Advantage",
          "high_entropy: Weighting", "dart_rule: Rule"),
    axes={
        "task": "agentic: graphical interfaces, slow environments", "method": "model: reinforcement learning",
        "challenge": "throughput and staleness, sparse success",
    },
    deviations=(
        "The age of an episode is that of its oldest token; released code counts the weights that finished it.",
        "A group is settled after the update that trained on it; released code marks rows as used before.",
        "A batch is not padded by copies of its rows to a multiple of the workers: weights make the mean exact.",
        "Episodes whose environment failed have no score and are left out; released code gives them -1 or -2.",
        "Failures shorter than 4 steps are kept, and there is no imitation term on successes whose ratio is below 0.2.",
        "The official loss takes the ratio's gradient through the mean of its step; released code through each token, "
        "which differs only where w differs within a step.",
        "The recipe walks through a grid with easy, middling and hard tasks instead of desktops.",
    ),
)

Form = Literal["paper", "official"]
EPISODE = shape_of(Episode)

# ---------------------------------------------------------------- how much each task is played


def rollouts_for(success: float, *, most: int = 8, least: int = 2, threshold: float = 0.6) -> int:
    """How many rollouts a task is given: ``most`` below ``threshold``, from there on ``max(least, floor(9 / success -
    7))``, never more than ``most``. Raises: BadInput for a rate outside 0..1.

    >>> [rollouts_for(s) for s in (0.0, 0.59, 0.6, 0.75, 0.9, 1.0)]
    [8, 8, 8, 5, 3, 2]
    """
    if not 0 <= success <= 1 or not 1 <= least <= most or not 0 < threshold <= 1:
        raise BadInput(f"success is {success}, least {least}, most {most} and threshold {threshold}; expected a rate "
                       "in 0..1, 1 <= least <= most, and a threshold in (0, 1]")
    if success < threshold:
        return most
    return min(most, max(least, floor(9 / success - 7 + 1e-9)))


def is_success(episode: Episode) -> bool:
    """Whether an episode's own seats all succeeded: as the verifier says, else by a score of at least 1."""
    scores = [s for seat, s in episode.scores.get("score", {}).items() if seat in episode.train]
    return bool(scores) and all(
        s.success if s.success is not None else s.value is not None and s.value >= 1 for s in scores)


@dataclass(slots=True)
class Seen:
    """What was seen of one task."""

    recent: list[bool] = field(default_factory=list)
    """Success of its last finished rollouts, oldest first."""
    longest: int = 0
    """Environment steps of its longest success so far; 0 = none."""


@dataclass(slots=True)
class AdaptiveTasks:
    """A :class:`polyturn.protocols.Curriculum` around another one: its tasks, with rollouts by the recent rate of
    success (:func:`rollouts_for` of the last ``most`` rollouts) and at most as many environment steps as the longest
    success took.

    A task without any success keeps its own limits, as a task that was never played. ``numbers`` and ``lengths`` switch
    the two off. Raises: BadInput as :func:`rollouts_for`.
    """

    inner: Curriculum
    most: int = 8
    least: int = 2
    threshold: float = 0.6
    numbers: bool = True
    lengths: bool = True
    seen: dict[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rollouts_for(0.0, most=self.most, least=self.least, threshold=self.threshold)

    def propose(self, iteration: int) -> Sequence[Match]:
        """The inner matches, fitted to what was seen."""
        return [self._fitted(match) for match in self.inner.propose(iteration)]

    def _fitted(self, match: Match) -> Match:
        seen = self.seen.get(match.task.id, Seen())
        rate = sum(seen.recent) / len(seen.recent) if seen.recent else 0.0
        rollouts = rollouts_for(rate, most=self.most, least=self.least, threshold=self.threshold)
        cap = Limits(env_steps=seen.longest) if self.lengths and seen.longest else Limits()
        return replace(
            match, rollouts=rollouts if self.numbers else self.most, limits=match.limits.tightest(cap))

    def observe(self, groups: Sequence[Group]) -> None:
        """Notes every scored rollout."""
        for episode in (episode for group in groups for episode in group if episode.scores):
            seen = self.seen.setdefault(episode.task.id, Seen())
            won = is_success(episode)
            seen.recent = [*seen.recent, won][-self.most :]
            seen.longest = max(seen.longest, steps_of(episode)) if won else seen.longest
        self.inner.observe(groups)

    def state(self) -> Mapping[str, Any]:
        """What was seen, and the inner curriculum's state if it has one."""
        seen = {name: {"recent": list(one.recent), "longest": one.longest} for name, one in self.seen.items()}
        return {"seen": seen, "inner": state_of(self.inner)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        self.seen = {name: Seen([bool(won) for won in one["recent"]], int(one["longest"]))
                     for name, one in state["seen"].items()}
        restore_into(self.inner, state["inner"])


# ---------------------------------------------------------------- which groups are learned from


@dataclass(slots=True)
class Experience:
    """The newest success of each task, whatever weights (or script) wrote it."""

    successes: dict[str, Episode] = field(default_factory=dict)

    def store(self, groups: Sequence[Group]) -> None:
        """Keeps successes; the last one of a task replaces earlier ones."""
        for episode in (episode for group in groups for episode in group):
            if is_success(episode):
                self.successes[episode.task.id] = episode

    def state(self) -> Mapping[str, Any]:
        """The episodes as JSON values."""
        return {"successes": {task: EPISODE.encode(episode) for task, episode in self.successes.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""
        self.successes = {task: EPISODE.decode(plain) for task, plain in state["successes"].items()}


def curate(
    groups: Sequence[Group], *, experience: Experience | None, policy: str = "main", most: int = 8,
    all_success: float = 1.0, seed: int = 0,
) -> list[Group]:
    """The groups with something to learn, as they are learned from; afterwards ``experience`` holds their successes.

    - A group whose mean success reaches ``all_success`` is dropped.
    - In a group without success the newest stored success of its task takes the place of the oldest row (by the version
      of its oldest token, then by trial); without a stored one the group is dropped.
    - Of a group larger than ``most``, so many are drawn, at least one success and one failure among them.

    ``experience=None``: no pool. Episodes that ended in an error, or were not scored, are left out before.
    """
    kept: list[Group] = []
    for whole in without_errors(groups):
        group = tuple(episode for episode in whole if episode.scores)
        rate = sum(map(is_success, group)) / len(group) if group else 1.0
        stored = None if experience is None or not group else experience.successes.get(group[0].task.id)
        if group and rate == 0 and stored is not None:
            kept.append(_drawn(rescued(group, stored, policy), most, seed))
        elif 0 < rate < all_success:
            kept.append(_drawn(group, most, seed))
        if experience is not None:
            experience.store([group])
    return kept


def rescued(group: Group, stored: Episode, policy: str) -> Group:
    """The group with a stored success in the place of its oldest row."""
    ages = [(oldest_version(e, policy) or 0, e.trial) for e in group]
    oldest = ages.index(min(ages))
    return (*group[:oldest], stored, *group[oldest + 1 :])


def _drawn(group: Group, most: int, seed: int) -> Group:
    """At most ``most`` of a mixed group, in its order."""
    if len(group) <= most:
        return group
    draws = generator("dart", seed, group[0].group)
    order = draws.permutation(len(group)).tolist()
    won = [i for i in order if is_success(group[i])]
    lost = [i for i in order if not is_success(group[i])]
    first = [*won[:1], *lost[:1]]
    chosen = [*first, *(i for i in order if i not in first)][:most]
    return tuple(group[i] for i in sorted(chosen))


# ---------------------------------------------------------------- credit by step


def step_standardised(turns: Turns, *, form: Form = "paper", channels: Sequence[str] = ("score",)) -> FloatArray:
    """``advantage_BK = (R - mean_D) / std_D``: every turn is a sample with its rollout's reward, so that long rollouts
    weigh more. "paper": population deviation; "official": that with n - 1, plus 1e-6."""
    _check_form(form)
    own_BK = broadcast_BK(inherit_B(total_B(turns, channels), turns), turns)
    return normalise_BK(
        own_BK, turns, key=("group", "seat"), unit="turn", scale="population" if form == "paper" else "sample",
        epsilon=0.0 if form == "paper" else 1e-6,
    )


def step_entropy_BK(turns: Turns) -> FloatArray:
    """The mean entropy of each turn's tokens; NaN for a turn without. Raises: BadInput where none was measured."""
    if turns.measured is None or turns.measured.entropy_N is None:
        raise BadInput("entropy_N was not measured; measure the batch before (a rule that is not on_policy)")
    place = (turns.tokens.trajectory_N, turns.tokens.turn_N)
    sum_BK, count_BK = np.zeros(turns.kept_BK.shape), np.zeros(turns.kept_BK.shape)
    np.add.at(sum_BK, place, turns.measured.entropy_N)
    np.add.at(count_BK, place, 1.0)
    return np.where(count_BK > 0, sum_BK / np.maximum(count_BK, 1), np.nan)


def keeps_BK(turns: Turns, *, share: float = 0.8, form: Form = "paper") -> BoolArray:
    """True for the steps that are learned from: of each group, "paper": those whose mean token entropy is at or above
    the quantile ``1 - share`` (between two steps in proportion); "official": the ``int(share n)`` of highest entropy,
    at least one, the earlier of equals (released code has it, commented out). ``share`` 1 keeps all.

    Raises: BadInput for a share outside (0, 1].
    """
    _check_form(form)
    if not 0 < share <= 1:
        raise BadInput(f"share is {share}; expected a number in (0, 1]")
    live, entropy_BK = live_BK(turns) & (turns.tokens_BK > 0), step_entropy_BK(turns)
    group_BK = np.broadcast_to(keys_B(turns, ("group",))[:, None], live.shape)
    keep = np.zeros(live.shape, np.bool_)
    for group in np.unique(group_BK[live]).tolist():
        inside = live & (group_BK == group)
        found = entropy_BK[inside]
        if form == "paper":
            keep[inside] = found >= np.quantile(found, 1 - share) - 1e-12
        else:
            chosen = np.zeros(len(found), np.bool_)
            chosen[np.argsort(-found, kind="stable")[: max(1, int(share * len(found) + 1e-9))]] = True
            keep[inside] = chosen
    return keep


def high_entropy(
    turns: Turns, tokens: Tokens, *, share: float = 0.8, form: Form = "paper", inner: Weighting = token_mean
) -> FloatArray:
    """``weight_N = inner`` times the indicator of :func:`keeps_BK`: a step that is left out counts in the mean."""
    keep_BK = keeps_BK(turns, share=share, form=form)
    return np.where(keep_BK[tokens.trajectory_N, tokens.turn_N], inner(turns, tokens), 0.0)


# ---------------------------------------------------------------- the loss


def dart_loss(
    form: Form = "paper", *, truncate: float | None = 1.0, beta: float = 0.1, clip_low: float | None = None,
    clip_high: float = 0.28,
) -> Loss:
    """``-J``: "paper": ratios by token, clipped at 1 - 0.2 and 1 + 0.28. "official": one ratio for each step (its
    mean), clipped at 1 - 0.1 and 1 + 0.28, dual clip 10. ``truncate`` is C (None: w = 1), ``beta`` that of KL (k3; 0:
    none, and no reference is needed). A token without a recorded log-probability (a script's) has w = 1."""
    _check_form(form)
    main: Loss
    if form == "paper":
        main = partial(policy_gradient, clip_low=0.2 if clip_low is None else clip_low, clip_high=clip_high,
                       truncate=truncate, unknown="old")
    else:
        main = partial(policy_gradient_by_turn, clip_low=0.1 if clip_low is None else clip_low, clip_high=clip_high,
                       dual_clip=10.0, truncate=truncate, unknown="old")
    return Sum((1.0, main), (beta, kl)) if beta else main


def dart_rule(
    form: Form = "paper", *, truncate: float | None = 1.0, beta: float = 0.1, share: float = 0.8,
    filters: tuple[Filter, ...] = (without_errors,), demonstrations: bool = False,
) -> Rule:
    """The whole rule. ``demonstrations``: stored successes may be a script's, which the record then says."""
    inner = token_mean if form == "paper" else turn_mean
    weighting = inner if share == 1 else partial(high_entropy, share=share, form=form, inner=inner)
    return Rule(
        partial(step_standardised, form=form), weighting, dart_loss(form, truncate=truncate, beta=beta), filters,
        demonstrations=demonstrations, by_step=True, proportional=beta == 0,
    )


def _check_form(form: str) -> None:
    if form not in ("paper", "official"):
        raise UnknownName("form of DART", form, ("paper", "official"))


# ---------------------------------------------------------------- schedules


def reload_size(replicas: int, asked: int = 1) -> int:
    """How many replicas are given new weights at once: with 4 or more at least 2, with fewer 1.

    >>> [reload_size(n) for n in (1, 2, 3, 4, 8)], reload_size(8, 3), reload_size(3, 2)
    ([1, 1, 1, 2, 2], 3, 1)
    """
    return max(2, asked) if replicas >= 4 else 1


@dataclass(frozen=True, slots=True)
class Played:
    """What a schedule took: the seconds until the last rollout ended, and the share of all environments' seconds in
    which they were playing."""

    seconds: float
    utilisation: float


def simulate(
    tasks: Sequence[Sequence[float]], environments: int, unit: Literal["rollout", "task", "batch"] = "rollout", *,
    batch: int = 1,
) -> Played:
    """What it takes to play ``tasks`` (the seconds of each task's rollouts) on some environments, in order.

    "rollout": an environment that ends one rollout begins the next. "task": a task begins when as many environments as
    it has rollouts are free, and holds all of them until its last rollout ended. "batch": ``batch`` tasks are played by
    rollout, and the next batch begins when all of them ended. Raises: BadInput for a task that does not fit.

    >>> simulate([[1.0, 3.0], [1.0, 1.0]], 2), simulate([[1.0, 3.0], [1.0, 1.0]], 2, "task")
    (Played(seconds=3.0, utilisation=1.0), Played(seconds=4.0, utilisation=0.75))
    """
    free = [0.0] * environments
    if unit not in ("rollout", "task", "batch"):
        raise UnknownName("unit of a schedule", unit, ("rollout", "task", "batch"))
    if environments < 1 or batch < 1 or (unit == "task" and max(map(len, tasks), default=0) > environments):
        raise BadInput(f"{environments} environments, batches of {batch}, tasks of up to "
                       f"{max(map(len, tasks), default=0)} rollouts; expected room for a task, and at least 1 of each")
    for number, rollouts in enumerate(tasks):
        if unit == "batch" and number % batch == 0:
            free = [max(free)] * environments
        if unit == "task":
            free.sort()
            begun = free[len(rollouts) - 1] if rollouts else 0.0
            free[: len(rollouts)] = [begun + max(rollouts, default=0.0)] * len(rollouts)
            continue
        for seconds in rollouts:
            first = free.index(min(free))
            free[first] += seconds
    whole = max(free)
    played = sum(map(sum, tasks))
    return Played(whole, played / (environments * whole) if whole else 0.0)
