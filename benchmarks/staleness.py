"""Learning per episode when weights are 0, 1, 2 and 4 updates old, with and without truncated importance weights.

``polyturn study benchmarks/staleness.py --write benchmarks/results``: every update takes groups that were played by the
weights of exactly so many updates before (by ticket), so that an arm differs from ``lag0`` in that alone: the same
tasks, environment steps and learner, on five seeds. ``..._plain`` arms have no correction. It is a recipe like any
other: ``polyturn run benchmarks/staleness.py --model tiny --max-lag 4``.
"""

from __future__ import annotations

from polyturn.evaluate.study import Study
from polyturn.recipes.dart import NEEDS, Settings, held_out, main, text

__all__ = ["NEEDS", "STUDY", "Settings", "held_out", "main", "text"]
LAGS = (0, 1, 2, 4)
STUDY = Study(
    outcome="success", baseline="lag0", curve="score/grid",
    arms={f"lag{lag}{'' if corrected else '_plain'}": {"max_lag": lag, "truncate": corrected}
          for lag in LAGS for corrected in (True, False) if lag or corrected},
    more=("test", "updates"), shares=("success", "test"),
    fixed={"model": "tiny", "arm": "plain", "by_ticket": True, "env_steps": 16_000, "kl": 0.0, "tasks": 48,
           "groups": 16, "rollouts": 4, "horizon": 16, "warm_updates": 25, "warm_lr": 3e-3, "lr": 3e-4,
           "environments": 64},
)
