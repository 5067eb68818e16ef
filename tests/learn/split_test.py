"""How far an update is from one that was cut elsewhere, on batches of the real learner."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from polyturn.arrays import Measured, Tokens
from polyturn.learn.learner import Learner
from polyturn.learn.split import first_part, split_gaps
from polyturn.losses.learned import Learned, Loss
from polyturn.losses.likelihood import likelihood
from polyturn.losses.policy_gradient import policy_gradient, policy_gradient_by_trajectory
from polyturn.losses.preference import dpo
from polyturn.losses.regularize import kl, value_error
from polyturn.losses.terms import Sum, of_unit
from polyturn.types import FloatArray
from tests.tiny import random_tokens, tiny_llama


def averaged(learned: Learned) -> Any:
    """A mean over what it is given: 1 / N of the whole, 2 / N of a half."""
    return -(learned.advantage_N * learned.logprob_N)[learned.weight_N != 0].mean(), {}


@of_unit("trajectory")
def batch_baseline(learned: Learned) -> Any:
    """Subtracts the mean advantage of what it is given."""
    return -(learned.weight_N * (learned.advantage_N - learned.advantage_N.mean()) * learned.logprob_N).sum(), {}


def updated(loss: Loss, *, limit: int = 32, heads: tuple[str, ...] = (), on_policy: bool = False,
            wrong: Callable[[float], float] = float) -> dict[str, float]:
    """The gaps of one real update of a tiny model over several passes."""
    draw = np.random.default_rng(4)
    tokens: Tokens = random_tokens(draw)
    learner = Learner(tiny_llama(), lr=1e-3, tokens_per_pass=limit, reference="initial", heads=heads)
    measured: Measured | None = None if on_policy else learner.measure(tokens)
    sign_B: FloatArray = np.array([1.0, -1.0, 1.0, -1.0])
    weight_N = np.where(np.arange(len(tokens)) == 2, 0.0, 1 / len(tokens))
    columns = {"advantage_N": sign_B[tokens.trajectory_N], "weight_N": weight_N,
               "target_N": draw.normal(size=len(tokens)) if heads else None}
    metrics = learner.update(tokens, measured, columns["advantage_N"], weight_N, loss, target_N=columns["target_N"])  # type: ignore[arg-type]
    assert learner.last is not None
    return split_gaps(loss, tokens, measured, learner.last, columns, wrong(metrics["learner/loss"]))


@pytest.mark.parametrize(("loss", "more"), [
    (policy_gradient, {}), (policy_gradient, {"on_policy": True}), (likelihood, {}), (dpo, {}),
    (policy_gradient_by_trajectory, {}), (Sum((1.0, policy_gradient), (0.1, partial(kl, estimator="k3"))), {}),
    (Sum((1.0, policy_gradient), (0.5, value_error)), {"heads": ("value",)}),
])
def test_sound_losses_have_no_gap(loss: Loss, more: dict[str, Any]) -> None:
    gaps = updated(loss, **more)
    assert gaps.keys() == {"audit/split", "audit/accumulated"} and max(gaps.values()) < 1e-9


def test_a_mean_over_the_micro_batch_is_measured() -> None:
    """Its derivatives double in a half of the batch, and several passes add up to several means."""
    gaps = updated(averaged)
    assert 0.5 < gaps["audit/split"] < 4 and gaps["audit/accumulated"] > 0.1
    assert updated(averaged, limit=4096)["audit/accumulated"] < 1e-9  # one pass: nothing was cut, this time
    assert updated(batch_baseline)["audit/split"] > 0.1


def test_a_learner_that_averages_its_passes_is_measured() -> None:
    assert updated(likelihood, wrong=lambda loss: loss / 3)["audit/accumulated"] > 0.3


def test_a_batch_that_trains_nothing_has_nothing_to_say() -> None:
    tokens = random_tokens(np.random.default_rng(0))
    nothing_N = np.zeros(len(tokens))
    columns: dict[str, FloatArray | None] = {"advantage_N": nothing_N, "weight_N": nothing_N}
    assert split_gaps(likelihood, tokens, None, Measured(nothing_N), columns, 0.0) == {}


def test_parts_keep_units_whole() -> None:
    unit_N = np.array([7, 7, 7, 2, 2, 9], np.int32)
    part = first_part(unit_N, 6)
    assert {bool(part[unit_N == unit].all()) or not part[unit_N == unit].any() for unit in (2, 7, 9)} == {True}
    assert part.any() and not part.all() and first_part(None, 5).tolist() == [True, False, False, True, False]
