"""Operations counted by hand, and a rate that is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.matrices import matrix_rate, operations
from tests.tiny import random_tokens, tiny_llama


def test_operations_by_hand() -> None:
    # Each of two layers: q and o 32x32, k and v 16x32, three of 48x32 = 2048 + 1024 + 4608 = 7680; head 61x32 = 1952.
    model = tiny_llama()
    laid = random_tokens(np.random.default_rng(0))
    nodes, trained = 50, len(laid)
    assert operations(model, laid, nodes) == 3 * 2 * (nodes * 2 * 7680 + trained * 1952)
    model.lm_head.requires_grad_(False)
    assert operations(model, laid, nodes) == 3 * 2 * nodes * 2 * 7680 + 2 * 2 * trained * 1952


def test_a_machine_multiplies() -> None:
    rate, shape = matrix_rate(torch.float32, seconds=0.2)
    assert rate > 1e8 and len(shape) == 3
    assert rate == pytest.approx(matrix_rate(torch.float32, seconds=0.2)[0], rel=3)
