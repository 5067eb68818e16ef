"""From scored groups to one row for each environment, their mixture and paired differences.

Everything is computed from episodes, so that a table can be rebuilt from what a run recorded. An environment is named
by the family of its tasks. Errors and abstentions are counted apart and never enter a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TypeAlias

from polyturn.errors import BadInput
from polyturn.evaluate import stats
from polyturn.evaluate.stats import Estimate
from polyturn.protocols import Match, Policy, Recorder
from polyturn.rollout.pool import Pool, play
from polyturn.rollout.score import score_matches
from polyturn.types import Episode, Group, Score, Seat, Turn, root_of

Seats: TypeAlias = Callable[[Episode], Sequence[Seat]]
"""The seats of an episode that a row rates."""
SOLVED = 1 - 1e-6
"""A score from here on is a success where the verifier did not say."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One attempt of one rated seat."""

    task: str
    seat: Seat
    value: float | None
    """None = an error or an abstention; which of them, says ``failed``."""
    success: bool = False
    failed: bool = False
    illegal: int = 0
    replies: int = 0
    """Replies given to the environment: the denominator of ``illegal``."""
    turns: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """How one policy did on one environment, or on the mixture of all.

    ``illegal`` is a share of the replies; ``turns``, ``tokens`` (sampled) and ``seconds`` are means over the trials
    that did not end in an error. Unknown is NaN (null in JSON).
    """

    estimate: Estimate
    n_trials: int
    pass_at: Mapping[int, float]
    pass_hat: Mapping[int, float]
    eligible: Mapping[int, int]
    """k -> tasks with at least k trials."""
    illegal: float
    errors: int
    abstained: int
    turns: float
    tokens: float
    seconds: float
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    """Task -> its trials' scores, for paired comparison; empty for a mixture."""

    @property
    def mean(self) -> float:
        """The mean score."""
        return self.estimate.mean

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.estimate.low

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return self.estimate.high

    @property
    def n_tasks(self) -> int:
        """The tasks with at least one scored trial."""
        return self.estimate.count


@dataclass(frozen=True, slots=True)
class Result:
    """One policy on every environment. ``groups`` holds what was played, where it was played here."""

    environments: Mapping[str, Row]
    mixture: Row
    groups: tuple[Group, ...] = field(default=(), repr=False, compare=False)


Table: TypeAlias = Mapping[str, Result]
"""Stage or policy -> its result."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``first - second`` on the tasks that both played, with the number of tasks on which each is better."""

    estimate: Estimate
    better: int
    worse: int


@dataclass(frozen=True, slots=True)
class Paired:
    """Paired differences on every environment and on their mixture."""

    environments: Mapping[str, Difference]
    mixture: Difference


# ---------------------------------------------------------------- rows


def seats_of(policy: str) -> Seats:
    """The rule that rates every root seat that ``policy`` sat in."""

    def seats(episode: Episode) -> Sequence[Seat]:
        mine = {seat for seat, info in episode.cast.items() if info.name == policy}
        mine |= {root_of(t.seat) for t in episode.trajectories if t.policy == policy and t.seat == root_of(t.seat)}
        return sorted(mine)

    return seats


def trials(groups: Sequence[Group], seats: Seats, verifier: str | None = None) -> list[Trial]:
    """Every attempt of every rated seat; an episode that broke before anybody sat is one failed attempt.

    A seat that the verifier scores in none of the episodes (a simulated user) is not rated. ``verifier`` names the
    score to be read; None = the only one there is. Raises: BadInput for an episode without rated seat, without score,
    or with several verifiers of which none was named.
    """
    episodes = [episode for group in groups for episode in group]
    judged = {seat for episode in episodes if not _broke(episode) for seat in _scores(episode, verifier)}
    return [_trial(episode, seat, verifier) for episode in episodes for seat in _rated(episode, seats, judged)]


def _rated(episode: Episode, seats: Seats, judged: Collection[Seat]) -> Sequence[Seat]:
    sat = seats(episode)
    rated = [seat for seat in sat if seat in judged] or sat
    if not rated and _broke(episode):
        return [""]
    if not rated:
        cast = {seat: info.name for seat, info in episode.cast.items()}
        raise BadInput(f"episode {episode.id} has no seat to be rated; its cast is {cast}")
    return rated


def _broke(episode: Episode) -> bool:
    return episode.stop.kind == "error" or episode.error is not None


def _trial(episode: Episode, seat: Seat, verifier: str | None) -> Trial:
    score = None if _broke(episode) else _score(episode, seat, verifier)
    value = None if score is None else score.value
    turns = [
        (turn, _sampled_tokens(episode, turn))
        for t in episode.trajectories if root_of(t.seat) == seat for turn in t.turns if not turn.branch
    ]
    invalid = [e for e in episode.events if e.kind == "invalid" and not e.branch and root_of(e.seat or "") == seat]
    return Trial(
        task=episode.task.id, seat=seat, value=value,
        success=score is not None and value is not None and _succeeded(score.success, value),
        failed=_broke(episode), illegal=len(invalid), replies=len({turn.step for turn, _ in turns}),
        turns=len(turns), tokens=sum(tokens for _, tokens in turns), seconds=episode.ended - episode.started,
    )


def _succeeded(said: bool | None, value: float) -> bool:
    return value >= SOLVED if said is None else said


def _scores(episode: Episode, verifier: str | None) -> Mapping[Seat, Score]:
    names = sorted(episode.scores)
    if verifier is None and len(names) == 1:
        verifier = names[0]
    if verifier is None or verifier not in episode.scores:
        wanted = "name one of them" if verifier is None else f"{verifier!r} is none of them"
        raise BadInput(f"episode {episode.id} was scored by {names or 'no verifier'}; {wanted}")
    return episode.scores[verifier]


def _score(episode: Episode, seat: Seat, verifier: str | None) -> Score:
    by_seat = _scores(episode, verifier)
    if seat not in by_seat:
        raise BadInput(f"the verifier gave seat {seat!r} of {episode.id} no score, only {sorted(by_seat)}")
    return by_seat[seat]


def _sampled_tokens(episode: Episode, turn: Turn) -> int:
    if turn.usage.completion_tokens:
        return turn.usage.completion_tokens
    trajectory = episode.trajectory(turn.seat, turn.policy)
    return sum(len(trajectory.spans[i].ids) for i in turn.spans) if trajectory is not None else 0


def row(groups: Sequence[Group], seats: Seats, *, verifier: str | None = None, ks: Sequence[int] | None = None) -> Row:
    """One environment's row: the mean score over the scored trials with its interval clustered by task.

    ``ks`` = the k of pass@k and pass^k; by default 1, 2, 4 ... up to the trials of a task. A k that no task has
    trials enough for is left out. Raises: BadInput (:func:`trials`).
    """
    rated = trials(groups, seats, verifier)
    counted: dict[str, list[Trial]] = {}
    for trial in rated:
        if trial.value is not None:
            counted.setdefault(trial.task, []).append(trial)
    scores = {task: tuple(t.value for t in each if t.value is not None) for task, each in counted.items()}
    solved = [sum(t.success for t in each) for each in counted.values()]
    tried = [len(each) for each in counted.values()]
    eligible = {k: sum(n >= k for n in tried) for k in (_powers(max(tried, default=0)) if ks is None else ks)}
    eligible = {k: tasks for k, tasks in eligible.items() if tasks}
    whole = [t for t in rated if not t.failed]
    replies = sum(t.replies for t in whole)
    return Row(
        estimate=stats.clustered_mean(list(scores.values())), n_trials=sum(tried),
        pass_at={k: stats.pass_at(solved, tried, k).value for k in eligible},
        pass_hat={k: stats.pass_hat(solved, tried, k).value for k in eligible}, eligible=eligible,
        illegal=sum(t.illegal for t in whole) / replies if replies else nan,
        errors=len(rated) - len(whole), abstained=len(whole) - sum(tried),
        turns=_mean([t.turns for t in whole]), tokens=_mean([t.tokens for t in whole]),
        seconds=_mean([t.seconds for t in whole]), scores=scores,
    )


def _powers(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length())]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else nan


def mixture_row(rows: Sequence[Row]) -> Row:
    """The plain mean of environments' rows: of the scores with its interval, and of every rate and cost.

    Counts are summed; a k of pass@k stands where every environment has it.
    """
    common = [k for k in rows[0].eligible if all(k in r.eligible for r in rows)] if rows else []
    return Row(
        estimate=stats.mixture([r.estimate for r in rows]), n_trials=sum(r.n_trials for r in rows),
        pass_at={k: _mean([r.pass_at[k] for r in rows]) for k in common},
        pass_hat={k: _mean([r.pass_hat[k] for r in rows]) for k in common},
        eligible={k: sum(r.eligible[k] for r in rows) for k in common},
        illegal=_mean([r.illegal for r in rows]), errors=sum(r.errors for r in rows),
        abstained=sum(r.abstained for r in rows), turns=_mean([r.turns for r in rows]),
        tokens=_mean([r.tokens for r in rows]), seconds=_mean([r.seconds for r in rows]),
    )


def as_groups(episodes: Sequence[Episode]) -> list[Group]:
    """Recorded episodes put back into their groups, in order of group, then trial.

    Of a trial that was played again after an error only the last attempt stands, as in the live run.
    """
    groups: dict[str, dict[int, Episode]] = {}
    for episode in sorted(episodes, key=lambda episode: episode.started):
        groups.setdefault(episode.group or episode.id, {})[episode.trial] = episode
    return [tuple(groups[name][trial] for trial in sorted(groups[name])) for name in sorted(groups)]


def result(groups: Sequence[Group], seats: Seats, *, verifier: str | None = None) -> Result:
    """One policy's rows, an environment for each family of tasks, and their mixture.

    The order of the groups changes nothing, so a result rebuilt from recorded episodes equals the live one.
    """
    families: dict[str, list[Episode]] = {}
    for episode in sorted((episode for group in groups for episode in group), key=lambda e: (e.task.id, e.trial, e.id)):
        families.setdefault(episode.task.family, []).append(episode)
    if not families:
        raise BadInput("no episode was played: there is nothing to rate")
    rows = {name: row([tuple(families[name])], seats, verifier=verifier) for name in sorted(families)}
    return Result(rows, mixture_row(list(rows.values())), tuple(groups))


async def evaluate(
    matches: Sequence[Match], policies: Mapping[str, Policy], *, policy: str, seats: Seats | None = None,
    label: str = "evaluate", recorder: Recorder | None = None, pool: Pool = Pool(),
    finished: Callable[[Episode], None] | None = None,
) -> Result:
    """The result of ``policy`` on the matches: played, scored by each suite's verifier, and rated.

    ``seats`` says which seats count (default: those in which ``policy`` sat). ``label``, ``pool`` and ``finished`` are
    those of :func:`polyturn.rollout.pool.play`. Episodes and scores go to the recorder.
    Raises: BadInput for no matches, and what :func:`polyturn.rollout.score.score_groups` and :func:`row` raise.
    """
    if not matches:
        raise BadInput("no matches to evaluate on; give at least one")
    groups = await play(matches, policies, label=label, recorder=recorder, pool=pool, finished=finished)
    scored = await score_matches(matches, groups, recorder)
    return result(scored, seats or seats_of(policy))


# ---------------------------------------------------------------- comparison


def paired(table: Table, first: str, second: str) -> Paired:
    """The differences ``first - second`` of two results of a table, paired by task; the mixture is their plain mean.

    Raises: BadInput if they were not played on the same environments.
    """
    one, two = table[first].environments, table[second].environments
    if one.keys() != two.keys():
        raise BadInput(f"{first!r} was played on {sorted(one)}, {second!r} on {sorted(two)}: not a pair")
    each = {
        name: Difference(
            stats.paired_difference(one[name].scores, two[name].scores),
            *stats.better_worse(one[name].scores, two[name].scores),
        )
        for name in one
    }
    whole = stats.mixture([d.estimate for d in each.values()])
    return Paired(each, Difference(whole, sum(d.better for d in each.values()), sum(d.worse for d in each.values())))
