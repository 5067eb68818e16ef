"""From scored groups to one row for each environment, and their mixture.

Everything is computed from episodes, so that a table can be rebuilt from what a run recorded. An environment is named
by the family of its tasks. Errors and abstentions are counted apart and never enter a mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import nan
from typing import TypeAlias

from polyturn.errors import BadInput
from polyturn.evaluate import stats
from polyturn.evaluate.stats import Estimate
from polyturn.evaluate.trials import Cost, Seats, Trial, seats_of, trials
from polyturn.protocols import Match, Policy, Recorder
from polyturn.rollout.pool import Pool, play
from polyturn.rollout.score import score_matches
from polyturn.types import Episode, Group


@dataclass(frozen=True, slots=True)
class Row:
    """How one policy did on one environment, or on the mixture of all.

    ``illegal`` is a share of the replies; ``turns``, ``tokens`` (sampled) and ``seconds`` are means over the trials
    that did not end in an error. Unknown is NaN (null in JSON).
    """

    estimate: Estimate
    n_trials: int
    pass_at: Mapping[int, Estimate]
    """k -> pass@k over the tasks with at least k trials."""
    pass_hat: Mapping[int, Estimate]
    eligible: Mapping[int, int]
    """k -> tasks with at least k trials."""
    illegal: float
    errors: int
    abstained: int
    turns: float
    tokens: float
    seconds: float
    stops: Mapping[str, int] = field(default_factory=dict)
    """How the trials ended: done, truncated, budget, error -> how many."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Of the errors, what broke -> how often."""
    costs: Mapping[str, float | None] = field(default_factory=dict)
    """Means over the trials that did not end in an error: calls, tokens, tool calls, seconds waited for models, US
    dollars; those of the seats that are not rated begin with ``others_``. And ``success_per_1000_tokens``. None =
    unknown."""
    bounded: bool = False
    """Whether all scores lie in 0..1, so that intervals do too."""
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    """Task -> its trials' scores, for paired comparison; empty for a mixture."""
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    """Task -> the seeds of the worlds that it was played in; empty for a mixture."""

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


# ---------------------------------------------------------------- rows


def row(groups: Sequence[Group], seats: Seats, *, verifier: str | None = None, ks: Sequence[int] | None = None) -> Row:
    """One environment's row: the mean score over the scored trials with its interval clustered by task, which stays in
    0..1 where all scores do.

    ``ks`` = the k of pass@k and pass^k; by default 1, 2, 4 ... up to the trials of a task. A k that no task has
    trials enough for is left out. Raises: BadInput (:func:`trials`).
    """
    rated = trials(groups, seats, verifier)
    counted: dict[str, list[Trial]] = {}
    for trial in rated:
        if trial.value is not None:
            counted.setdefault(trial.task, []).append(trial)
    scores = {task: tuple(t.value for t in each if t.value is not None) for task, each in counted.items()}
    bounded = all(0 <= value <= 1 for each in scores.values() for value in each)
    solved = [sum(t.success for t in each) for each in counted.values()]
    tried = [len(each) for each in counted.values()]
    eligible = {k: sum(n >= k for n in tried) for k in (_powers(max(tried, default=0)) if ks is None else ks)}
    eligible = {k: tasks for k, tasks in eligible.items() if tasks}
    whole = [t for t in rated if not t.failed]
    replies = sum(t.replies for t in whole)
    return Row(
        estimate=(stats.bounded_mean if bounded else stats.clustered_mean)(list(scores.values())), n_trials=sum(tried),
        pass_at={k: stats.pass_at(solved, tried, k) for k in eligible},
        pass_hat={k: stats.pass_hat(solved, tried, k) for k in eligible}, eligible=eligible,
        illegal=sum(t.illegal for t in whole) / replies if replies else nan,
        errors=len(rated) - len(whole), abstained=len(whole) - sum(tried),
        turns=_mean([t.turns for t in whole]), tokens=_mean([t.tokens for t in whole]),
        seconds=_mean([t.seconds for t in whole]), stops=dict(sorted(Counter(t.stop for t in rated).items())),
        failures=dict(sorted(Counter(t.failure for t in rated if t.failed).items())), costs=_costs(whole),
        bounded=bounded, scores=scores, seeds=_seeds(groups),
    )


def _seeds(groups: Sequence[Group]) -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = {}
    for episode in (episode for group in groups for episode in group):
        found.setdefault(episode.task.id, set()).add(episode.seed)
    return {task: tuple(sorted(seeds)) for task, seeds in found.items()}


def _costs(whole: Sequence[Trial]) -> dict[str, float | None]:
    """Means over the trials, and successes for 1,000 sampled tokens."""
    found: dict[str, float | None] = {}
    for prefix, each in (("", [t.cost for t in whole]), ("others_", [t.others for t in whole])):
        for name in (f.name for f in fields(Cost)):
            values = [getattr(cost, name) for cost in each]
            found[prefix + name] = _mean(values) if values and None not in values else None
    sampled = sum(t.cost.completion_tokens for t in whole)
    found["success_per_1000_tokens"] = 1000 * sum(t.success for t in whole) / sampled if sampled else None
    return found


def _powers(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length())]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else nan


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None


def mixture_row(rows: Sequence[Row]) -> Row:
    """The plain mean of environments' rows: of the scores with its interval, and of every rate and cost.

    Counts are summed; a k of pass@k stands where every environment has it.
    """
    stops, failures = (sum((Counter(getattr(r, name)) for r in rows), Counter()) for name in ("stops", "failures"))
    common = [k for k in rows[0].eligible if all(k in r.eligible for r in rows)] if rows else []
    return Row(
        estimate=stats.mixture([r.estimate for r in rows]), n_trials=sum(r.n_trials for r in rows),
        pass_at={k: stats.mixture([r.pass_at[k] for r in rows]) for k in common},
        pass_hat={k: stats.mixture([r.pass_hat[k] for r in rows]) for k in common},
        eligible={k: sum(r.eligible[k] for r in rows) for k in common},
        illegal=_mean([r.illegal for r in rows]), errors=sum(r.errors for r in rows),
        abstained=sum(r.abstained for r in rows), turns=_mean([r.turns for r in rows]),
        tokens=_mean([r.tokens for r in rows]), seconds=_mean([r.seconds for r in rows]),
        stops=dict(sorted(stops.items())), failures=dict(sorted(failures.items())),
        costs={name: _mean_known([r.costs[name] for r in rows]) for name in rows[0].costs} if rows else {},
        bounded=all(r.bounded for r in rows),
    )


def as_groups(episodes: Sequence[Episode]) -> list[Group]:
    """Recorded episodes put back into their groups, in order of group, then trial.

    Of a trial that was played again after an error only the last attempt stands, as in the live run.
    """
    groups: dict[str, dict[int, Episode]] = {}
    for episode in sorted(episodes, key=lambda episode: episode.started):
        groups.setdefault(episode.group or episode.id, {})[episode.trial] = episode
    return [tuple(groups[name][trial] for trial in sorted(groups[name])) for name in sorted(groups, key=_in_order)]


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key by which ``"rate.10"`` stands behind ``"rate.9"``, as it was played."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


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
    finished: Callable[[Episode], None] | None = None, done: Mapping[tuple[str, int], Episode] | None = None,
) -> Result:
    """The result of ``policy`` on the matches: played, scored by each suite's verifier, and rated.

    ``seats`` says which seats count (default: those in which ``policy`` sat). ``label``, ``pool``, ``finished`` and
    ``done`` are those of :func:`polyturn.rollout.pool.play`. Episodes and scores go to the recorder.
    Raises: BadInput for no matches, and what :func:`polyturn.rollout.score.score_groups` and :func:`row` raise.
    """
    if not matches:
        raise BadInput("no matches to evaluate on; give at least one")
    groups = await play(matches, policies, label=label, recorder=recorder, pool=pool, finished=finished, done=done)
    scored = await score_matches(matches, groups, recorder)
    return result(scored, seats or seats_of(policy))
