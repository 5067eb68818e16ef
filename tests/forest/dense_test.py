"""Blocks by bfloat16 products against exact softmax attention, and against the fused kernel's own error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polyturn.forest import dense


def made(rows: int, keys: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """query [2, 3, rows, 16], key and value [3, keys, 16], gradient by the output; in bfloat16."""
    draw = torch.Generator().manual_seed(rows + keys)
    shapes = ((2, 3, rows, 16), (3, keys, 16), (3, keys, 16), (2, 3, rows, 16))
    query, key, value, slope = (torch.randn(shape, generator=draw).to(torch.bfloat16) for shape in shapes)
    return query * spread, key, value, slope


def exactly(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The slow twin, in float64."""
    score = torch.einsum("ghrd,hkd->ghrk", query, key) * scale
    if causal:
        score = score.masked_fill(torch.ones(score.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return torch.einsum("ghrk,hkd->ghrd", torch.softmax(score, -1), value), torch.logsumexp(score, -1)


def miss(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


CASES = [(5, 9, False), (300, 70, False), (70, 70, True), (600, 600, True)]


@pytest.mark.parametrize(("rows", "keys", "causal"), CASES)
def test_near_the_exact_attention_with_gradients(rows: int, keys: int, causal: bool) -> None:
    # 600 causal rows are cut in three.
    query, key, value, slope = made(rows, keys)
    wide = [x.double().requires_grad_() for x in (query, key, value)]
    exact, exact_total = exactly(*wide, causal, 0.25)
    out, total = dense.forward(query, key, value, causal, 0.25)
    assert miss(out, exact.detach()) < 0.01
    assert float((total - exact_total.detach()).abs().max()) < 0.02
    delta = (slope.double() * exact.detach()).sum(-1).float()
    parts = dense.backward(slope, (query, key, value), (total, delta), causal, 0.25)
    grads = torch.autograd.grad(exact, wide, slope.double())
    assert all(miss(part, grad) < 0.02 for part, grad in zip(parts, grads, strict=True))


def test_sharp_attention_is_as_near_as_the_fused_kernel() -> None:
    # Scores spread by 25: rounded as they are they would be wrong by up to 0.2, and their shares by a fifth.
    query, key, value, _ = made(200, 200, spread=25.0)
    exact, exact_total = exactly(query.double(), key.double(), value.double(), True, 0.25)
    out, total = dense.forward(query, key, value, True, 0.25)
    kernel, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, *(x.expand(2, -1, -1, -1) for x in (key, value)), 0.0, True, scale=0.25
    )
    assert miss(out, exact) < 2 * miss(kernel, exact)
    assert float(((total - exact_total) / exact_total.abs().clamp(min=1)).abs().max()) < 0.01


@pytest.mark.parametrize(("spread", "finite"), [(1e3, True), (1e5, False)])
def test_scores_beyond_the_range_of_exp(spread: float, finite: bool) -> None:
    # The largest of bfloat16's steps at 1e3 is 4, at 1e5 512: e^4 is a number, e^512 is none, and is seen to be none.
    query, key, value, slope = made(40, 40, spread)
    _, total = dense.forward(query, key, value, True, 0.25)
    assert bool(torch.isfinite(total).all()) == finite
    exact, exact_total = exactly(query.double(), key.double(), value.double(), True, 0.25)
    delta = (slope.double() * exact).sum(-1).float()
    parts = dense.backward(slope, (query, key, value), (exact_total.float(), delta), True, 0.25)
    assert all(bool(torch.isfinite(x).all()) for x in parts)


def test_small_blocks_and_other_types_are_left_to_the_kernel() -> None:
    query = torch.zeros(3, 3, 64, 64, dtype=torch.bfloat16)
    assert dense.worth(query, 200)
    assert not dense.worth(query, 10)
    assert not dense.worth(query.float(), 200)
