"""Our training step on the reference work: the loop that recipes run, recorded whole; for ``benchmarks.step``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import dialogue
from benchmarks.contender import Called
from benchmarks.dialogue import Canned
from benchmarks.learner import LIMIT, Case
from benchmarks.models import load, load_tokenizer
from benchmarks.reference import Work
from benchmarks.timing import fastest
from polyturn.advantages.group import group_standardised
from polyturn.chat import Chat
from polyturn.learn.learner import Learner
from polyturn.learn.loop import Rule, Stage, iterate
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.policies.local import Local
from polyturn.progress import make_progress
from polyturn.protocols import Match
from polyturn.record.write import open_run
from polyturn.rollout.pool import Pool
from polyturn.types import Group

SETTINGS = ((2304, 64), (1024, 64), (4608, 64), (2304, 32))
"""Tree nodes a pass, and episodes at once."""
LR = 1e-6


class Same:
    """A :class:`polyturn.protocols.Curriculum` of the same matches always; keeps the groups that were played last."""

    def __init__(self, suite: Canned) -> None:
        self.suite = suite
        self.groups: Sequence[Group] = ()

    def propose(self, iteration: int) -> list[Match]:
        """The reference work."""
        return dialogue.matches(self.suite)

    def observe(self, groups: Sequence[Group]) -> None:
        """Keeps them."""
        self.groups = groups


class Step:
    """Rollouts, scores, credit and one update, on disk when it returns."""

    def __init__(self, case: Case, work: Work, folder: Path) -> None:
        tokenizer = load_tokenizer()
        chat = Chat(tokenizer)
        chat.stop_ids = ()  # every reply is as long as the work says
        model = load(case.train, layers=case.layers)
        dtype: Any = case.dtype
        self.policy = Local(model, chat, dtype=dtype, tokenizer=tokenizer)
        self.learner = Learner(model, lr=LR, dtype=None if dtype == "float32" else dtype)
        self.curriculum = Same(Canned(work, chat, tokenizer))
        # as TRL has it: sample deviation and 1e-4 beside it, one weight for each token, clip 0.2, no KL term
        credit = partial(group_standardised, scale="sample", epsilon=1e-4)
        rule = Rule(credit, token_mean, policy_gradient, proportional=True, on_policy=True)
        self.run = Run(folder, open_run(folder), make_progress(sys.stderr))
        self.stage = Stage(
            "step", self.curriculum, {"main": self.policy}, self.policy, self.learner, rule, iterations=10**6)
        self.done = 0

    def step(self) -> dict[str, float]:
        """One iteration; its metrics."""
        metrics = asyncio.run(iterate(self.run, self.stage, self.done))
        self.run.recorder.metrics(self.done, metrics, stage="step")
        self.run.recorder.commit(f"step:{self.done}")
        self.done += 1
        return metrics

    def set(self, setting: tuple[int, int]) -> None:
        """Takes a setting of :data:`SETTINGS`."""
        self.learner.tokens_per_pass = setting[0]
        self.stage = replace(self.stage, pool=Pool(concurrency=setting[1]))

    def settle(self, called: Called, settings: Sequence[tuple[int, int]]) -> None:
        """Takes the fastest setting, over the whole work, and says what was tried."""

        def tried(setting: tuple[int, int]) -> None:
            self.set(setting)
            self.step()

        best, found = fastest(settings, tried, most=LIMIT / 2**30)
        self.set(best)
        called.tell(setting=list(best), sweep=[
            (f"{nodes} nodes a pass, {episodes} episodes at once", *found[nodes, episodes])
            for nodes, episodes in settings
        ])  # fmt: skip

    def close(self) -> None:
        """Closes the record and ends the engine."""
        self.run.recorder.close()
        self.run.progress.close()
        self.policy.close()


def serve(case: Case, work: Work, folder: Path, *, swept: bool) -> None:
    """Says the sweep, writes what samplers are shown into ``folder``, then steps whenever it is told to."""
    called = Called()
    made = Step(case, work, folder / "run")
    made.settle(called, SETTINGS if swept else SETTINGS[:1])
    dialogue.write(folder / "scripts.json", dialogue.scripts(made.curriculum.groups))
    called.tell(ready=True)
    while called.begin():
        metrics = made.step()
        called.end(
            rollouts=metrics["rollout/seconds"], written=metrics["rollout/tokens"], trained=metrics["learner/tokens"])
    made.close()
