"""A run as quickstart leaves it, made up in a second: two stages, three environments, dialogues, credit and results."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from polyturn.arrays import Measured, lay_out
from polyturn.record.credit import credit_rows
from polyturn.record.write import RunRecorder, open_run
from polyturn.types import (
    Episode,
    Event,
    Message,
    PolicyInfo,
    Sampling,
    Score,
    Span,
    Stop,
    Task,
    Trajectory,
    Turn,
    Usage,
    assistant,
    system,
    user,
)
from tests.record.generated import live

FAMILIES = {"guess_the_number": ("agent",), "tic_tac_toe": ("agent",), "kuhn_poker": ("player_0", "player_1")}
RULES = {
    "guess_the_number": "I think of a number from 1 to 16. You have four guesses. Reply with one in square brackets.",
    "tic_tac_toe": "You play x. Reply with the number of a free cell, 0 to 8:\n 0 1 2\n 3 4 5\n 6 7 8",
    "kuhn_poker": "You hold the queen 👑 & one chip is in the pot. Reply with <pass> or <bet>.",
}


@dataclass(frozen=True)
class Plan:
    """How large the run is."""

    stage1: int = 8
    stage2: int = 24
    tasks: int = 2
    rollouts: int = 4


class Made:
    """Draws episodes; ``skill`` is the chance of a good reply."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def ids(self, text: str) -> np.ndarray[Any, Any]:
        return np.array([crc32(word.encode()) % 49_152 for word in re.findall(r"\s?\w+|\S|\s", text)], np.int32)

    def replies(self, family: str, good: bool, won: bool) -> list[tuple[str, str]]:
        """What the environment says and what the seat answers, turn by turn."""
        if not good:
            return [("Your move.", "I am happy to help you with that! Let us")]
        if family == "guess_the_number":
            guesses = [8, 12, 10, 11][: int(self.rng.integers(2, 5))]
            said = ["Guess.", "Too low.", "Too high.", "Too low."]
            return [(said[i], f"[{guess}]") for i, guess in enumerate(guesses)]
        if family == "tic_tac_toe":
            return [(f"Free: {cells}", cells[0]) for cells in ("048", "268", "58")]
        return [("Your turn.", "<bet>" if won else "<pass>")]

    def trajectory(self, family: str, seat: str, first: int, said: Sequence[tuple[str, str]], sampled: bool,
                   version: int) -> Trajectory:
        messages: list[Message] = [system(f"You are {seat}. {RULES[family]}", id=f"{seat}.s")]
        spans: list[Span] = []
        turns: list[Turn] = []
        for k, (asked, answer) in enumerate(said):
            messages.append(user(asked, id=f"{seat}.{k}.ask"))
            shown = (messages[0].text if k == 0 else "") + asked
            spans.append(Span(len(spans) - 1, self.ids(shown)))
            ids = self.ids(answer + "\n")
            logprobs = -self.rng.exponential(0.6, len(ids)) if sampled else None
            support = (tuple(sorted({*ids.tolist(), 1, 2})),) * len(ids) if family == "kuhn_poker" and sampled else None
            spans.append(Span(len(spans) - 1, ids, sampled, logprobs, version, support))
            messages.append(assistant(answer, id=f"{seat}.{k}", spans=((seat, "main", len(spans) - 1),)))
            at = first + 2 * k
            usage = Usage(40 + 12 * k, 40 * (k > 0), len(ids))
            finish: Any = "length" if answer.startswith("I am") else "stop"
            turns.append(Turn(at, seat, "main", tuple(range(len(messages) - 1)), len(messages) - 1, (len(spans) - 1,),
                              finish, step=k, sampling=Sampling(seed=7), usage=usage, started=float(at),
                              ended=at + 0.4))
        return Trajectory(seat, "main", None, tuple(messages), tuple(turns), tuple(spans))

    def episode(self, family: str, name: tuple[str, int], skill: float, *, sampled: bool, version: int) -> Episode:
        label, trial = name
        seats = FAMILIES[family]
        good = bool(self.rng.random() < skill + 0.2)
        won = good and bool(self.rng.random() < skill)
        kind: Any = "model" if sampled else "scripted"
        found = tuple(
            self.trajectory(family, seat, i, self.replies(family, good, won == (i == 0)), sampled, version)
            for i, seat in enumerate(seats)
        )
        events = [Event(90 + i, "reward", seat, {"channel": "win", "value": float(won == (i == 0))})
                  for i, seat in enumerate(seats)]
        if not good:
            events.append(Event(95, "invalid", seats[0], {"reply": "I am happy"}))
        last = replace(found[0], turns=(*found[0].turns[:-1], replace(found[0].turns[-1], rewards={"win": float(won)})))
        return Episode(
            f"{label}.{trial}", Task(f"{family}-{label}", family), crc32(label.encode()), label, trial,
            train=frozenset(seats), cast={seat: PolicyInfo("main", kind, version, "ab" * 32) for seat in seats},
            trajectories=(last, *found[1:]), events=tuple(events), final={"won": won},
            stop=Stop("done", "solved" if won else "no guesses left"), started=1.0, ended=3.5,
        )


def sample_run(folder: Path, plan: Plan = Plan(), seed: int = 0) -> Path:
    """Makes the run and closes it; the folder."""
    made = Made(seed)
    settings = {"seed": seed, "lr": 4e-5, "iterations": plan.stage2, "rollouts": plan.rollouts}
    clock = iter(range(1_750_000_000, 1_760_000_000, 3)).__next__
    with open_run(folder, recipe="quickstart", text="async def main(): ...\n", settings=settings,
                  seeds={"seed": seed}, clock=lambda: float(clock())) as recorder:
        for stage, count in (("stage1", plan.stage1), ("stage2", plan.stage2)):
            for i in range(count):
                _iteration(recorder, made, plan, (stage, i, count))
            recorder.commit(f"{stage}/{count}")
    (folder / "results.json").write_text(json.dumps(results(), indent=1))
    return folder


def _iteration(recorder: RunRecorder, made: Made, plan: Plan, where: tuple[str, int, int]) -> None:
    stage, i, count = where
    sampled = stage == "stage2"
    version = i if sampled else 0
    skill = (0.3 + 0.5 * i / count) if sampled else 0.5
    groups = []
    for n, family in enumerate(f for f in FAMILIES for _ in range(plan.tasks)):
        label = f"{stage}.{i}.{n}"
        group = tuple(made.episode(family, (label, t), skill, sampled=sampled, version=version)
                      for t in range(plan.rollouts))
        scored = []
        for episode in group:
            for _ in live(episode, recorder):
                pass
            recorder.episode(episode)
            scores = {seat: Score(episode.paid(seat), episode.paid(seat) == 1.0) for seat in FAMILIES[family]}
            recorder.scores("score", {episode.id: scores})
            scored.append(replace(episode, scores={"score": scores}))
        groups.append(tuple(scored))
    _credit(recorder, made, groups, where)
    values = [e for group in groups for e in group]
    family_scores = {f: np.mean([e.paid(FAMILIES[f][0]) for e in values if e.task.family == f]) for f in FAMILIES}
    recorder.metrics(i, {
        **{f"score/{f}": float(v) for f, v in family_scores.items()},
        "rollout/tokens_per_s": float(made.rng.normal(160, 12)), "rollout/illegal": max(0.0, 0.8 - skill) / 2,
        "learner/loss": float(made.rng.normal(0.02, 0.01)) if sampled else 2.5 * 0.8**i + 0.3,
        "learner/entropy": 1.6 - skill, "learner/grad_norm": float(made.rng.exponential(0.4)), "loop/seconds": 12.5,
    }, stage=stage)


def _credit(recorder: RunRecorder, made: Made, groups: list[tuple[Episode, ...]], where: tuple[str, int, int]) -> None:
    stage, i, _ = where
    tokens = lay_out(groups, "main")
    demonstrated = stage == "stage1"
    means = {e.id: np.mean([m.paid("agent") + m.paid("player_0") for m in group]) for group in groups for e in group}
    advantage_B = np.array([
        1.0 if demonstrated else s.episode.paid(s.trajectory.seat)
        - (means[s.episode.id] if s.trajectory.seat != "player_1" else 1 - means[s.episode.id])
        for s in tokens.trajectories
    ])
    old_N = np.where(np.isnan(tokens.behavior_N), -made.rng.exponential(0.8, len(tokens)), tokens.behavior_N)
    rows = credit_rows(
        tokens, Measured(old_N, entropy_N=made.rng.exponential(0.4, len(tokens))), advantage_B[tokens.trajectory_N],
        np.full(len(tokens), 1 / len(tokens)), stage=stage, version=0 if demonstrated else i,
        waivers=("demonstrations",) if demonstrated else (),
    )
    recorder.credit(i, rows)


def results() -> dict[str, Any]:
    """What ``results.json`` holds after quickstart."""
    def row(mean: float, half: float, illegal: float) -> dict[str, Any]:
        return {
            "mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half), "n_tasks": 64, "n_trials": 128,
            "pass_at": {"1": mean}, "pass_hat": {"1": mean}, "illegal": illegal, "errors": 0, "abstained": 0,
            "turns": 3.2, "tokens": 21.5, "seconds": 1.4,
        }

    def rows(means: tuple[float, float, float], half: float, illegal: float) -> dict[str, Any]:
        return {"environments": {name: row(mean, half, illegal) for name, mean in zip(FAMILIES, means, strict=True)},
                "mixture": row(sum(means) / 3, half / 2, illegal)}

    table = {
        "null": rows((0.0, 0.0, 0.375), 0.02, 1.0), "random": rows((0.25, 0.28, 0.5), 0.08, 0.0),
        "base": rows((0.02, 0.11, 0.41), 0.05, 0.86), "stage1": rows((0.27, 0.31, 0.47), 0.08, 0.12),
        "stage2": rows((0.61, 0.52, 0.55), 0.09, 0.01), "oracle": rows((1.0, 0.93, 0.56), 0.03, 0.0),
    }
    def difference(mean: float, half: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - half, "high": mean + half}

    gained = {name: difference(gain, 0.1) for name, gain in zip(FAMILIES, (0.34, 0.21, 0.08), strict=True)}
    return {
        "table": table, "paired": {"stage2_minus_stage1": {"environments": gained, "mixture": difference(0.21, 0.06)}},
        "exploitability": {"base": 0.92, "stage1": 0.48, "stage2": 0.21}, "seconds": 1132.0,
        "peak_bytes": 5_600_000_000,
    }
