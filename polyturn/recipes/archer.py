"""ArCHer on twenty questions: a replayed critic of whole replies against REINFORCE, at equal steps.

Each iteration plays ``episodes`` games and puts every turn into the ring; ``critic_updates`` steps of the critic
follow, then (after ``warmup`` iterations) ``actor_updates`` of the actor, each on fresh replies to stored observations.
All arms end at the same number of environment steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.arrays import lay_out
from polyturn.envs.twenty_questions import TwentyQuestions, twenty_questions
from polyturn.evaluate.benchmark import evaluate
from polyturn.evaluate.study import Study
from polyturn.learn.account import account_of
from polyturn.learn.curriculum import Mixture, Share, StepBudget
from polyturn.learn.learner import Learner
from polyturn.learn.loop import Metrics, Stage, imitation, passed, played_metrics, train
from polyturn.learn.run import Run
from polyturn.learn.split import split_gaps
from polyturn.losses.learned import Loss
from polyturn.methods.learning.archer import (
    Ring,
    Transition,
    actor_loss,
    actor_loss_with_baseline,
    advantage,
    answer_again,
    critic_heads,
    reply_of,
    transitions,
    update_critic,
)
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import is_tiny, open_model, tiny_model
from polyturn.protocols import Match, Player, Stateful
from polyturn.record.credit import credit_rows
from polyturn.record.read import read_episodes
from polyturn.rollout.pool import play
from polyturn.rollout.score import score_matches
from polyturn.seeds import derive, generator
from polyturn.types import Episode, FloatArray, Group, Sampling, Task

STAGE = "archer"
ORDER = ("imitate", STAGE)
CRITIC_WIDTH = 64
CAPACITY = 100_000
"""Transitions in the ring."""


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"tiny", a folder of a causal language model, or empty for the embedded SmolLM2-135M-Instruct."""
    seed: int = 0
    """Fixes words, first weights of tiny models and every draw."""
    arm: Literal["archer", "reinforce", "no_replay", "no_v"] = "archer"
    """The method; REINFORCE with the return of the game; critic updates on the newest games alone; A = Q."""
    words: int = 10
    """Words that may be hidden."""
    questions: int = 12
    """Turns of a game."""
    env_steps: int = 6000
    """Environment steps after which a run ends."""
    episodes: int = 16
    """Games in an iteration."""
    critic_updates: int = 20
    """Steps of the critic in an iteration."""
    actor_updates: int = 3
    """Steps of the actor in an iteration, each on fresh replies."""
    batch: int = 32
    """Transitions in a step of either."""
    warmup: int = 5
    """Iterations before the actor learns."""
    gamma: float = 0.95
    """Discount, by turn."""
    tau: float = 0.1
    """How far the critic's target copy follows in a step."""
    critic_lr: float = 1e-3
    """Learning rate of the critic."""
    lr: float = 1e-5
    """Learning rate of the actor."""
    baseline: bool = False
    """Whether the actor subtracts a value head of its own at every token."""
    imitate: int = 0
    """Updates on uniformly random legal play before everything else: a policy that never guesses finds no reward."""
    test_tasks: int = 64
    """Held-out games, two plays each."""
    lora: int = 0
    """Rank of an adapter; 0 = all weights of the actor learn."""
    save_every: int = 10
    """Iterations between checkpoints."""


NEEDS = (
    (("critic_updates", "actor_updates", "batch", "warmup", "gamma", "tau", "critic_lr", "baseline"),
     {"arm": ("archer", "no_replay", "no_v")}),
)


STUDY = Study(
    outcome="return",
    arms={"archer": {"arm": "archer"}, "reinforce": {"arm": "reinforce"}, "no_replay": {"arm": "no_replay"},
          "no_v": {"arm": "no_v"}},
    baseline="reinforce", tried=({"lr": 1e-4}, {"lr": 3e-4}),
    fixed={
        "model": "tiny", "words": 6, "questions": 8, "env_steps": 3000, "critic_updates": 15, "batch": 32,
        "actor_updates": 3, "warmup": 8, "imitate": 60, "gamma": 0.9, "tau": 0.2, "critic_lr": 2e-3,
    },
    more=("score", "found"),
    curve="score/twenty_questions",
    shares=("score", "found"),
)


def player() -> Player:
    """The policy in the seat; its replies are questions and guesses of the game."""
    return Player(partial(ChatAgent, mask=True, sampling=Sampling(max_tokens=24)), "main")


def held_out(settings: Settings) -> list[Match]:
    """The held-out games."""
    suite = suite_of(settings)
    return [Match(suite, task, {"agent": player()}, derive("held out", task.id), 2) for task in suite.tasks("test")]


def suite_of(settings: Settings) -> TwentyQuestions:
    """The game; a tiny model, whose replies are masked to the legal ones, is not shown their lists."""
    return twenty_questions(
        words=settings.words, questions=settings.questions, test_tasks=settings.test_tasks,
        brief=is_tiny(settings.model),
    )


def texts(settings: Settings) -> list[str]:
    """What a tiny model's tokenizer is learned from: all that may be said."""
    suite = suite_of(settings)
    return [*suite.legal, "Find it.", "Yes.", "No."] * 8


async def main(settings: Settings, run: Run) -> None:
    """Learns until the steps are spent, and plays the held-out games before and after."""
    model = open_model(
        settings.model, partial(texts, settings), seed=settings.seed, deterministic=run.deterministic,
        lora=settings.lora or None,
    )
    try:
        work = make_work(settings, run, model)
        await work.imitate()
        if run.at is None or run.at[0] == "imitate":
            run.keep(before=await work.rate("before"))
        await work.learn()
        run.keep(outcome=await work.rate("test"))
    finally:
        model.close()


def text(results: Mapping[str, Any]) -> str:
    """The outcome, as plain text."""
    before, found = results.get("before", {}), results.get("outcome")
    if found is None:
        return "no result: the run did not come to its end"
    return "on held-out games " + ", ".join(
        (f"{name} {before[name]:.3f} -> " if name in before else f"{name} ") + f"{value:.3f}"
        for name, value in found.items())


@dataclass
class Work:
    """The steps of a run."""

    settings: Settings
    run: Run
    model: Local
    suite: Any
    curriculum: StepBudget
    actor: Learner
    critic: Learner
    ring: Ring

    async def imitate(self) -> None:
        """Likelihood of random legal play; the same for every arm, and no part of the budget."""
        settings = self.settings
        if not settings.imitate or passed(self.run, "imitate", ORDER):
            return

        def cast(task: Task) -> dict[str, Player]:
            return {"agent": Player(lambda: AnswerAgent(self.suite.random_answer(task, settings.seed)), "main")}

        share = Share(self.suite, cast, frozenset({"agent"}), settings.episodes, 1)
        stage = Stage(
            "imitate", Mixture((share,), derive("imitate", settings.seed)),
            {"main": Dictated(name="main", chat=self.model.chat)}, self.model,
            Learner(self.model.model, lr=3e-3 if is_tiny(settings.model) else 3e-5),
            imitation(), settings.imitate,
        )
        await train(self.run, stage, save_every=settings.imitate)

    async def learn(self) -> None:
        """Iterations until the budget of environment steps is spent."""
        parts: dict[str, Stateful] = {"actor": self.actor, "critic": self.critic, "curriculum": self.curriculum}
        i = 0
        self.actor.version = max(self.actor.version, self.model.version)
        if self.run.at is not None and self.run.at[0] == STAGE:
            i = self.run.at[1]
            self.run.restore(parts)
            self.model.publish(self.actor.version)
            self._refill()
        self.run.progress.stage(STAGE, 0)  # as many iterations as the budget of environment steps lasts for
        while not self.curriculum.is_spent():
            await self.run.heed(STAGE, i, parts)
            metrics = await self._iterate(i)
            self.run.recorder.metrics(i, metrics, stage=STAGE)
            self.run.progress.iteration(i, metrics)
            i += 1
            if i % self.settings.save_every == 0 or self.curriculum.is_spent():
                self.run.save(STAGE, i, parts)
        self.model.save(self.run.model_folder(STAGE))

    def _refill(self) -> None:
        """The ring as it was: what the record holds of play, in its order. Fresh replies have a parent and no place."""
        played = [e for e in read_episodes(self.run.folder) if e.id.startswith(f"{STAGE}.") and not e.parent]
        for episode in sorted(played, key=lambda e: (e.iteration, [int(part) for part in e.id.split(".")[1:]])):
            self.ring.add(self._transitions(episode))

    def _transitions(self, episode: Episode) -> list[Transition]:
        return transitions(episode, gamma=self.settings.gamma)

    async def _iterate(self, i: int) -> Metrics:
        matches = self.curriculum.propose(i)
        started = time.monotonic()
        groups = await play(
            matches, {"main": self.model}, label=f"{STAGE}.{i}", recorder=self.run.recorder,
            finished=self.run.progress.sample)
        groups = await score_matches(matches, groups, self.run.recorder)
        self.curriculum.observe(groups)
        whole = [episode for group in groups for episode in group if episode.stop.kind != "error"]
        self.ring.add([row for episode in whole for row in self._transitions(episode)])
        metrics = {**played_metrics(groups, time.monotonic() - started), "loop/env_steps": float(self.curriculum.taken)}
        if self.settings.arm == "reinforce":
            return metrics | self._reinforce(i, groups)
        metrics |= await self._teach_critic(i)
        for update in range(self.settings.actor_updates if i >= self.settings.warmup else 0):
            metrics |= await self._teach_actor(i, update)
        return metrics

    def _draw(self, count: int, *names: str | int) -> list[Transition]:
        draws = generator("ring", self.settings.seed, *names)
        return self.ring.draw(count, draws, replay=self.settings.arm != "no_replay")

    async def _fresh(self, rows: list[Transition], label: str, i: int, *, record: bool) -> list[Episode]:
        return await answer_again(
            rows, {"main": self.model}, player(), verifier=self.suite.verifier, label=label, iteration=i,
            seed=derive(self.settings.seed, label), recorder=self.run.recorder if record else None)

    async def _teach_critic(self, i: int) -> Metrics:
        settings = self.settings
        rows = self._draw(settings.critic_updates * settings.batch, "critic", i)
        said = [reply_of(episode) for episode in await self._fresh(rows, f"critic.{i}", i, record=False)]
        metrics: Metrics = {}
        for start in range(0, len(rows), settings.batch):
            part = slice(start, start + settings.batch)
            metrics = update_critic(self.critic, rows[part], said[part], gamma=settings.gamma, tau=settings.tau)
        return {name: value / settings.batch for name, value in metrics.items()}

    async def _teach_actor(self, i: int, update: int) -> Metrics:
        rows = self._draw(self.settings.batch, "actor", i, update)
        again = await self._fresh(rows, f"actor.{i}.{update}", i, record=True)
        said = [reply_of(episode) for episode in again]
        worth_R = advantage(
            self.critic, [row.prompt for row in rows], said, baseline=self.settings.arm != "no_v")
        return self._step(i, [(episode,) for episode in again], worth_R, max(len(ids) for ids in said))

    def _reinforce(self, i: int, groups: list[Group]) -> Metrics:
        """The return of the whole game, against the mean of the iteration's games, on every one of its tokens."""
        whole: list[Group] = [(episode,) for group in groups for episode in group if episode.stop.kind != "error"]
        paid_R = np.array([group[0].paid("agent") for group in whole])
        return self._step(i, whole, paid_R - paid_R.mean(), 1)

    def _step(self, i: int, groups: list[Group], worth_R: FloatArray, longest: int) -> Metrics:
        """One step of the actor; ``worth_R`` is the advantage of each group's tokens."""
        tokens = lay_out(groups, "main")
        advantage_N = worth_R[tokens.group_N]
        weight_N = np.full(len(tokens), 1 / len(groups))
        own = self.settings.baseline and self.settings.arm != "reinforce"
        loss: Loss = partial(actor_loss_with_baseline, longest=longest) if own else actor_loss
        version = self.actor.version
        metrics = self.actor.update(tokens, None, advantage_N, weight_N, loss)
        assert self.actor.last is not None
        columns = {"advantage_N": advantage_N, "weight_N": weight_N}
        gaps = split_gaps(loss, tokens, None, self.actor.last, columns, metrics["learner/loss"])
        account = account_of(loss, tokens, None, self.actor.last, columns)
        rows = credit_rows(
            tokens, self.actor.last, advantage_N, weight_N, stage=STAGE, version=version, account=account)
        self.run.recorder.credit(i, rows)
        self.actor.publish(self.model)
        return {**metrics, **gaps, "actor/advantage": float(worth_R.mean())}

    async def rate(self, label: str) -> dict[str, float]:
        """Return, score and share of words found on the held-out games."""
        games = held_out(self.settings)
        found = await evaluate(
            games, {"main": self.model}, policy="main", label=label, recorder=self.run.recorder,
            finished=self.run.plays(f"rating {label}", games))
        played = [episode for group in found.groups for episode in group if episode.final is not None]
        return {
            "return": float(np.mean([episode.paid("agent") for episode in played])), "score": found.mixture.mean,
            "found": float(np.mean([bool(episode.final and episode.final["found"]) for episode in played])),
        }


def make_work(settings: Settings, run: Run, model: Local) -> Work:
    """Actor, critic and ring, all at their beginning."""
    suite = suite_of(settings)
    share = Share(suite, lambda task: {"agent": player()}, frozenset({"agent"}), settings.episodes, 1)
    vocabulary = int(model.model.get_input_embeddings().num_embeddings)
    encoder = tiny_model(vocabulary, derive("critic", settings.seed) % 2**31, hidden_size=CRITIC_WIDTH,
                         intermediate_size=2 * CRITIC_WIDTH)
    critic = Learner(
        encoder, lr=settings.critic_lr, heads=critic_heads(CRITIC_WIDTH, seed=settings.seed), reference="initial",
        tokens_per_pass=4096)
    actor = Learner(model.model, lr=settings.lr, heads=("baseline",) if settings.baseline else ())
    actor.version = model.version
    curriculum = StepBudget(Mixture((share,), derive("games", settings.seed)), settings.env_steps)
    return Work(settings, run, model, suite, curriculum, actor, critic, Ring(CAPACITY))
