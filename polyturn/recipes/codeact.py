"""Imitation of a scripted solver that acts in text, in JSON or in code, for as many tokens each; then the same tasks.

Training tasks have at most ``train_most`` offers, so that a solver with one call a turn still comes to its end within
the turns allowed; the table is made of tasks with up to 64. A share ``mix`` of what is learned are replies of the
untrained model to everyday questions, and how well it still predicts others of them is measured before and after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any, Literal

import numpy as np

from polyturn.agents.chat import AnswerAgent
from polyturn.envs.best_price import DISCOUNT, NOTHING, PRICE, best_price, market, read_question
from polyturn.envs.tasks import FileTasks, RewardScore
from polyturn.evaluate.recorded import evaluate_once
from polyturn.evaluate.study import Study
from polyturn.learn.curriculum import Mixture
from polyturn.learn.epochs import Epochs
from polyturn.learn.loop import Rule, Stage, imitation, train
from polyturn.learn.run import Run
from polyturn.methods.agents.codeact import (
    ANSWER,
    OBSERVATION,
    SPACES,
    Plan,
    Rules,
    Space,
    action,
    action_counts,
    answer,
    codeact,
    prompt,
    rendered,
)
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import open_model
from polyturn.protocols import Completion, Match, Player, Policy
from polyturn.rollout.pool import Pool, play, without_errors
from polyturn.rollout.score import score_matches
from polyturn.seeds import derive
from polyturn.tools.sandbox.interpreter import Sandbox
from polyturn.types import Episode, Group, Limits, Message, Sampling, Task, assistant, user

AGENT = frozenset({"agent"})
STUDY = Study(
    outcome="success_many", arms={"code": {"arm": "code"}, "text": {"arm": "text"}}, baseline="text",
    tried=({"lr": 2e-3}, {"lr": 3e-3}),
    fixed={"model": "tiny", "trajectories": 480, "updates": 600, "tokens": 400, "mix": 0.0, "before_tasks": 0,
           "test_tasks": 48, "reply_tokens": 96},
    more=("success_few", "executable", "turns"), curve="learner/loss",
    shares=("success_many", "success_few", "executable"),
)
TOPICS = ("rain", "bread", "the moon", "music", "a river", "chess", "tea", "winter", "maps", "bees", "glass", "sleep",
          "trains", "gold", "birds", "the sea", "salt", "snow", "books", "a garden")
FORMS = ("What is {}?", "Write a sentence about {}.", "Why do people like {}?", "Say something nice about {}.",
         "Name one fact about {}.", "Tell a very short story about {}.", "What goes well with {}?",
         "Give one tip about {}.", "Describe {} in a few words.", "What would a child ask about {}?",
         "What is hard about {}?", "Rhyme a line about {}.", "How old is {}?", "What colour is {}?",
         "Where do you find {}?", "Who studies {}?", "Is {} expensive?", "What does {} sound like?",
         "Compare {} with fire.", "Translate {} into French.")


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """Folder of a causal language model of transformers; empty = the embedded SmolLM2-135M-Instruct, tiny = a small one
    built for this task."""
    seed: int = 0
    """Fixes tasks, worlds and every draw."""
    arm: Literal["text", "json", "code"] = "code"
    """The action space."""
    trajectories: int = 300
    """Episodes of the solver that are learned from, in epochs."""
    updates: int = 40
    """Updates on them."""
    tokens: int = 600
    """Trained tokens of an update; how many episodes that are depends on the space."""
    lr: float = 1e-4
    """Learning rate."""
    warm_up: int = 10
    """Updates until it is reached."""
    mix: float = 0.3
    """Share of an update's tokens that are replies of the untrained model."""
    kept_replies: int = 200
    """Replies of the untrained model that are measured again, where ``mix`` > 0; as many more are learned from."""
    train_most: int = 9
    """Offers of a training task, at most."""
    test_most: int = 64
    """Offers of a test task, at most."""
    test_tasks: int = 64
    """Held-out tasks."""
    before_tasks: int = 16
    """Of these, how many the untrained model plays; 0 also leaves out the solver's own row."""
    turns: int = 10
    """Replies of an episode."""
    reply_tokens: int = 128
    """The longest reply."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers to sample and compute with; weights are float32 always."""
    lora: int = 0
    """Rank of an adapter; 0 = all weights learn."""
    concurrency: int = 16
    """Episodes played at once, each with an interpreter of its own."""
    save_every: int = 20
    """Updates between checkpoints."""


NEEDS = (
    (("kept_replies",), {"mix": ()}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Rates the model, lets it imitate the solver in one action space, rates it again."""
    async with Sandbox() as sandbox:
        run.keep(isolation=await sandbox.open())
    model = open_model(
        settings.model, texts, seed=settings.seed, dtype="float32" if run.deterministic else settings.dtype,
        deterministic=run.deterministic, lora=settings.lora or None, progress=run.progress.note,
    )
    work = _Work(settings, run, model)
    try:
        await work.before()
        await work.imitate()
        await work.after()
    finally:
        model.close()


def text(results: Mapping[str, Any]) -> str:
    """What was found, line by line."""
    outcome = results.get("outcome")
    if outcome is None:
        return "no result: the run did not come to its end"
    return "\n".join(f"{name:<20}{value:.3f}" for name, value in outcome.items())


def held_out(settings: Settings) -> list[Match]:
    """The test tasks, the policy ``main`` in the seat."""
    return test_matches(settings, None)


def test_matches(settings: Settings, plan: Plan | None) -> list[Match]:
    """The test tasks, the model or a scripted player in the seat."""
    suite = best_price(most=settings.test_most, test_tasks=settings.test_tasks)
    own = rules(settings) if plan is None else Rules(settings.arm, settings.turns)
    player = Player(codeact(own, plan=plan), "main")
    return [Match(suite, task, {"agent": player}, derive("test", task.id)) for task in suite.tasks("test")]


def rules(settings: Settings) -> Rules:
    """How the agent acts: the most likely reply, as the paper decodes."""
    return Rules(settings.arm, settings.turns, sampling=Sampling(temperature=0.0, max_tokens=settings.reply_tokens))


def texts() -> list[str]:
    """What a tiny model's tokenizer learns its words from: the solver's episodes in every space."""
    found = []
    suite = best_price(most=9)
    for task in islice(suite.tasks("train"), 40):
        found += [market(task, 0).question.text, *(said for space in SPACES for said in solved(space, task, 0))]
    first = [prompt(space, (PRICE, DISCOUNT), "") for space in SPACES]
    return [*found, *first * 10, *(f"{OBSERVATION}{price} {ANSWER} {price}" for price in range(5, 100))]


# ---------------------------------------------------------------- the solver


def solver(space: Space) -> Plan:
    """The scripted solver of best_price in one space, as a function of the messages so far.

    In code, one program makes every call and prints the answer; else one call a turn, then the answer.
    """

    def plan(messages: Sequence[Message]) -> str:
        question = read_question(next(m.text for m in messages if m.role == "user"))
        seen = [m.text.removeprefix(OBSERVATION) for m in messages if m.role == "user"][1:]
        if space == "code":
            return action(question.code()) if not seen else answer(seen[-1])
        calls = question.calls()
        if len(seen) < len(calls):
            return rendered(space, question.tool, calls[len(seen)])
        return answer(question.answer([int(price) for price in seen[: len(calls)]]))

    return plan


def solved(space: Space, task: Task, seed: int) -> list[str]:
    """The solver's replies in one world."""
    world = market(task, seed)
    question = world.question
    if space == "code":
        return [action(question.code()), answer(world.expected())]
    return [*(rendered(space, question.tool, call) for call in question.calls()), answer(world.expected())]


def spoken(replies: Sequence[tuple[str, str]]) -> FileTasks:
    """A suite of stored questions and replies."""
    tasks = tuple(Task(f"spoken/{i}", "spoken", {"prompt": asked, "reply": said}, Limits(env_steps=1))
                  for i, (asked, said) in enumerate(replies))
    limits = Limits(env_steps=1)
    return FileTasks("spoken", {"train": tasks, "test": ()}, None, RewardScore(lambda episode: 1.0), limits)


# ---------------------------------------------------------------- the steps of a run


@dataclass
class _Work:
    """The steps of a run over one model."""

    settings: Settings
    run: Run
    model: Local
    outcome: dict[str, float] = field(default_factory=dict)
    measured: list[tuple[str, Completion]] = field(default_factory=list)
    learned: list[tuple[str, str]] = field(default_factory=list)

    async def before(self) -> None:
        """What the solver and the untrained model do, and what the model says to everyday questions."""
        settings = self.settings
        if settings.before_tasks:
            solved_by = Dictated(name="main", chat=self.model.chat)
            best = await self._rate("solver", test_matches(settings, solver(settings.arm)), solved_by)
            self.outcome |= {f"solver_{size}": best[f"success_{size}"] for size in ("many", "few")
                             if f"success_{size}" in best}
            matches = held_out(settings)[: settings.before_tasks]
            first = await self._rate("before", matches, self.model)
            if "executable" in first:
                self.outcome["executable_before"] = first["executable"]
        if settings.mix:
            self.run.progress.note("asking the untrained model everyday questions")
            said = await self._replies()
            self.measured, rest = said[: settings.kept_replies], said[settings.kept_replies:]
            self.learned = [(asked, completion.message.text) for asked, completion in rest]
            self.outcome["perplexity_before"] = await self._perplexity()

    async def _replies(self) -> list[tuple[str, Completion]]:
        """Finished replies of the model, two for each that is to be measured, or as many as there are questions."""
        import asyncio

        asked = [form.format(topic) for form, topic in product(FORMS, TOPICS)]
        order = np.random.default_rng(derive("questions", self.settings.seed)).permutation(len(asked))
        chosen = [asked[i] for i in order[: 2 * self.settings.kept_replies]]
        gate = asyncio.Semaphore(self.settings.concurrency)

        async def reply(n: int, question: str) -> Completion:
            async with gate:
                sampling = Sampling(max_tokens=64, seed=derive("everyday", self.settings.seed, n))
                return await self.model.sample([user(question)], sampling=sampling)

        said = await asyncio.gather(*(reply(n, question) for n, question in enumerate(chosen)))
        pairs = list(zip(chosen, said, strict=True))
        return [*pairs[: self.settings.kept_replies],
                *((q, c) for q, c in pairs[self.settings.kept_replies:] if c.finish == "stop" and c.message.text)]

    async def _perplexity(self) -> float:
        """``exp(-mean log-probability)`` of the tokens of the measured replies."""
        paths, lengths = [], []
        for _, completion in self.measured:
            assert completion.ids is not None
            paths.append(np.concatenate([*(piece.ids for piece in completion.prompt), completion.ids]))
            lengths.append(len(completion.ids))
        found = await self.model.logprobs(paths)
        own = [logprobs[-length:] for logprobs, length in zip(found, lengths, strict=True)]
        return math.exp(-float(np.concatenate(own).mean()))

    async def imitate(self) -> None:
        """Likelihood of the solver's replies, and of the untrained model's own, in epochs over what was played once."""
        settings, seed = self.settings, derive("imitate", self.settings.seed)
        player = Player(codeact(Rules(settings.arm, settings.turns), plan=solver(settings.arm)), "main")
        suite = best_price(most=settings.train_most)
        tasks = islice(suite.tasks("train"), settings.trajectories)
        shown = await self._shown("demonstration", [
            Match(suite, task, {"agent": player}, derive(seed, task.id), train=AGENT) for task in tasks])
        mix = settings.mix if self.learned else 0.0
        portions = [Epochs(shown, (1 - mix) * settings.tokens, seed)]
        if mix:
            talk = spoken(self.learned)
            stored = islice(talk.tasks("train"), len(self.learned))
            matches = [Match(talk, task, speaker(task), train=AGENT) for task in stored]
            portions.append(Epochs(await self._shown("everyday", matches), mix * settings.tokens, seed))

        def rule(i: int) -> Rule:
            def portion(groups: Sequence[Group]) -> Sequence[Group]:
                return [group for epochs in portions for group in epochs.batch(i)]

            return imitation(filters=(portion,))

        stage = Stage(
            "imitate", Mixture(()), {}, self.model, self.run.learner(self.model, lr=settings.lr), rule,
            settings.updates, lr=lambda i: settings.lr * min(1.0, (i + 1) / settings.warm_up),
        )
        await train(self.run, stage, save_every=settings.save_every)

    async def _shown(self, label: str, matches: Sequence[Match]) -> list[Group]:
        """The scripted episodes, played once; a run that is gone on with plays them again under another name."""
        attempt = self.run.recorder.attempt
        groups = await play(
            matches, {"main": Dictated(name="main", chat=self.model.chat)}, recorder=self.run.recorder,
            label=label if attempt == 1 else f"{label}-{attempt}", pool=Pool(self.settings.concurrency),
            finished=self.run.plays(label, matches),
        )
        return without_errors(await score_matches(matches, groups, self.run.recorder))

    async def after(self) -> None:
        """The same tasks and questions again; the outcome."""
        self.outcome.update(await self._rate("after", held_out(self.settings), self.model))
        if self.measured:
            self.outcome["perplexity_after"] = await self._perplexity()
        self.run.keep(outcome=self.outcome, text=text({"outcome": self.outcome}))

    async def _rate(self, label: str, matches: Sequence[Match], policy: Policy) -> dict[str, float]:
        result = await evaluate_once(
            matches, {"main": policy}, policy="main", label=label, recorder=self.run.recorder,
            pool=Pool(self.settings.concurrency), finished=self.run.plays(f"rating {label}", matches),
        )
        self.run.keep(**{f"curve_{label}": by_offers(result.groups)})
        return outcome_of(result.groups, few=self.settings.train_most, turns=self.settings.turns)


def speaker(task: Task) -> Mapping[str, Player]:
    """A player that gives the stored reply."""
    return {"agent": Player(lambda: AnswerAgent(lambda ask: assistant(task.payload["reply"])), "main")}


# ---------------------------------------------------------------- results


def outcome_of(groups: Sequence[Group], *, few: int, turns: int) -> dict[str, float]:
    """Success with at most ``few`` offers and with more, turns (a failure counts them all), and of all actions the
    shares that could be run and that were invalid. Success is of the tasks whose answer is a price: ``none`` is guessed
    rightly without a call. Episodes that broke count in nothing; a number that nothing was there for is left out."""
    whole = [episode for group in without_errors(groups) for episode in group]
    rows = [(_offers(e), e) for e in whole]
    priced = [(n, e) for n, e in rows if e.final is not None and e.final["expected"] != NOTHING]
    won = {e.id: bool(e.scores["score"]["agent"].success) for e in whole}
    counts = [action_counts(e) for _, e in rows]
    tools = sum(c["use_tool"] for c in counts)
    acts = sum(c["use_tool"] + c["propose_solution"] + c["invalid_action"] for c in counts)
    spent = [sum(len(t.turns) for t in e.trajectories) if won[e.id] else turns for e in whole]
    bad = sum(c["invalid_action"] for c in counts)
    found = {
        "success_many": _share(*_sum(won[e.id] for n, e in priced if n > few)),
        "success_few": _share(*_sum(won[e.id] for n, e in priced if n <= few)),
        "turns": _share(sum(spent), len(spent)),
        "executable": _share(sum(c["executable"] for c in counts), tools + bad), "invalid": _share(bad, acts),
    }
    return {name: value for name, value in found.items() if value is not None}


def _offers(episode: Episode) -> int:
    return int(episode.task.payload["cities"]) * int(episode.task.payload["vendors"])


def _sum(values: Iterable[bool]) -> tuple[int, int]:
    held = list(values)
    return sum(held), len(held)


def _share(part: float, of: int) -> float | None:
    return part / of if of else None


def by_offers(groups: Sequence[Group]) -> dict[str, list[float]]:
    """Number of offers -> [episodes, successes], of the episodes that did not break."""
    found: dict[int, list[float]] = {}
    for episode in (episode for group in without_errors(groups) for episode in group):
        row = found.setdefault(_offers(episode), [0.0, 0.0])
        row[0] += 1
        row[1] += bool(episode.scores["score"]["agent"].success)
    return {str(offers): found[offers] for offers in sorted(found)}
