"""How fast this machine multiplies matrices, and how many operations a batch needs at least."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from polyturn.arrays import Tokens
from polyturn.forest.products import product

SHAPES = ((1024, 1536, 576), (2048, 576, 1536), (4096, 576, 1536), (1536, 1536, 1536), (2048, 2048, 2048))
"""Rows, inner size, columns of the products that are tried."""


def matrix_rate(dtype: torch.dtype, *, seconds: float = 1.5) -> tuple[float, tuple[int, int, int]]:
    """(operations a second, shape) of the fastest product of :data:`SHAPES` by the faster of torch's own call and ours;
    a product and a sum are two operations.

    Each shape is run for a share of ``seconds``, and its fastest run counts.
    """
    best = (0.0, SHAPES[0])
    for rows, inner, columns in SHAPES:
        left, right = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        for multiply in (nn.functional.linear, product):
            multiply(left, right)
            until = time.perf_counter() + seconds / 2 / len(SHAPES)
            while time.perf_counter() < until:
                began = time.perf_counter()
                multiply(left, right)
                best = max(best, (2 * rows * inner * columns / (time.perf_counter() - began), (rows, inner, columns)))
    return best


def operations(model: Any, laid: Tokens, nodes: int) -> float:
    """Operations of the matrix products that forward and backward of a batch cannot do without.

    ``2 (nodes * layers + trained * head)`` for the forward with the sizes of the matrices in layers and head; the same
    for the gradients of what goes in, and the same for those of matrices that learn. Attention, everything that is
    computed twice, and whatever is no product of an input with a weight count nothing.
    """
    head = model.get_output_embeddings().weight
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight is not head]
    sizes = (float(sum(m.weight.numel() for m in layers)), float(head.numel()))
    learning = (
        float(sum(m.weight.numel() for m in layers if m.weight.requires_grad)),
        float(head.numel()) * head.requires_grad,
    )
    trained = len(laid)
    return float(2 * (2 * (nodes * sizes[0] + trained * sizes[1]) + nodes * learning[0] + trained * learning[1]))
