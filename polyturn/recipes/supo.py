"""SUPO on the key hunt: a code of N syllables, one tool call each, in a context that holds about a third of them.

The model first imitates a player that forgets nothing, which teaches to copy, then (the last quarter of the updates) a
forgetful one, whose summaries keep each syllable with probability ``keep``; then
reinforcement learning by the whole code alone. Arms, at equal episodes: ``supo``; ``unmasked`` (overlong rollouts are
trained too); ``frozen`` (a copy of the imitator writes the summaries and does not learn); ``truncation`` (no summaries:
the oldest messages fall out of the context).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from polyturn.agents.chat import ChatAgent
from polyturn.contexts.window import Fit
from polyturn.desk import Desk
from polyturn.envs.lookup import DRAWERS, ONSETS, hunt_rules, in_view, key_hunt, recall, spoken, syllables
from polyturn.evaluate.benchmark import Result
from polyturn.evaluate.recorded import evaluate_once
from polyturn.evaluate.study import Study
from polyturn.evaluate.tables import as_json, as_text, cells
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.rates import linear
from polyturn.learn.run import Run
from polyturn.methods.context.supo import supo_context, supo_rule
from polyturn.policies.local import Local
from polyturn.policies.scripted import Scripted
from polyturn.policies.tiny import open_model
from polyturn.protocols import Context, Match, Player, Policy, View
from polyturn.seeds import derive, generator
from polyturn.types import Message, Sampling, Task, all_turns, assistant, user

ORDER = ("sure", "warm", "learn")
MOST = 64
"""The longest reply, in tokens."""
TOKENS_PER_PASS = 2048
STUDY = Study(
    outcome="success", baseline="supo", curve="score/key_hunt",
    arms={arm: {"arm": arm} for arm in ("supo", "unmasked", "frozen", "truncation")},
    tried=({"lr": 5e-4}, {"lr": 1.5e-3}),
    more=("recall", "in_view", "more_summaries", "warm_success"),
    fixed={"model": "tiny", "onsets": 4, "warm_updates": 200, "warm_lr": 4e-3, "iterations": 24},
    shares=("success", "recall", "in_view", "more_summaries", "warm_success"),
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes codes, worlds and every draw."""
    arm: Literal["supo", "unmasked", "frozen", "truncation"] = "supo"
    """What is compared."""
    parts: int = 6
    """Syllables of the code."""
    onsets: int = 16
    """What a syllable may be: one of so many."""
    summaries: int = 3
    """S: the most summaries of an episode."""
    test_summaries: int = 6
    """S of a second table, after training."""
    steps: int = 16
    """H: the most tool calls of an episode; of twice as many in the second table."""
    keep: float = 0.7
    """How likely the imitated player's summary keeps a syllable."""
    warm_updates: int = 40
    """Updates on scripted play: three quarters on that of a sure player, the rest on that of the forgetful one."""
    warm_episodes: int = 16
    """Episodes in each of these."""
    warm_lr: float = 3e-5
    """Learning rate of these; a quarter of it for the forgetful player; both fall to nothing."""
    iterations: int = 30
    """Updates of reinforcement learning."""
    groups: int = 4
    """Codes in an update."""
    rollouts: int = 8
    """Plays of each code."""
    lr: float = 2e-5
    """Learning rate of reinforcement learning."""
    statistics: Literal["all", "finished"] = "all"
    """Rollouts that count in mean and deviation of their group."""
    denominator: Literal["trained", "all"] = "trained"
    """Tokens that the loss is divided by."""
    test_tasks: int = 64
    """Held-out codes of a table."""
    save_every: int = 10
    """Iterations between checkpoints."""


NEEDS = (
    (("warm_episodes", "warm_lr", "keep"), {"warm_updates": ()}),
    (("summaries", "test_summaries"), {"arm": ("supo", "unmasked", "frozen")}),
    (("denominator",), {"arm": ("supo",)}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Imitation, reinforcement learning, and tables before, after, and after with more summaries."""
    model = open_model(
        settings.model, texts, seed=settings.seed, deterministic=run.deterministic, progress=run.progress.note,
    )
    work = _Work(settings, run, model)
    try:
        await work.imitate()
        work.freeze()
        await work.rate("warm")
        await work.reinforce()
        await work.rate("learned")
        await work.rate("more", most=settings.test_summaries, steps=2 * settings.steps)
        work.conclude()
    finally:
        work.close()


def text(results: Mapping[str, Any]) -> str:
    """The tables, as plain text."""
    return str(results.get("text", "no table: the run did not come to its end"))


def held_out(settings: Settings) -> list[Match]:
    """The held-out matches; the judged policy writes its own summaries."""
    return _matches(settings, lambda: player(Tight(settings)))


# ---------------------------------------------------------------- players


def texts() -> list[str]:
    """What a tiny model's tokenizer is learned from: rules, requests, replies."""
    every = [{drawer: onset + drawer for drawer in DRAWERS[:6]} for onset in ONSETS]
    said = [spoken(word, found) for found in every for word in ("code", "notes", "Found", "Found")]
    said += [f"open {drawer}" for drawer in DRAWERS[:6]]
    return [*[hunt_rules(6), supo_context(1).ask, "Found ba."] * 4, *said]


def hunter(settings: Settings) -> Callable[[Sequence[Message]], Message]:
    """The imitated player, from what it is shown alone: opens the next drawer after the highest it knows, then says
    what it knows of the code; its summaries keep each syllable with probability ``keep``."""

    drawers = DRAWERS[: settings.parts]

    def reply(messages: Sequence[Message]) -> Message:
        seen = " ".join(m.text for m in messages if m.origin == "summary" or m.text.startswith("Found "))
        known, draws = syllables(seen), generator("hunter", settings.seed, *(m.text for m in messages))
        if messages[-1].origin == "reminder":
            return assistant(spoken("notes", {d: x for d, x in known.items() if draws.random() < settings.keep}))
        following = max((drawers.index(drawer) for drawer in known), default=-1) + 1
        if following < settings.parts:
            return assistant(f"open {drawers[following]}")
        return assistant(spoken("code", known))

    return reply


def limit_of(model: Policy | Desk, parts: int) -> int:
    """Tokens of the rules, a summary and a third of the tool calls: what a context has to hold when all is known."""
    third = -(-parts // 3)
    before = {drawer: f"b{drawer}" for drawer in DRAWERS[: parts - third]}
    messages = [user(hunt_rules(parts)), user(spoken("notes", before))]
    for drawer in DRAWERS[parts - third : parts]:
        messages += [assistant(f"open {drawer}"), user(f"Found b{drawer}.")]
    return model.count(messages)


def context_of(settings: Settings, limit: int, summaries: int, *, frozen: bool) -> Context:
    """What this arm's player sees; ``frozen`` = the policy of that name writes its summaries."""
    if settings.arm == "truncation":
        return Fit(limit)
    return supo_context(limit, summaries=summaries, max_tokens=MOST, policy="frozen" if frozen else None)


@dataclass(frozen=True)
class Tight:
    """The arm's context for a policy that is only known when it plays: its limit is counted in that policy's tokens."""

    settings: Settings

    async def view(self, history: Sequence[Message], desk: Desk) -> View:
        """What the arm shows."""
        limit = limit_of(desk, self.settings.parts)
        return await context_of(self.settings, limit, self.settings.summaries, frozen=False).view(history, desk)


def player(context: Context) -> Player:
    """The learner in its seat."""
    return Player(lambda: ChatAgent(context=context, sampling=Sampling(max_tokens=MOST)), "main")


def _matches(settings: Settings, seat: Callable[[], Player], steps: int | None = None) -> list[Match]:
    suite = key_hunt(
        parts=settings.parts, onsets=settings.onsets, test_tasks=settings.test_tasks, steps=steps or settings.steps
    )
    return [Match(suite, task, {"agent": seat()}, derive("test", task.id)) for task in suite.tasks("test")]


# ---------------------------------------------------------------- the steps of a run


@dataclass
class _Work:
    """The steps of a run over one model."""

    settings: Settings
    run: Run
    model: Local
    frozen: Local | None = None
    tables: dict[str, Result] = field(default_factory=dict)
    found: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limit = limit_of(self.model, self.settings.parts)

    def close(self) -> None:
        """Ends the engines."""
        self.model.close()
        if self.frozen is not None:
            self.frozen.close()

    async def imitate(self) -> None:
        """Likelihood of the sure player and then of the forgetful one, in this arm's context."""
        settings = self.settings
        sure = replace(settings, keep=1.0)
        await self._imitate("sure", sure, settings.warm_updates * 3 // 4, settings.warm_lr)
        await self._imitate("warm", settings, settings.warm_updates - settings.warm_updates * 3 // 4,
                            settings.warm_lr / 4)

    async def _imitate(self, name: str, settings: Settings, updates: int, lr: float) -> None:
        if passed(self.run, name, ORDER):
            return
        rule = imitation()
        script = Scripted(hunter(settings), name="main", chat=self.model.chat)
        limits = [self.limit + more for more in (0, 20, 40)]  # the call that overflows is taken back, so not imitated
        contexts = [context_of(settings, limit, settings.summaries, frozen=False) for limit in limits]
        share = self._share(contexts, settings.warm_episodes, 1)
        await self._train(name, share, {"main": script}, rule, updates, lr)

    def freeze(self) -> None:
        """Keeps the imitator as it was, to write the summaries of the arm ``frozen``."""
        if self.settings.arm == "frozen":
            folder = self.run.model_folder("warm")
            self.frozen = Local.load(folder, name="frozen", deterministic=self.run.deterministic)

    async def reinforce(self) -> None:
        """The whole code or nothing, each rollout against its group."""
        settings = self.settings
        rule = supo_rule(
            mask=settings.arm == "supo", statistics=settings.statistics, denominator=settings.denominator
        )
        context = context_of(settings, self.limit, settings.summaries, frozen=self.frozen is not None)
        share = self._share([context], settings.groups, settings.rollouts)
        await self._train("learn", share, self._policies(), rule, settings.iterations, settings.lr)

    async def rate(self, name: str, most: int | None = None, steps: int | None = None) -> None:
        """A table on the held-out codes, and what summaries and contexts kept there."""
        context = context_of(
            self.settings, self.limit, most or self.settings.summaries, frozen=self.frozen is not None
        )
        matches = _matches(self.settings, partial(player, context), steps)
        result = await evaluate_once(
            matches, self._policies(), policy="main", label=f"table-{name}", recorder=self.run.recorder,
            finished=self.run.plays(f"table {name}", matches),
        )
        self.tables[name] = result
        self.found[name] = kept(result)

    def conclude(self) -> None:
        """Numbers and tables into the results."""
        learned = self.found["learned"]
        outcome = {**learned, "more_summaries": self.found["more"]["success"],
                   "warm_success": self.found["warm"]["success"], "warm_recall": self.found["warm"]["recall"]}
        names = list(learned)
        lines = [["", *names]] + [[name, *(f"{row[key]:.3f}" for key in names)] for name, row in self.found.items()]
        shown = "\n\n".join((as_text(cells(self.tables)), as_text(lines)))
        self.run.keep(outcome=outcome, found=self.found, limit=self.limit, text=shown,
                      table={name: as_json(result) for name, result in self.tables.items()})

    def _policies(self) -> dict[str, Policy]:
        return {"main": self.model} if self.frozen is None else {"main": self.model, "frozen": self.frozen}

    def _share(self, contexts: Sequence[Context], groups: int, rollouts: int) -> Share:
        settings = self.settings
        suite = key_hunt(parts=settings.parts, onsets=settings.onsets, steps=settings.steps)

        def cast(task: Task) -> Mapping[str, Player]:
            return {"agent": player(contexts[int(task.id.rpartition("/")[2]) % len(contexts)])}

        return Share(suite, cast, frozenset({"agent"}), groups, rollouts)

    async def _train(
        self, name: str, share: Share, policies: Mapping[str, Policy], rule: Rule, updates: int, lr: float
    ) -> None:
        stage = Stage(
            name, Mixture((share,), derive(name, self.settings.seed)), policies, self.model,
            self.run.learner(self.model, lr=lr, tokens_per_pass=TOKENS_PER_PASS), rule, updates,
            lr=None if name == "learn" else lambda i: lr * linear(i, updates, warm=10),
        )
        await train(self.run, stage, save_every=self.settings.save_every)


def kept(result: Result) -> dict[str, float]:
    """Of a table's episodes: ``success``; ``recall`` of the summaries (mean of :func:`polyturn.envs.lookup.recall`; 0
    where none was written), ``in_view`` at the last act, ``overlong`` share, ``summaries`` an episode, ``peak`` prompt
    tokens."""
    episodes = [episode for group in result.groups for episode in group]
    turns = [[turn for turn in all_turns(episode) if not turn.dropped] for episode in episodes]
    recalled = [
        recall(episode, turn) for episode, own in zip(episodes, turns, strict=True) for turn in own
        if turn.purpose == "summary"
    ]
    known = [value for value in recalled if value is not None]
    last = [in_view(e, [t for t in own if t.purpose == "act"][-1]) for e, own in zip(episodes, turns, strict=True)]
    prompts = [turn.usage.prompt_tokens for own in turns for turn in own if turn.purpose == "act"]
    return {
        "success": result.mixture.mean, "recall": float(np.mean(known)) if known else 0.0,
        "in_view": float(np.mean(last)), "overlong": float(np.mean([e.stop.kind != "done" for e in episodes])),
        "summaries": len(recalled) / len(episodes), "peak": float(max(prompts)),
    }
