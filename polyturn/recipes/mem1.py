"""MEM1 on composed lookups: several keys to look up one by one, with a memory of constant size.

The model first imitates a player that forgets nothing, which teaches to copy, then (the last quarter of the updates) a
forgetful one, whose internal state keeps each older value with probability ``keep``; then
reinforcement learning by the objectives answered rightly, on ``objectives`` at a time. Arms, at equal updates: ``mem1``
(the question, the last turn, its result) and ``full`` (the whole history). Tables on the trained number of objectives
and on others, with the peak of the context and accuracy by position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from polyturn.agents.chat import ChatAgent
from polyturn.contexts.keep import Keep
from polyturn.envs.composition import by_position, objective_rules
from polyturn.envs.lookup import DRAWERS, ONSETS, composed_lookup, spoken, syllables
from polyturn.evaluate.benchmark import Result, evaluate
from polyturn.evaluate.recorded import evaluate_once
from polyturn.evaluate.study import Study
from polyturn.evaluate.tables import as_text
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.rates import linear
from polyturn.learn.run import Run
from polyturn.methods.context.mem1 import ConstantState, hint_text, mem1_rule, peak_context
from polyturn.policies.local import Local
from polyturn.policies.scripted import Scripted
from polyturn.policies.tiny import is_tiny, open_model
from polyturn.protocols import Context, Match, Player, Policy
from polyturn.seeds import derive, generator
from polyturn.types import Message, Sampling, Task, assistant

ORDER = ("sure", "warm", "learn")
TOKENS_PER_PASS = 2048
SYSTEM = (
    "You answer several questions by searching for them one by one. At each step you see the questions and your last "
    "step alone: what you wrote, and what the search showed. So write all that you know and still need between <IS> "
    "and </IS> first; it is your only memory. Then either search or, when you know all, answer. For "
    "instance: <IS> know ba </IS><search> e </search> and at the end <IS> know ba ke </IS><answer> ba; ke </answer>"
)
STUDY = Study(
    outcome="accuracy", baseline="full", curve="score/composed_lookup",
    arms={"mem1": {"arm": "mem1"}, "full": {"arm": "full"}},
    tried=({"lr": 5e-4}, {"lr": 1.5e-3}),
    more=("untrained", "imitated", "peak", "peak_ratio", "other_accuracy"),
    fixed={"model": "tiny", "onsets": 4, "warm_updates": 200, "warm_lr": 4e-3, "iterations": 24},
    shares=("accuracy", "untrained", "imitated", "other_accuracy"),
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes corpora, worlds and every draw."""
    arm: Literal["mem1", "full"] = "mem1"
    """What the policy sees: constant memory, or its full history."""
    objectives: int = 2
    """Keys to look up in a training task."""
    others: str = "4 8"
    """Other numbers of objectives that tables are made for."""
    onsets: int = 16
    """What a value may be: one of so many."""
    keep: float = 0.5
    """How likely the imitated player's state keeps an older value."""
    warm_updates: int = 40
    """Updates on scripted play: three quarters on that of a sure player, the rest on that of the forgetful one."""
    warm_episodes: int = 16
    """Episodes in each of these."""
    warm_lr: float = 3e-5
    """Learning rate of these; a quarter of it for the forgetful player; both fall to nothing."""
    iterations: int = 30
    """Updates of reinforcement learning."""
    groups: int = 4
    """Tasks in an update."""
    rollouts: int = 8
    """Plays of each task."""
    lr: float = 2e-5
    """Learning rate of reinforcement learning."""
    max_tokens: int = 96
    """The longest reply."""
    test_tasks: int = 48
    """Held-out tasks of a table."""
    save_every: int = 10
    """Iterations between checkpoints."""


NEEDS = (
    (("warm_episodes", "warm_lr", "keep"), {"warm_updates": ()}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Tables of the untrained, the imitating and the trained model, and of the scripted state writer for the memory."""
    model = open_model(
        settings.model, texts, seed=settings.seed, deterministic=run.deterministic, progress=run.progress.note,
    )
    work = _Work(settings, run, model)
    try:
        if run.at is None:
            await work.rate("untrained", settings.objectives)
            run.keep(memory=await constant_memory(model, settings), found=work.found)
        work.found = dict(run.results["found"])
        await work.imitate()
        await work.rate("imitated", settings.objectives)
        await work.reinforce()
        await work.rate("trained", settings.objectives)
        for other in _numbers(settings):
            await work.rate(f"trained on {other}", other)
        work.conclude()
    finally:
        model.close()


def text(results: Mapping[str, Any]) -> str:
    """The tables, as plain text."""
    return str(results.get("text", "no table: the run did not come to its end"))


def held_out(settings: Settings) -> list[Match]:
    """The held-out matches on the trained number of objectives."""
    return matches(settings, settings.objectives, context_of(settings))


# ---------------------------------------------------------------- players


def texts() -> list[str]:
    """What a tiny model's tokenizer is learned from."""
    every = [{drawer: onset + drawer for drawer in DRAWERS[:8]} for onset in ONSETS]
    said = [f"<IS> {spoken('know', found)} </IS><search> {drawer} </search>" for found in every for drawer in found]
    said += [f"<answer> {'; '.join(found.values())} </answer> e {found['e']}" for found in every]
    opening = " ".join((objective_rules(DRAWERS[:8]), *map(hint_text, (1, 2, 3))))
    return [*[opening] * 4, *said]


def writer(settings: Settings) -> Callable[[Sequence[Message]], Message]:
    """The imitated player, from what it is shown alone: its state is what stands in its last state and result, each
    older value kept with probability ``keep``; it searches the first question after the last one that it knows, and
    answers when it knows the last, guessing what its state has lost."""

    def reply(messages: Sequence[Message]) -> Message:
        draws = generator("writer", settings.seed, *(message.text for message in messages))
        asked = next(m.text for m in messages if m.role == "user")
        questions = asked.split("\n")[0].removeprefix("Questions: ").split("; ")
        told = " ".join(m.text for m in messages if m.role != "system" and m.origin != "reminder")
        known = {key: value for key, value in syllables(told).items() if key in questions}
        newest = syllables(messages[-2].text if messages[-1].origin == "reminder" else messages[-1].text)
        kept = {key: value for key, value in known.items() if key in newest or draws.random() < settings.keep}
        last = max((place for place, key in enumerate(questions) if key in known), default=-1)
        state = f"<IS> {spoken('know', kept)} </IS>"
        if last + 1 < len(questions):
            return assistant(f"{state}<search> {questions[last + 1]} </search>")
        guess = {key: ONSETS[int(draws.integers(settings.onsets))] + key for key in questions}
        return assistant(f"{state}<answer> {'; '.join({**guess, **kept}[key] for key in questions)} </answer>")

    return reply


def context_of(settings: Settings) -> Context:
    """What this arm's player sees."""
    return ConstantState() if settings.arm == "mem1" else Keep()


def player(context: Context, settings: Settings) -> Player:
    """The learner in its seat; a tiny model reads no explanation, and copies from what it reads."""
    told = "" if is_tiny(settings.model) else SYSTEM
    return Player(lambda: ChatAgent(told, context, Sampling(max_tokens=settings.max_tokens)), "main")


def matches(settings: Settings, objectives: int, context: Context) -> list[Match]:
    """The held-out tasks of so many objectives."""
    suite = composed_lookup(objectives=objectives, onsets=settings.onsets, test_tasks=settings.test_tasks)
    return [Match(suite, task, {"agent": player(context, settings)}, derive("test", task.id))
            for task in suite.tasks("test")]


async def constant_memory(model: Local, settings: Settings) -> dict[str, dict[str, float]]:
    """Arm -> number of objectives -> peak context in tokens, of a state writer that forgets nothing: the memory that
    each view takes, whatever was learned, with the explanation that a model that reads is shown."""
    sure = Settings(seed=settings.seed, keep=1.0, test_tasks=8, max_tokens=settings.max_tokens)
    script = Scripted(writer(sure), name="main", chat=model.chat)
    found: dict[str, dict[str, float]] = {}
    for arm, context in (("mem1", ConstantState()), ("full", Keep())):
        for objectives in (1, 2, 4, 8):
            result = await evaluate(matches(sure, objectives, context), {"main": script}, policy="main")
            found.setdefault(arm, {})[str(objectives)] = peak_context(_episodes(result))
    return found


def _episodes(result: Result) -> list[Any]:
    return [episode for group in result.groups for episode in group]


def _numbers(settings: Settings) -> list[int]:
    return [int(word) for word in settings.others.split()]


# ---------------------------------------------------------------- the steps of a run


@dataclass
class _Work:
    """The steps of a run over one model."""

    settings: Settings
    run: Run
    model: Local
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def imitate(self) -> None:
        """Likelihood of the sure state writer and then of the forgetful one."""
        settings = self.settings
        sure = replace(settings, keep=1.0)
        await self._imitate("sure", sure, settings.warm_updates * 3 // 4, settings.warm_lr)
        await self._imitate("warm", settings, settings.warm_updates - settings.warm_updates * 3 // 4,
                            settings.warm_lr / 4)

    async def _imitate(self, name: str, settings: Settings, updates: int, lr: float) -> None:
        if passed(self.run, name, ORDER):
            return
        rule = imitation()
        script = Scripted(writer(settings), name="main", chat=self.model.chat)
        await self._train(name, self._share(settings.warm_episodes, 1), script, rule, updates, lr)

    async def reinforce(self) -> None:
        """A point for each objective, each rollout against its group."""
        settings = self.settings
        share = self._share(settings.groups, settings.rollouts)
        await self._train("learn", share, self.model, mem1_rule(), settings.iterations, settings.lr)

    async def rate(self, name: str, objectives: int) -> None:
        """A row: accuracy (share of objectives), success (all of them), peak context, accuracy by position."""
        unseen = matches(self.settings, objectives, context_of(self.settings))
        result = await evaluate_once(
            unseen, {"main": self.model}, policy="main", label=f"table-{name.replace(' ', '-')}",
            recorder=self.run.recorder, finished=self.run.plays(f"table {name}", unseen),
        )
        solved = [all(e.final["matched"] or [False]) for e in _episodes(result) if e.final is not None]
        self.found[name] = {
            "objectives": objectives, "accuracy": result.mixture.mean, "success": float(np.mean(solved)),
            "peak": peak_context(_episodes(result)), "by_position": list(by_position(result.groups)),
        }
        self.run.keep(found=self.found)

    def conclude(self) -> None:
        """Numbers and tables into the results."""
        trained = self.found["trained"]
        others = [self.found[f"trained on {other}"] for other in _numbers(self.settings)]
        peaks = [trained["peak"], *(row["peak"] for row in others)]
        outcome = {
            "accuracy": trained["accuracy"], "untrained": self.found["untrained"]["accuracy"],
            "imitated": self.found["imitated"]["accuracy"], "peak": trained["peak"],
            "peak_ratio": max(peaks) / min(peaks),
            "other_accuracy": float(np.mean([row["accuracy"] for row in others])) if others else trained["accuracy"],
        }
        lines = [["", "objectives", "accuracy", "success", "peak", "by position"]]
        for name, row in self.found.items():
            places = " ".join(f"{share:.2f}" for share in row["by_position"])
            lines.append([name, str(row["objectives"]), f"{row['accuracy']:.3f}", f"{row['success']:.3f}",
                          f"{row['peak']:.0f}", places])
        memory: Mapping[str, Mapping[str, float]] = self.run.results["memory"]
        peaks_of = [["peak tokens, scripted", *next(iter(memory.values()))]]
        peaks_of += [[arm, *(f"{tokens:.0f}" for tokens in row.values())] for arm, row in memory.items()]
        self.run.keep(outcome=outcome, text="\n\n".join((as_text(lines), as_text(peaks_of))))

    def _share(self, groups: int, rollouts: int) -> Share:
        settings = self.settings
        suite = composed_lookup(objectives=settings.objectives, onsets=settings.onsets)

        def cast(task: Task) -> Mapping[str, Player]:
            return {"agent": player(context_of(settings), settings)}

        return Share(suite, cast, frozenset({"agent"}), groups, rollouts)

    async def _train(self, name: str, share: Share, policy: Policy, rule: Rule, updates: int, lr: float) -> None:
        stage = Stage(
            name, Mixture((share,), derive(name, self.settings.seed)), {"main": policy}, self.model,
            self.run.learner(self.model, lr=lr, tokens_per_pass=TOKENS_PER_PASS), rule, updates,
            lr=None if name == "learn" else lambda i: lr * linear(i, updates, warm=10),
        )
        await train(self.run, stage, save_every=self.settings.save_every)
