"""The embedded 135M model learns three real multi-turn environments together, on a laptop, in minutes.

Environments: guess the number (TextArena), tic-tac-toe against a mixed opponent and Kuhn poker in self-play
(OpenSpiel). Stage 1 warms up on scripted play that is wrong half of the time; stage 2 is multi-turn reinforcement
learning: rollouts compared within their group, for self-play with a running baseline of each role, every task on one
scale. The table at the end compares both with a player that does nothing, a random one, the untouched model and an
oracle, on held-out tasks, sampled alike and without a mask of legal moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyturn.advantages.family import ByFamily
from polyturn.advantages.group import RoleBaseline, group_standardised
from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.envs.openspiel import exploitability, information_states, kuhn_poker, kuhn_poker_vs_random, tic_tac_toe
from polyturn.envs.textarena import guess_the_number
from polyturn.evaluate.benchmark import Result
from polyturn.evaluate.choices import reply_probabilities
from polyturn.evaluate.compare import corrected, paired
from polyturn.evaluate.recorded import evaluate_once
from polyturn.evaluate.tables import as_json, as_text, cells, paired_cells
from polyturn.learn import checkpoint
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import family_mean
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.protocols import Answer, Ask, Match, Player, Policy, Suite
from polyturn.record.read import read_metrics
from polyturn.rollout.pool import Pool
from polyturn.seeds import derive, generator
from polyturn.types import Message, Sampling, Seat, Task, assistant

ORDER = ("stage1", "stage2", "stage1_longer", "done")
ROWS = ("null", "random", "base", "stage1", "stage1_longer", "stage2", "oracle")
CACHE_BYTES = 400 * 2**20
TOKENS_PER_PASS = 2304
"""Most updates are one pass then, which takes a sixth less time than three."""
SECONDS = {"base": 0.1, "warm": 1.2, "rating": 0.15, "played": 0.6}
"""What an episode costs on two cores: rated, imitated, or played and learned from (in each environment)."""
SYSTEM = "You play games. Reply with your move only."


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """Folder of a causal language model of transformers; empty = the embedded SmolLM2-135M-Instruct."""
    seed: int = 0
    """Fixes tasks, worlds and every draw."""
    warm_updates: int = 20
    """Updates of stage 1."""
    warm_episodes: int = 8
    """Scripted episodes of each environment in an update of stage 1."""
    warm_lr: float = 3e-5
    """Learning rate of stage 1."""
    skill: float = 0.5
    """How often the demonstrator plays the best move instead of a random one."""
    iterations: int = 28
    """Updates of stage 2."""
    groups: int = 8
    """Tasks of each environment in an update of stage 2."""
    rollouts: int = 4
    """Plays of each task."""
    lr: float = 3e-5
    """Learning rate of stage 2."""
    test_tasks: int = 64
    """Held-out tasks of each environment."""
    trials: int = 2
    """Plays of each held-out task."""
    reply_tokens: int = 8
    """The longest reply."""
    dtype: str = "bfloat16"
    """Numbers to sample and compute with, "float32" or "bfloat16"; weights are float32 always."""
    control: bool = False
    """Also continue stage 1 for as many updates and trained tokens as stage 2."""
    save_every: int = 7
    """Iterations between checkpoints."""
    concurrency: int = 64
    """Episodes played at once."""


NEEDS = (
    (("groups", "rollouts", "lr"), {"iterations": ()}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """The whole run: rows of the table and stages in turn. The results are in ``results.json`` as they come."""
    run.progress.note("loading the model (the first time it is converted, which takes some seconds)")
    dtype: Any = "float32" if run.deterministic else settings.dtype
    model = Local.load(
        settings.model or None, dtype=dtype, deterministic=run.deterministic, cache_bytes=CACHE_BYTES,
    )
    if model.warning:
        run.progress.note(model.warning)
    work = Quickstart(settings, run, model)
    try:
        for name, answers in (("null", null_of), ("random", random_of(settings.seed)), ("oracle", oracle_of)):
            await work.rate(name, answers)
        await work.rate_model("base")
        await work.imitate("stage1", settings.warm_updates, settings.warm_episodes)
        await work.rate_model("stage1")
        await work.reinforce("stage2")
        run.keep(model="stage2")
        await work.rate_model("stage2")
        work.conclude()
        if settings.control:
            started = time.monotonic()
            await work.control("stage1_longer")
            work.conclude()
            run.keep(control_seconds=time.monotonic() - started)
        run.save("done", 0, {})
    finally:
        model.close()


def text(results: Mapping[str, Any]) -> str:
    """The table that was found, as plain text."""
    return str(results.get("text", "no table: the run did not come to its end"))


def held_out(settings: Settings) -> list[Match]:
    """The held-out matches, the policy ``main`` in every learner's seat."""
    return test_matches(settings, lambda suite, task: {seat: chat_player(settings) for seat in suite.spec.seats})


def foresee(settings: Settings) -> dict[str, Any]:
    """Seconds by stage on two cores, and bytes, for the embedded model."""
    episodes = 3 * settings.test_tasks * settings.trials
    played = settings.iterations * settings.groups * settings.rollouts
    stages = {
        "rating base": SECONDS["base"] * episodes,
        "stage1": SECONDS["warm"] * settings.warm_updates * settings.warm_episodes,
        "rating stage1": SECONDS["rating"] * episodes, "stage2": SECONDS["played"] * played,
        "rating stage2": SECONDS["rating"] * episodes,
    }
    if settings.control:
        stages |= {"stage1_longer": stages["stage2"], "rating stage1_longer": stages["rating stage1"]}
    return {"seconds": sum(stages.values()), "stages": stages, "bytes": 7 * 2**30}


# ---------------------------------------------------------------- players and matches

Answers = Callable[[Any, Task, Seat], Answer]


def null_of(suite: Any, task: Task, seat: Seat) -> Answer:
    """The player that says nothing."""
    return suite.null(task)  # type: ignore[no-any-return]


def oracle_of(suite: Any, task: Task, seat: Seat) -> Answer:
    """The best player there is."""
    return suite.oracle(task)  # type: ignore[no-any-return]


def random_of(seed: int) -> Answers:
    """Uniform over the legal moves."""
    return lambda suite, task, seat: suite.random_answer(task, seed, seat)


def demonstrator_of(seed: int, skill: float) -> Answers:
    """The best move with probability ``skill``, else a random legal one."""

    def answers(suite: Any, task: Task, seat: Seat) -> Answer:
        best, draws = suite.oracle(task), generator("demonstrator", seed, task.id, seat)

        def play(ask: Ask) -> Message:
            good: Message = best(ask)
            legal = ask.legal or (good.text,)
            return good if draws.random() < skill else assistant(legal[int(draws.integers(len(legal)))])

        return play

    return answers


def scripted_cast(suite: Suite, task: Task, answers: Answers) -> dict[Seat, Player]:
    """A scripted player in every seat, in the clothes of the learner."""

    def player(seat: Seat) -> Player:
        return Player(lambda: AnswerAgent(answers(suite, task, seat), SYSTEM), "main")

    return {seat: player(seat) for seat in suite.spec.seats}


def chat_player(settings: Settings) -> Player:
    """The learner in a seat."""
    sampling = Sampling(max_tokens=settings.reply_tokens)
    return Player(lambda: ChatAgent(SYSTEM, sampling=sampling), "main")


def test_matches(settings: Settings, cast: Callable[[Suite, Task], Mapping[Seat, Player]]) -> list[Match]:
    """Every held-out task of every environment; tasks, worlds and draws are the same for every row and seed."""
    tasks = settings.test_tasks
    suites: list[Suite] = [
        guess_the_number(test_tasks=tasks), tic_tac_toe(test_tasks=tasks), kuhn_poker_vs_random(test_tasks=tasks),
    ]
    return [
        Match(suite, task, cast(suite, task), derive("test", task.id), settings.trials)
        for suite in suites for task in suite.tasks("test")
    ]


# ---------------------------------------------------------------- the steps of a run


class Quickstart:
    """Rows and stages over one model."""

    def __init__(self, settings: Settings, run: Run, model: Local) -> None:
        self.settings, self.run, self.model = settings, run, model
        self.pool = Pool(settings.concurrency)
        self.train_suites: list[Any] = [guess_the_number(), tic_tac_toe(), kuhn_poker()]
        self.table: dict[str, Result] = {}
        self.exploitability: dict[str, float] = dict(run.results.get("exploitability", {}))

    # ------------------------------------------------------------ rows

    async def rate(self, row: str, answers: Answers) -> None:
        """The row of a scripted player."""
        matches = test_matches(self.settings, lambda suite, task: scripted_cast(suite, task, answers))
        await self._rate(row, matches, Dictated(name="main", chat=self.model.chat))

    async def rate_model(self, row: str) -> None:
        """The row of the model as it is now, and its exploitability in Kuhn poker."""
        await self._rate(row, held_out(self.settings), self.model)
        if row not in self.exploitability:
            self.exploitability[row] = exploitability(await self._kuhn_probabilities())
            self.run.keep(exploitability=self.exploitability)

    async def _rate(self, row: str, matches: list[Match], policy: Policy) -> None:
        """Plays a row, or reads it from the record of an earlier attempt."""
        self.table[row] = await evaluate_once(
            matches, {"main": policy}, policy="main", label=f"rate-{row}", recorder=self.run.recorder, pool=self.pool,
            finished=self.run.plays(f"rating {row}", matches),
        )
        self.run.keep(table={name: as_json(self.table[name]) for name in ROWS if name in self.table})

    async def _kuhn_probabilities(self) -> dict[str, Mapping[str, float]]:
        """Information state -> reply -> probability of exactly that reply, made to sum to 1 over the legal ones."""
        system, states = Message("system", SYSTEM), information_states()  # type: ignore[arg-type]
        dialogues = [([system, *state.messages], state.legal) for state in states]
        found = await reply_probabilities(self.model, self.model.chat, dialogues)
        return {state.name: row for state, row in zip(states, found, strict=True)}

    # ------------------------------------------------------------ stages

    async def imitate(self, name: str, updates: int, episodes: int, *, first: int = 0) -> None:
        """Likelihood of an imperfect demonstrator's moves; from update ``first`` on it continues stage 1."""
        if passed(self.run, name, ORDER):
            return
        settings = self.settings
        answers = demonstrator_of(settings.seed, settings.skill)
        shares = [self._share(suite, episodes, 1, answers) for suite in self.train_suites]
        learner = self.run.learner(self.model, lr=settings.warm_lr, tokens_per_pass=TOKENS_PER_PASS)
        if first:
            learner.restore(checkpoint.load(self._stage1_end))
            learner.version = self.model.version
            learner.publish(self.model)
        stage = Stage(
            name, Mixture(shares, derive("warm", settings.seed), first=first),
            {"main": Dictated(name="main", chat=self.model.chat)}, self.model, learner,
            imitation(family_mean), updates, pool=self.pool,
        )
        await train(self.run, stage, save_every=settings.save_every)
        if settings.control and not first:
            checkpoint.save(self._stage1_end, learner.state())

    @property
    def _stage1_end(self) -> Path:
        return self.run.model_folder("stage1-learner")

    async def reinforce(self, name: str) -> None:
        """Stage 2: rollouts against their group, self-play against each role's running baseline."""
        if passed(self.run, name, ORDER):
            return
        settings = self.settings
        shares = [self._share(suite, settings.groups, settings.rollouts) for suite in self.train_suites[:2]]
        shares.append(self._share(self.train_suites[2], settings.groups * settings.rollouts // 2, 1))
        level: dict[tuple[str, ...], float] = {("kuhn_poker", seat): 0.5 for seat in self.train_suites[2].spec.seats}
        credit = ByFamily({
            "guess_the_number": group_standardised, "tic_tac_toe": group_standardised,
            "kuhn_poker": RoleBaseline(baseline=level),
        })
        rule = Rule(credit, family_mean, policy_gradient, proportional=True, on_policy=True)
        stage = Stage(
            name, Mixture(shares, derive("play", settings.seed)), {"main": self.model}, self.model,
            self.run.learner(self.model, lr=settings.lr, tokens_per_pass=TOKENS_PER_PASS), rule, settings.iterations,
            pool=self.pool, memory={"credit": credit},
        )
        await train(self.run, stage, save_every=settings.save_every)

    def _share(self, suite: Any, groups: int, rollouts: int, answers: Answers | None = None) -> Share:
        def cast(task: Task) -> Mapping[Seat, Player]:
            if answers is not None:
                return scripted_cast(suite, task, answers)
            return {seat: chat_player(self.settings) for seat in suite.spec.seats}

        return Share(suite, cast, frozenset(suite.spec.seats), groups, rollouts)

    async def control(self, name: str) -> None:
        """Stage 1 continued, optimizer and all, for as many updates and about as many trained tokens as stage 2."""
        settings = self.settings
        trained = {stage: self._trained_tokens(stage) for stage in ("stage1", "stage2")}
        per_episode = trained["stage1"] / (settings.warm_updates * settings.warm_episodes)
        episodes = max(1, round(trained["stage2"] / settings.iterations / per_episode))
        await self.imitate(name, settings.iterations, episodes, first=settings.warm_updates)
        trained[name] = self._trained_tokens(name)
        self.run.keep(trained_tokens=trained)
        await self.rate_model(name)

    def _trained_tokens(self, stage: str) -> float:
        rows = read_metrics(self.run.folder)
        return float(sum(row["values"]["learner/tokens"] for row in rows if row["stage"] == stage))

    # ------------------------------------------------------------ results

    def conclude(self) -> None:
        """Paired differences and the printed table."""
        table = {row: self.table[row] for row in ROWS if row in self.table}
        others = [row for row in ("stage1", "stage1_longer") if row in table]
        pairs = corrected({f"stage2_minus_{row}": paired(table, "stage2", row) for row in others})
        lines = [as_text(cells(table)), as_text(paired_cells(pairs))]
        known = [row for row in ROWS if row in self.exploitability]
        exploitable = ", ".join(f"{row} {self.exploitability[row]:.3f}" for row in known)
        lines.append(f"Kuhn exploitability: {exploitable}")
        self.run.keep(paired={name: as_json(pair) for name, pair in pairs.items()}, text="\n\n".join(lines))
