"""A study: arms of one recipe compared over seeds, each arm at the best of the settings tried for it.

Settings are chosen on seeds that the report does not use. Every arm gets the same number of settings tried. The report
holds every point, means with intervals over seeds, and differences to the baseline paired by seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite
from typing import Any

from polyturn.errors import BadInput, UnknownName
from polyturn.evaluate.stats import Estimate, bounded_mean, clustered_mean, paired_difference

CHOOSE, REPORT = (100, 101, 102, 103, 104), (0, 1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared: ``Study(outcome="success", arms={"supo": {"arm": "supo"}, "grpo": {"arm": "grpo"}},
    baseline="grpo", tried=({"lr": 1e-3}, {"lr": 3e-3}), fixed={"model": "tiny"})``.

    Values are settings of the recipe. A run gives its numbers by ``run.keep(outcome={"success": 0.4})``.
    """

    outcome: str
    """The number that the arms are compared by."""
    arms: Mapping[str, Mapping[str, Any]]
    baseline: str
    tried: tuple[Mapping[str, Any], ...] = ({},)
    """Settings tried for every arm; the best mean of ``outcome`` over ``choose`` is taken."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    """Other outcomes that are reported."""
    shares: tuple[str, ...] = ("success", "accuracy")
    """The names among the outcomes that lie in 0..1; so do their intervals."""
    curve: str = ""
    """A metric of the record that is drawn over the iterations of :attr:`stages`; empty = none."""
    stages: tuple[str, ...] = ()
    """The stages whose curve is drawn, one after another; empty = the last that tells it. A stage before it may have
    told the same of what a script played."""
    higher: bool = True
    """Whether more of ``outcome`` is better."""
    choose: tuple[int, ...] = CHOOSE
    report: tuple[int, ...] = REPORT

    def __post_init__(self) -> None:
        if self.baseline not in self.arms:
            raise UnknownName("arm", self.baseline, self.arms)
        if not self.tried or set(self.choose) & set(self.report) or len(self.report) < 2:
            raise BadInput(
                f"a study needs settings to try ({len(self.tried)} given), two or more seeds to report "
                f"({list(self.report)}), and other seeds to choose them by ({list(self.choose)})"
            )

    def settings(self, arm: str, tried: int, seed: int) -> dict[str, Any]:
        """The recipe's settings of one run: fixed, then those of the arm, then those tried, then the seed."""
        return {**self.fixed, **self.arms[arm], **self.tried[tried], "seed": seed}


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a study: which it is, and what came of it."""

    arm: str
    tried: int
    seed: int
    settings: Mapping[str, Any]
    outcome: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    sha256: str = ""
    """Of settings, code and outcome: two runs with equal hashes found the same."""

    @property
    def name(self) -> str:
        """Its folder: ``"supo-0-seed100"``."""
        return f"{self.arm}-{self.tried}-seed{self.seed}"


def to_choose(study: Study) -> list[Trial]:
    """The runs that settings are chosen by; none where there is only one to try."""
    if len(study.tried) == 1:
        return []
    every = ((arm, tried, seed) for arm in study.arms for tried in range(len(study.tried)) for seed in study.choose)
    return [Trial(arm, tried, seed, study.settings(arm, tried, seed)) for arm, tried, seed in every]


def to_report(study: Study, best: Mapping[str, int]) -> list[Trial]:
    """The runs that are reported: each arm at its chosen settings."""
    every = ((arm, best[arm], seed) for arm in study.arms for seed in study.report)
    return [Trial(arm, tried, seed, study.settings(arm, tried, seed)) for arm, tried, seed in every]


def chosen(study: Study, done: Sequence[Trial]) -> dict[str, int]:
    """Arm -> index of the settings with the best mean outcome; the first of equals.

    Raises: BadInput where a run is missing.
    """
    if len(study.tried) == 1:
        return dict.fromkeys(study.arms, 0)
    best = {}
    for arm in study.arms:
        means = []
        for tried in range(len(study.tried)):
            values = [value_of(trial, study.outcome) for trial in done if (trial.arm, trial.tried) == (arm, tried)]
            if len(values) != len(study.choose):
                raise BadInput(f"arm {arm!r}, setting {tried}: {len(values)} runs of {len(study.choose)} are there")
            means.append(sum(values) / len(values) * (1 if study.higher else -1))
        best[arm] = means.index(max(means))
    return best


def value_of(trial: Trial, name: str) -> float:
    """One outcome of a run. Raises: BadInput where the run did not say it, or said no number."""
    value = trial.outcome.get(name)
    if value is None or not isfinite(value):
        raise BadInput(
            f"run {trial.name} gave outcome {dict(trial.outcome)}; expected a finite number {name!r}: the recipe says "
            "it by run.keep(outcome={...})"
        )
    return float(value)


def trial_hash(settings: Mapping[str, Any], code_sha256: str, outcome: Mapping[str, float]) -> str:
    """The hash that names a run."""
    known = json.dumps([dict(settings), code_sha256, dict(outcome)], sort_keys=True, default=str)
    return sha256(known.encode()).hexdigest()


# ---------------------------------------------------------------- results


def results(name: str, study: Study, tried: Sequence[Trial], reported: Sequence[Trial]) -> dict[str, Any]:
    """All that a study found, as JSON values; ``figure`` says it in a sentence."""
    best = chosen(study, tried)
    arms = {arm: _arm(study, arm, best[arm], tried, reported) for arm in study.arms}
    base = _points(study.outcome, study.baseline, reported)
    differences = {
        arm: interval(paired_difference(_points(study.outcome, arm, reported), base, _bounds(study, study.outcome)))
        for arm in study.arms if arm != study.baseline
    }
    found = {
        "name": name, "outcome": study.outcome, "baseline": study.baseline, "higher_is_better": study.higher,
        "fixed": dict(study.fixed), "seeds": list(study.report), "choose_seeds": list(study.choose), "arms": arms,
        "differences": differences, "curve": study.curve,
        "runs": [
            {"arm": t.arm, "seed": t.seed, "settings": dict(t.settings), "sha256": t.sha256, "seconds": t.seconds}
            for t in (*tried, *reported)
        ],
    }
    return {**found, "figure": figure(found)}


def _points(outcome: str, arm: str, trials: Sequence[Trial]) -> dict[str, list[float]]:
    return {str(trial.seed): [value_of(trial, outcome)] for trial in trials if trial.arm == arm}


def _bounds(study: Study, name: str) -> tuple[float, float] | None:
    return (0.0, 1.0) if name in study.shares else None


def _mean(study: Study, name: str, points: Mapping[str, Sequence[float]]) -> Estimate:
    bounds = _bounds(study, name)
    values = list(points.values())
    return clustered_mean(values) if bounds is None else bounded_mean(values, bounds)


def _arm(study: Study, arm: str, best: int, tried: Sequence[Trial], reported: Sequence[Trial]) -> dict[str, Any]:
    own = [trial for trial in reported if trial.arm == arm]
    names = (study.outcome, *study.more)
    attempts = []
    for index, settings in enumerate(study.tried):
        points = {str(t.seed): value_of(t, study.outcome) for t in tried if (t.arm, t.tried) == (arm, index)}
        mean = sum(points.values()) / len(points) if points else None
        attempts.append({"settings": dict(settings), "mean": mean, "points": points})
    return {
        "settings": {**study.arms[arm], **study.tried[best]}, "tried": attempts,
        "points": {name: {str(t.seed): value_of(t, name) for t in own} for name in names},
        "means": {name: interval(_mean(study, name, _points(name, arm, own))) for name in names},
        "curves": {str(t.seed): [list(point) for point in t.curve] for t in own if t.curve},
    }


def interval(estimate: Estimate) -> dict[str, float]:
    """Mean and 95 % interval over seeds."""
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def figure(found: Mapping[str, Any]) -> str:
    """The result in a sentence: ``success: supo 0.62 [0.5, 0.74], grpo 0.41 [0.3, 0.52]; supo - grpo = +0.21 [+0.05,
    +0.37] (5 seeds)``."""
    outcome = found["outcome"]
    means = ", ".join(f"{arm} {_range(row['means'][outcome])}" for arm, row in found["arms"].items())
    gaps = "; ".join(f"{arm} - {found['baseline']} = {_range(gap, '+')}" for arm, gap in found["differences"].items())
    return f"{outcome}: {means}; {gaps} ({len(found['seeds'])} seeds)"


def _range(values: Mapping[str, float], sign: str = "") -> str:
    return "{} [{}, {}]".format(*(f"{values[name]:{sign}.3g}" for name in ("mean", "low", "high")))
