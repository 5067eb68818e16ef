"""Rounds of preference learning on arithmetic with a calculator: M-DPO, M-KTO, single-turn DPO, filtered fine-tuning.

A short imitation of the solver, then rounds: the policy plays every prompt ``samples`` times, right and wrong plays
become preferences, one pass over them, and (with ``renew``) the policy becomes the next round's reference. All arms see
equally many samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

from polyturn.advantages.turn import alike
from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.arrays import as_turns, lay_out
from polyturn.envs.arithmetic import Arithmetic, arithmetic
from polyturn.evaluate.benchmark import evaluate
from polyturn.evaluate.study import Study
from polyturn.learn.account import account_of
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.learns import Learns
from polyturn.learn.loop import Metrics, Stage, imitation, passed, played_metrics, train
from polyturn.learn.rates import cosine
from polyturn.learn.run import Run
from polyturn.learn.split import split_gaps
from polyturn.losses.learned import Loss
from polyturn.losses.likelihood import likelihood
from polyturn.losses.weighting import group_mean, token_mean, trajectory_mean
from polyturn.methods.learning.multi_turn_preference import (
    RightAndWrong,
    chosen_tokens,
    m_dpo,
    m_kto,
    mismatch_point,
    mismatched,
    preference,
    right_ones,
    whole_text,
)
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import open_model
from polyturn.protocols import Match, Player
from polyturn.record.credit import Waiver, credit_rows
from polyturn.rollout.pool import play
from polyturn.rollout.score import score_matches
from polyturn.seeds import derive
from polyturn.types import Group, Sampling, Task

ORDER = ("sft", "rounds")
Arm = Literal["m_dpo", "m_kto", "single_turn_dpo", "filtered_sft"]


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"tiny", a folder of a causal language model, or empty for the embedded SmolLM2-135M-Instruct."""
    seed: int = 0
    """Fixes tasks, worlds, pairs and every draw."""
    arm: Arm = "m_dpo"
    """What is learned from the samples of a round."""
    steps: int = 2
    """Calculations that a problem needs."""
    sft_updates: int = 30
    """Updates of the imitation before the rounds."""
    sft_episodes: int = 8
    """Solved problems in each of them."""
    sft_lr: float = 1e-4
    """Their learning rate."""
    rounds: int = 3
    """Rounds of sampling and learning."""
    prompts: int = 48
    """Problems in a round."""
    samples: int = 8
    """Plays of each problem."""
    pairs: int = 8
    """Pairs in an update (for filtered_sft twice as many trajectories)."""
    lr: float = 1e-5
    """Highest learning rate of a round; it rises over a tenth of the updates and falls in half a cosine."""
    beta: float = 0.1
    """Strength of the reference."""
    nll: float = 0.0
    """Coefficient of the likelihood of the chosen trajectories beside M-DPO."""
    renew: bool = True
    """Whether every round's reference is the policy at its begin; else it stays the imitation."""
    test_tasks: int = 64
    """Held-out problems."""
    lora: int = 0
    """Rank of an adapter; 0 = all weights learn."""


NEEDS = (
    (("beta", "renew"), {"arm": ("m_dpo", "single_turn_dpo", "m_kto")}),
    (("nll",), {"arm": ("m_dpo", "single_turn_dpo")}),
    (("beta", "renew", "nll", "samples", "pairs", "lr"), {"rounds": ()}),
    (("sft_episodes", "sft_lr"), {"sft_updates": ()}),
)
RANKS = True


STUDY = Study(
    outcome="accuracy",
    arms={
        "m_dpo": {"arm": "m_dpo"}, "single_turn_dpo": {"arm": "single_turn_dpo"},
        "filtered_sft": {"arm": "filtered_sft"}, "m_kto": {"arm": "m_kto"},
        "m_dpo_fixed_reference": {"arm": "m_dpo", "renew": False}, "m_dpo_nll": {"arm": "m_dpo", "nll": 1.0},
    },
    baseline="single_turn_dpo", tried=({"lr": 1e-4}, {"lr": 3e-4}),
    fixed={
        "model": "tiny", "steps": 1, "sft_updates": 50, "sft_episodes": 16, "sft_lr": 3e-3, "prompts": 96,
        "samples": 6, "pairs": 4, "test_tasks": 200,
    },
    more=("accuracy_sft",), curve="evaluate/score",
    shares=("accuracy", "accuracy_sft"),
)


def held_out(settings: Settings) -> list[Match]:
    """The held-out problems, each answered once, word by word the most likely."""
    suite = arithmetic(steps=settings.steps, test_tasks=settings.test_tasks)
    cast = {"agent": player(0.0)}
    return [Match(suite, task, cast, derive("held out", task.id)) for task in suite.tasks("test")]


def player(temperature: float) -> Player:
    """The policy in the seat."""
    return Player(partial(ChatAgent, sampling=Sampling(temperature=temperature, max_tokens=24)), "main")


def texts(settings: Settings) -> list[str]:
    """What a tiny model's tokenizer is learned from: problems and their solutions."""
    suite = arithmetic(steps=settings.steps)
    problems = [suite.problem(task, 0) for task in islice(suite.tasks("train"), 400)]
    said = [f"calc {' calc '.join(p.steps)} answer {p.answer}" for p in problems]
    return [*(p.text for p in problems), *said, *(f" {number} {number}" for number in range(200))]


async def main(settings: Settings, run: Run) -> None:
    """Imitation, rounds, and the accuracy after each."""
    model = open_model(
        settings.model, partial(texts, settings), seed=settings.seed, deterministic=run.deterministic,
        lora=settings.lora or None,
    )
    work = _Work(settings, run, model, arithmetic(steps=settings.steps))
    try:
        await work.imitate()
        await work.rounds()
    finally:
        model.close()


def text(results: Mapping[str, Any]) -> str:
    """The accuracies, as plain text."""
    known = results.get("accuracy", {})
    return "held-out accuracy: " + ", ".join(f"{name} {value:.3f}" for name, value in known.items())


def batches(groups: Sequence[Group], size: int) -> Iterator[Sequence[Group]]:
    """The groups in parts of ``size``; a last part of one is joined to the one before it."""
    cuts = list(range(0, len(groups), size))
    if len(cuts) > 1 and len(groups) - cuts[-1] == 1:
        cuts.pop()
    ends = [*cuts[1:], len(groups)] if cuts else []
    for start, end in zip(cuts, ends, strict=True):
        yield groups[start:end]


@dataclass
class _Work:
    """The steps of a run."""

    settings: Settings
    run: Run
    model: Local
    suite: Arithmetic

    async def imitate(self) -> None:
        """Likelihood of solved problems."""
        if passed(self.run, "sft", ORDER):
            return
        settings = self.settings

        def cast(task: Task) -> dict[str, Player]:
            return {"agent": Player(lambda: AnswerAgent(self.suite.oracle(task)), "main")}

        share = Share(self.suite, cast, frozenset({"agent"}), settings.sft_episodes, 1)
        stage = Stage(
            "sft", Mixture((share,), derive("sft", settings.seed)),
            {"main": Dictated(name="main", chat=self.model.chat)}, self.model,
            self.run.learner(self.model, lr=settings.sft_lr),
            imitation(), settings.sft_updates,
        )
        await train(self.run, stage, save_every=max(settings.sft_updates, 1))

    async def rounds(self) -> None:
        """Play, pair, one pass, and again."""
        settings, run = self.settings, self.run
        learner = run.learner(self.model, lr=settings.lr, reference="initial")
        learner.version = self.model.version
        done = 0
        if run.at is not None and run.at[0] == "rounds":
            done = run.at[1]
            run.restore({"learner": learner})
            self.model.publish(learner.version)
        else:
            accuracy = await self._accuracy("sft")
            run.recorder.metrics(0, {"evaluate/score": accuracy}, stage="rounds")
        run.progress.stage("rounds", settings.rounds)
        for k in range(done, settings.rounds):
            await run.heed("rounds", k, {"learner": learner})
            groups, metrics = await self._sampled(k)
            metrics |= self._learned(learner, k, groups)
            learner.publish(self.model)
            metrics["evaluate/score"] = await self._accuracy(f"round_{k + 1}")
            run.recorder.metrics(k + 1, metrics, stage="rounds")
            run.progress.iteration(k, metrics)
            run.save("rounds", k + 1, {"learner": learner})
        self.model.save(run.model_folder("rounds"))
        known = run.results["accuracy"]
        run.keep(outcome={
            "accuracy": known[f"round_{settings.rounds}" if settings.rounds else "sft"], "accuracy_sft": known["sft"]})

    async def _accuracy(self, name: str) -> float:
        found = await evaluate(
            held_out(self.settings), {"main": self.model}, policy="main", label=name, recorder=self.run.recorder)
        known = {**self.run.results.get("accuracy", {}), name: found.mixture.mean}
        self.run.keep(accuracy=known)
        return found.mixture.mean

    async def _sampled(self, k: int) -> tuple[list[Group], Metrics]:
        """The plays of round k."""
        settings = self.settings
        share = Share(
            self.suite, lambda task: {"agent": player(1.0)}, frozenset({"agent"}), settings.prompts, settings.samples)
        first = -(-settings.sft_updates * settings.sft_episodes // settings.prompts)
        matches = Mixture((share,), derive("rounds", settings.seed), first=first).propose(k)
        started = time.monotonic()
        groups = await play(
            matches, {"main": self.model}, label=f"rounds.{k}", recorder=self.run.recorder,
            finished=self.run.progress.sample)
        scored = await score_matches(matches, groups, self.run.recorder)
        return scored, played_metrics(scored, time.monotonic() - started)

    def _learned(self, learner: Learns, k: int, groups: Sequence[Group]) -> Metrics:
        """One pass over what round k gives to learn from."""
        settings = self.settings
        learner.reset_optimizer()
        if settings.renew:
            learner.renew_reference()
        filtered = settings.arm == "filtered_sft"
        kept = right_ones(groups) if filtered else RightAndWrong(settings.seed)(groups)
        if filtered:
            kept = [(episode,) for group in kept for episode in group]
        parts = list(batches(kept, settings.pairs * (2 if filtered else 1)))
        sums: Metrics = {"preference/groups": float(len(kept)), "preference/updates": float(len(parts))}
        for step, part in enumerate(parts):
            if settings.arm == "m_kto" and len(part) < 2:
                continue
            learner.lr = settings.lr * cosine(step, len(parts), warm=math.ceil(0.1 * len(parts)))
            for name, value in self._update(learner, k, part).items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def _update(self, learner: Learns, k: int, part: Sequence[Group]) -> Metrics:
        settings = self.settings
        tokens = lay_out(part, "main")
        if settings.arm == "single_turn_dpo":
            tokens = whole_text(tokens)
        measured = learner.measure(tokens)
        turns = as_turns(tokens, measured)
        sign_BK = alike(turns) if settings.arm == "filtered_sft" else preference(turns)
        advantage_N = sign_BK[tokens.trajectory_N, tokens.turn_N]
        weigh = {"filtered_sft": token_mean, "m_kto": trajectory_mean}.get(settings.arm, group_mean)
        weight_N = weigh(turns, tokens)
        loss: Loss = likelihood
        if settings.arm == "m_kto":
            other = mismatched(tokens)
            loss = m_kto(z=mismatch_point(other, learner.measure(other)), beta=settings.beta)
        elif settings.arm != "filtered_sft":
            mean = chosen_tokens(advantage_N, weight_N, tokens.group_N)
            loss = m_dpo(beta=settings.beta, nll=settings.nll, tokens=mean)
        metrics = learner.update(tokens, measured, advantage_N, weight_N, loss)
        assert learner.last is not None
        columns = {"advantage_N": advantage_N, "weight_N": weight_N}
        metrics |= split_gaps(loss, tokens, measured, learner.last, columns, metrics["learner/loss"])
        waivers: tuple[Waiver, ...] = ("observations",) if settings.arm == "single_turn_dpo" else ()
        rows = credit_rows(
            tokens, measured, advantage_N, weight_N, stage="rounds", version=learner.version, waivers=waivers,
            account=account_of(loss, tokens, measured, learner.last, columns))
        self.run.recorder.credit(k, rows)
        return metrics
