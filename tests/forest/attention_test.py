"""Attention over a tree against plain attention of each path, with gradients; windows and soft caps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from polyturn.forest.attention import by_trees, tree_attention
from polyturn.forest.layout import Layout, lay
from polyturn.policies.device import device_of
from tests.tiny import random_tree


def by_paths(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float,
             window: int | None = None, softcap: float | None = None) -> Tensor:  # fmt: skip
    """The slow twin: row by row, a softmax over the keys of its own path."""
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    rows = []
    for chain in layout.chains:
        for row in range(chain.start, chain.stop):
            path = [r for start, stop in chain.above for r in range(start, stop)] + list(range(chain.start, row + 1))
            path = path[-window:] if window else path
            score = torch.einsum("hd,hkd->hk", query[0, :, row], key[0][:, path]) * scale
            score = softcap * torch.tanh(score / softcap) if softcap else score
            rows.append(torch.einsum("hk,hkd->hd", torch.softmax(score, -1), value[0][:, path]))
    return torch.stack(rows, 1)[None]


def made(seed: int, dtype: torch.dtype = torch.float64, nodes: int = 40) -> tuple[list[Tensor], Layout]:
    draw = torch.Generator().manual_seed(seed)
    layout = lay(random_tree(np.random.default_rng(seed), nodes, roots=2))
    shapes = ((1, 6, nodes, 8), (1, 2, nodes, 8), (1, 2, nodes, 8))
    drawn = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    return [x.to(device_of(), dtype).requires_grad_() for x in drawn], layout


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (None, 2.0), (3, 2.0), (100, None)])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_each_path_alone_with_gradients(seed: int, window: int | None, softcap: float | None) -> None:
    inputs, layout = made(seed)
    found = tree_attention(*inputs, layout, scale=0.3, window=window, softcap=softcap)
    expected = by_paths(*inputs, layout, 0.3, window, softcap)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(9), dtype=found.dtype).to(found.device)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), inputs), torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (None, 2.0), (3, 2.0)])
def test_one_masked_call_a_tree_gives_the_same(window: int | None, softcap: float | None) -> None:
    for seed in range(20):
        (query, key, value), layout = made(seed)
        whole = (query, key.repeat_interleave(3, 1), value.repeat_interleave(3, 1))
        found = by_trees(whole, layout, window, scale=0.3, softcap=softcap)
        torch.testing.assert_close(found, by_paths(query, key, value, layout, 0.3, window, softcap))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_low_precision_is_near(dtype: torch.dtype, tolerance: float) -> None:
    inputs, layout = made(0, dtype)
    found = tree_attention(*inputs, layout, scale=0.3)
    exact = by_paths(*(x.double() for x in inputs), layout, 0.3)
    assert found.dtype == dtype
    assert float((found.double() - exact).detach().abs().max()) < tolerance
    grads = torch.autograd.grad(found.double().sum(), inputs)
    wide = torch.autograd.grad(exact.sum(), inputs)
    assert all(float((a.double() - b).norm() / b.norm()) < tolerance for a, b in zip(grads, wide, strict=True))


def test_a_large_score_does_not_overflow() -> None:
    # Scores near 1e4: exp would overflow unless blocks are joined by their log-sum-exp.
    inputs, layout = made(1)
    big = [inputs[0].detach() * 1e4, *(x.detach() for x in inputs[1:])]
    torch.testing.assert_close(tree_attention(*big, layout, scale=1.0), by_paths(*big, layout, 1.0))


def test_a_large_score_does_not_overflow_in_bfloat16_blocks() -> None:
    draw = torch.Generator().manual_seed(2)
    layout = lay(random_tree(np.random.default_rng(2), 100, reach=1))
    drawn = [torch.randn(1, heads, 100, 8, generator=draw) for heads in (6, 2, 2)]
    query, key, value = (x.to(device_of(), torch.bfloat16) for x in drawn)
    big = (query * 1e5).requires_grad_()
    found = tree_attention(big, key, value, layout, scale=1.0)
    exact = by_paths(*(x.detach().double() for x in (big, key, value)), layout, 1.0)
    assert float((found.double() - exact).norm() / exact.norm()) < 0.05
    assert bool(torch.isfinite(torch.autograd.grad(found.double().sum(), big)[0]).all())
