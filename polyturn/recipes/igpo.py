"""IGPO: a search agent whose every turn is paid by how much it raised the belief in the true answer.

Two-hop questions over a corpus of made-up facts. The arms share tasks, rollouts and everything but the advantage:
``igpo`` (gains and outcomes standardised apart), ``igpo_joint`` (together), ``igpo_log`` (gains of log-beliefs),
``snapshot`` (the first released code, withdrawn by its authors) and ``grpo`` (the outcome alone). First,
``warm_updates`` imitate a player that is right ``skill`` of the time: who never finds anything has no gains either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np

from polyturn.advantages.group import group_standardised
from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.arrays import Advantage
from polyturn.envs.search import HOW, Search, make_world, search
from polyturn.evaluate.benchmark import Result, evaluate
from polyturn.evaluate.study import Study
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.run import Run
from polyturn.losses.learned import Loss
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.regularize import kl, with_term
from polyturn.losses.weighting import token_mean
from polyturn.methods.learning.igpo import (
    LOG_GAIN,
    OUTCOME,
    Beliefs,
    Outcome,
    information_gain,
    silent_groups,
    snapshot,
)
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import open_model
from polyturn.protocols import Answer, Ask, Match, Player, Verifier
from polyturn.record.read import read_episodes, read_metrics
from polyturn.seeds import derive, generator
from polyturn.types import Episode, Message, Sampling, Task, assistant

ORDER = ("warm", "search")
CREDIT: Mapping[str, Advantage] = {
    "igpo": information_gain, "igpo_joint": partial(information_gain, pool="joint"),
    "igpo_log": partial(information_gain, gain=LOG_GAIN), "snapshot": snapshot,
    "grpo": partial(group_standardised, channels=(OUTCOME,)),
}
STUDY = Study(
    outcome="success", arms={"igpo": {"arm": "igpo"}, "grpo": {"arm": "grpo"}}, baseline="grpo",
    tried=({"lr": 3e-4}, {"lr": 1e-3}), more=("zero_groups", "silent_groups", "support"), curve="score/search",
    fixed={"model": "tiny", "fresh": True, "people": 4, "listed": True, "steps": 4, "warm_updates": 60, "warm_lr": 3e-3,
           "skill": 0.2, "iterations": 8, "groups": 6, "rollouts": 6, "kl": 0.0, "test_tasks": 100},
    shares=("success", "zero_groups", "silent_groups", "support"),
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes tasks and every draw."""
    arm: Literal["igpo", "igpo_joint", "igpo_log", "snapshot", "grpo"] = "igpo"
    """The advantage."""
    people: int = 40
    """Size of the corpus."""
    fresh: bool = False
    """Every task has a corpus of its own."""
    listed: bool = False
    """The easy variant: only replies about names that were read, and questions of one kind."""
    steps: int = 6
    """Replies in a rollout."""
    warm_updates: int = 12
    """Updates that imitate an imperfect player, before reinforcement learning."""
    skill: float = 0.5
    """How often that player does the right thing; else anything about a name that was read."""
    warm_lr: float = 3e-5
    """Learning rate of these."""
    iterations: int = 20
    """Updates of reinforcement learning."""
    groups: int = 4
    """Questions in an update."""
    rollouts: int = 8
    """Plays of each question."""
    lr: float = 2e-5
    """Learning rate of reinforcement learning."""
    gamma: float = 1.0
    """Discount over turns."""
    kl: float = 0.001
    """Coefficient of the divergence from the model as it was before reinforcement learning; 0 = none."""
    max_tokens: int = 24
    """The longest reply."""
    test_tasks: int = 48
    """Held-out questions, each played once."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers to sample and compute with; weights are float32 always."""
    save_every: int = 10
    """Iterations between checkpoints."""


NEEDS = (
    (("gamma",), {"arm": ("igpo", "igpo_joint", "igpo_log")}),
    (("skill", "warm_lr"), {"warm_updates": ()}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Warm-up, success before, reinforcement learning, success after."""
    dtype: Any = "float32" if run.deterministic else settings.dtype
    suite = suite_of(settings)
    model = open_model(settings.model, partial(texts_of, suite), seed=settings.seed, dtype=dtype,
                       deterministic=run.deterministic, progress=run.progress.note)
    try:
        await imitate(settings, run, model, suite)
        if run.at is None or run.at[0] == "warm":
            run.keep(before=numbers(await rate(settings, run, model, "before")))
        await reinforce(settings, run, model, suite)
        after = numbers(await rate(settings, run, model, "after"))
    finally:
        model.close()
    run.keep(after=after, outcome={**after, **signal(run)})


def suite_of(settings: Settings) -> Search:
    """The questions; where replies are listed, all of one kind, with one result of one sentence for each search."""
    easy: dict[str, Any] = {"chain": ("born", "river"), "results": 1, "shown": 1}
    return search(
        people=settings.people, fresh=settings.fresh, listed=settings.listed, steps=settings.steps,
        test_tasks=settings.test_tasks, **(easy if settings.listed else {"results": 3, "shown": 9}),
    )


def player(settings: Settings) -> Player:
    """The learner."""
    sampling = Sampling(max_tokens=settings.max_tokens)
    return Player(lambda: ChatAgent(sampling=sampling, mask=settings.listed), "main")


# ---------------------------------------------------------------- stages


async def imitate(settings: Settings, run: Run, model: Local, suite: Search) -> None:
    """Likelihood of an imperfect player's replies."""
    if not settings.warm_updates or passed(run, "warm", ORDER):
        return

    def cast(task: Task) -> Mapping[str, Player]:
        return {"agent": Player(lambda: AnswerAgent(imperfect(suite, task, settings)), "main")}

    share = Share(suite, cast, frozenset({"agent"}), settings.groups * settings.rollouts, 1)
    stage = Stage(
        "warm", Mixture([share], derive("igpo warm", settings.seed)), {"main": Dictated(name="main", chat=model.chat)},
        model, run.learner(model, lr=settings.warm_lr), imitation(), settings.warm_updates,
    )
    await train(run, stage, save_every=settings.save_every)


def imperfect(suite: Search, task: Task, settings: Settings) -> Answer:
    """The solver's reply with probability ``skill``, else a random command about a name that was read."""
    best, draws = suite.oracle(task), generator("igpo player", settings.seed, task.id)
    names = list[str]()
    world = make_world(suite.people, suite.seed, str(task.payload["world"]))

    def play(ask: Ask) -> Message:
        read = " ".join(message.text for message in ask.messages)
        names.extend(name for name in world.kinds if name in read and name not in names)
        good: Message = best(ask)
        if draws.random() < settings.skill:
            return good
        command = ("search", "answer")[int(draws.integers(2))]
        return assistant(f"{command}: {names[int(draws.integers(len(names)))]}")

    return play


async def reinforce(settings: Settings, run: Run, model: Local, suite: Search) -> None:
    """Rollouts of a question against each other, turn by turn."""
    share = Share(suite, lambda task: {"agent": player(settings)}, frozenset({"agent"}), settings.groups,
                  settings.rollouts)
    credit: Any = CREDIT[settings.arm]
    if settings.gamma != 1 and settings.arm.startswith("igpo"):
        credit = partial(credit, gamma=settings.gamma)
    stage = Stage(
        "search", Mixture([share], derive("igpo", settings.seed)), {"main": model}, model,
        run.learner(model, lr=settings.lr, reference="initial" if settings.kl else None),
        Rule(credit, token_mean, loss_of(settings), on_policy=True, proportional=not settings.kl), settings.iterations,
        verifiers=verifiers_of(model),
    )
    await train(run, stage, save_every=settings.save_every)


def verifiers_of(model: Local) -> tuple[Verifier, ...]:
    """The outcome, and beliefs read with the weights that played."""
    def truths(episode: Episode) -> list[str]:
        return [str(answer) for answer in episode.task.payload["answers"]]

    return (
        Outcome(lambda episode: (episode.final or {}).get("answer"), truths),
        Beliefs(model, model.chat, lambda episode: truths(episode)[0]),
    )


def loss_of(settings: Settings) -> Loss:
    """The clipped policy gradient, with the divergence where it has a coefficient."""
    if not settings.kl:
        return policy_gradient
    return partial(with_term, main=policy_gradient, term=kl, coefficient=settings.kl)


# ---------------------------------------------------------------- what it came to


async def rate(settings: Settings, run: Run, model: Local, label: str) -> Result:
    """The held-out questions."""
    matches = held_out(settings)
    return await evaluate(matches, {"main": model}, policy="main", label=label, recorder=run.recorder,
                          finished=run.plays(f"rating {label}", matches))


def numbers(rated: Result) -> dict[str, float]:
    """``success``, and ``support``: the share of the needed documents that were read."""
    scores = [episode.scores["score"]["agent"] for group in rated.groups for episode in group]
    return {"success": float(np.mean([bool(score.success) for score in scores])),
            "support": float(np.mean([score.parts.get("support", 0.0) for score in scores]))}


def signal(run: Run) -> dict[str, float]:
    """Means over the training: ``zero_groups``, groups without any credit; ``silent_groups``, without any gain."""
    found = [row["values"]["credit/zero_groups"] for row in read_metrics(run.folder) if row["stage"] == "search"]
    groups: dict[str, list[Episode]] = {}
    for episode in read_episodes(run.folder):
        if "belief" in episode.scores:
            groups.setdefault(episode.group, []).append(episode)
    return {"zero_groups": float(np.mean(found)) if found else 0.0,
            "silent_groups": silent_groups([tuple(group) for group in groups.values()])}


def held_out(settings: Settings) -> list[Match]:
    """The held-out questions."""
    suite = suite_of(settings)
    return [Match(suite, task, {"agent": player(settings)}, derive("igpo test", task.id))
            for task in suite.tasks("test")]


def text(results: Mapping[str, Any]) -> str:
    """Before and after, line by line."""
    if "after" not in results:
        return "no result: the run did not come to its end"
    lines = [f"{name}: {results['before'][name]:.3f} -> {value:.3f}" for name, value in results["after"].items()]
    lines += [f"{name}: {results['outcome'][name]:.3f}" for name in ("zero_groups", "silent_groups")]
    return "\n".join(lines)


def texts_of(suite: Search, tasks: int = 40) -> list[str]:
    """Questions, documents and commands: the words that a tiny model's tokenizer is learned from."""
    found = [HOW]
    for task in islice(suite.tasks("train"), tasks):
        world = make_world(suite.people, suite.seed, str(task.payload["world"]))
        found.append(str(task.payload["question"]))
        for title in world.titles:
            found += [" ".join([f"{title}:", *world.sentences(title)]), f"search: {title}", f"open: {title}"]
        found += [f"answer: {name}" for name in world.kinds]
    return found
