"""Group-relative reinforcement learning on any one environment: a shipped one by name, or a user's ``.py`` file.

Each iteration plays ``groups`` tasks ``rollouts`` times; a rollout's credit is its score against its group, in
self-play against the running mean of its role. ``warm_updates`` first imitate the environment's own scripted solver,
where it has one: a model that never earns anything has nothing to learn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from polyturn.advantages.group import RoleBaseline, group_standardised
from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.cli.mcp import agent_with
from polyturn.cli.subject import free_seats, suite_of
from polyturn.cli.subject import held_out as test_matches
from polyturn.errors import BadInput
from polyturn.evaluate.benchmark import Result
from polyturn.evaluate.compare import paired
from polyturn.evaluate.recorded import evaluate_once
from polyturn.evaluate.tables import as_json, as_text, cells, paired_cells
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.protocols import AgentMaker, Match, Player, Policy, Suite
from polyturn.rollout.pool import Pool
from polyturn.tools.mcp import McpServer
from polyturn.types import Sampling, Seat, Task

ORDER = ("warm", "learn")


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    environment: str = "guess_the_number"
    """A name that ``polyturn envs`` lists, or a .py file with a function suite()."""
    model: str = ""
    """Folder of a causal language model of transformers; empty = the embedded SmolLM2-135M-Instruct."""
    seed: int = 0
    """Fixes tasks, worlds and every draw."""
    system: str = ""
    """The system message."""
    mcp: str = ""
    """Command line or http address of an MCP server whose tools the agent may call, started anew for each episode."""
    warm_updates: int = 0
    """Updates on play by the environment's scripted solver, before reinforcement learning."""
    warm_episodes: int = 16
    """Its episodes in an update."""
    warm_lr: float = 3e-5
    """Learning rate of these."""
    iterations: int = 30
    """Updates of reinforcement learning."""
    groups: int = 4
    """Tasks in an update."""
    rollouts: int = 8
    """Plays of each task."""
    lr: float = 4e-5
    """Learning rate of reinforcement learning."""
    lora: int = 0
    """Rank of an adapter; 0 = all weights learn."""
    temperature: float = 1.0
    """Of sampling, in training and in the table."""
    max_tokens: int = 64
    """The longest reply."""
    mask: bool = False
    """Only replies that the rules allow, where the environment lists them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers to sample and compute with; weights are float32 always."""
    test_tasks: int = 32
    """Held-out tasks that the table is made of."""
    trials: int = 2
    """Plays of each held-out task."""
    save_every: int = 10
    """Iterations between checkpoints."""


NEEDS = (
    (("warm_episodes", "warm_lr"), {"warm_updates": ()}),
    (("groups", "rollouts", "lr"), {"iterations": ()}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Trains on the environment that the settings name."""
    await learn(suite_of(settings.environment), settings, run)


async def learn(suite: Suite, settings: Settings, run: Run, agent: AgentMaker | None = None) -> None:
    """Rates the model, trains it on ``suite``, rates it again on the same held-out tasks."""
    dtype = "float32" if run.deterministic else settings.dtype
    model = Local.load(
        settings.model or None, dtype=dtype, deterministic=run.deterministic, lora=settings.lora or None)
    if model.warning:
        run.progress.note(model.warning)
    work = _Work(suite, settings, run, model, agent or player(settings))
    try:
        before = await work.rate("before")
        await work.imitate()
        await work.reinforce()
        after = await work.rate("after")
    finally:
        model.close()
        await suite.close()
    table = {"before": before, "after": after}
    change = paired(table, "after", "before")
    shown = "\n\n".join((as_text(cells(table)), as_text(paired_cells({"after - before": change}))))
    run.keep(table={name: as_json(row) for name, row in table.items()}, text=shown,
             paired={"after_minus_before": as_json(change)})


def text(results: Mapping[str, Any]) -> str:
    """The table, as plain text."""
    return str(results.get("text", "no table: the run did not come to its end"))


def held_out(settings: Settings) -> list[Match]:
    """The matches of the table."""
    suite = suite_of(settings.environment)
    return test_matches(suite, tasks=settings.test_tasks, trials=settings.trials, agent=player(settings))


def foresee(settings: Settings) -> dict[str, Any]:
    """Seconds by stage on two cores, and bytes, for the embedded model; nothing for another, which nobody measured."""
    if settings.model:
        return {}
    rating = 0.3 * settings.test_tasks * settings.trials
    stages = {
        "rating before": rating, "warm": 0.8 * settings.warm_updates * settings.warm_episodes,
        "learn": 0.5 * settings.iterations * settings.groups * settings.rollouts, "rating after": rating,
    }
    return {"seconds": sum(stages.values()), "stages": stages, "bytes": 6 * 2**30}


def player(settings: Settings) -> AgentMaker:
    """A maker of the agent that plays: full history, one call for each ask."""
    sampling = Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens)
    if settings.mcp and settings.mask:
        raise BadInput("mask allows only the replies of the environment, so no call of a tool of mcp; leave out one")
    if settings.mcp:
        return agent_with((McpServer(settings.mcp),), sampling, settings.system)
    return partial(ChatAgent, settings.system, sampling=sampling, mask=settings.mask)


@dataclass
class _Work:
    """The steps of a run over one model."""

    suite: Any
    settings: Settings
    run: Run
    model: Local
    agent: AgentMaker

    async def rate(self, name: str) -> Result:
        """The model's row now, or the one that an earlier attempt recorded."""
        matches = test_matches(
            self.suite, tasks=self.settings.test_tasks, trials=self.settings.trials, agent=self.agent)
        return await evaluate_once(
            matches, {"main": self.model}, policy="main", label=name, recorder=self.run.recorder,
            finished=self.run.plays(f"rating {name}", matches),
        )

    async def imitate(self) -> None:
        """Likelihood of the environment's own solver."""
        settings = self.settings
        if not settings.warm_updates or passed(self.run, "warm", ORDER):
            return
        policy = Dictated(name="main", chat=self.model.chat)
        share = self._share(settings.warm_episodes, 1, lambda task: partial(self._solver, task))
        rule = imitation()
        await self._train("warm", share, policy, rule, settings.warm_updates, settings.warm_lr)

    def _solver(self, task: Task) -> AnswerAgent:
        return AnswerAgent(self.suite.oracle(task), self.settings.system)

    async def reinforce(self) -> None:
        """Rollouts against their group; with several learning seats, each role against its running baseline."""
        settings = self.settings
        alone = len(self.suite.spec.seats) == 1
        share = self._share(settings.groups, settings.rollouts, lambda task: self.agent)
        rule = Rule(group_standardised if alone else RoleBaseline(), token_mean, policy_gradient, proportional=True)
        await self._train("learn", share, self.model, rule, settings.iterations, settings.lr)

    def _share(self, groups: int, rollouts: int, make: Any) -> Share:
        def cast(task: Task) -> dict[Seat, Player]:
            return {seat: Player(make(task), "main") for seat in free_seats(self.suite, task)}

        first = next(iter(self.suite.tasks("train")))
        return Share(self.suite, cast, frozenset(free_seats(self.suite, first)), groups, rollouts)

    async def _train(self, name: str, share: Share, policy: Policy, rule: Rule, updates: int, lr: float) -> None:
        memory = {"credit": rule.advantage} if isinstance(rule.advantage, RoleBaseline) else {}
        stage = Stage(
            name, Mixture((share,), self.settings.seed), {"main": policy}, self.model,
            self.run.learner(self.model, lr=lr), rule, updates, pool=Pool(), memory=memory,
        )
        await train(self.run, stage, save_every=self.settings.save_every)
