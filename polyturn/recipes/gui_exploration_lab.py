"""Screen navigation in three stages: imitation of shortest paths, single-turn, then multi-turn reinforcement learning.

After imitation (``sft_updates``) each arm has ``iterations`` more: ``sft`` imitates on, ``st_rl`` answers stored steps
of the solver again and learns from the three terms, ``mt_rl`` does so for the first half and plays whole tasks for the
second. A sub-tree of the application is held out: its single clicks are trained on; paths into it, out of it and inside
it are the test. It reports interactive success and the static scores there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from polyturn.advantages.group import group_standardised
from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.envs.gui_lab.actions import legal_texts, listed
from polyturn.envs.gui_lab.app import AppSpec, Kind, make_app
from polyturn.envs.gui_lab.env import Look
from polyturn.envs.gui_lab.suite import Drawn, GuiLab
from polyturn.envs.stored import Stored
from polyturn.errors import BadInput
from polyturn.evaluate.recorded import evaluate_once
from polyturn.evaluate.study import Study
from polyturn.learn.curriculum import Mixture, Share, stretch
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.rates import constant
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.methods.envs.gui_exploration_lab import (
    WARM_UP,
    Goal,
    PathReward,
    StepReward,
    judged,
    path_accuracy,
    static_report,
)
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import open_model
from polyturn.protocols import Match, Player, Policy, Verifier
from polyturn.record.read import read_episodes
from polyturn.rollout.pool import play
from polyturn.seeds import derive
from polyturn.types import Episode, Group, Sampling, Task

Arm = Literal["sft", "st_rl", "mt_rl"]
ORDER = ("sft", "sft_longer", "st_rl", "mt_rl")
STUDY = Study(
    outcome="success", baseline="sft",
    arms={"sft": {"arm": "sft"}, "st_rl": {"arm": "st_rl"}, "mt_rl": {"arm": "mt_rl"}},
    tried=({"lr": 5e-4}, {"lr": 1.5e-3}), more=("imitated", "reached", "static", "path", "train"), curve="learner/loss",
    stages=("sft_longer", "st_rl", "mt_rl"),
    fixed={"model": "tiny", "brief": True, "branching": "4,2", "sft_updates": 100, "sft_tasks": 6, "sft_lr": 3e-3,
           "iterations": 40, "steps": 12, "temperature": 1.0, "test_tasks": 40, "save_every": 100},
    shares=("success", "imitated", "reached", "static", "path", "train"),
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes the application, what is held out, and every draw."""
    arm: Arm = "mt_rl"
    """What follows the imitation: more of it, single-turn, or single-turn then multi-turn reinforcement learning."""
    kind: Kind = "tree"
    """The graph of the application."""
    branching: str = "5,3,2,2,1,1"
    """Children of a page by depth; the default has 231 pages."""
    brief: bool = False
    """The short form of observations and replies, for a tiny model; else the paper's, with the rules explained."""
    sft_updates: int = 60
    """Updates of imitation."""
    sft_tasks: int = 8
    """Tasks in each of them."""
    sft_lr: float = 3e-5
    """Learning rate of imitation."""
    iterations: int = 20
    """Updates after it, of what the arm does."""
    tasks: int = 4
    """Tasks in an update of the multi-turn stage."""
    steps: int = 16
    """Stored steps in an update of the single-turn stage."""
    rollouts: int = 8
    """Answers to each step, and plays of each task."""
    lr: float = 1e-5
    """Learning rate of reinforcement learning."""
    temperature: float = 1.2
    """Of sampling in training; tests are greedy."""
    top_k: int = 8
    """Of sampling in the multi-turn stage; 0 = all."""
    goal: Goal = "a2b"
    """The reward of a play."""
    max_tokens: int = 64
    """The longest reply."""
    test_tasks: int = 60
    """Held-out tasks, and as many of those trained on."""
    save_every: int = 10
    """Updates between checkpoints."""


NEEDS = (
    (("tasks", "top_k", "goal"), {"arm": ("mt_rl",)}),
    (("steps", "rollouts", "temperature", "lr"), {"arm": ("st_rl", "mt_rl")}),
    (("tasks", "top_k", "goal", "steps", "rollouts", "temperature", "lr"), {"iterations": ()}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """The stages of the arm, then the scores."""
    lab = lab_of(settings)
    model = model_of(settings, lab, run)
    work = _Work(settings, run, model, lab)
    try:
        await work.imitate("sft", settings.sft_updates)
        imitated = _mean(await work.interactive("imitated"), "value")
        if settings.arm == "sft":
            await work.imitate("sft_longer", settings.iterations, first=settings.sft_updates)
        else:
            single = settings.iterations if settings.arm == "st_rl" else settings.iterations // 2
            await work.answer_again(single)
            if settings.arm == "mt_rl":
                await work.play_whole(settings.iterations - single)
        await work.conclude(imitated)
    finally:
        model.close()


def model_of(settings: Settings, lab: GuiLab, run: Run) -> Local:
    """The policy; a tiny one begins with larger weights than usual, since it must learn to look up and to copy."""
    return open_model(
        settings.model, lambda: texts(lab), seed=settings.seed, deterministic=run.deterministic,
        progress=run.progress.note,
    )


def text(results: Mapping[str, Any]) -> str:
    """The scores, one a line."""
    return "\n".join(f"{name:<14}{value:.3f}" for name, value in results.get("outcome", {}).items()) or "no result yet"


def held_out(settings: Settings) -> list[Match]:
    """The held-out tasks, played greedily."""
    lab = lab_of(settings)
    return [_match(lab, task, Player(partial(_agent, settings, 0.0), "main")) for task in lab.tasks("test")]


# ---------------------------------------------------------------- what is played


def spec_of(settings: Settings) -> AppSpec:
    """The application. Raises: BadInput for a ``branching`` that is no list of numbers."""
    try:
        branching = tuple(int(part) for part in settings.branching.split(","))
    except ValueError:
        raise BadInput(f"branching is {settings.branching!r}; expected numbers such as 5,3,2") from None
    return AppSpec(settings.kind, derive("gui_exploration_lab", settings.seed) % 2**31, branching)


def lab_of(settings: Settings, verifier: Verifier | None = None) -> GuiLab:
    """The suite, with another reward if one is given."""
    lab = GuiLab(Drawn(spec_of(settings)), Look(brief=settings.brief), test_tasks=settings.test_tasks)
    if verifier is not None:
        lab.verifier = verifier
    return lab


def texts(lab: GuiLab) -> list[str]:
    """What a tiny model's tokenizer is learned from: the observations and right replies of every page."""
    app = make_app(lab.drawn.app)
    found = []
    for page in app.pages:
        seen = tuple((element.name, element.centre) for element in page.seen)
        rows = listed(seen, brief=lab.look.brief)
        found.append(f"From {page.name} by Null\n{rows}\nTo {page.name} on {page.name} History: Page:")
        found += legal_texts(page, brief=lab.look.brief) * 2
    return found


def _agent(settings: Settings, temperature: float, top_k: int = 0) -> ChatAgent:
    return ChatAgent(sampling=Sampling(temperature=temperature, top_k=top_k, max_tokens=settings.max_tokens))


def _match(suite: Any, task: Task, player: Player) -> Match:
    return Match(suite, task, {"agent": player}, derive("gui_exploration_lab test", task.id))


@dataclass
class _Work:
    """The stages of a run over one model."""

    settings: Settings
    run: Run
    model: Local
    lab: GuiLab

    async def imitate(self, name: str, updates: int, *, first: int = 0) -> None:
        """Likelihood of the solver's replies."""
        rule = imitation()
        share = Share(self.lab, self._solvers, frozenset({"agent"}), self.settings.sft_tasks, 1)
        await self._train(name, share, rule, updates, self.settings.sft_lr, policy=self._dictated(), first=first)

    def _dictated(self) -> Dictated:
        return Dictated(name="main", chat=self.model.chat)

    def _solvers(self, task: Task) -> dict[str, Player]:
        return {"agent": Player(lambda: AnswerAgent(self.lab.oracle(task)), "main")}

    async def answer_again(self, iterations: int) -> None:
        """Single-turn: stored steps of the solver (a task has three or more), several answers each, three terms."""
        if passed(self.run, "st_rl", ORDER):
            return
        tasks = max(1, iterations * self.settings.steps // 3)
        stored = Stored(await self._solved("stored", "train", tasks), verifier=StepReward(), name="stored steps")
        share = Share(stored, self._players(), frozenset({"agent"}), self.settings.steps, self.settings.rollouts)
        await self._reinforce("st_rl", share, iterations)

    async def play_whole(self, iterations: int) -> None:
        """Multi-turn: whole tasks, paid by where they end."""
        lab = lab_of(self.settings, PathReward(self.settings.goal))
        players = self._players(self.settings.top_k)
        share = Share(lab, players, frozenset({"agent"}), self.settings.tasks, self.settings.rollouts)
        await self._reinforce("mt_rl", share, iterations)

    def _players(self, top_k: int = 0) -> Any:
        make = partial(_agent, self.settings, self.settings.temperature, top_k)
        return lambda task: {"agent": Player(make, "main")}

    async def _reinforce(self, name: str, share: Share, iterations: int) -> None:
        rule = Rule(group_standardised, token_mean, policy_gradient, proportional=True, on_policy=True)
        await self._train(name, share, rule, iterations, self.settings.lr, policy=self.model)

    async def _train(
        self, name: str, share: Share, rule: Rule, updates: int, lr: float, *, policy: Policy, first: int = 0
    ) -> None:
        if not updates or passed(self.run, name, ORDER):
            return
        stage = Stage(
            name, Mixture((share,), derive("gui_exploration_lab", name, self.settings.seed), first=first),
            {"main": policy}, self.model, self.run.learner(self.model, lr=lr), rule, updates,
            lr=lambda i: lr * constant(i, warm=WARM_UP * updates),
        )
        await train(self.run, stage, save_every=self.settings.save_every)

    async def _solved(self, label: str, split: str, count: int) -> list[Episode]:
        """The solver's plays of the first tasks of a split, recorded once."""
        tasks = stretch(self.lab, split, 0, count)
        recorded = [e for e in read_episodes(self.run.folder) if e.id.startswith(f"{label}.")]
        if len(recorded) == len(tasks):
            return recorded
        matches = [_match(self.lab, task, self._solvers(task)["agent"]) for task in tasks]
        groups = await play(matches, {"main": self._dictated()}, label=label, recorder=self.run.recorder)
        return [episode for group in groups for episode in group]

    # ------------------------------------------------------------ scores

    async def conclude(self, imitated: float) -> None:
        """Interactive and static scores on held-out tasks, interactive ones on those trained on."""
        test = await self.interactive("test")
        seen = await self._rated("played-train", self.lab, stretch(self.lab, "train", 0, self.settings.test_tasks))
        stored = Stored([], await self._solved("solved", "test", self.settings.test_tasks), verifier=StepReward())
        steps = list(judged(await self._rated("static", stored, list(stored.tasks("test")))))
        report = self.lab.report(test)
        static = static_report(steps)
        outcome = {
            "success": _mean(test, "value"), "reached": _mean(test, "reached"), "static": static["all"],
            "path": path_accuracy(steps), "train": _mean(seen, "value"), "imitated": imitated,
        }
        self.run.keep(outcome=outcome, interactive=report, static=static)

    async def interactive(self, label: str) -> list[Group]:
        """The held-out tasks, played."""
        return await self._rated(f"played-{label}", self.lab, list(self.lab.tasks("test")))

    async def _rated(self, label: str, suite: Any, tasks: Sequence[Task]) -> list[Group]:
        """The model's greedy play of some tasks, scored, or what an earlier attempt recorded."""
        matches = [_match(suite, task, Player(partial(_agent, self.settings, 0.0), "main")) for task in tasks]
        rated = await evaluate_once(
            matches, {"main": self.model}, policy="main", label=label, recorder=self.run.recorder,
            finished=self.run.plays(f"rating {label}", matches))
        return list(rated.groups)


def _mean(groups: Sequence[Group], name: str) -> float:
    """Mean score, or mean of one of its parts, over the episodes that have one."""
    scores = [episode.scores["score"]["agent"] for group in groups for episode in group if episode.scores]
    values = [score.value if name == "value" else score.parts[name] for score in scores if score.value is not None]
    if not values:
        raise BadInput("no test episode was scored: all of them broke; see the record")
    return float(np.mean([value for value in values if value is not None]))
