"""Small runs with a real model, sampler, loop, learner and record, into which a test plants one fault.

The task: one to three asks; each reply is scored by its letters, so that groups differ. ``trained`` runs the library's
own loop for two updates; a fault is a changed policy, verifier, advantage, weighting or loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyturn.advantages.group import group_standardised
from polyturn.advantages.turn import as_tokens
from polyturn.agents.chat import ChatAgent
from polyturn.arrays import Measured, as_turns, lay_out
from polyturn.audit.detectors import BY_UPDATE
from polyturn.audit.report import AuditReport, audit_run
from polyturn.audit.update import Update, rebuilt
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.learner import Learner
from polyturn.learn.loop import Rule, Stage, train
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.policies.local import Local
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.progress import make_progress
from polyturn.protocols import Completion, Player, Spec
from polyturn.record.credit import Waiver, credit_rows
from polyturn.record.write import open_run
from polyturn.rollout.pool import Pool
from polyturn.types import EMPTY, Group, Limits, Sampling, Score, Task
from tests.policies.tiny import tiny_local

CLEAN = Rule(group_standardised, token_mean, policy_gradient)


async def letters(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """As many asks as the last reply's length says, at most three; then a word that nobody answers."""
    said: list[str] = []
    while len(said) < 3 and (not said or len(said[-1]) % 3):
        said.append((await table.ask("agent", f"say {len(said)}")).text)
    return {"said": "".join(said), "turns": len(said)}


@dataclass
class Share01:
    """The share of the replies' bytes that are 'a'..'m', in steps of a tenth."""

    name: str = "score"

    async def __call__(self, groups: Sequence[Group]) -> Any:
        return {e.id: {"agent": Score(self.value(e.final["said"]))} for g in groups for e in g if e.final}

    def value(self, said: str) -> float:
        return round(sum("a" <= letter <= "m" for letter in said) / max(len(said), 1), 1)


@dataclass
class Changed:
    """A policy whose completions are changed before anybody sees them: the data of the step."""

    inner: Local
    change: Callable[[Completion], Completion]

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def limit(self) -> int:
        return self.inner.limit

    def info(self) -> Any:
        return self.inner.info()

    def count(self, messages: Any, tools: Any = ()) -> int:
        return self.inner.count(messages, tools)

    async def sample(self, messages: Any, **more: Any) -> Completion:
        return self.change(await self.inner.sample(messages, **more))


async def trained(
    folder: Path, rule: Rule = CLEAN, *, verifier: Any = None, change: Callable[[Completion], Completion] | None = None,
    sampling: Sampling = Sampling(max_tokens=6), updates: int = 2, groups: int = 3, rollouts: int = 6,
    reference: bool = False, program: Any = letters, more: Mapping[str, Any] = EMPTY,
) -> AuditReport:
    """The audit of a run of so many updates with the planted parts."""
    torch.set_num_threads(1)
    tasks = [Task(f"t{i}", "letters", limits=Limits(env_steps=8)) for i in range(6)]
    suite = ProgramSuite(Spec("letters"), as_env(program), {"train": tasks}, verifier=verifier or Share01())
    model = tiny_local(**more)
    cast = lambda task: {"agent": Player(lambda: ChatAgent(sampling=sampling), "main")}  # noqa: E731
    mixture = Mixture([Share(suite, cast, frozenset({"agent"}), groups, rollouts)], seed=3)
    learner = Learner(model.model, lr=1e-3, tokens_per_pass=128, reference="initial" if reference else None)
    policy = model if change is None else Changed(model, change)
    stage = Stage("play", mixture, {"main": policy}, model, learner, rule, updates, pool=Pool(8))
    run = Run(folder, open_run(folder, recipe="test"), make_progress(StringIO()), deterministic=True)
    try:
        await train(run, stage)
    finally:
        run.recorder.close()
        model.close()
    return audit_run(folder)


def with_ids(completion: Completion, extra: Sequence[int]) -> Completion:
    """The completion with ids added at its end, each with a log-probability."""
    assert completion.ids is not None and completion.logprobs is not None
    return replace(
        completion, ids=np.append(completion.ids, np.array(extra, np.int32)).astype(np.int32),
        logprobs=np.append(completion.logprobs, np.full(len(extra), -1.0)),
    )


def cut(completion: Completion, count: int) -> Completion:
    """The completion without its last ids."""
    assert completion.ids is not None and completion.logprobs is not None
    keep = max(len(completion.ids) - count, 1)
    support = None if completion.support is None else completion.support[:keep]
    return replace(completion, ids=completion.ids[:keep], logprobs=completion.logprobs[:keep], support=support)


def update_of(groups: Sequence[Group], advantage: Any, weighting: Any = token_mean, *, heads: bool = True,
              waivers: Sequence[Waiver] = ()) -> Update:
    """The update that an advantage makes of these groups, through rows of credit, as the audit lays it out again."""
    tokens = lay_out(groups, "main")
    draw = np.random.default_rng(len(tokens))
    values = draw.random(len(tokens))
    old_N = np.where(np.isnan(tokens.behavior_N), -1.0, tokens.behavior_N)
    measured = Measured(old_N, old_N, None, {"value": values} if heads else {},
                        {"value": draw.random(len(tokens.trajectories))} if heads else {})
    turns = as_turns(tokens, measured)
    advantage_N = as_tokens(advantage(turns), turns)
    weight_N = weighting(turns, tokens)
    rows = [{**row, "attempt": 1, "update": 1, "iteration": 0, "play": None}
            for row in credit_rows(tokens, measured, advantage_N, weight_N, stage="s", version=9,
                                   waivers=waivers)]
    return rebuilt(rows, {episode.id: episode for group in groups for episode in group})


def found_in(update: Update) -> set[str]:
    """The names of what the detectors find in one update."""
    return {finding.name for detector in BY_UPDATE.values() for finding in detector(update)}
