"""A learner on two gloo processes against one in this process: gradients, weights, metrics, checkpoints, errors."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polyturn.arrays import Tokens
from polyturn.errors import BadInput, NotFinite
from polyturn.learn import checkpoint
from polyturn.learn.learner import Learner
from polyturn.learn.ranks.group import Ranks, open_ranks
from polyturn.learn.ranks.learner import RankedLearner
from polyturn.losses.learned import Learned, Metrics
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.policies.local import with_lora
from polyturn.policies.tiny import tiny_model
from tests.tiny import VOCABULARY, random_tokens, tiny_llama

pytestmark = pytest.mark.timeout(600)  # processes that start on a busy machine
SAME = 1e-6
"""The largest difference that is rounding: norm of the difference over the norm, in float32."""

DRIFT = 1e-5
"""The same of moments after several updates, whose gradients are those of weights that differ by rounding."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with open_ranks(2, deadline_s=300.0, device="cpu") as made:
        yield made


def small(**changes: Any) -> Any:
    return tiny_model(VOCABULARY, 0, **changes)


def adapted() -> Any:
    """With an adapter whose first weights are fixed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return with_lora(small(), 4)


def pair(ranks: Ranks, model: Any, **more: Any) -> tuple[Learner, RankedLearner]:
    """The same model in one process and on two."""
    settings = {"lr": 1e-3, "tokens_per_pass": 40, **more}
    return Learner(deepcopy(model), **settings), RankedLearner(ranks, deepcopy(model), **settings)


def batch(seed: int, trajectories: int = 6, **more: Any) -> tuple[Tokens, Any, Any]:
    draw = np.random.default_rng(seed)
    tokens = random_tokens(draw, trajectories=trajectories, **more)
    weight_N = draw.uniform(0.5, 1.5, len(tokens))
    return tokens, draw.normal(size=len(tokens)), weight_N / weight_N.sum()


def gap(one: dict[str, Any], two: dict[str, Any]) -> float:
    """Norm of the difference of all tensors over the norm; the names must be the same."""
    assert one.keys() == two.keys()
    a, b = (torch.cat([torch.as_tensor(each[name]).double().flatten() for name in sorted(one)]) for each in (one, two))
    return float((a - b).norm() / a.norm())


def moments(learner: Learner | RankedLearner, key: str) -> dict[str, Any]:
    return {name: own[key] for name, own in learner.state()["optimizer"].items()}


def check_same(one: Learner, two: RankedLearner) -> None:
    """Weights, gradients (their running mean) and what plays are the same."""
    assert gap(one.state()["weights"], two.state()["weights"]) < SAME
    assert gap(moments(one, "exp_avg"), moments(two, "exp_avg")) < DRIFT
    assert gap(moments(one, "exp_avg_sq"), moments(two, "exp_avg_sq")) < DRIFT
    assert gap(dict(one.model.state_dict()), dict(two.model.state_dict())) < SAME
    for name, own in two.state()["optimizer"].items():
        assert float(own["step"]) == float(one.state()["optimizer"][name]["step"])


def check_metrics(one: Metrics, two: Metrics) -> None:
    """The metrics agree; nodes are more where a tree was cut between two ranks, and time is its own."""
    assert two.pop("learner/ranks") == 2 and two["learner/nodes"] >= one["learner/nodes"]
    for found in (one, two):
        found.pop("learner/seconds"), found.pop("learner/nodes")
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def updates(one: Any, two: Any, loss: Any, count: int = 4, **more: Any) -> None:
    for seed in range(count):
        tokens, advantage_N, weight_N = batch(seed, **more)
        check_metrics(*(each.update(tokens, None, advantage_N, weight_N, loss) for each in (one, two)))
        assert one.last is not None and two.last is not None
        np.testing.assert_allclose(one.last.old_N, two.last.old_N, atol=2e-5)


# ---------------------------------------------------------------- one result


@pytest.mark.parametrize("norm", [1e6, 0.01])
def test_updates_equal_those_of_one_process_with_and_without_clipping(ranks: Ranks, norm: float) -> None:
    one, two = pair(ranks, small(), max_grad_norm=norm)
    updates(one, two, policy_gradient)
    tokens, advantage_N, weight_N = batch(9)
    metrics = two.update(tokens, None, advantage_N, weight_N, policy_gradient)
    one.update(tokens, None, advantage_N, weight_N, policy_gradient)
    assert (metrics["learner/grad_norm"] > norm) == (norm < 1)
    check_same(one, two)


def test_the_first_gradient_is_that_of_one_process(ranks: Ranks) -> None:
    # After one step AdamW's exp_avg is 0.1 times the gradient, so it is the gradient that is compared here.
    one, two = pair(ranks, small(), max_grad_norm=1e6)
    updates(one, two, policy_gradient, count=1)
    first = moments(one, "exp_avg")
    assert gap(first, moments(two, "exp_avg")) < SAME
    assert float(torch.cat([value.flatten() for value in first.values()]).norm()) > 0.01


def test_an_adapter_learns_as_in_one_process(ranks: Ranks) -> None:
    one, two = pair(ranks, adapted())
    updates(one, two, policy_gradient)
    check_same(one, two)
    assert all("lora_" in name for name in two.state()["weights"]) and any(
        float(value.norm()) > 1e-3 for name, value in two.state()["weights"].items() if "lora_B" in name)


def test_a_rank_without_a_tree_takes_part(ranks: Ranks) -> None:
    one, two = pair(ranks, small(), tokens_per_pass=1000)
    tokens, advantage_N, _ = batch(0, trajectories=1, turns=1)
    for _ in range(3):
        check_metrics(*(each.update(tokens, None, advantage_N, np.full(len(tokens), 1 / len(tokens)), policy_gradient)
                        for each in (one, two)))
    assert len(two.shard.parameters) and gap(one.state()["weights"], two.state()["weights"]) < SAME
    check_same(one, two)


def test_the_same_update_gives_the_same_bits(ranks: Ranks) -> None:
    tokens, advantage_N, weight_N = batch(0)
    found = []
    for _ in range(2):
        learner = RankedLearner(ranks, small(), lr=1e-3, tokens_per_pass=40)
        learner.update(tokens, None, advantage_N, weight_N, policy_gradient)
        found.append(learner.state()["weights"])
    assert gap(*found) == 0


def whole_trajectories(learned: Learned) -> tuple[Tensor, Metrics]:
    """A loss that needs a trajectory at once: the square of its summed log-probabilities."""
    sums = torch.zeros(int(learned.trajectory_N.max()) + 1, dtype=learned.logprob_N.dtype)
    sums = sums.index_add(0, learned.trajectory_N, learned.weight_N * learned.logprob_N)
    return (sums**2).sum() + 0.01 * (learned.weight_N * learned.entropy_N).sum(), {}


whole_trajectories.unit = "trajectory"  # type: ignore[attr-defined]


@pytest.mark.parametrize("budget", [200, 20])
def test_units_that_fit_into_no_pass_are_computed_by_both(ranks: Ranks, budget: int) -> None:
    one, two = pair(ranks, small(), tokens_per_pass=budget)
    updates(one, two, whole_trajectories, windows=True)
    check_same(one, two)


def value_loss(learned: Learned) -> tuple[Tensor, Metrics]:
    assert learned.target_N is not None
    off = learned.heads["value"] - learned.target_N
    return (learned.weight_N * (0.5 * off**2 - 0.1 * learned.logprob_N)).sum(), {"off": float(off.detach().sum())}


def test_heads_a_reference_and_a_measurement_are_those_of_one_process(ranks: Ranks) -> None:
    one, two = pair(ranks, small(), heads=("value", "idle"), reference="initial", weight_decay=0.1)
    for seed in range(3):
        tokens, target_N, weight_N = batch(seed)
        tokens.end_B[:] = tokens.node_N[[np.flatnonzero(tokens.trajectory_N == b)[-1] for b in range(6)]]
        first, second = one.measure(tokens), two.measure(tokens)
        for name in ("old_N", "entropy_N", "reference_N"):
            np.testing.assert_allclose(getattr(second, name), getattr(first, name), atol=2e-5)
        np.testing.assert_allclose(second.heads["value"], first.heads["value"], atol=1e-5)
        np.testing.assert_allclose(second.end["value"], first.end["value"], atol=1e-5)
        check_metrics(*(each.update(tokens, measured, target_N, weight_N, value_loss, target_N=target_N)
                        for each, measured in ((one, first), (two, second))))
    one.renew_reference(0.25), two.renew_reference(0.25)
    tokens, _, _ = batch(5)
    for reference in (False, True):
        np.testing.assert_allclose(two.values(tokens, reference=reference)["value"],
                                   one.values(tokens, reference=reference)["value"], atol=1e-5)
    assert gap(one.state()["reference"], two.state()["reference"]) < SAME
    check_same(one, two)


def test_paths_are_scored_as_in_one_process(ranks: Ranks) -> None:
    one, two = pair(ranks, small())
    draw = np.random.default_rng(0)
    paths = [draw.integers(3, VOCABULARY, n).astype(np.int32) for n in (9, 30, 1, 50)]
    for first, second in zip(one.score(paths), two.score(paths), strict=True):
        np.testing.assert_allclose(second, first, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"tie_word_embeddings": False}, {"num_key_value_heads": 2, "attention_bias": True}])
def test_other_shapes_of_model(ranks: Ranks, changes: dict[str, Any]) -> None:
    one, two = pair(ranks, small(**changes))
    updates(one, two, policy_gradient, count=2)
    check_same(one, two)


def test_recomputed_layers_and_bfloat16_layers(ranks: Ranks) -> None:
    one, two = pair(ranks, small(), recompute=True)
    updates(one, two, policy_gradient, count=2)
    check_same(one, two)
    low = RankedLearner(ranks, small(), lr=1e-3, dtype="bfloat16")
    tokens, advantage_N, weight_N = batch(0)
    metrics = low.update(tokens, None, advantage_N, weight_N, policy_gradient)
    alone = Learner(small(), lr=1e-3, dtype="bfloat16").update(tokens, None, advantage_N, weight_N, policy_gradient)
    assert metrics["learner/grad_norm"] == pytest.approx(alone["learner/grad_norm"], rel=0.02)


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_of_two_ranks_goes_on_in_one_process_and_back(ranks: Ranks, tmp_path: Path) -> None:
    alone, two = pair(ranks, adapted(), heads=("value",), reference="initial")
    updates(alone, two, policy_gradient, count=2)
    two.version = 7
    checkpoint.save(tmp_path / "two", {"learner": two.state()})
    one = Learner(adapted(), lr=9.0, tokens_per_pass=40, heads=("value",), reference="initial")
    one.restore(checkpoint.load(tmp_path / "two")["learner"])
    assert (one.version, one.lr) == (7, 1e-3)
    updates(one, two, policy_gradient, count=2)
    check_same(one, two)
    checkpoint.save(tmp_path / "one", {"learner": one.state()})
    again = RankedLearner(ranks, adapted(), lr=9.0, tokens_per_pass=40, heads=("value",),
                          reference="initial")
    again.restore(checkpoint.load(tmp_path / "one")["learner"])
    assert (again.version, again.lr) == (7, 1e-3)
    assert gap(dict(again.model.state_dict()), dict(one.model.state_dict())) == 0
    updates(one, again, policy_gradient, count=2)
    check_same(one, again)


def test_a_state_of_another_model_changes_nothing(ranks: Ranks) -> None:
    learner = RankedLearner(ranks, small(), lr=1e-3)
    before = learner.state()["weights"]
    with pytest.raises(BadInput, match="another model"):
        learner.restore(Learner(small(hidden_size=48), lr=1e-3).state())
    assert gap(before, learner.state()["weights"]) == 0


# ---------------------------------------------------------------- errors


def broken_once(learned: Learned) -> tuple[Tensor, Metrics]:
    return (learned.weight_N * learned.logprob_N).sum() * float("nan"), {}


def wrong_shape(learned: Learned) -> tuple[Tensor, Metrics]:
    raise RuntimeError("a loss of one's own went wrong")


@pytest.mark.parametrize(("loss", "error"), [(broken_once, NotFinite), (wrong_shape, RuntimeError)])
def test_an_error_of_the_loss_changes_nothing_and_the_next_update_is_right(ranks: Ranks, loss: Any, error: Any) -> None:
    one, two = pair(ranks, small())
    tokens, advantage_N, weight_N = batch(0)
    before = two.state()["weights"]
    with pytest.raises(error, match=r"nothing was changed|one's own"):
        two.update(tokens, None, advantage_N, weight_N, loss)
    assert gap(before, two.state()["weights"]) == 0
    updates(one, two, policy_gradient, count=2)
    check_same(one, two)


def test_a_gradient_that_is_not_finite_names_its_parameter_and_is_not_made(ranks: Ranks) -> None:
    two = RankedLearner(ranks, small(), lr=1e-3)
    tokens, advantage_N, _ = batch(0)
    before = two.state()["weights"]
    with pytest.raises(NotFinite, match="not finite, first in model"):
        two.update(tokens, None, advantage_N, np.full(len(tokens), 1e36), too_steep_sum)
    assert gap(before, two.state()["weights"]) == 0


def too_steep_sum(learned: Learned) -> tuple[Tensor, Metrics]:
    """Finite itself, with derivatives that overflow on their way back."""
    return (learned.weight_N * torch.tanh(100 * (learned.logprob_N - learned.old_N))).sum(), {}


def test_what_other_processes_cannot_build_is_refused(ranks: Ranks) -> None:
    with pytest.raises(BadInput, match="names of linear heads"):
        RankedLearner(ranks, small(), lr=1e-3, heads={"q": torch.nn.Linear(96, 1)})  # type: ignore[arg-type]
    two = RankedLearner(ranks, small(), lr=1e-3)
    RankedLearner(ranks, small(), lr=1e-3)
    with pytest.raises(BadInput, match="another learner was made"):
        two.state()
    changed = small()
    changed.model.layers[0].mlp.up_proj = torch.nn.Linear(96, 256, bias=True)
    with pytest.raises(BadInput, match="is another model"):
        RankedLearner(ranks, changed, lr=1e-3)


def test_a_model_that_is_run_path_by_path(ranks: Ranks) -> None:
    # Its positions depend on the length of the path, so the forest runs it path by path; the result is the same.
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    one, two = pair(ranks, tiny_llama(torch.float32, rope_parameters=rope))
    assert not two.forest.exact
    updates(one, two, policy_gradient, count=2, trajectories=3)
    check_same(one, two)
