"""The tiled head against the plain formula: values, gradients, temperatures, caps, what is kept and what is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polyturn.forest import head as module
from polyturn.forest.head import Head, read


def plainly(hidden: Tensor, weight: Tensor, id_N: Tensor, heat_N: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """The slow twin."""
    logits = hidden @ weight.t() * head.scale
    logits = head.cap * torch.tanh(logits / head.cap) if head.cap else logits
    log = torch.log_softmax(logits / heat_N[:, None], -1)
    return log.gather(1, id_N[:, None])[:, 0], -(log.exp() * log).sum(-1)


def made(dtype: torch.dtype = torch.float64, tokens: int = 7, vocabulary: int = 1100) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 5, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, 5, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    heat = torch.linspace(0.5, 2.0, tokens, dtype=dtype)
    return hidden, weight, torch.randint(0, vocabulary, (tokens,), generator=draw), heat


def slopes(found: tuple[Tensor, Tensor], entropy: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
    weight = torch.linspace(-1, 2, len(found[0]), dtype=found[0].dtype)
    value = (found[0] * weight).sum() + ((found[1] * weight.flip(0)).sum() if entropy else 0.0)
    return torch.autograd.grad(value, inputs)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("head", [Head(), Head(0.25), Head(2.0, 3.0), Head(keep=False)])
def test_equal_to_the_formula_with_gradients(head: Head, entropy: bool) -> None:
    # 1100 entries are tiles of 512, 512 and 76.
    hidden, weight, id_N, heat = made()
    for temperatures in (heat, torch.ones_like(heat)):
        found = read(hidden, weight, id_N, temperatures, head)
        expected = plainly(hidden, weight, id_N, temperatures, head)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for one, other in zip(slopes(found, entropy, hidden, weight), slopes(expected, entropy, hidden, weight),
                              strict=True):  # fmt: skip
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", {"cpu": 7 * 512})


def test_by_hand() -> None:
    # Logits 0 and log 3: probabilities 1/4 and 3/4.
    weight = torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    logprob, entropy = read(torch.ones(1, 1), weight, torch.tensor([1]), torch.ones(1), Head())
    assert logprob.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    logprob.sum().backward()
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == pytest.approx([-0.25, 0.25])


def test_large_logits_neither_overflow_nor_lose_the_small() -> None:
    hidden, weight, id_N, heat = made(torch.float32)
    found = read(hidden * 100, weight, id_N, heat, Head())
    expected = plainly(hidden.double() * 100, weight.double(), id_N, heat.double(), Head())
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-3)


def test_a_frozen_matrix_gets_no_gradient() -> None:
    hidden, weight, id_N, heat = made()
    found = read(hidden, weight.detach(), id_N, heat, Head())
    expected = plainly(hidden, weight, id_N, heat, Head())
    torch.testing.assert_close(slopes(found, False, hidden), slopes(expected, False, hidden))


def test_low_products_are_near_and_a_certain_token_has_no_push() -> None:
    hidden, weight, id_N, heat = made(torch.float32)
    low = read(hidden, weight, id_N, heat, Head(low=torch.bfloat16))
    full = read(hidden, weight, id_N, heat, Head())
    torch.testing.assert_close(low, full, rtol=0, atol=0)
    for one, other in zip(slopes(low, False, hidden, weight), slopes(full, False, hidden, weight), strict=True):
        assert float((one - other).norm() / other.norm()) < 0.01
    sure = torch.zeros(3, 5)
    sure[0, 0], sure[1, 1] = 60.0, -60.0
    certain = torch.ones(1, 5, requires_grad=True)
    value, _ = read(certain, sure, torch.tensor([0]), torch.ones(1), Head(low=torch.bfloat16))
    assert torch.autograd.grad(value.sum(), certain)[0].abs().max() < 1e-12


def test_no_tokens() -> None:
    hidden, weight, id_N, heat = made(tokens=0)
    logprob, entropy = read(hidden, weight, id_N, heat, Head())
    assert logprob.shape == entropy.shape == (0,)
