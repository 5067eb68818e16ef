"""Products and norms differentiated by hand against autograd; which modules count as products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from polyturn.forest.matrix import Matrix, Scale, as_matrix
from tests.tiny import tiny_llama


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_a_product_and_its_gradients(bias: bool, adapter: bool) -> None:
    low = (drawn(2, 5), drawn(7, 2)) if adapter else (None, None)
    matrix = Matrix(drawn(7, 5), drawn(7) if bias else None, *low, 0.5, torch.float64)
    x, slope = drawn(4, 5), drawn(4, 7).detach()
    expected = x @ matrix.weight.t()
    expected = expected + matrix.bias if matrix.bias is not None else expected
    if low[0] is not None and low[1] is not None:
        expected = expected + 0.5 * (x @ low[0].t()) @ low[1].t()
    wanted = [tensor for tensor in matrix.tensors() if tensor is not None]
    grads = torch.autograd.grad(expected, [x, *wanted], slope)
    with torch.no_grad():
        torch.testing.assert_close(matrix(x), expected)
        by_x, parts = matrix.back(x, slope, None, [True] * 4)
        torch.testing.assert_close(by_x, grads[0])
        torch.testing.assert_close([part for part in parts if part is not None], list(grads[1:]))
        again, nothing = matrix.back(x, slope, by_x.clone(), [False] * 4)
        torch.testing.assert_close(again, 2 * grads[0])
        assert nothing == [None] * 4


def test_a_norm_and_its_gradients() -> None:
    x, weight, slope = drawn(4, 6), drawn(6), drawn(4, 6).detach()
    expected = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight
    grads = torch.autograd.grad(expected, (x, weight), slope)
    with torch.no_grad():
        norm = Scale(weight, 1e-5)
        y, inverse = norm(x, torch.float64)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(norm.back(x, inverse, slope.clone(), needs=True), grads)
        assert norm.back(x, inverse, slope.clone(), needs=False)[1] is None


def adapted(**changes: Any) -> Any:
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **changes)
    model = get_peft_model(tiny_llama(torch.float32), config)
    return model.eval(), model.base_model.model.model.layers[0].self_attn.q_proj


def test_plain_matrices_and_adapters_are_products() -> None:
    plain = nn.Linear(3, 2)
    assert as_matrix(plain, torch.float32) == Matrix(plain.weight, plain.bias, None, None, 1.0, torch.float32)
    _, module = adapted(lora_alpha=6)
    found = as_matrix(module, torch.float32)
    assert found is not None and found.scale == 3.0
    x = torch.randn(4, 32)
    torch.testing.assert_close(found(x), module(x))


def test_whatever_else_a_module_does_is_not_taken_for_a_product() -> None:
    hooked = nn.Linear(3, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert as_matrix(hooked, torch.float32) is None
    assert as_matrix(nn.LayerNorm(3), torch.float32) is None
    model, module = adapted(lora_dropout=0.5)
    assert as_matrix(module, torch.float32) is not None, "in evaluation mode nothing is dropped"
    model.train()
    assert as_matrix(module, torch.float32) is None
    _, module = adapted(use_dora=True)
    assert as_matrix(module, torch.float32) is None
    model, module = adapted()
    with model.disable_adapter():
        assert as_matrix(module, torch.float32) is None
    module.merge()
    assert as_matrix(module, torch.float32) is None
