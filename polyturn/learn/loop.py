"""The loop: propose, play, verify, observe, filter, lay out, measure, credit, update, publish, record.

There is no trainer. :func:`iterate` is one iteration; :func:`train` repeats it with checkpoints. Other loops (a critic,
preference rounds, proposer against solver) are made of the same verbs in a recipe.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from polyturn.advantages.turn import alike, as_tokens
from polyturn.arrays import Advantage, Tokens, Turns, Weighting, as_turns, lay_out
from polyturn.errors import BadInput, NotTrainable
from polyturn.learn.account import account_of
from polyturn.learn.learns import Learns
from polyturn.learn.rounding import MOST
from polyturn.learn.run import Run
from polyturn.learn.split import split_gaps
from polyturn.learn.words import in_words
from polyturn.losses.learned import Loss
from polyturn.losses.likelihood import likelihood
from polyturn.losses.weighting import token_mean
from polyturn.policies.local import Local
from polyturn.protocols import Curriculum, Filter, Match, Policy, Stateful, Verifier
from polyturn.record.credit import Waiver, credit_rows, may_demonstrate
from polyturn.record.read import read_metrics
from polyturn.rollout.borrowed import borrowed
from polyturn.rollout.pool import Pool, play, without_errors
from polyturn.rollout.score import names_unscored, score_matches, score_with, unscored
from polyturn.told import listen
from polyturn.types import Episode, FloatArray, Group, all_turns

Metrics = dict[str, float]
PROBE_EVERY = 10
"""Iterations between probes of the verifiers."""
NOTHING: Metrics = {"learner/tokens": 0.0, "learner/steps": 0.0}
"""Of an update of whose groups the filters left none: it is counted, changes nothing and has no loss."""
NOTHING_MOST = 10
"""As many updates in a row as this without anything to learn end a run."""


@dataclass(frozen=True)
class Rule:
    """How groups become a gradient.

    An advantage or a loss may have memory: a method ``observe(turns)``, called once for each batch, the advantage's
    before the update and the loss's after it; in between both are pure. The loss's turns carry what was measured at
    the weights before the update (NaN for tokens of weight zero). What remembers stands in ``Stage.memory`` too.
    """

    advantage: Advantage
    weighting: Weighting
    loss: Loss
    filters: tuple[Filter, ...] = (without_errors,)
    demonstrations: bool = False
    """True waives the rule that trained tokens were sampled, of what a script played; what a model played is held to
    it. It is recorded, of the spans that it lets pass."""
    by_step: bool = False
    """True waives the rule that a baseline is a mean over rollouts: here every step is a sample. It is recorded."""
    on_policy: bool = False
    """True: one update for each batch, by the weights that wrote it, or a loss that reads no old log-probability. The
    update's own reading then stands for the old one, and no pass is spent on measuring first."""
    updates: int = 1
    """Optimizer steps on each batch; the ratio of later ones is taken to the weights before the first."""
    proportional: bool = False
    """True where the loss is proportional to the advantage (no entropy or KL term): tokens of advantage zero, as in
    groups that all scored alike, then weigh zero, which changes no gradient and spares their computation."""
    target: Advantage | None = None
    """What a value head learns: ``target_N``, as :func:`polyturn.advantages.returns.value_target_N` gives it."""

    def __post_init__(self) -> None:
        if self.updates < 1 or (self.on_policy and self.updates > 1):
            raise BadInput(f"updates is {self.updates} with on_policy={self.on_policy}; expected 1, or more without "
                           "on_policy, for then the old log-probabilities must be measured first")

    @property
    def waivers(self) -> tuple[Waiver, ...]:
        """The rules that it sets aside, by their names in the record."""
        named: tuple[tuple[bool, Waiver], ...] = ((self.demonstrations, "demonstrations"), (self.by_step, "steps"))
        return tuple(name for set_aside, name in named if set_aside)

    def in_words(self) -> dict[str, Any]:
        """What the record keeps of the rule, beside its loss."""
        return {"advantage": in_words(self.advantage), "weighting": in_words(self.weighting),
                "proportional": self.proportional}


def imitation(weighting: Weighting = token_mean, filters: tuple[Filter, ...] = (without_errors,)) -> Rule:
    """The rule of imitating scripted play: the likelihood of every demonstrated token, none worth more than another."""
    return Rule(alike, weighting, likelihood, filters, demonstrations=True, on_policy=True)


@dataclass(frozen=True)
class Stage:
    """One stretch of training of one policy."""

    name: str
    curriculum: Curriculum
    policies: Mapping[str, Policy]
    """Who plays, by name."""
    model: Local
    """What is trained and published; plays where it stands in ``policies``."""
    learner: Learns
    rule: Rule | Callable[[int], Rule]
    """A function of the iteration for what changes with it: a coefficient, a phase. It must give the same rule for the
    same iteration, so that a resume goes on where it stood."""
    iterations: int
    policy: str = "main"
    """The name whose turns are learned from."""
    pool: Pool = Pool()
    memory: Mapping[str, Stateful] = field(default_factory=dict)
    """What else must survive a resume (an advantage's baseline)."""
    lr: Callable[[int], float] | None = None
    """Learning rate of each iteration; None = the learner's own."""
    verifiers: tuple[Verifier, ...] = ()
    """What else scores each iteration's groups, after their suites and before the update: a training reward, or beliefs
    read with the weights that played. Each is a reward channel of its own name."""
    score_timeout_s: float | None = None
    """Deadline of each of these for an iteration's groups; None = the longest of the suites that were played."""

    def deadline_of(self, matches: Sequence[Match]) -> float:
        """Of each of the stage's own verifiers, for the groups of these matches."""
        given = self.score_timeout_s
        return given if given is not None else max(match.suite.spec.score_timeout_s for match in matches)

    def rule_at(self, iteration: int) -> Rule:
        """The rule of an iteration."""
        return self.rule if isinstance(self.rule, Rule) else self.rule(iteration)

    @property
    def parts(self) -> dict[str, Stateful]:
        """Everything with memory."""
        parts: dict[str, Stateful] = {"learner": self.learner, **self.memory}
        if isinstance(self.curriculum, Stateful):
            parts["curriculum"] = self.curriculum
        return parts


async def train(
    run: Run, stage: Stage, *, save_every: int = 10, evaluate: Callable[[int], Awaitable[float]] | None = None,
    evaluate_every: int = 0, enough: Callable[[], bool] | None = None,
) -> None:
    """Runs a stage to its end, or from its checkpoint to its end; afterwards ``checkpoints/<stage>`` holds the model.

    ``enough()`` ends it earlier: asked before every iteration, it reads what is in the stage's parts (a budget of
    environment steps in its curriculum), so that a resume ends where a run left alone does; no total is shown, for
    nobody knows it. ``evaluate(done)`` gives a score after every ``evaluate_every`` iterations; the best model so far
    is kept in ``checkpoints/<stage>-best``.
    Raises: what an iteration raises, with everything finished on disk.
    """
    done = 0
    stage.learner.version = max(stage.learner.version, stage.model.version)
    if run.at is not None and run.at[0] == stage.name:
        done = run.at[1]
        run.restore(stage.parts)
        stage.model.publish(stage.learner.version)
    run.recorder.tokenizer(stage.model.chat)
    run.progress.stage(stage.name, 0 if enough else stage.iterations)
    best = best_before(run, stage.name, done)
    for i in range(done, stage.iterations):
        if enough is not None and enough():
            break
        await run.heed(stage.name, i, stage.parts)
        metrics = await iterate(run, stage, i)
        if evaluate is not None and evaluate_every and (i + 1) % evaluate_every == 0:
            metrics["evaluate/score"] = await evaluate(i + 1)
            if metrics["evaluate/score"] > best:
                best = metrics["evaluate/score"]
                stage.model.save(run.model_folder(f"{stage.name}-best"))
        run.recorder.metrics(i, metrics, stage=stage.name)
        run.progress.iteration(i, metrics)
        if (i + 1) % save_every == 0 and i + 1 < stage.iterations:
            run.save(stage.name, i + 1, stage.parts)
    stage.model.save(run.model_folder(stage.name))
    run.save(stage.name, stage.iterations, stage.parts)


def best_before(run: Run, stage: str, done: int) -> float:
    """The highest ``evaluate/score`` in the record of the first ``done`` iterations; minus infinity for none."""
    rows = read_metrics(run.folder) if done else []
    scores = [row["values"].get("evaluate/score", -np.inf) for row in rows
              if row["stage"] == stage and row["iteration"] < done]
    return max(scores, default=-np.inf)


def passed(run: Run, stage: str, order: Sequence[str]) -> bool:
    """Whether the run that is gone on with had left ``stage`` behind, in the given order of stages."""
    return run.at is not None and run.at[0] in order and order.index(run.at[0]) > order.index(stage)


async def iterate(run: Run, stage: Stage, i: int) -> Metrics:
    """One iteration; its metrics."""
    started = time.monotonic()
    matches = [run.control.match(m) for m in stage.curriculum.propose(i)]
    pool = replace(
        stage.pool, concurrency=run.control.concurrency(stage.pool.concurrency),
        call_timeout_s=run.control.call_seconds(stage.pool.call_timeout_s),
    )
    groups = await play(
        matches, stage.policies, label=f"{stage.name}.{i}", recorder=run.recorder, pool=pool,
        finished=run.progress.sample,
    )
    groups = await score_matches(matches, groups, run.recorder)
    for verifier in stage.verifiers:
        groups = await score_with(verifier, groups, run.recorder, timeout_s=stage.deadline_of(matches))
    if lost := names_unscored(groups):
        run.progress.note(f"stage {stage.name}, iteration {i}: {lost}")
    stage.curriculum.observe(groups)
    played = time.monotonic()
    probed = {} if i % PROBE_EVERY else await _borrowed(run, stage, matches, groups)
    kept: Sequence[Group] = groups
    for keep in stage.rule_at(i).filters:
        kept = keep(kept)
    if stage.lr is not None:
        stage.learner.lr = stage.lr(i)
    metrics = learn(run, stage, i, kept) if kept else learned_nothing(run, stage, i, groups)
    stage.learner.publish(stage.model)
    return {**played_metrics(groups, played - started), **probed, **metrics, "loop/seconds": time.monotonic() - started}


def learned_nothing(
    run: Run, stage: Stage, i: int, groups: Sequence[Group], *, most: int | None = NOTHING_MOST
) -> Metrics:
    """:data:`NOTHING`, for an update of which the filters left no group: it is said, counted, and changes no weight.

    Raises: NotTrainable where the ``most`` iterations up to this one were all like it; None = however many.
    """
    episodes = [episode for group in groups for episode in group]
    broken = sum(episode.stop.kind == "error" for episode in episodes)
    filters = ", ".join(_named(keep) for keep in stage.rule_at(i).filters)
    why = (f"stage {stage.name}, iteration {i}: of {len(episodes)} episodes in {len(groups)} groups, {broken} of them "
           f"broken, the filters ({filters}) left none, so there is nothing to learn")
    if most is not None and _nothing_before(run, stage.name, i) >= most - 1:
        raise NotTrainable(f"{why}; it was so in each of the last {most} iterations. Let it play tasks that it "
                           "sometimes solves, with more rollouts, or teach it first; polyturn show and polyturn view "
                           "show what was played")
    run.progress.note(f"{why}; the weights stay as they are")
    return dict(NOTHING)


def _nothing_before(run: Run, stage: str, i: int) -> int:
    """How many iterations in a row before ``i`` had nothing to learn from."""
    rows = [row for row in read_metrics(run.folder) if row["stage"] == stage and row["iteration"] < i]
    return next((n for n, row in enumerate(reversed(rows)) if "learner/loss" in row["values"]), len(rows))


def _named(keep: Filter) -> str:
    whole = keep.func if isinstance(keep, partial) else keep
    return str(getattr(whole, "__name__", type(whole).__name__))


async def _borrowed(run: Run, stage: Stage, matches: Sequence[Match], groups: Sequence[Group]) -> Metrics:
    """``audit/borrowed``: episodes whose score falls when what others said is blanked, over all verifiers."""
    found: Metrics = {}
    probes: list[tuple[Verifier, Sequence[Group]]] = [(verifier, groups) for verifier in stage.verifiers]
    for suite in {id(match.suite): match.suite for match in matches}.values():
        own = [group for match, group in zip(matches, groups, strict=True) if match.suite is suite]
        probes += [(suite.verifier, own)] if hasattr(suite, "verifier") else []
    for verifier, seen in probes:
        try:
            found["audit/borrowed"] = found.get("audit/borrowed", 0.0) + await borrowed(verifier, seen)
        except Exception as error:
            run.progress.note(f"verifier {verifier.name!r} cannot score episodes in which others said nothing, so it "
                              f"is not known whether it pays for their words: {type(error).__name__}: {error}")
    return found


def learn(run: Run, stage: Stage, i: int, groups: Sequence[Group]) -> Metrics:
    """Groups to one update: lay out, measure, credit, weigh, update, record. Its metrics."""
    rule, tokens = stage.rule_at(i), lay_out(groups, stage.policy)
    _refuse_unproved(tokens, rule)
    measured = None if rule.on_policy else stage.learner.measure(tokens)
    turns = as_turns(tokens, measured)
    with listen() as told:
        advantage_N = as_tokens(rule.advantage(turns), turns)
    target_N = None if rule.target is None else rule.target(turns)
    weight_N = rule.weighting(turns, tokens)
    _tell(rule.advantage, turns)
    if rule.proportional:
        weight_N = np.where(advantage_N == 0, 0.0, weight_N)
    version = stage.learner.version
    for _ in range(rule.updates):
        metrics = stage.learner.update(tokens, measured, advantage_N, weight_N, rule.loss, target_N=target_N)
    last = stage.learner.last
    assert last is not None
    read = last if measured is None else measured
    columns = {"advantage_N": advantage_N, "weight_N": weight_N, "target_N": target_N}
    gaps = split_gaps(rule.loss, tokens, measured, last, columns, metrics["learner/loss"])
    account = account_of(
        rule.loss, tokens, measured, last, columns, rule=rule.in_words(), told=told, updates=rule.updates)
    _tell(rule.loss, replace(turns, measured=read))
    rows = credit_rows(
        tokens, read, advantage_N, weight_N, stage=stage.name, waivers=rule.waivers, version=version, account=account)
    run.recorder.credit(i, rows)
    for name, most in MOST.items():
        if gaps.get(name, 0.0) > most and i % PROBE_EVERY == 0:
            run.progress.note(f"stage {stage.name}, iteration {i}: {name} is {gaps[name]:.3g}, so the update depends "
                              "on how its batch was cut; see polyturn audit")
    return {**metrics, **gaps, "credit/zero_groups": zero_groups(tokens, advantage_N)}


def zero_groups(tokens: Tokens, advantage_N: FloatArray) -> float:
    """The share of groups with trained tokens in which every advantage is exactly 0: nothing is learned from them."""
    groups, place_N = np.unique(tokens.group_N, return_inverse=True)
    moved = np.bincount(place_N.reshape(-1), advantage_N != 0, len(groups)) > 0
    return float(1 - moved.mean()) if len(groups) else 0.0


def _tell(part: Advantage | Loss, turns: Turns) -> None:
    """Tells a part with memory of the batch."""
    observe = getattr(part, "observe", None)
    if observe is not None:
        observe(turns)


def _refuse_unproved(tokens: Tokens, rule: Rule) -> None:
    for b in np.unique(tokens.trajectory_N[~tokens.sampled_N]).tolist():
        source = tokens.trajectories[b]
        if rule.demonstrations and may_demonstrate(source.episode, source.trajectory):
            continue
        if rule.demonstrations:
            raise NotTrainable(f"episode {source.episode.id}, seat {source.trajectory.seat}: a token of what a model "
                               "wrote was not sampled by it, and so is no demonstration of a script either")
        raise NotTrainable(
            f"episode {source.episode.id}, seat {source.trajectory.seat}: a token was written by a script, not "
            "sampled; set demonstrations=True on the rule to learn from demonstrations"
        )


def played_metrics(groups: Sequence[Group], seconds: float) -> Metrics:
    """Score by family, illegal replies, errors, episodes that could not be scored (they are no errors of the play),
    episodes that a horizon cut, turns and tokens of played groups."""
    episodes: list[Episode] = [episode for group in groups for episode in group]
    metrics: Metrics = {"rollout/seconds": seconds, "rollout/episodes": float(len(episodes))}
    for family in sorted({episode.task.family for episode in episodes}):
        values = [
            score.value for episode in episodes if episode.task.family == family
            for seat, score in episode.scores.get("score", {}).items()
            if seat in episode.train and score.value is not None
        ]
        if values:
            metrics[f"score/{family}"] = float(np.mean(values))
    turns = [turn for episode in episodes for turn in all_turns(episode)]
    tokens = sum(turn.usage.completion_tokens for turn in turns)
    illegal = sum(event.kind == "invalid" for episode in episodes for event in episode.events)
    return metrics | {
        "rollout/errors": float(sum(e.stop.kind == "error" and not unscored(e) for e in episodes)),
        "rollout/unscored": float(sum(map(unscored, episodes))),
        "rollout/truncated": float(sum(episode.stop.kind == "truncated" for episode in episodes)),
        "rollout/turns": float(len(turns)), "rollout/tokens": float(tokens),
        "rollout/tokens_per_s": tokens / max(seconds, 1e-9), "rollout/illegal": illegal / max(len(turns), 1),
    }
