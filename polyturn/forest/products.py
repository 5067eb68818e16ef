"""Products of matrices by the faster of the two libraries that torch brings.

On AMD processors MKL multiplies float32 with vectors of 256 bits, oneDNN with 512: measured on a Zen 5 core at every
shape of this model family, 111 GFLOP/s against 250. torch takes oneDNN for bfloat16 by itself, for float32 never.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

INFO = Path("/proc/cpuinfo")
WORTH = 2**19
"""Multiplications from which on a call of oneDNN (about ten microseconds) is repaid."""


def product(left_NI: Tensor, right_OI: Tensor) -> Tensor:
    """``left_NI @ right_OI.T`` [N, O] for tensors of one type, in float32 exact to rounding by either library. The
    choice depends on the processor, the type and the shape alone, so that equal inputs give equal bits. No gradients.
    """
    if _by_onednn(left_NI, right_OI):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(left_NI, right_OI, None, "none", [], "")
        return found
    return left_NI @ right_OI.t()


def _by_onednn(left: Tensor, right: Tensor) -> bool:
    return (
        left.dtype == torch.float32 and left.device.type == "cpu" and len(left) * right.numel() >= WORTH
        and onednn_is_faster()
    )


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 faster than what torch takes by itself: on AMD processors with AVX-512."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    amd = INFO.is_file() and "AuthenticAMD" in INFO.read_text("utf-8", "replace")
    return amd and torch.backends.cpu.get_cpu_capability() == "AVX512"
