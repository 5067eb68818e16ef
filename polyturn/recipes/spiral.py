"""SPIRAL: one model plays both seats of Kuhn poker and tic-tac-toe against its newest self.

The arms share everything but the baseline of their advantage: ``spiral`` one for each game and role, ``seat_blind`` one
for each game, ``raw`` none. Kuhn poker says how far the policy is from an equilibrium (exploitability, exact); both
games say how often each seat wins against a random player.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.envs.openspiel import (
    KuhnPlayer,
    OpenSpiel,
    exploitability,
    information_states,
    kuhn_poker,
    kuhn_poker_vs_random,
    tic_tac_toe,
)
from polyturn.evaluate.benchmark import evaluate
from polyturn.evaluate.choices import reply_probabilities
from polyturn.evaluate.study import Study
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.loop import Rule, Stage, imitation, passed, train
from polyturn.learn.run import Run
from polyturn.losses.learned import Loss
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.regularize import entropy, with_term
from polyturn.methods.learning.spiral import GameReward, TurnSamples, role_advantage
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.policies.tiny import open_model
from polyturn.protocols import Answer, Match, Player
from polyturn.rollout.pool import Pool
from polyturn.seeds import derive, generator
from polyturn.types import Group, Sampling, Seat, Task, system

ORDER = ("warm", "self_play")
SYSTEM = "You play games. Reply with your move only."
RANDOM: Mapping[str, Callable[..., OpenSpiel]] = {
    "kuhn_poker": kuhn_poker_vs_random, "tic_tac_toe": partial(tic_tac_toe, opponent_random=1.0),
}
"""Each game against a player that moves at random."""
STUDY = Study(
    outcome="exploitability", higher=False, baseline="raw", curve="kuhn/exploitability",
    arms={"spiral": {"arm": "spiral"}, "seat_blind": {"arm": "seat_blind"}, "raw": {"arm": "raw"}},
    tried=({"lr": 1e-3}, {"lr": 2e-3}), more=("exploitability_last", "kuhn_first", "kuhn_second"),
    fixed={"model": "tiny", "games": "kuhn_poker", "mask": True, "rules": False, "warm_updates": 30, "entropy": 0.1,
           "iterations": 60, "batch": 64, "measure_every": 2, "test_games": 400},
)


@dataclass(frozen=True)
class Settings:
    """What can be changed from the command line."""

    model: str = ""
    """"" = the embedded SmolLM2-135M-Instruct, "tiny" = a fresh tiny model, else a folder of transformers."""
    seed: int = 0
    """Fixes deals, worlds and every draw."""
    arm: Literal["spiral", "raw", "seat_blind"] = "spiral"
    """The baseline of the advantage: for each game and role, none, or for each game."""
    games: Literal["both", "kuhn_poker", "tic_tac_toe"] = "both"
    """What is played."""
    iterations: int = 30
    """Batches of self-play."""
    batch: int = 32
    """Games of each kind in a batch."""
    lr: float = 2e-5
    """Learning rate."""
    warm_updates: int = 0
    """Updates that imitate players who move at random; in Kuhn poker they bet with probability 0.8 in six situations
    drawn from the seed and 0.2 in the other six. This teaches which replies are moves and to tell situations apart,
    and nothing of how to play well."""
    warm_lr: float = 1e-3
    """Learning rate of these."""
    alpha: float = 0.95
    """How slowly a baseline moves: b <- alpha b + (1 - alpha) R."""
    gamma: float = 1.0
    """Discount over a seat's own turns left."""
    updates: int = 2
    """Optimizer steps on each batch."""
    entropy: float = 0.0
    """Coefficient of the entropy bonus (the paper has none); it keeps a tiny policy from settling on one move before it
    has learned to tell situations apart."""
    max_tokens: int = 8
    """The longest reply."""
    rules: bool = True
    """Whether system message and asks explain the game; a tiny model has no use for that."""
    mask: bool = False
    """Only replies that the rules allow; else an illegal one ends the game at -1.5 to +0.5."""
    measure_every: int = 10
    """Iterations between measurements of exploitability."""
    test_games: int = 128
    """Games of each kind against a random player, half of them from each seat."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers to sample and compute with; weights are float32 always."""
    save_every: int = 10
    """Iterations between checkpoints."""


NEEDS = (
    (("alpha",), {"arm": ("spiral", "seat_blind")}),
    (("warm_lr",), {"warm_updates": ()}),
    (("measure_every",), {"games": ("both", "kuhn_poker")}),
)
RANKS = True


async def main(settings: Settings, run: Run) -> None:
    """Self-play, with exploitability on the way and wins by seat before and after."""
    dtype: Any = "float32" if run.deterministic else settings.dtype
    suites = suites_of(settings)
    model = open_model(
        settings.model, lambda: [text for suite in suites for text in texts_of(suite)], seed=settings.seed,
        dtype=dtype, deterministic=run.deterministic, progress=run.progress.note,
    )
    try:
        await imitate(settings, run, model, suites)
        if run.at is None or run.at[0] == "warm":
            run.keep(before={**await wins(settings, run, model, "before"), **await exploited(settings, model)})
        await self_play(settings, run, model, suites)
        after = {**await wins(settings, run, model, "after"), **await exploited(settings, model)}
    finally:
        model.close()
    run.keep(after=after, outcome=outcome_of(after, run.results.get("measured", {})))


def suites_of(settings: Settings) -> list[OpenSpiel]:
    """The games that are played, both of their players seats."""
    makers: Mapping[str, Callable[..., OpenSpiel]] = {
        "kuhn_poker": kuhn_poker, "tic_tac_toe": partial(tic_tac_toe, opponent_random=None),
    }
    return [make(rules=settings.rules) for name, make in makers.items() if settings.games in ("both", name)]


async def imitate(settings: Settings, run: Run, model: Local, suites: Sequence[OpenSpiel]) -> None:
    """Likelihood of random play."""
    if not settings.warm_updates or passed(run, "warm", ORDER):
        return
    opening, states = system_of(settings), [state.name for state in information_states()]
    bold = set(generator("spiral warm", settings.seed).permutation(states)[: len(states) // 2].tolist())
    table = {state: 0.8 if state in bold else 0.2 for state in states}

    def at_random(suite: OpenSpiel, task: Task, seat: Seat) -> Answer:
        if suite.spec.name == "kuhn_poker":
            return KuhnPlayer(table, generator("spiral warm", settings.seed, task.id, seat))
        return suite.random_answer(task, settings.seed, seat)

    def share(suite: OpenSpiel) -> Share:
        def cast(task: Task) -> Mapping[Seat, Player]:
            makers = {s: partial(AnswerAgent, at_random(suite, task, s), opening) for s in suite.spec.seats}
            return {seat: Player(make, "main") for seat, make in makers.items()}

        return Share(suite, cast, frozenset(suite.spec.seats), settings.batch, 1)

    stage = Stage(
        "warm", Mixture([share(suite) for suite in suites], derive("spiral warm", settings.seed)),
        {"main": Dictated(name="main", chat=model.chat)}, model, run.learner(model, lr=settings.warm_lr),
        imitation(), settings.warm_updates,
    )
    await train(run, stage, save_every=settings.save_every)


async def self_play(settings: Settings, run: Run, model: Local, suites: Sequence[OpenSpiel]) -> None:
    """The one stage: both seats the newest weights, each role against its own average."""
    credit = role_advantage(settings.arm, alpha=settings.alpha, gamma=settings.gamma)
    weighting = TurnSamples(credit)
    loss: Loss = policy_gradient if not settings.entropy else partial(
        with_term, main=policy_gradient, term=entropy, coefficient=settings.entropy)

    def share(suite: OpenSpiel) -> Share:
        cast = dict.fromkeys(suite.spec.seats, player(settings))
        return Share(suite, lambda task: cast, frozenset(suite.spec.seats), settings.batch, 1)

    async def measure(done: int) -> float:
        found = await exploited(settings, model)
        run.recorder.metrics(done - 1, {f"kuhn/{name}": value for name, value in found.items()}, stage="measure")
        run.keep(measured={**run.results.get("measured", {}), str(done): found})
        return -found["exploitability"]

    kuhn = settings.games != "tic_tac_toe"
    stage = Stage(
        "self_play", Mixture([share(suite) for suite in suites], derive("spiral", settings.seed)), {"main": model},
        model, run.learner(model, lr=settings.lr),
        Rule(credit, weighting, loss, updates=settings.updates, proportional=not settings.entropy), settings.iterations,
        pool=Pool(), memory={"credit": credit},
        verifiers=(GameReward({suite.spec.name: suite.game.max_utility() for suite in suites}),),
    )
    await train(run, stage, save_every=settings.save_every, evaluate=measure if kuhn else None,
                evaluate_every=settings.measure_every)


def system_of(settings: Settings) -> str:
    """The system message; empty = none."""
    return SYSTEM if settings.rules else ""


def player(settings: Settings) -> Player:
    """The learner in a seat."""
    sampling = Sampling(max_tokens=settings.max_tokens)
    return Player(lambda: ChatAgent(system_of(settings), sampling=sampling, mask=settings.mask), "main")


# ---------------------------------------------------------------- what it came to


async def exploited(settings: Settings, model: Local) -> dict[str, float]:
    """``exploitability`` of the policy in Kuhn poker, replies drawn as in play; nothing where it is not played."""
    if settings.games == "tic_tac_toe":
        return {}
    states = information_states(kuhn_poker(rules=settings.rules))
    opening = [system(system_of(settings), origin="injected")] if system_of(settings) else []
    dialogues = [([*opening, *state.messages], state.legal) for state in states]
    rows = await reply_probabilities(model, model.chat, dialogues, masked=settings.mask)
    return {"exploitability": exploitability({s.name: row for s, row in zip(states, rows, strict=True)})}


async def wins(settings: Settings, run: Run, model: Local, label: str) -> dict[str, float]:
    """How often each seat wins against a random player: ``kuhn_first``, ``tic_tac_toe_second`` ..."""
    matches = held_out(settings)
    found = await evaluate(
        matches, {"main": model}, policy="main", label=label, recorder=run.recorder,
        finished=run.plays(f"wins {label}", matches))
    return wins_by_seat(found.groups)


def wins_by_seat(groups: Sequence[Group]) -> dict[str, float]:
    """Game and place of the learner -> the share of games with a return above 0."""
    won: dict[str, list[bool]] = {}
    for episode in (episode for group in groups for episode in group):
        place = ("first", "second")[episode.task.payload["player"]]
        name = "kuhn" if episode.task.family.startswith("kuhn") else episode.task.family
        won.setdefault(f"{name}_{place}", []).append(bool(episode.scores["score"]["agent"].success))
    return {name: float(np.mean(values)) for name, values in sorted(won.items())}


def outcome_of(after: Mapping[str, float], measured: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The numbers of the run. ``exploitability`` is the mean over the second half of the measurements, for self-play
    goes round an equilibrium; ``exploitability_last`` is that of the last weights."""
    values = [row["exploitability"] for _, row in sorted(measured.items(), key=lambda item: int(item[0]))]
    if not values:
        return dict(after)
    last = after["exploitability"]
    return {**after, "exploitability": float(np.mean(values[len(values) // 2:])), "exploitability_last": last}


def held_out(settings: Settings) -> list[Match]:
    """Each game against a random player, every second game from the other seat."""
    makers = [make for name, make in RANDOM.items() if settings.games in ("both", name)]
    suites = [make(test_tasks=settings.test_games, rules=settings.rules) for make in makers]
    return [
        Match(suite, task, {"agent": player(settings)}, derive("spiral test", task.id))
        for suite in suites for task in suite.tasks("test")
    ]


def text(results: Mapping[str, Any]) -> str:
    """Before and after, line by line."""
    if "after" not in results:
        return "no result: the run did not come to its end"
    names = sorted(results["after"])
    return "\n".join(f"{name}: {results['before'].get(name, float('nan')):.3f} -> {results['after'][name]:.3f}"
                     for name in names)


def texts_of(suite: OpenSpiel, games: int = 40) -> list[str]:
    """What is read and said in random games: the words that a tiny model's tokenizer is learned from."""
    draws, found = generator("spiral texts", suite.spec.name), [SYSTEM]
    for _ in range(games):
        state, heard = suite.game.new_initial_state(), set[int]()
        while not state.is_terminal():
            if state.is_chance_node():
                legal = [action for action, _ in state.chance_outcomes()]
            else:
                seat, legal = state.current_player(), state.legal_actions()
                found += [suite.say(state, seat, seat not in heard), *(suite.named(state, seat, a) for a in legal)]
                heard.add(seat)
            state.apply_action(legal[int(draws.integers(len(legal)))])
    return found
