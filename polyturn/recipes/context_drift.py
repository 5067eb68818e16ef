"""Context drift: twenty long conversations with distracting requests, with and without reminders of the goal.

Both arms are played with the same seeds and recorded; then the record is read back and every turn's divergence from
a reference that is told the goal again is measured. The report has D_t by turn with intervals, the
fit and its verdict, the effect of the reminded turns, and the paired difference between the arms, whatever its sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.diagnose.events import event_effect
from polyturn.diagnose.verdict import judge
from polyturn.envs.distraction import distraction, goal_of, payload_of
from polyturn.errors import BadInput
from polyturn.evaluate.benchmark import Result, evaluate
from polyturn.evaluate.stats import Estimate, clustered_mean, paired_difference
from polyturn.evaluate.study import Study
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.loop import Stage, imitation, passed, train
from polyturn.learn.run import Run
from polyturn.methods.diagnosis.context_drift import (
    REMIND,
    ContextDrift,
    Drift,
    Reference,
    Reminders,
    Schedule,
    as_series,
    gauge_of,
    perturbed,
)
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import open_model
from polyturn.protocols import AgentMaker, Match, Player
from polyturn.record.read import read_episodes
from polyturn.rollout.pool import Pool
from polyturn.seeds import derive
from polyturn.types import Episode, Sampling, Seat, Task

ARMS = ("none", "reminders")
STUDY = Study(
    outcome="kl", baseline="none", higher=False, arms={arm: {"arm": arm} for arm in ARMS}, more=("kept", "js"),
    fixed={"model": "tiny", "warm_updates": 20, "reply_tokens": 12},
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes conversations and every draw."""
    arm: Literal["both", "none", "reminders"] = "both"
    """What is played; both with the same seeds."""
    conversations: int = 20
    """Conversations of each arm."""
    turns: int = 12
    """Turns of a conversation."""
    schedule: Literal["fixed", "every", "threshold", "budgeted"] = "fixed"
    """When the goal is recalled."""
    at: str = "4 7 10"
    """For "fixed": the turns, from 1, with spaces between."""
    every: int = 4
    """For "every"."""
    threshold: float = 0.5
    """For "threshold" and "budgeted": D_t from which the goal is recalled, in nats a token."""
    budget: int = 2
    """For "budgeted": the most reminders of a conversation."""
    reference: Literal["restated", "second", "checkpoint"] = "restated"
    """The same weights with the goal restated; a second model; or the model before the warm start."""
    reference_model: str = ""
    """Folder of the second model; empty = a copy with noise."""
    noise: float = 0.1
    """The noise, in deviations of each matrix."""
    last: int = 0
    """The messages of the history that the reference reads; 0 = all."""
    reply_tokens: int = 32
    """The longest reply."""
    warm_updates: int = 0
    """Updates that imitate replies that keep the rule, on conversations of three turns, before anything is measured."""
    warm_lr: float = 3e-3
    """Learning rate of these."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers to sample and compute with."""


NEEDS = (
    (("schedule", "at", "every", "threshold", "budget"), {"arm": ("both", "reminders")}),
    (("at",), {"schedule": ("fixed",)}),
    (("every",), {"schedule": ("every",)}),
    (("threshold",), {"schedule": ("threshold", "budgeted")}),
    (("budget",), {"schedule": ("budgeted",)}),
    (("reference_model",), {"reference": ("second", "checkpoint")}),
    (("noise",), {"reference": ("second",), "reference_model": ("",)}),
    (("warm_lr",), {"warm_updates": ()}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Plays the arms, reads them back, measures, reports."""
    dtype: Any = "float32" if run.deterministic else settings.dtype
    opened = partial(
        open_model, seed=settings.seed, dtype=dtype, deterministic=run.deterministic,
    )
    model = opened(settings.model, texts)
    if model.warning:
        run.progress.note(model.warning)
    other = _other(settings, model, opened)
    try:
        await _imitate(settings, run, model)
        reference = _reference(settings, model, other)
        arms = ARMS if settings.arm == "both" else (settings.arm,)
        played = {arm: await _played(settings, run, arm, model, reference) for arm in arms}
        found = {arm: await _measured(run, arm, model, reference, len(played[arm].groups)) for arm in arms}
    finally:
        for policy in (model, other):
            if policy is not None:
                policy.close()
    run.keep(**report(settings, played, found), costs={arm: _costs(model, played[arm]) for arm in arms})


def text(results: Mapping[str, Any]) -> str:
    """What was found, as plain text."""
    if "arms" not in results:
        return "no report: the run did not come to its end"
    lines = [f"reference: {results['reference']}"]
    for arm, row in results["arms"].items():
        by_turn = " ".join("-" if value["mean"] is None else f"{value['mean']:.3f}" for value in row["by_turn"])
        lines.append(f"{arm}: D by turn {by_turn}\n  verdict: {row['verdict']} ({row['reason']})")
    if "paired" in results:
        gap = results["paired"]
        lines.append(f"reminders - none, paired by conversation: {gap['mean']:+.4f} [{gap['low']:+.4f}, "
                     f"{gap['high']:+.4f}] nats a token")
    return "\n".join(lines)


def held_out(settings: Settings) -> list[Match]:
    """The conversations, without reminders."""
    return matches(settings, lambda task: partial(ChatAgent, sampling=Sampling(max_tokens=settings.reply_tokens)))


# ---------------------------------------------------------------- playing


def matches(settings: Settings, agent: Any) -> list[Match]:
    """The conversations; ``agent(task)`` makes the maker of who replies. The seeds are those of the task alone."""
    suite = distraction(turns=settings.turns, test_tasks=settings.conversations)
    return [
        Match(suite, task, {"agent": Player(agent(task), "main")}, derive("conversation", settings.seed, task.id))
        for task in suite.tasks("test")
    ]


def schedule_of(settings: Settings) -> Schedule:
    """When the goal is recalled. Raises: BadInput for turns that are no numbers."""
    try:
        turns = tuple(int(turn) for turn in settings.at.split())
    except ValueError as error:
        raise BadInput(f"at is {settings.at!r}; expected numbers of turns with spaces between") from error
    return Schedule(settings.schedule, turns, settings.every, settings.threshold, settings.budget)


async def _played(settings: Settings, run: Run, arm: str, model: Local, reference: Reference) -> Result:
    sampling = Sampling(max_tokens=settings.reply_tokens)

    def agent(task: Task) -> AgentMaker:
        if arm == "none":
            return partial(ChatAgent, sampling=sampling)
        gauge = gauge_of(model, model.chat, reference, goal_of(task))
        context = Reminders(goal_of(task), schedule_of(settings), gauge)
        return partial(ChatAgent, sampling=sampling, context=context)

    conversations = matches(settings, agent)
    return await evaluate(
        conversations, {"main": model}, policy="main", label=arm, recorder=run.recorder,
        finished=run.plays(f"playing {arm}", conversations),
    )


async def _measured(run: Run, arm: str, model: Local, reference: Reference, count: int) -> dict[str, Drift]:
    """The series of each measure, from what the run recorded."""
    latest = {e.task.id: e for e in read_episodes(run.folder) if e.id.startswith(f"{arm}.") and e.stop.kind != "error"}
    run.progress.stage(f"measuring {arm}", count)
    diagnosis = ContextDrift(model, model.chat, reference, goal=lambda episode: goal_of(episode.task))
    findings = await diagnosis(list(latest.values()))
    return {measure: as_series(findings, measure) for measure in ("kl", "reverse", "js", "sampled", "tokens")}


def _other(settings: Settings, model: Local, opened: Any) -> Local | None:
    """The second model, where the reference is one; made before the first learns anything."""
    if settings.reference == "restated":
        return None
    if settings.reference == "checkpoint" and not (settings.reference_model or settings.warm_updates):
        raise BadInput("the reference is an earlier checkpoint, but nothing was trained; name its folder with "
                       "reference_model, or set warm_updates")
    if settings.reference_model:
        folder: Local = opened(str(Path(settings.reference_model)), texts, name="reference")
        if folder.chat.tokenizer_sha256 != model.chat.tokenizer_sha256:
            folder.close()
            raise BadInput(f"{settings.reference_model} has another tokenizer than the model; an exact divergence "
                           "needs one vocabulary")
        return folder
    scale = settings.noise if settings.reference == "second" else 0.0
    return Local(perturbed(model.model, scale, settings.seed), model.chat, name="reference")


def _reference(settings: Settings, model: Local, other: Local | None) -> Reference:
    if other is None:
        return Reference("restated goal", model, last=settings.last)
    name: Any = {"second": "second model", "checkpoint": "earlier checkpoint"}[settings.reference]
    return Reference(name, other, restate=False, last=settings.last)


# ---------------------------------------------------------------- the warm start


def texts() -> list[str]:
    """What is said in the conversations, for a tokenizer to learn from."""
    found = []
    for index in range(120):
        task = Task(f"text/{index}", "distraction", payload_of("train", index, turns=3))
        found += [goal_of(task), REMIND.format(goal=goal_of(task)), *task.payload["requests"]]
        found.append(f"{task.payload['word']}, here it is.")
    return found


async def _imitate(settings: Settings, run: Run, model: Local) -> None:
    if not settings.warm_updates or passed(run, "warm", ("warm", "done")):
        return
    suite = distraction(turns=3)

    def cast(task: Task) -> dict[Seat, Player]:
        return {"agent": Player(lambda: AnswerAgent(suite.oracle(task)), "main")}

    share = Share(suite, cast, frozenset({"agent"}), 8, 1)
    rule = imitation()
    stage = Stage(
        "warm", Mixture((share,), derive("warm", settings.seed)), {"main": Dictated(name="main", chat=model.chat)},
        model, run.learner(model, lr=settings.warm_lr), rule, settings.warm_updates, pool=Pool(),
    )
    await train(run, stage)


# ---------------------------------------------------------------- the report


def report(
    settings: Settings, played: Mapping[str, Result], found: Mapping[str, Mapping[str, Drift]]
) -> dict[str, Any]:
    """All numbers of a run, as JSON values."""
    arms = {arm: _arm(measures) for arm, measures in found.items()}
    last = list(found)[-1]
    results: dict[str, Any] = {
        "reference": settings.reference, "arms": arms,
        "outcome": {
            "kl": arms[last]["mean"]["mean"], "js": float(np.mean(np.concatenate(found[last]["js"].series))),
            "kept": played[last].mixture.mean,
        },
    }
    if len(found) == 2:
        first = min((turn for marks in found["reminders"]["kl"].reminded for turn, m in enumerate(marks, 1) if m),
                    default=1)
        means = [found[arm]["kl"].means(first) for arm in ("reminders", "none")]
        by_task = [{_conversation(name): values for name, values in each.items()} for each in means]
        results["paired"] = {**_plain(paired_difference(by_task[0], by_task[1])), "from_turn": first}
    return results


def _conversation(episode: str) -> str:
    """The part of an episode's id that both arms share: ``"none.3.0"`` -> ``"3.0"``."""
    return episode.split(".", 1)[1]


def _arm(measures: Mapping[str, Drift]) -> dict[str, Any]:
    drift = measures["kl"]
    length = max(map(len, drift.series))
    by_turn = [clustered_mean([[one[turn]] for one in drift.series if turn < len(one)]) for turn in range(length)]
    marked = any(any(marks) for marks in drift.reminded)
    judged = judge(drift.series, drift.reminded if marked else None)
    row = {
        "mean": _plain(clustered_mean([list(one) for one in drift.series])), "by_turn": [_plain(e) for e in by_turn],
        "others": {name: float(np.mean(np.concatenate(one.series))) for name, one in measures.items() if name != "kl"},
        "verdict": judged.verdict, "reason": judged.reason,
        "judgement": _finite(asdict(judged)), "reminders": sum(sum(marks) for marks in drift.reminded),
    }
    if {mark for marks in drift.reminded for mark in marks[1:]} == {False, True}:
        row["event"] = _finite(asdict(event_effect(drift.series, drift.reminded)))
    return row


def _costs(model: Local, result: Result) -> dict[str, int]:
    """What the reminders cost: how many there were, and the tokens that they added to the log."""
    said = [m for group in result.groups for episode in group for m in _log(episode) if m.origin == "reminder"]
    return {"reminders": len(said), "tokens": sum(model.count([message]) for message in said)}


def _log(episode: Episode) -> Sequence[Any]:
    trajectory = episode.trajectory("agent")
    return () if trajectory is None else trajectory.messages


def _plain(estimate: Estimate) -> dict[str, float | None]:
    known = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
    return {name: value if isfinite(value) else None for name, value in known.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value
