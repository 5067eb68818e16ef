"""MUA-RL: an agent with tools learns to ask a live user for what it was not told.

Stage 1 imitates a scripted agent that is careless in part: where a fact is missing it asks, or guesses. Stage 2 is
reinforcement learning, with a live user (arm ``live``) or on the user's first message alone (``fixed``); ``sft`` has no
stage 2. All are rated with a live user on held-out tasks that cannot be done without asking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import isfinite
from typing import Any, Literal

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.calls import GRAMMARS
from polyturn.envs.dialogue import AGENT, USER
from polyturn.envs.order_desk import GUIDE, KINDS, TOOLS, VALUES, OrderDesk, opening_of, scripted_agent
from polyturn.evaluate.benchmark import Result
from polyturn.evaluate.recorded import evaluate_once
from polyturn.evaluate.study import Study
from polyturn.evaluate.tables import as_json, as_text, cells
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.run import Run
from polyturn.losses.weighting import token_mean
from polyturn.methods.learning.mua_rl import RULES, CutEnds, ask_rate, mua_advantage, mua_loss, user_drift, valid_only
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import open_model
from polyturn.protocols import Ask, Match, Player, Policy
from polyturn.rollout.pool import Pool, without_errors
from polyturn.seeds import derive, generator
from polyturn.types import Message, Sampling, Seat, Task, user

ORDER = ("sft", "rl")
STUDY = Study(
    outcome="success", baseline="fixed", curve="score/order_desk",
    arms={"live": {"arm": "live"}, "fixed": {"arm": "fixed"}}, more=("ask_rate", "sft_success", "sft_ask_rate"),
    tried=({"lr": 1e-4}, {"lr": 3e-4}),
    fixed={"model": "tiny", "kinds": "set_colour", "orders": 1, "warm_updates": 80, "warm_episodes": 12,
           "iterations": 20, "groups": 6, "trials": 1},
    shares=("success", "ask_rate", "sft_success", "sft_ask_rate"),
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes tasks, worlds and every draw."""
    arm: Literal["live", "fixed", "sft"] = "live"
    """Reinforcement learning with the user live, on its first message alone, or none."""
    kinds: str = "set_colour set_size"
    """The wishes, as names of tools with spaces between; "all" = all six."""
    orders: int = 8
    """Orders in the shop."""
    hidden: float = 0.5
    """How often a user of a training task holds a fact back; of the held-out tasks all do."""
    careless: float = 0.5
    """How often the demonstrator guesses the missing fact instead of asking."""
    warm_updates: int = 30
    """Updates of stage 1."""
    warm_episodes: int = 16
    """Scripted episodes in an update of stage 1."""
    warm_lr: float = 0.0
    """Learning rate of stage 1; 0 = 3e-3 for the tiny model, 5e-5 for others."""
    iterations: int = 20
    """Updates of stage 2."""
    groups: int = 8
    """Tasks in an update of stage 2."""
    rollouts: int = 8
    """Plays of each task (the paper's group)."""
    lr: float = 2e-5
    """Learning rate of stage 2."""
    kl: float = 0.001
    """Weight of the KL to the model after stage 1."""
    max_tokens: int = 48
    """The longest reply; a longer one is cut, which ends the dialogue."""
    test_tasks: int = 64
    """Held-out tasks."""
    trials: int = 2
    """Plays of each held-out task."""
    user: Literal["rule", "model"] = "rule"
    """Who sits in the user's seat: the rule, or a frozen copy of the model at temperature 0."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers to sample and compute with; weights are float32 always."""


NEEDS = (
    (("careless", "warm_episodes", "warm_lr"), {"warm_updates": ()}),
    (("iterations", "groups", "rollouts", "lr", "kl"), {"arm": ("live", "fixed")}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Imitates, reinforces, rates."""
    dtype: Any = "float32" if run.deterministic else settings.dtype
    opened = partial(
        open_model, settings.model, partial(texts, settings), seed=settings.seed, dtype=dtype,
        deterministic=run.deterministic,
    )
    model = opened()
    speaker = opened(name="user") if settings.user == "model" else None
    if model.warning:
        run.progress.note(model.warning)
    work = _Work(settings, run, model, speaker)
    try:
        rows = {"sft": await work.imitate()}
        if settings.arm != "sft":
            rows[settings.arm] = await work.reinforce()
    finally:
        for policy in (model, speaker):
            if policy is not None:
                policy.close()
    episodes = {name: [episode for group in row.groups for episode in group] for name, row in rows.items()}
    outcome = {
        "success": rows[settings.arm].mixture.mean, "ask_rate": ask_rate(episodes[settings.arm]),
        "sft_success": rows["sft"].mixture.mean, "sft_ask_rate": ask_rate(episodes["sft"]),
    }
    run.keep(
        outcome={name: value for name, value in outcome.items() if isfinite(value)},
        user=user_drift(episodes[settings.arm]), table={name: as_json(row) for name, row in rows.items()},
        text=as_text(cells(rows)),
    )


def text(results: Mapping[str, Any]) -> str:
    """The table, and how often the agent asked."""
    if "outcome" not in results:
        return "no table: the run did not come to its end"
    if not results["outcome"]:
        return f"{results['text']}\n\nno valid episode: the user failed in all"
    return f"{results['text']}\n\nasked for the missing fact: {results['outcome']['ask_rate']:.3f}"


def held_out(settings: Settings) -> list[Match]:
    """The held-out matches: a live user, and every task needs asking."""
    suite = desk(settings, live=True, hidden=1.0)
    return [
        Match(suite, task, cast(settings), derive("held out", task.id), settings.trials)
        for task in suite.tasks("test")
    ]


# ---------------------------------------------------------------- tasks and players


def desk(settings: Settings, *, live: bool, hidden: float) -> OrderDesk:
    """The order desk under the paper's rules. Raises: UnknownName for a kind that it does not have."""
    kinds = tuple(KINDS) if settings.kinds == "all" else tuple(settings.kinds.split())
    return OrderDesk(kinds, hidden, replace(RULES, live=live), settings.test_tasks, settings.orders)


def cast(settings: Settings) -> dict[Seat, Player]:
    """The learner in the agent's seat; the user's seat is the suite's own unless a model sits there."""
    sampling = Sampling(max_tokens=settings.max_tokens)
    found = {AGENT: Player(lambda: CutEnds(ChatAgent(sampling=sampling)), "main")}
    if settings.user == "model":
        calm = Sampling(temperature=0.0, max_tokens=settings.max_tokens)
        found[USER] = Player(lambda: ChatAgent(sampling=calm), "user")
    return found


def demonstrator(task: Task, seed: int, careless: float) -> AnswerAgent:
    """The scripted agent, which guesses instead of asking with probability ``careless``."""
    draws = generator("demonstrator", seed, task.id)
    hidden = task.payload["hidden"]
    guess = ""
    if hidden and draws.random() < careless:
        guess = VALUES[hidden][int(draws.integers(len(VALUES[hidden])))]
    return AnswerAgent(scripted_agent(task, guess=guess))


def texts(settings: Settings) -> list[str]:
    """What is said at the desk, for a tokenizer to learn from."""
    found = [GUIDE] * 8 + [tool.name for tool in TOOLS]
    suite = desk(settings, live=True, hidden=0.5)
    for task in islice(suite.tasks("train"), 200):
        play = scripted_agent(task)
        found.append(opening_of(task))
        for _ in range(3):
            said = play(Ask(AGENT, (task_message(task),)))
            found.append(said.text or GRAMMARS["hermes"].write(said.calls))
        found += [f"The {fact} is {value}." for fact, value in task.payload["facts"].items()]
    return found


def task_message(task: Task) -> Message:
    """A tool's answer to a task, as the scripted agent reads it."""
    return user(task.payload["outputs"][0] if task.payload["outputs"] else "ok")


# ---------------------------------------------------------------- the steps of a run


@dataclass
class _Work:
    """The stages of a run over one model."""

    settings: Settings
    run: Run
    model: Local
    user: Local | None

    async def imitate(self) -> Result:
        """Stage 1, and its row."""
        settings = self.settings
        if settings.warm_updates and not passed(self.run, "sft", ORDER):
            suite = desk(settings, live=True, hidden=settings.hidden)

            def scripted(task: Task) -> dict[Seat, Player]:
                return {AGENT: Player(partial(demonstrator, task, settings.seed, settings.careless), "main")}

            share = Share(suite, scripted, frozenset({AGENT}), settings.warm_episodes, 1)
            rule = imitation()
            lr = settings.warm_lr or (3e-3 if settings.model == "tiny" else 5e-5)
            dictated = Dictated(name="main", chat=self.model.chat)
            await self._train("sft", share, {"main": dictated}, rule, settings.warm_updates, Learning(lr, False))
        return await self._rate("sft")

    async def reinforce(self) -> Result:
        """Stage 2, and its row."""
        settings = self.settings
        suite = desk(settings, live=settings.arm == "live", hidden=settings.hidden)
        share = Share(suite, lambda task: self._cast(), frozenset({AGENT}), settings.groups, settings.rollouts)
        rule = Rule(
            mua_advantage, token_mean, mua_loss(kl_weight=settings.kl), filters=(without_errors, valid_only),
            on_policy=not settings.kl, proportional=not settings.kl,
        )
        learning = Learning(settings.lr, bool(settings.kl))
        await self._train("rl", share, self._policies(), rule, settings.iterations, learning)
        return await self._rate(settings.arm)

    def _cast(self) -> dict[Seat, Player]:
        found = cast(self.settings)
        return found if self.settings.arm == "live" else {AGENT: found[AGENT]}

    def _policies(self) -> dict[str, Policy]:
        found: dict[str, Policy] = {"main": self.model}
        if self.user is not None:
            found["user"] = self.user
        return found

    async def _rate(self, name: str) -> Result:
        matches = held_out(self.settings)
        return await evaluate_once(
            matches, self._policies(), policy="main", label=f"rate-{name}", recorder=self.run.recorder,
            finished=self.run.plays(f"rating {name}", matches),
        )

    async def _train(
        self, name: str, share: Share, policies: Mapping[str, Policy], rule: Rule, updates: int, learning: Learning
    ) -> None:
        reference: Any = "initial" if learning.reference else None
        stage = Stage(
            name, Mixture((share,), derive(name, self.settings.seed)), policies, self.model,
            self.run.learner(self.model, lr=learning.lr, reference=reference), rule, updates, pool=Pool(),
        )
        await train(self.run, stage)


@dataclass(frozen=True)
class Learning:
    """How a stage's learner is made."""

    lr: float
    reference: bool
