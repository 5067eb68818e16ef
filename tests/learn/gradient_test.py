"""Gradients over passes: equal whatever the split, for losses of every unit, in one pass or two."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polyturn.arrays import Measured, Tokens, Tree, lay_out
from polyturn.errors import BadInput, NotFinite
from polyturn.forest.model import Forest
from polyturn.learn.gradient import Reader, Tally, accumulate, before, make_batch
from polyturn.losses.learned import Learned, Loss, Metrics
from polyturn.types import FloatArray
from tests.advantages.build import Said, episode
from tests.tiny import plain_logprobs, random_tokens, tiny_llama, tokens_of

MODEL = tiny_llama()
FOREST = Forest(MODEL)
WEIGHT = MODEL.lm_head.weight


def clipped(learned: Learned) -> tuple[Tensor, Metrics]:
    ratio = torch.exp(learned.logprob_N - learned.old_N)
    term = torch.minimum(ratio * learned.advantage_N, ratio.clamp(0.9, 1.1) * learned.advantage_N)
    assert learned.entropy_N is not None
    outside = ((ratio - 1).abs() > 0.1).to(term.dtype)
    metrics = {"clipped": float((learned.weight_N * outside).sum())}
    return -(learned.weight_N * (term + 0.1 * learned.entropy_N)).sum(), metrics


def of_unit(unit: str) -> Loss:
    """exp of the summed log-ratio of each unit, so that no unit may be split."""

    def loss(learned: Learned) -> tuple[Tensor, Metrics]:
        keys = {"token": torch.arange(len(learned.turn_N)), "turn": learned.trajectory_N * 1000 + learned.turn_N,
                "trajectory": learned.trajectory_N, "group": learned.group_N}[unit]  # fmt: skip
        _, place_N = torch.unique(keys, return_inverse=True)
        zero = learned.logprob_N.new_zeros(int(place_N.max()) + 1)
        assert learned.entropy_N is not None
        gone = zero.index_add(0, place_N, learned.logprob_N - learned.old_N + 0.1 * learned.entropy_N)
        worth = zero.index_add(0, place_N, learned.weight_N * learned.advantage_N)
        value = sum(head.square().sum() for head in learned.heads.values())
        return -(gone.exp() * worth).sum() + 0.01 * value, {}

    loss.unit = unit  # type: ignore[attr-defined]
    return loss


def credit(tokens: Tokens, seed: int = 0) -> tuple[Measured, dict[str, FloatArray | None]]:
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        old_N = plain_logprobs(MODEL, tokens).numpy() + 0.2 * draw.normal(size=len(tokens))
    weight_N = draw.uniform(0.5, 1.5, len(tokens)) / len(tokens)
    return Measured(old_N), {"advantage_N": draw.normal(size=len(tokens)), "weight_N": weight_N}


def run(
    tokens: Tokens, loss: Loss, limit: int, *, exact: bool = True, heads: Any = None, given: Any = None
) -> tuple[Tally, Tensor]:
    forest = copy.copy(FOREST)
    forest.exact = exact
    MODEL.zero_grad()
    batch = make_batch(tokens, *(given or credit(tokens)), WEIGHT)
    tally = accumulate(Reader(forest, heads or nn.ModuleDict()), batch, loss, limit)
    learning = [*MODEL.parameters(), *(heads.parameters() if heads else ())]
    found = torch.cat([p.grad.flatten() for p in learning])
    for parameter in learning:
        parameter.grad = None
    return tally, found


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("unit", ["clipped", "token", "turn", "trajectory", "group"])
def test_the_split_changes_nothing(unit: str, windows: bool) -> None:
    loss = clipped if unit == "clipped" else of_unit(unit)
    tokens = random_tokens(np.random.default_rng(5), turns=2, windows=windows)
    given = credit(tokens)
    whole, expected = run(tokens, loss, 10**6, given=given)
    for limit, exact in ((30, True), (1, True), (10**6, False), (30, False), (1, False)):
        tally, found = run(tokens, loss, limit, exact=exact, given=given)
        assert abs(tally.sums["loss"] - whole.sums["loss"]) < 1e-12 * max(1.0, abs(whole.sums["loss"]))
        assert tally.sums["clipped"] == pytest.approx(whole.sums["clipped"], abs=1e-12)
        assert float((found - expected).norm() / expected.norm()) < 1e-6
        np.testing.assert_allclose(tally.old_N, whole.old_N, atol=1e-10)
        np.testing.assert_allclose(tally.entropy_N, whole.entropy_N, atol=1e-10)


def test_one_pass_equals_a_loss_on_plain_paths() -> None:
    tokens = random_tokens(np.random.default_rng(6))
    measured, columns = credit(tokens)
    logprob_N = plain_logprobs(MODEL, tokens)
    old_N, advantage_N, weight_N = (torch.tensor(x) for x in (measured.old_N, *columns.values()))
    ratio = torch.exp(logprob_N - old_N)
    twin = -(weight_N * torch.minimum(ratio * advantage_N, ratio.clamp(0.9, 1.1) * advantage_N)).sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(twin, list(MODEL.parameters()))])

    def loss(learned: Learned) -> tuple[Tensor, Metrics]:
        found, metrics = clipped(learned)
        return found + 0.1 * (learned.weight_N * learned.entropy_N).sum(), metrics  # type: ignore[operator]

    tally, found = run(tokens, loss, 40)
    assert tally.sums["loss"] == pytest.approx(twin.item(), rel=1e-12)
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_a_large_unit_takes_two_passes_and_heads_learn_the_same() -> None:
    tokens = random_tokens(np.random.default_rng(7), trajectories=6)
    torch.manual_seed(0)
    heads = nn.ModuleDict({"value": nn.Linear(32, 1, dtype=torch.float64)})
    whole, expected = run(tokens, of_unit("group"), 10**6, heads=heads)
    parts, found = run(tokens, of_unit("group"), 20, heads=heads)
    assert float(found[-33:].norm()) > 0
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    assert parts.sums["loss"] == pytest.approx(whole.sums["loss"], rel=1e-12)
    assert parts.sums["nodes"] > whole.sums["nodes"]


def test_memory_is_bounded_by_the_pass_and_not_by_the_batch() -> None:
    def most_kept(trajectories: int) -> int:
        tokens = random_tokens(np.random.default_rng(0), trajectories=trajectories)
        kept, most = 0, 0

        class Held:
            def __init__(self, x: Tensor) -> None:
                nonlocal kept, most
                self.x, self.bytes = x, x.numel() * x.element_size()
                kept += self.bytes
                most = max(most, kept)

            def __del__(self) -> None:
                nonlocal kept
                kept -= self.bytes

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.x):
            run(tokens, clipped, 60)
        return most

    few, many = most_kept(6), most_kept(24)
    assert many < 1.3 * few


def test_equal_spans_of_two_owners_are_computed_once_and_both_count() -> None:
    # Two rollouts said the very same: 2 prompt + 2 reply nodes, of which 3 are needed; four trained tokens.
    group = tuple(episode({"agent": [Said((10, 11))]}, trial=i) for i in range(2))
    both, one = lay_out([group], "main"), lay_out([group[:1]], "main")
    assert len(both.tree.id_U) == len(one.tree.id_U) == 4
    assert (len(both), len(one)) == (4, 2)
    found = []
    for tokens, weight in ((both, 0.5), (one, 1.0)):
        columns = {"advantage_N": np.ones(len(tokens)), "weight_N": np.full(len(tokens), weight)}
        batch = make_batch(tokens, None, columns, WEIGHT)
        MODEL.zero_grad()
        tally = accumulate(Reader(FOREST, nn.ModuleDict()), batch, clipped, 100)
        assert tally.sums["nodes"] == 3
        found.append((tally.sums["loss"], torch.cat([p.grad.flatten() for p in MODEL.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert float((found[0][1] - found[1][1]).norm() / found[1][1].norm()) < 1e-6
    MODEL.zero_grad()


def test_several_seats_of_one_episode_learn_in_one_batch() -> None:
    tokens = lay_out([(episode({"p0": [Said((10, 11)), Said((12,))], "p1": [Said((13,), prompt=(4, 5))]}),)], "main")
    assert tokens.trajectory_N.tolist() == [0, 0, 0, 1]
    tally, _ = run(tokens, clipped, 100)
    np.testing.assert_allclose(tally.old_N, plain_logprobs(MODEL, tokens).detach().numpy(), atol=1e-10)


def test_tokens_of_weight_zero_are_not_computed() -> None:
    tokens = random_tokens(np.random.default_rng(8), trajectories=4)
    measured, columns = credit(tokens)
    columns["weight_N"] = np.where(tokens.trajectory_N == 0, 1.0, 0.0)
    batch = make_batch(tokens, measured, columns, WEIGHT)
    tally = accumulate(Reader(FOREST, nn.ModuleDict()), batch, clipped, 100)
    MODEL.zero_grad()
    mine = tokens.tree.path(int(tokens.node_N[tokens.trajectory_N == 0][-1]))
    assert tally.sums["nodes"] == len(mine) - 1
    assert batch.kept_N.tolist() == np.flatnonzero(tokens.trajectory_N == 0).tolist()


def test_a_token_without_a_prompt_is_refused() -> None:
    tokens = tokens_of(Tree(np.array([5, 6], np.int32), np.array([-1, 0], np.int32)), [1, 0])
    with pytest.raises(BadInput, match=r"token 1 \(id 5, episode e0, seat agent, turn 0 .* begins its path"):
        before(tokens)


@pytest.mark.parametrize(("name", "value"), [("advantage_N", np.nan), ("weight_N", np.inf), ("old_N", -np.inf)])
def test_a_number_that_is_none_is_named_with_its_token(name: str, value: float) -> None:
    tokens = random_tokens(np.random.default_rng(8))
    measured, columns = credit(tokens)
    given = {"old_N": measured.old_N, **columns}
    given[name][4] = value  # type: ignore[index]
    with pytest.raises(NotFinite, match=rf"{name} is {value} at token 4 \(id {tokens.id_N[4]}, episode e0"):
        make_batch(tokens, measured, columns, WEIGHT)


def test_columns_of_another_length_are_refused() -> None:
    tokens = random_tokens(np.random.default_rng(8))
    measured, columns = credit(tokens)
    with pytest.raises(BadInput, match=rf"advantage_N has shape \(3,\); expected \({len(tokens)},\)"):
        make_batch(tokens, measured, {**columns, "advantage_N": np.zeros(3)}, WEIGHT)


@pytest.mark.parametrize(("loss", "message"), [
    (lambda learned: (learned.logprob_N, {}), "the loss has shape"),
    (lambda learned: (learned.weight_N.sum(), {}), r"the loss has shape \(\) and no gradient"),
])  # fmt: skip
def test_a_loss_that_is_none_is_refused(loss: Loss, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        run(random_tokens(np.random.default_rng(8)), loss, 100)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    def broken(learned: Learned) -> tuple[Tensor, Metrics]:
        return (learned.weight_N * learned.logprob_N).sum() * float("nan"), {}

    with pytest.raises(NotFinite, match=r"the loss is nan over \d+ tokens .* the first one token 0 "):
        run(random_tokens(np.random.default_rng(8)), broken, 10**6)
