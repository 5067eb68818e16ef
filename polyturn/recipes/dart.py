"""DART on walks through a grid, some of them too long to be found by chance: environments play while the learner works.

The arms share environment steps, learner and schedule. ``dart`` has everything; ``no_pool`` lacks the stored successes,
``plain`` all curation: every task is played ``rollouts`` times to the horizon, and every step is learned from. Stored
successes are walks of the environment's oracle, kept before training; their tokens were not sampled, and the record
says so. The outcome is the success on the training tasks, as the paper counts it, and on held-out ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from statistics import fmean
from typing import Any, Literal

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.cli.subject import held_out as test_matches
from polyturn.envs.grid import Grid, grid
from polyturn.errors import BadInput
from polyturn.evaluate.benchmark import evaluate
from polyturn.evaluate.study import Study
from polyturn.evaluate.trials import score_of
from polyturn.learn.curriculum import Mixture, Share, StepBudget
from polyturn.learn.decoupled.schedule import Schedule
from polyturn.learn.decoupled.train import train_decoupled
from polyturn.learn.learns import Learns
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.run import Run
from polyturn.methods.learning.dart import AdaptiveTasks, Experience, Form, curate, dart_rule, reload_size
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import is_tiny, open_model
from polyturn.protocols import AgentMaker, Match, Player
from polyturn.record.read import read_metrics
from polyturn.rollout.pool import play
from polyturn.rollout.score import score_groups
from polyturn.rollout.spoken import spoken
from polyturn.seeds import derive
from polyturn.types import Episode, Limits, Sampling, Task

ORDER = ("warm", "learn")
LENGTHS, EASY, HARD = (1, 2, 4, 6, 10, 12), 2, 10
"""Steps that tasks need, in turn; easy ones up to, and hard ones from."""
TEST_TASKS, MAX_TOKENS, SAVE_EVERY = 24, 8, 10
STUDY = Study(
    outcome="success", baseline="plain", curve="score/grid",
    arms={"dart": {"arm": "dart"}, "no_pool": {"arm": "no_pool"}, "plain": {"arm": "plain"}},
    tried=({"lr": 3e-4}, {"lr": 1e-3}), more=("easy", "medium", "hard", "test", "updates"),
    shares=("success", "easy", "medium", "hard", "test"),
    fixed={"model": "tiny", "env_steps": 12_000, "kl": 0.0, "groups": 8, "by_ticket": True, "warm_updates": 8,
           "warm_lr": 3e-3, "environments": 64},
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes tasks and every draw."""
    arm: Literal["dart", "no_pool", "plain"] = "dart"
    """Which of the curation is used."""
    form: Form = "paper"
    """The paper's advantage and loss, or the released ones."""
    env_steps: int = 800
    """Environment steps of training, whatever the arm."""
    groups: int = 4
    """Groups of an update."""
    rollouts: int = 8
    """The most rollouts of a task."""
    tasks: int = 12
    """Training tasks, played again and again."""
    horizon: int = 12
    """Environment steps of a walk without a success to go by."""
    lr: float = 2e-5
    """Learning rate."""
    kl: float = 0.1
    """Coefficient of the divergence from the first weights (k3); 0 = none, and no reference is kept."""
    truncate: bool = True
    """Weigh tokens by min(old / rollout, 1)."""
    warm_updates: int = 0
    """Updates on walks of the oracle to near goals, before, each on ``groups * rollouts`` walks."""
    warm_lr: float = 3e-5
    """Learning rate of these."""
    environments: int = 16
    """Walks at once."""
    replicas: int = 1
    """Copies of the model that sample."""
    max_lag: int = 2
    """The most updates between the weights that sampled a token and those that learn from it."""
    by_ticket: bool = False
    """Every update takes the groups proposed for it, played exactly ``max_lag`` updates before; so it is always in a
    deterministic run."""
    mask: bool = True
    """Only replies that the rules allow."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers to sample and compute with; weights are float32 always."""


PROCESSES = True
NEEDS = (
    (("warm_lr",), {"warm_updates": ()}),
    (("replicas",), {"by_ticket": (False,)}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Trains until the environment steps are spent, and rates the tasks before and after."""
    dtype: Any = "float32" if run.deterministic else settings.dtype
    texts = await spoken(grid(lengths=LENGTHS)) if is_tiny(settings.model) else []
    model = open_model(
        settings.model, lambda: texts, seed=settings.seed, dtype=dtype, deterministic=run.deterministic,
        progress=run.progress.note,
    )
    try:
        await imitate(settings, run, model)
        if run.at is None or run.at[0] == "warm":
            run.keep(before=await rated(settings, run, model, "before"))
        stage, budget, experience = stage_of(settings, run, model)
        if settings.arm == "dart" and (run.at is None or run.at[0] == "warm"):
            experience.store(await stored(settings, run, model))
        await train_decoupled(run, stage, schedule_of(settings, run), save_every=SAVE_EVERY, enough=budget.is_spent)
        after = await rated(settings, run, model, "after")
    finally:
        model.close()
    updates = float(sum(row["stage"] == "learn" for row in read_metrics(run.folder)))
    run.keep(after=after, outcome={**after, "before": run.results["before"]["success"], "updates": updates,
                                   "env_steps": float(budget.taken)})


def held_out(settings: Settings) -> list[Match]:
    """The held-out tasks at the horizon."""
    found = test_matches(grid(lengths=LENGTHS, test_tasks=TEST_TASKS), tasks=None, trials=1, agent=player(settings))
    return [replace(match, limits=Limits(env_steps=settings.horizon)) for match in found]


def text(results: Mapping[str, Any]) -> str:
    """What was found, in words."""
    found, before = results.get("outcome"), results.get("before", {})
    if found is None:
        return "no result: the run did not come to its end"
    easy, medium, hard = (found.get(kind, nan) for kind in ("easy", "medium", "hard"))
    return (
        f"success on the training tasks {before['success']:.3f} -> {found['success']:.3f} (easy {easy:.3f}, medium "
        f"{medium:.3f}, hard {hard:.3f}; hard before {before.get('hard', nan):.3f}), on held-out ones "
        f"{found['test']:.3f}; {found['env_steps']:.0f} environment steps in {found['updates']:.0f} updates"
    )


# ---------------------------------------------------------------- tasks


def suite_of(settings: Settings) -> Grid:
    """The training tasks."""
    return grid(lengths=LENGTHS, test_tasks=TEST_TASKS, train_tasks=settings.tasks)


def player(settings: Settings) -> AgentMaker:
    """A maker of the agent that plays: full history, one call for each ask."""
    return partial(ChatAgent, sampling=Sampling(max_tokens=MAX_TOKENS), mask=settings.mask)


def oracle(suite: Grid, task: Task) -> AgentMaker:
    """A maker of the player that walks a shortest way."""
    return lambda: AnswerAgent(suite.oracle(task))


async def rated(settings: Settings, run: Run, model: Local, label: str) -> dict[str, float]:
    """The success on the training tasks, of all and by what they need (where there are such), and on held-out ones."""
    own = [Match(suite, task, {"agent": Player(player(settings), "main")}, derive("rated", settings.seed), 2,
                 Limits(env_steps=settings.horizon)) for suite in [suite_of(settings)] for task in suite.tasks("train")]
    found: dict[str, list[tuple[int, float]]] = {}
    unseen = held_out(settings)
    finished = run.plays(f"rating {label}", [*own, *unseen])
    for name, matches in (("train", own), ("test", unseen)):
        result = await evaluate(matches, {"main": model}, policy="main", label=f"{label}-{name}",
                                recorder=run.recorder, finished=finished)
        found[name] = [(int(e.task.payload["need"]), score_of(e)) for group in result.groups for e in group]
    train = found["train"]
    kinds = {
        "success": train, "test": found["test"], "easy": [row for row in train if row[0] <= EASY],
        "medium": [row for row in train if EASY < row[0] < HARD], "hard": [row for row in train if row[0] >= HARD],
    }
    return {name: fmean(score for _, score in rows) for name, rows in kinds.items() if rows}


# ---------------------------------------------------------------- stages


async def imitate(settings: Settings, run: Run, model: Local) -> None:
    """Likelihood of the oracle's walks to goals that are not far."""
    if not settings.warm_updates or passed(run, "warm", ORDER):
        return
    suite = grid(lengths=tuple(need for need in LENGTHS if need < HARD))
    share = Share(suite, lambda task: {"agent": Player(oracle(suite, task), "main")}, frozenset({"agent"}),
                  settings.groups * settings.rollouts, 1)
    await train(run, Stage(
        "warm", Mixture((share,), derive("warm", settings.seed)), {"main": Dictated(name="main", chat=model.chat)},
        model, learner_of(settings, run, model, settings.warm_lr), imitation(), settings.warm_updates,
    ))


async def stored(settings: Settings, run: Run, model: Local) -> list[tuple[Episode, ...]]:
    """One success of the oracle on each training task, recorded."""
    suite = suite_of(settings)
    matches = [
        Match(suite, task, {"agent": Player(oracle(suite, task), "main")}, derive("stored", settings.seed),
              train=frozenset({"agent"})) for task in suite.tasks("train")
    ]
    groups = await play(matches, {"main": Dictated(name="main", chat=model.chat)}, label="stored",
                        recorder=run.recorder)
    return await score_groups(groups, suite, run.recorder)


def learner_of(settings: Settings, run: Run, model: Local, lr: float) -> Learns:
    """A learner of all weights."""
    return run.learner(model, lr=lr, reference="initial" if settings.kl else None)


def stage_of(settings: Settings, run: Run, model: Local) -> tuple[Stage, StepBudget, Experience]:
    """The stage of training, its budget of environment steps, which ends it, and its stored successes."""
    curated, experience = settings.arm != "plain", Experience()
    cast = {"agent": Player(player(settings), "main")}
    share = Share(suite_of(settings), lambda task: cast, frozenset({"agent"}), settings.groups, settings.rollouts,
                  Limits(env_steps=settings.horizon))
    tasks = AdaptiveTasks(Mixture((share,), settings.seed), settings.rollouts, min(2, settings.rollouts),
                          numbers=curated, lengths=curated)
    budget = StepBudget(tasks, settings.env_steps)
    stage = Stage(
        "learn", budget, {"main": model}, model, learner_of(settings, run, model, settings.lr),
        rule_of(settings, experience), settings.env_steps, memory={"experience": experience},
    )
    return stage, budget, experience


def rule_of(settings: Settings, experience: Experience) -> Rule:
    """The arm's rule."""
    curated, pool = settings.arm != "plain", settings.arm == "dart"
    rule = dart_rule(
        settings.form, truncate=1.0 if settings.truncate else None, beta=settings.kl, share=0.8 if curated else 1.0,
        demonstrations=pool,
    )
    if not curated:
        return rule
    keep = partial(curate, experience=experience if pool else None, most=settings.rollouts, seed=settings.seed)
    return replace(rule, filters=(keep,))


def schedule_of(settings: Settings, run: Run) -> Schedule:
    """By ticket where the run is to be repeated to the bit, else free."""
    if run.deterministic or settings.by_ticket:
        if settings.replicas != 1:
            raise BadInput(f"replicas is {settings.replicas}, and this run is by ticket: there is "
                           "one replica for each version; leave it out")
        return Schedule(environments=settings.environments, max_lag=settings.max_lag, by_ticket=True)
    return Schedule(
        environments=settings.environments, groups=settings.groups, max_lag=settings.max_lag,
        replicas=settings.replicas, at_once=reload_size(settings.replicas))
